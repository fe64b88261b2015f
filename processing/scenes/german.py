"""German: three genders; the nominative, the accusative (`wir sehen`) and the dative (`links von`, `über`, `unter`)."""

from dataclasses import dataclass

from .grammar import Noun, Word, Wording, content_words, joined, spaced_sentence
from .world import CONVERSE, CaptionFacts, Mention


@dataclass(frozen=True)
class Adjective:
    """A stem that takes an ending, or an invariable word (`rosa`, `lila`)."""

    stem: str
    invariable: bool = False


GERMAN_NOUNS = {
    "circle": Noun("m", {"nom": "Kreis", "acc": "Kreis", "dat": "Kreis"}),
    "square": Noun("n", {"nom": "Quadrat", "acc": "Quadrat", "dat": "Quadrat"}),
    "triangle": Noun("n", {"nom": "Dreieck", "acc": "Dreieck", "dat": "Dreieck"}),
    "star": Noun("m", {"nom": "Stern", "acc": "Stern", "dat": "Stern"}),
    "heart": Noun("n", {"nom": "Herz", "acc": "Herz", "dat": "Herzen"}),
    "moon": Noun("m", {"nom": "Mond", "acc": "Mond", "dat": "Mond"}),
    "flower": Noun("f", {"nom": "Blume", "acc": "Blume", "dat": "Blume"}),
    "fish": Noun("m", {"nom": "Fisch", "acc": "Fisch", "dat": "Fisch"}),
}
GERMAN_ARTICLES = {
    "nom": {"m": "ein", "f": "eine", "n": "ein"},
    "acc": {"m": "einen", "f": "eine", "n": "ein"},
    "dat": {"m": "einem", "f": "einer", "n": "einem"},
}
# The mixed declension, after an indefinite article.
GERMAN_ENDINGS = {
    "nom": {"m": "er", "f": "e", "n": "es"},
    "acc": {"m": "en", "f": "e", "n": "es"},
    "dat": {"m": "en", "f": "en", "n": "en"},
}
GERMAN_COLOURS = {
    "red": (Adjective("rot"),),
    "orange": (Adjective("orange", invariable=True),),
    "yellow": (Adjective("gelb"),),
    "green": (Adjective("grün"),),
    "blue": (Adjective("blau"),),
    "purple": (Adjective("violett"), Adjective("lila", invariable=True)),
    "pink": (Adjective("rosa", invariable=True),),
    "brown": (Adjective("braun"),),
}
GERMAN_SIZES = {"small": Adjective("klein"), "large": Adjective("groß"), "huge": Adjective("riesig")}
GERMAN_TEXTURES = {
    "plain": Adjective("einfarbig"),
    "striped": Adjective("gestreift"),
    "dotted": Adjective("gepunktet"),
    "checkered": Adjective("kariert"),
}
GERMAN_TEXTURE_NOUNS = {
    "plain": "ohne Muster",
    "striped": "mit Streifen",
    "dotted": "mit Punkten",
    "checkered": "mit Karos",
}
GERMAN_RELATIONS = {"left_of": "links von", "right_of": "rechts von", "above": "über", "below": "unter"}
GERMAN_BESIDE = {"left_of": "links davon", "right_of": "rechts davon", "above": "darüber", "below": "darunter"}
GERMAN_PLACES = {"left": "links", "right": "rechts", "top": "oben", "bottom": "unten", "middle": "in der Mitte"}
GERMAN_BACKGROUNDS = {
    "sky": "am Himmel",
    "night": "in der Nacht",
    "meadow": "auf der Wiese",
    "sand": "auf dem Sand",
    "snow": "im Schnee",
}
GERMAN_BE = Word("ist", "liegt")


class GermanGrammar:
    """The verb is second, so a fronted place or relation moves the subject behind it."""

    def words(self, facts: CaptionFacts, wording: Wording) -> list[str]:
        """The words of a sentence in order, without capital and full stop."""
        background = GERMAN_BACKGROUNDS[facts.background].split() if facts.background else []
        first, *others = facts.mentions
        if wording.frame == "beside" and others:
            chain = [*self.phrase(others[0], "acc", wording), "und", *GERMAN_BESIDE[facts.relations[0]].split()]
            chain += self.phrase(first, "acc", wording)
            for relation, other in zip(facts.relations[1:], others[1:], strict=True):
                chain += ["und", *GERMAN_BESIDE[CONVERSE[relation]].split(), *self.phrase(other, "acc", wording)]
            return [*background, "sehen", "wir", *chain] if background else ["wir", "sehen", *chain]
        where = joined(
            (
                [*GERMAN_RELATIONS[relation].split(), *self.phrase(other, "dat", wording)]
                for relation, other in zip(facts.relations, others, strict=True)
            ),
            "und",
        )
        where += GERMAN_PLACES[facts.place].split() if facts.place else []
        if wording.frame == "is":
            return [*self.phrase(first, "nom", wording), GERMAN_BE.pick(wording), *where, *background]
        if wording.frame == "fronted":
            return [*where, GERMAN_BE.pick(wording), *background, *self.phrase(first, "nom", wording)]
        found = [*self.phrase(first, "acc", wording), *where]
        if wording.frame == "there":
            return [*background, "gibt", "es", *found] if background else ["es", "gibt", *found]
        return ["wir", "sehen", *found, *background]

    def phrase(self, mention: Mention, case: str, wording: Wording) -> list[str]:
        """An indefinite noun phrase: `einem großen gestreiften roten Stern`."""
        noun = GERMAN_NOUNS[mention.shape]
        adjectives = [GERMAN_SIZES[mention.size]] if mention.size else []
        after: list[str] = []
        if mention.texture and wording.texture_noun:
            after = GERMAN_TEXTURE_NOUNS[mention.texture].split()
        elif mention.texture:
            adjectives.append(GERMAN_TEXTURES[mention.texture])
        adjectives.append(GERMAN_COLOURS[mention.colour][-1 if wording.synonyms else 0])
        ending = GERMAN_ENDINGS[case][noun.gender]
        inflected = [word.stem if word.invariable else word.stem + ending for word in adjectives]
        return [GERMAN_ARTICLES[case][noun.gender], *inflected, noun.forms[case], *after]

    def sentence(self, words: list[str]) -> str:
        """The words as a written sentence."""
        return spaced_sentence(words)

    def vocabulary(self) -> tuple[str, ...]:
        """Content words, in a fixed order; adjectives with the endings of the nominative."""
        adjectives = [*GERMAN_SIZES.values(), *GERMAN_TEXTURES.values()]
        adjectives += [word for words in GERMAN_COLOURS.values() for word in words]
        forms = [
            word.stem if word.invariable else word.stem + ending
            for word in adjectives
            for ending in GERMAN_ENDINGS["nom"].values()
        ]
        return content_words((noun.forms["nom"] for noun in GERMAN_NOUNS.values()), forms)


GERMAN = GermanGrammar()
