"""Czech verbs: `se` stands second in its clause, and `k` governs the dative, which still pictures do not need."""

from dataclasses import dataclass

from processing.scenes.czech import CZECH, CZECH_BACKGROUNDS, CZECH_COLOURS, CZECH_ENDINGS, CZECH_NOUNS
from processing.scenes.grammar import content_words, joined
from processing.scenes.world import Mention

from .actions import ClipFacts, Event
from .telling import Telling


@dataclass(frozen=True)
class CzechVerb:
    """A verb, whether it has `se`, and the adverb or preposition after it."""

    finite: str
    complement: str = ""
    reflexive: bool = False


def _moves(where: str) -> tuple[CzechVerb, ...]:
    return CzechVerb("pohybuje", where, reflexive=True), CzechVerb("posouvá", where, reflexive=True)


CZECH_VERBS = {
    "moves_left": _moves("doleva"),
    "moves_right": _moves("doprava"),
    "moves_up": _moves("nahoru"),
    "moves_down": _moves("dolů"),
    "grows": (CzechVerb("roste"), CzechVerb("zvětšuje", reflexive=True)),
    "shrinks": (CzechVerb("zmenšuje", reflexive=True),),
    "appears": (CzechVerb("objevuje", reflexive=True),),
    "disappears": (CzechVerb("mizí"), CzechVerb("ztrácí", reflexive=True)),
    "approaches": (CzechVerb("přibližuje", "k", reflexive=True), CzechVerb("blíží", "k", reflexive=True)),
    "leaves": (CzechVerb("vzdaluje", "od", reflexive=True),),
    "turns": (CzechVerb("mění", "barvu na"),),
    "spins": (CzechVerb("točí", reflexive=True), CzechVerb("otáčí", reflexive=True)),
    "blinks": (CzechVerb("bliká"),),
    "shakes": (CzechVerb("třese", reflexive=True), CzechVerb("chvěje", reflexive=True)),
    "stands_still": (CzechVerb("stojí", "na místě"), CzechVerb("nehýbe", reflexive=True)),
}
CZECH_RELATIVES = {"m": "který", "f": "která", "n": "které"}
CZECH_DATIVES = {
    "circle": "kruhu",
    "square": "čtverci",
    "triangle": "trojúhelníku",
    "star": "hvězdě",
    "heart": "srdci",
    "moon": "měsíci",
    "flower": "květině",
    "fish": "rybě",
}
CZECH_DATIVE_ENDINGS = {"m": "ému", "f": "é", "n": "ému"}


class CzechClipGrammar:
    """Where the clip plays is told once, in the first clause; `se` comes before it, and right after an opening."""

    def words(self, facts: ClipFacts, telling: Telling) -> list[str]:
        """The words of a sentence in order, without capital and full stop."""
        background = CZECH_BACKGROUNDS[facts.background].split() if facts.background else []
        first, *others = facts.events
        if telling.frame == "while" and others:
            second = self.opened(background, others[0], telling)
            return [*second, ",", "zatímco", *self.subordinate(first, [], telling)]
        if telling.frame == "while":
            verb = _verb(first, telling)
            there = [*(background or ["tady"]), "je", *self.subject(first, telling)]
            return [*there, "a", verb.finite, *_se(verb), *self.complement(first, telling)]
        places = [background, []]
        if telling.frame == "see":
            clauses = [
                ["jak", *self.subordinate(event, place, telling)]
                for event, place in zip(facts.events, places, strict=False)
            ]
            return ["vidíme", ",", *joined(clauses, "a")]
        if telling.frame == "who":
            clauses = [self.relative(event, place, telling) for event, place in zip(facts.events, places, strict=False)]
            return [*clauses[0], *(word for clause in clauses[1:] for word in [",", "a", *clause])]
        rest = [word for event in others for word in ["a", *self.main(event, [], telling)]]
        if telling.frame == "place":
            return [*self.opened(background, first, telling), *rest]
        return [*self.main(first, background, telling), *rest]

    def subject(self, event: Event, telling: Telling) -> list[str]:
        """Who acts, in the nominative."""
        return CZECH.phrase(event.subject, "nom", telling)

    def main(self, event: Event, place: list[str], telling: Telling) -> list[str]:
        """Subject first: `červená hvězda se ve sněhu pohybuje doleva`."""
        verb = _verb(event, telling)
        behind = [*place, verb.finite, *self.complement(event, telling)]
        return [*self.subject(event, telling), *_se(verb), *behind]

    def opened(self, opening: list[str], event: Event, telling: Telling) -> list[str]:
        """Something else first: `ve sněhu se červená hvězda pohybuje doleva`."""
        return [*opening, *self.subordinate(event, [], telling)] if opening else self.main(event, [], telling)

    def subordinate(self, event: Event, place: list[str], telling: Telling) -> list[str]:
        """After a conjunction: `se červená hvězda ve sněhu pohybuje doleva`."""
        verb = _verb(event, telling)
        return [*_se(verb), *self.subject(event, telling), *place, verb.finite, *self.complement(event, telling)]

    def relative(self, event: Event, place: list[str], telling: Telling) -> list[str]:
        """`červená hvězda, která se ve sněhu pohybuje doleva`."""
        verb = _verb(event, telling)
        pronoun = CZECH_RELATIVES[CZECH_NOUNS[event.subject.shape].gender]
        behind = [*_se(verb), *place, verb.finite, *self.complement(event, telling)]
        return [*self.subject(event, telling), ",", pronoun, *behind]

    def complement(self, event: Event, telling: Telling) -> list[str]:
        """What follows the verb: a direction, another object, a colour."""
        words = _verb(event, telling).complement.split()
        if event.new_colour:
            return [*words, CZECH_COLOURS[event.new_colour] + CZECH_ENDINGS["acc"]["f"]]
        if not event.other:
            return words
        if event.verb == "leaves":
            return [*words, *CZECH.phrase(event.other, "gen", telling)]
        other = self.dative(event.other, telling)
        # `k` becomes `ke` before another k.
        return ["ke" if other[0].startswith("k") else "k", *other]

    def dative(self, mention: Mention, telling: Telling) -> list[str]:
        """A noun phrase in the dative: the words of the nominative with other endings."""
        words = CZECH.phrase(mention, "nom", telling)
        gender = CZECH_NOUNS[mention.shape].gender
        noun = words.index(CZECH_NOUNS[mention.shape].forms["nom"])
        adjectives = [word.removesuffix(CZECH_ENDINGS["nom"][gender]) for word in words[:noun]]
        inflected = [stem + CZECH_DATIVE_ENDINGS[gender] for stem in adjectives]
        return [*inflected, CZECH_DATIVES[mention.shape], *words[noun + 1 :]]

    def sentence(self, words: list[str]) -> str:
        """The words as a written sentence."""
        return CZECH.sentence(words)

    def vocabulary(self) -> tuple[str, ...]:
        """Content words, in a fixed order."""
        return content_words(CZECH.vocabulary(), (verb.finite for verbs in CZECH_VERBS.values() for verb in verbs))


def _verb(event: Event, telling: Telling) -> CzechVerb:
    return CZECH_VERBS[event.verb][-1 if telling.synonyms else 0]


def _se(verb: CzechVerb) -> list[str]:
    return ["se"] if verb.reflexive else []


CZECH_CLIPS = CzechClipGrammar()
