"""German verbs: second in a main clause, last in a subordinate one, with `sich` and separable prefixes."""

from dataclasses import dataclass

from processing.scenes.german import GERMAN, GERMAN_BACKGROUNDS, GERMAN_COLOURS, GERMAN_NOUNS
from processing.scenes.grammar import content_words, joined

from .actions import ClipFacts, Event
from .telling import Telling


@dataclass(frozen=True)
class GermanVerb:
    """A verb, and what goes with it: `sich`, a complement, and a prefix that a subordinate clause joins to the verb."""

    finite: str
    complement: str = ""
    prefix: str = ""
    reflexive: bool = False


def _moves(where: str) -> tuple[GermanVerb, ...]:
    return GermanVerb("bewegt", where, reflexive=True), GermanVerb("wandert", where)


GERMAN_VERBS = {
    "moves_left": _moves("nach links"),
    "moves_right": _moves("nach rechts"),
    "moves_up": _moves("nach oben"),
    "moves_down": _moves("nach unten"),
    "grows": (GermanVerb("wächst"), GermanVerb("wird", "größer")),
    "shrinks": (GermanVerb("schrumpft"), GermanVerb("wird", "kleiner")),
    "appears": (GermanVerb("erscheint"), GermanVerb("taucht", prefix="auf")),
    "disappears": (GermanVerb("verschwindet"),),
    # These two govern the dative, the second one with `von`.
    "approaches": (GermanVerb("nähert", reflexive=True), GermanVerb("kommt", prefix="näher")),
    "leaves": (
        GermanVerb("entfernt", "von", reflexive=True),
        GermanVerb("bewegt", "von", prefix="weg", reflexive=True),
    ),
    "turns": (GermanVerb("wird"), GermanVerb("färbt", reflexive=True)),
    "spins": (GermanVerb("dreht", reflexive=True), GermanVerb("rotiert")),
    "blinks": (GermanVerb("blinkt"),),
    "shakes": (GermanVerb("zittert"), GermanVerb("wackelt")),
    "stands_still": (GermanVerb("steht", prefix="still"), GermanVerb("bewegt", "nicht", reflexive=True)),
}
GERMAN_PRONOUNS = {"m": "er", "f": "sie", "n": "es"}
GERMAN_RELATIVES = {"m": "der", "f": "die", "n": "das"}


class GermanClipGrammar:
    """Where the clip plays is told once, in the first clause, behind the subject and `sich`."""

    def words(self, facts: ClipFacts, telling: Telling) -> list[str]:
        """The words of a sentence in order, without capital and full stop."""
        background = GERMAN_BACKGROUNDS[facts.background].split() if facts.background else []
        first, *others = facts.events
        if telling.frame == "while" and others:
            second = self.opened(background, others[0], telling)
            return [*second, ",", "während", *self.subordinate(first, [], telling)]
        if telling.frame == "while":
            found = GERMAN.phrase(first.subject, "acc", telling)
            there = [*background, "gibt", "es", *found] if background else ["es", "gibt", *found]
            return [*there, "und", *self.main([GERMAN_PRONOUNS[_gender(first)]], first, [], telling)]
        places = [background, []]
        if telling.frame == "see":
            clauses = [
                ["wie", *self.subordinate(event, place, telling)]
                for event, place in zip(facts.events, places, strict=False)
            ]
            return ["wir", "sehen", ",", *joined(clauses, "und")]
        if telling.frame == "who":
            clauses = [self.relative(event, place, telling) for event, place in zip(facts.events, places, strict=False)]
            return [*clauses[0], *(word for clause in clauses[1:] for word in [",", "und", *clause])]
        rest = [
            word for event in others for word in ["und", *self.main(self.subject(event, telling), event, [], telling)]
        ]
        if telling.frame == "place":
            return [*self.opened(background, first, telling), *rest]
        return [*self.main(self.subject(first, telling), first, background, telling), *rest]

    def subject(self, event: Event, telling: Telling) -> list[str]:
        """Who acts, in the nominative."""
        return GERMAN.phrase(event.subject, "nom", telling)

    def main(self, subject: list[str], event: Event, place: list[str], telling: Telling) -> list[str]:
        """Subject first: `ein roter Stern bewegt sich im Schnee nach links`."""
        verb = _verb(event, telling)
        return [*subject, verb.finite, *_sich(verb), *place, *self.complement(event, telling), *verb.prefix.split()]

    def opened(self, opening: list[str], event: Event, telling: Telling) -> list[str]:
        """Something else first: `im Schnee bewegt sich ein roter Stern nach links`."""
        verb, subject = _verb(event, telling), self.subject(event, telling)
        if not opening:
            return self.main(subject, event, [], telling)
        behind = [*self.complement(event, telling), *verb.prefix.split()]
        return [*opening, verb.finite, *_sich(verb), *subject, *behind]

    def subordinate(self, event: Event, place: list[str], telling: Telling) -> list[str]:
        """After a conjunction: `sich ein roter Stern im Schnee nach links bewegt`."""
        verb = _verb(event, telling)
        last = [*place, *self.complement(event, telling), verb.prefix + verb.finite]
        return [*_sich(verb), *self.subject(event, telling), *last]

    def relative(self, event: Event, place: list[str], telling: Telling) -> list[str]:
        """`ein roter Stern, der sich im Schnee nach links bewegt`."""
        verb = _verb(event, telling)
        last = [*_sich(verb), *place, *self.complement(event, telling), verb.prefix + verb.finite]
        return [*self.subject(event, telling), ",", GERMAN_RELATIVES[_gender(event)], *last]

    def complement(self, event: Event, telling: Telling) -> list[str]:
        """What the verb governs: a direction, another object in the dative, a colour."""
        words = _verb(event, telling).complement.split()
        words += GERMAN.phrase(event.other, "dat", telling) if event.other else []
        colours = GERMAN_COLOURS[event.new_colour] if event.new_colour else ()
        return [*words, colours[-1 if telling.synonyms else 0].stem] if colours else words

    def sentence(self, words: list[str]) -> str:
        """The words as a written sentence."""
        return GERMAN.sentence(words)

    def vocabulary(self) -> tuple[str, ...]:
        """Content words, in a fixed order."""
        return content_words(GERMAN.vocabulary(), (verb.finite for verbs in GERMAN_VERBS.values() for verb in verbs))


def _verb(event: Event, telling: Telling) -> GermanVerb:
    return GERMAN_VERBS[event.verb][-1 if telling.synonyms else 0]


def _sich(verb: GermanVerb) -> list[str]:
    return ["sich"] if verb.reflexive else []


def _gender(event: Event) -> str:
    return GERMAN_NOUNS[event.subject.shape].gender


GERMAN_CLIPS = GermanClipGrammar()
