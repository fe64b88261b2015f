"""English: the source captions, and the paragraph that stands in for what an MLLM would write about a picture."""

import random

from .grammar import Word, Wording, content_words, joined, spaced_sentence
from .world import (
    BACKGROUNDS,
    COLOURS,
    CONVERSE,
    RELATIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    CaptionFacts,
    Mention,
    Scene,
    SceneObject,
    aligned_relation,
    make_wrong,
    places_of,
)

SIZE_WORDS = {"small": Word("small", "little"), "large": Word("large", "big"), "huge": Word("huge")}
TEXTURE_NOUNS = {
    "plain": "without a pattern",
    "striped": "with stripes",
    "dotted": "with dots",
    "checkered": "with checks",
}
RELATION_WORDS = {
    "left_of": "to the left of",
    "right_of": "to the right of",
    "above": "above",
    "below": "below",
}
PLACE_WORDS = {
    "left": "on the left",
    "right": "on the right",
    "top": "at the top",
    "bottom": "at the bottom",
    "middle": "in the middle",
}
BACKGROUND_WORDS = {
    "sky": "in the sky",
    "night": "at night",
    "meadow": "on the meadow",
    "sand": "on the sand",
    "snow": "in the snow",
}
CELL_WORDS = {
    ("left",): "on the left side",
    ("right",): "on the right side",
    ("top",): "at the top",
    ("bottom",): "at the bottom",
    ("middle",): "in the middle",
    ("top", "left"): "at the top left",
    ("top", "right"): "at the top right",
    ("bottom", "left"): "at the bottom left",
    ("bottom", "right"): "at the bottom right",
}


class EnglishGrammar:
    """Noun phrases need `a` or `an`; nothing else agrees."""

    def words(self, facts: CaptionFacts, wording: Wording) -> list[str]:
        """The words of a sentence in order, without capital and full stop."""
        background = BACKGROUND_WORDS[facts.background].split() if facts.background else []
        fronted = [*background, ","] if background else []
        first, *others = facts.mentions
        if wording.frame == "beside" and others:
            chain = self.phrase(others[0], wording)
            chain += ["and", *RELATION_WORDS[facts.relations[0]].split(), "it", *self.phrase(first, wording)]
            for relation, other in zip(facts.relations[1:], others[1:], strict=True):
                chain += ["and", *RELATION_WORDS[CONVERSE[relation]].split(), "it", *self.phrase(other, wording)]
            return [*fronted, "we", "see", *chain]
        where = joined(
            (
                [*RELATION_WORDS[relation].split(), *self.phrase(other, wording)]
                for relation, other in zip(facts.relations, others, strict=True)
            ),
            "and",
        )
        where += PLACE_WORDS[facts.place].split() if facts.place else []
        subject = self.phrase(first, wording)
        if wording.frame == "is":
            return [*subject, "is", *where, *background]
        if wording.frame == "see":
            return ["we", "see", *subject, *where, *background]
        if wording.frame == "fronted":
            return [*where, "is", *subject, *background]
        return [*fronted, "there", "is", *subject, *where]

    def phrase(self, mention: Mention, wording: Wording) -> list[str]:
        """An indefinite noun phrase: `a large striped red star` or `a large red star with stripes`."""
        words = [SIZE_WORDS[mention.size].pick(wording)] if mention.size else []
        after: list[str] = []
        if mention.texture and wording.texture_noun:
            after = TEXTURE_NOUNS[mention.texture].split()
        elif mention.texture:
            words.append(mention.texture)
        words += [mention.colour, mention.shape, *after]
        return [indefinite_article(words[0]), *words]

    def sentence(self, words: list[str]) -> str:
        """The words as a written sentence."""
        return spaced_sentence(words)

    def vocabulary(self) -> tuple[str, ...]:
        """Content words, in a fixed order."""
        return content_words(SIZES, TEXTURES, COLOURS, SHAPES, BACKGROUNDS)


def indefinite_article(word: str) -> str:
    """`an` before a vowel; no word of the lexicon starts with a silent h or a spoken y."""
    return "an" if word[0] in "aeiou" else "a"


def write_description(scene: Scene, *, noise: float, rng: random.Random, shown_by: str = "picture") -> str:
    """A paragraph of 40 to 70 words with every object, attribute, place, relation and the background.

    Args:
        scene: the picture's content.
        noise: probability for each attribute, place, relation and the background, in [0, 1], to be told wrongly.
        rng: the generator of the mistakes.
        shown_by: what shows the scene.
    """
    wrong = make_wrong(noise, rng)
    places = list(CELL_WORDS.values())
    objects = [
        SceneObject(
            wrong(item.shape, SHAPES),
            wrong(item.colour, COLOURS),
            wrong(item.size, SIZES),
            wrong(item.texture, TEXTURES),
            item.cell,
        )
        for item in scene.objects
    ]
    where = [wrong(CELL_WORDS[places_of(item.cell)], places) for item in scene.objects]
    background = BACKGROUND_WORDS[wrong(scene.background, BACKGROUNDS)]
    count = {1: "a single object", 2: "two objects", 3: "three objects"}[len(objects)]
    sentences = [f"The {shown_by} shows {count} {background}."]
    for item, place in zip(objects, where, strict=True):
        attributes = f"{item.size} {item.texture} {item.colour} {item.shape}"
        sentences.append(f"{place.capitalize()} there is {indefinite_article(attributes)} {attributes}.")
    relations = []
    for position, item in enumerate(objects):
        for other in objects[position + 1 :]:
            relation = aligned_relation(item.cell, other.cell)
            if relation:
                relations.append(f"the {item.shape} is {RELATION_WORDS[wrong(relation, RELATIONS)]} the {other.shape}")
    if relations:
        sentences.append(" and ".join(relations).capitalize() + ".")
    return " ".join([*sentences, *_closing(objects, background)])


def _closing(objects: list[SceneObject], background: str) -> list[str]:
    """Sentences that repeat what was said, as long-winded models do; fewer objects leave more to repeat."""
    if len(objects) == 3:
        return []
    if len(objects) == 2:
        first, second = objects
        return [f"There are no other objects {background} besides the {first.colour} and the {second.colour} one."]
    only = objects[0]
    return [
        f"The {only.shape} is {only.colour}, its size is {only.size} and its surface is {only.texture}.",
        f"There are no other objects {background} besides the {only.colour} {only.shape}.",
    ]


ENGLISH = EnglishGrammar()
