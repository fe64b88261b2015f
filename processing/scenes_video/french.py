"""French verbs: `qui` joins them to their subject, and an adjective after `devient` agrees with it."""

from processing.scenes.french import FRENCH, FRENCH_BACKGROUNDS, FRENCH_COLOURS, FRENCH_NOUNS
from processing.scenes.grammar import Word, content_words, joined

from .actions import ClipFacts, Event
from .telling import Telling

FRENCH_VERBS = {
    "moves_left": Word("se déplace vers la gauche", "va vers la gauche"),
    "moves_right": Word("se déplace vers la droite", "va vers la droite"),
    "moves_up": Word("se déplace vers le haut", "va vers le haut"),
    "moves_down": Word("se déplace vers le bas", "va vers le bas"),
    "grows": Word("grandit", "s'agrandit"),
    "shrinks": Word("rétrécit", "rapetisse"),
    "appears": Word("apparaît"),
    "disappears": Word("disparaît"),
    # Both take `de`, which FRENCH.phrase puts before the other object.
    "approaches": Word("s'approche", "se rapproche"),
    "leaves": Word("s'éloigne"),
    "turns": Word("devient"),
    "spins": Word("tourne sur place", "pivote sur place"),
    "blinks": Word("clignote"),
    "shakes": Word("tremble", "vibre"),
    "stands_still": Word("reste immobile", "ne bouge pas"),
}
FRENCH_PRONOUNS = {"m": "il", "f": "elle"}


class FrenchClipGrammar:
    """The present tense, third person singular; `pendant que` elides before `un` and `une`."""

    def words(self, facts: ClipFacts, telling: Telling) -> list[str]:
        """The words of a sentence in order, without capital and full stop."""
        background = FRENCH_BACKGROUNDS[facts.background].split() if facts.background else []
        fronted = [*background, ","] if background else []
        subjects = [FRENCH.phrase(event.subject, telling) for event in facts.events]
        verbs = [self.verb(event, telling) for event in facts.events]
        if telling.frame == "while" and len(verbs) == 1:
            pronoun = FRENCH_PRONOUNS[FRENCH_NOUNS[facts.events[0].subject.shape].gender]
            return [*fronted, "il", "y", "a", *subjects[0], "et", pronoun, *verbs[0]]
        if telling.frame == "while":
            article, *rest = subjects[0]
            return [*fronted, *subjects[1], *verbs[1], "pendant", "qu'" + article, *rest, *verbs[0]]
        link = ["qui"] if telling.frame in ("see", "who") else []
        story = joined(([*subject, *link, *verb] for subject, verb in zip(subjects, verbs, strict=True)), "et")
        if telling.frame == "place":
            return [*fronted, *story]
        return [*(["nous", "voyons"] if telling.frame == "see" else []), *story, *background]

    def verb(self, event: Event, telling: Telling) -> list[str]:
        """The verb with all that belongs to it: `s'approche d'un petit cœur bleu`, `devient verte`."""
        words = FRENCH_VERBS[event.verb].pick(telling).split()
        words += FRENCH.phrase(event.other, telling, after_de=True) if event.other else []
        if not event.new_colour:
            return words
        form = ("m", "f").index(FRENCH_NOUNS[event.subject.shape].gender)
        return [*words, FRENCH_COLOURS[event.new_colour][-1 if telling.synonyms else 0][form]]

    def sentence(self, words: list[str]) -> str:
        """The words as a written sentence."""
        return FRENCH.sentence(words)

    def vocabulary(self) -> tuple[str, ...]:
        """Content words, in a fixed order."""
        return content_words(FRENCH.vocabulary(), (word.main.split()[0] for word in FRENCH_VERBS.values()))


FRENCH_CLIPS = FrenchClipGrammar()
