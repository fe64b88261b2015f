"""English verbs: the third person and the `-ing` form."""

from processing.scenes.english import BACKGROUND_WORDS, ENGLISH
from processing.scenes.grammar import Word, joined

from .actions import ClipFacts, Event
from .telling import Telling

FINITE = {
    "moves_left": Word("moves to the left", "goes to the left"),
    "moves_right": Word("moves to the right", "goes to the right"),
    "moves_up": Word("moves up", "goes up"),
    "moves_down": Word("moves down", "goes down"),
    "grows": Word("grows", "gets bigger"),
    "shrinks": Word("shrinks", "gets smaller"),
    "appears": Word("appears", "comes into view"),
    "disappears": Word("disappears", "goes out of view"),
    "approaches": Word("approaches", "moves towards"),
    "leaves": Word("moves away from", "goes away from"),
    "turns": Word("turns", "changes to"),
    "spins": Word("spins", "rotates"),
    "blinks": Word("blinks", "flashes"),
    "shakes": Word("shakes", "trembles"),
    "stands_still": Word("stands still", "does not move"),
}
GERUNDS = {
    "moves": "moving",
    "goes": "going",
    "grows": "growing",
    "gets": "getting",
    "shrinks": "shrinking",
    "appears": "appearing",
    "comes": "coming",
    "disappears": "disappearing",
    "approaches": "approaching",
    "turns": "turning",
    "changes": "changing",
    "spins": "spinning",
    "rotates": "rotating",
    "blinks": "blinking",
    "flashes": "flashing",
    "shakes": "shaking",
    "trembles": "trembling",
    "stands": "standing",
}


class EnglishClipGrammar:
    """Verbs are in the third person singular, after `we see` in the `-ing` form."""

    def words(self, facts: ClipFacts, telling: Telling) -> list[str]:
        """The words of a sentence in order, without capital and full stop."""
        background = BACKGROUND_WORDS[facts.background].split() if facts.background else []
        fronted = [*background, ","] if background else []
        subjects = [ENGLISH.phrase(event.subject, telling) for event in facts.events]
        verbs = [self.verb(event, telling) for event in facts.events]
        if telling.frame == "while" and len(verbs) == 1:
            return [*fronted, "there", "is", *subjects[0], "and", "it", *verbs[0]]
        if telling.frame == "while":
            return [*fronted, *subjects[1], *verbs[1], "while", *subjects[0], *verbs[0]]
        if telling.frame == "see":
            clauses = [[*subject, *self.gerund(verb)] for subject, verb in zip(subjects, verbs, strict=True)]
            return ["we", "see", *joined(clauses, "and"), *background]
        link = ["that"] if telling.frame == "who" else []
        story = joined(([*subject, *link, *verb] for subject, verb in zip(subjects, verbs, strict=True)), "and")
        return [*fronted, *story] if telling.frame == "place" else [*story, *background]

    def verb(self, event: Event, telling: Telling) -> list[str]:
        """The verb with all that belongs to it: `moves towards a small blue heart`."""
        words = FINITE[event.verb].pick(telling).split()
        words += ENGLISH.phrase(event.other, telling) if event.other else []
        return [*words, event.new_colour] if event.new_colour else words

    def gerund(self, verb: list[str]) -> list[str]:
        """The `-ing` form of a verb phrase."""
        return ["not", "moving"] if verb[0] == "does" else [GERUNDS[verb[0]], *verb[1:]]

    def sentence(self, words: list[str]) -> str:
        """The words as a written sentence."""
        return ENGLISH.sentence(words)

    def vocabulary(self) -> tuple[str, ...]:
        """Content words, in a fixed order."""
        return (*ENGLISH.vocabulary(), *(verb for verb in GERUNDS if verb not in ENGLISH.vocabulary()))


ENGLISH_CLIPS = EnglishClipGrammar()
