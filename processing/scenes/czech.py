"""Czech: three genders, and the cases that verbs and prepositions govern.

Nominative, accusative (`vidíme`), genitive (`vlevo od`) and instrumental (`nad`, `pod`).
"""

from .grammar import Noun, Word, Wording, content_words, joined, spaced_sentence
from .world import CONVERSE, CaptionFacts, Mention


def _czech(gender: str, nominative: str, accusative: str, genitive: str, instrumental: str) -> Noun:
    return Noun(gender, {"nom": nominative, "acc": accusative, "gen": genitive, "ins": instrumental})


CZECH_NOUNS = {
    "circle": _czech("m", "kruh", "kruh", "kruhu", "kruhem"),
    "square": _czech("m", "čtverec", "čtverec", "čtverce", "čtvercem"),
    "triangle": _czech("m", "trojúhelník", "trojúhelník", "trojúhelníku", "trojúhelníkem"),
    "star": _czech("f", "hvězda", "hvězdu", "hvězdy", "hvězdou"),
    "heart": _czech("n", "srdce", "srdce", "srdce", "srdcem"),
    "moon": _czech("m", "měsíc", "měsíc", "měsíce", "měsícem"),
    "flower": _czech("f", "květina", "květinu", "květiny", "květinou"),
    "fish": _czech("f", "ryba", "rybu", "ryby", "rybou"),
}
# Hard adjectives; the masculine nouns of the lexicon are all inanimate, so their accusative is the nominative.
CZECH_ENDINGS = {
    "nom": {"m": "ý", "f": "á", "n": "é"},
    "acc": {"m": "ý", "f": "ou", "n": "é"},
    "gen": {"m": "ého", "f": "é", "n": "ého"},
    "ins": {"m": "ým", "f": "ou", "n": "ým"},
}
CZECH_PRONOUNS = {"gen": {"m": "něj", "f": "ní", "n": "něj"}, "ins": {"m": "ním", "f": "ní", "n": "ním"}}
CZECH_COLOURS = {
    "red": "červen",
    "orange": "oranžov",
    "yellow": "žlut",
    "green": "zelen",
    "blue": "modr",
    "purple": "fialov",
    "pink": "růžov",
    "brown": "hněd",
}
CZECH_SIZES = {"small": "mal", "large": "velk", "huge": "obrovsk"}
CZECH_TEXTURES = {
    "plain": "jednobarevn",
    "striped": "pruhovan",
    "dotted": "puntíkovan",
    "checkered": "kostkovan",
}
CZECH_TEXTURE_NOUNS = {
    "plain": "bez vzoru",
    "striped": "s pruhy",
    "dotted": "s puntíky",
    "checkered": "s kostkovaným vzorem",
}
# Each relation with the case that its preposition governs.
CZECH_RELATIONS = {
    "left_of": (Word("vlevo od", "nalevo od"), "gen"),
    "right_of": (Word("vpravo od", "napravo od"), "gen"),
    "above": (Word("nad"), "ins"),
    "below": (Word("pod"), "ins"),
}
CZECH_PLACES = {
    "left": Word("vlevo", "nalevo"),
    "right": Word("vpravo", "napravo"),
    "top": Word("nahoře"),
    "bottom": Word("dole"),
    "middle": Word("uprostřed"),
}
CZECH_BACKGROUNDS = {
    "sky": "na obloze",
    "night": "v noci",
    "meadow": "na louce",
    "sand": "na písku",
    "snow": "ve sněhu",
}


class CzechGrammar:
    """No articles; the preposition's case runs through adjectives, noun and pronoun."""

    def words(self, facts: CaptionFacts, wording: Wording) -> list[str]:
        """The words of a sentence in order, without capital and full stop."""
        background = CZECH_BACKGROUNDS[facts.background].split() if facts.background else []
        first, *others = facts.mentions
        if wording.frame == "beside" and others:
            chain = [*self.phrase(others[0], "acc", wording), "a"]
            chain += [*self.beside(facts.relations[0], others[0], wording), *self.phrase(first, "acc", wording)]
            for relation, other in zip(facts.relations[1:], others[1:], strict=True):
                chain += ["a", *self.beside(CONVERSE[relation], first, wording), *self.phrase(other, "acc", wording)]
            return [*background, "vidíme", *chain]
        where = joined(
            (
                [*word.pick(wording).split(), *self.phrase(other, case, wording)]
                for (word, case), other in zip((CZECH_RELATIONS[name] for name in facts.relations), others, strict=True)
            ),
            "a",
        )
        where += CZECH_PLACES[facts.place].pick(wording).split() if facts.place else []
        if wording.frame == "is":
            return [*self.phrase(first, "nom", wording), "je", *where, *background]
        if wording.frame == "see":
            return ["vidíme", *self.phrase(first, "acc", wording), *where, *background]
        if wording.frame == "there":
            return [*(background or ["tady"]), "je", *self.phrase(first, "nom", wording), *where]
        return [*where, "je", *background, *self.phrase(first, "nom", wording)]

    def beside(self, relation: str, landmark: Mention, wording: Wording) -> list[str]:
        """The relation to something just mentioned: `vlevo od ní`, `nad ním`."""
        word, case = CZECH_RELATIONS[relation]
        return [*word.pick(wording).split(), CZECH_PRONOUNS[case][CZECH_NOUNS[landmark.shape].gender]]

    def phrase(self, mention: Mention, case: str, wording: Wording) -> list[str]:
        """A noun phrase: `velké pruhované červené hvězdy`."""
        noun = CZECH_NOUNS[mention.shape]
        stems = [CZECH_SIZES[mention.size]] if mention.size else []
        after: list[str] = []
        if mention.texture and wording.texture_noun:
            after = CZECH_TEXTURE_NOUNS[mention.texture].split()
        elif mention.texture:
            stems.append(CZECH_TEXTURES[mention.texture])
        stems.append(CZECH_COLOURS[mention.colour])
        return [*(stem + CZECH_ENDINGS[case][noun.gender] for stem in stems), noun.forms[case], *after]

    def sentence(self, words: list[str]) -> str:
        """The words as a written sentence."""
        return spaced_sentence(words)

    def vocabulary(self) -> tuple[str, ...]:
        """Content words, in a fixed order; adjectives with the endings of the nominative."""
        stems = [*CZECH_SIZES.values(), *CZECH_TEXTURES.values(), *CZECH_COLOURS.values()]
        forms = [stem + ending for stem in stems for ending in CZECH_ENDINGS["nom"].values()]
        return content_words((noun.forms["nom"] for noun in CZECH_NOUNS.values()), forms)


CZECH = CzechGrammar()
