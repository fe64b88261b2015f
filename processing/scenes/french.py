"""French: two genders, size before and colour after the noun, elision (`d'un`)."""

from .grammar import Noun, Word, Wording, content_words, joined, spaced_sentence
from .world import CONVERSE, CaptionFacts, Mention

FRENCH_NOUNS = {
    "circle": Noun("m", {"nom": "cercle"}),
    "square": Noun("m", {"nom": "carré"}),
    "triangle": Noun("m", {"nom": "triangle"}),
    "star": Noun("f", {"nom": "étoile"}),
    "heart": Noun("m", {"nom": "cœur"}),
    "moon": Noun("f", {"nom": "lune"}),
    "flower": Noun("f", {"nom": "fleur"}),
    "fish": Noun("m", {"nom": "poisson"}),
}
# Each adjective as (masculine, feminine); a second pair is a synonym.
FRENCH_COLOURS = {
    "red": (("rouge", "rouge"),),
    "orange": (("orange", "orange"),),
    "yellow": (("jaune", "jaune"),),
    "green": (("vert", "verte"),),
    "blue": (("bleu", "bleue"),),
    "purple": (("violet", "violette"),),
    "pink": (("rose", "rose"),),
    "brown": (("marron", "marron"), ("brun", "brune")),
}
FRENCH_SIZES = {"small": ("petit", "petite"), "large": ("grand", "grande"), "huge": ("énorme", "énorme")}
FRENCH_TEXTURES = {
    "plain": ("uni", "unie"),
    "striped": ("rayé", "rayée"),
    "dotted": ("à pois", "à pois"),
    "checkered": ("à carreaux", "à carreaux"),
}
FRENCH_TEXTURE_NOUNS = {
    "plain": "sans motif",
    "striped": "à rayures",
    "dotted": "avec des pois",
    "checkered": "avec des carreaux",
}
FRENCH_RELATIONS = {
    "left_of": "à gauche",
    "right_of": "à droite",
    "above": "au-dessus",
    "below": "en dessous",
}
FRENCH_BESIDE = {
    "left_of": "à sa gauche",
    "right_of": "à sa droite",
    "above": "au-dessus",
    "below": "en dessous",
}
FRENCH_PLACES = {
    "left": "à gauche",
    "right": "à droite",
    "top": "en haut",
    "bottom": "en bas",
    "middle": "au milieu",
}
FRENCH_BACKGROUNDS = {
    "sky": "dans le ciel",
    "night": "dans la nuit",
    "meadow": "dans le pré",
    "sand": "sur le sable",
    "snow": "dans la neige",
}
FRENCH_BE = Word("est", "se trouve")


class FrenchGrammar:
    """Size before the noun, colour and texture after it; `de` elides before `un` and `une`."""

    def words(self, facts: CaptionFacts, wording: Wording) -> list[str]:
        """The words of a sentence in order, without capital and full stop."""
        background = FRENCH_BACKGROUNDS[facts.background].split() if facts.background else []
        fronted = [*background, ","] if background else []
        first, *others = facts.mentions
        subject = self.phrase(first, wording)
        if wording.frame == "beside" and others:
            chain = [*self.phrase(others[0], wording), "et", *FRENCH_BESIDE[facts.relations[0]].split(), *subject]
            for relation, other in zip(facts.relations[1:], others[1:], strict=True):
                chain += ["et", *FRENCH_BESIDE[CONVERSE[relation]].split(), *self.phrase(other, wording)]
            return [*fronted, "nous", "voyons", *chain]
        where = joined(
            (
                [*FRENCH_RELATIONS[relation].split(), *self.phrase(other, wording, after_de=True)]
                for relation, other in zip(facts.relations, others, strict=True)
            ),
            "et",
        )
        where += FRENCH_PLACES[facts.place].split() if facts.place else []
        if wording.frame == "is":
            return [*subject, *FRENCH_BE.pick(wording).split(), *where, *background]
        if wording.frame == "see":
            return ["nous", "voyons", *subject, *where, *background]
        if wording.frame == "there":
            return [*fronted, "il", "y", "a", *subject, *where]
        return [*where, ",", "il", "y", "a", *subject, *background]

    def phrase(self, mention: Mention, wording: Wording, *, after_de: bool = False) -> list[str]:
        """An indefinite noun phrase: `une grande étoile rouge rayée`, after `de`: `d'une grande …`."""
        noun = FRENCH_NOUNS[mention.shape]
        form = ("m", "f").index(noun.gender)
        article = ("un", "une")[form]
        words = ["d'" + article if after_de else article]
        words += [FRENCH_SIZES[mention.size][form]] if mention.size else []
        colours = FRENCH_COLOURS[mention.colour]
        words += [noun.forms["nom"], colours[-1 if wording.synonyms else 0][form]]
        if mention.texture and wording.texture_noun:
            words += FRENCH_TEXTURE_NOUNS[mention.texture].split()
        elif mention.texture:
            words += FRENCH_TEXTURES[mention.texture][form].split()
        return words

    def sentence(self, words: list[str]) -> str:
        """The words as a written sentence."""
        return spaced_sentence(words)

    def vocabulary(self) -> tuple[str, ...]:
        """Content words, in a fixed order."""
        pairs = [*FRENCH_SIZES.values(), *(pair for pairs in FRENCH_COLOURS.values() for pair in pairs)]
        pairs += [pair for pair in FRENCH_TEXTURES.values() if " " not in pair[0]]
        return content_words((noun.forms["nom"] for noun in FRENCH_NOUNS.values()), *pairs)


FRENCH = FrenchGrammar()
