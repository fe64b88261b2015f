"""Two voices over the same facts, as in `processing/scenes/language.py`, for clips and their verbs."""

import random
from typing import Protocol

from processing.scenes.language import Voice, disturb_words

from .actions import ClipFacts
from .chinese import CHINESE_CLIPS
from .czech import CZECH_CLIPS
from .english import ENGLISH_CLIPS
from .french import FRENCH_CLIPS
from .german import GERMAN_CLIPS
from .japanese import JAPANESE_CLIPS
from .telling import Telling


class ClipGrammar(Protocol):
    """What a language offers: words for facts, how words become a sentence, and words to slip in by mistake."""

    def words(self, facts: ClipFacts, telling: Telling) -> list[str]:
        """The words of a sentence in order, without capital and full stop."""

    def sentence(self, words: list[str]) -> str:
        """The words as a written sentence."""

    def vocabulary(self) -> tuple[str, ...]:
        """Content words, in a fixed order."""


CLIP_GRAMMARS: dict[str, ClipGrammar] = {
    "en": ENGLISH_CLIPS,
    "de": GERMAN_CLIPS,
    "fr": FRENCH_CLIPS,
    "cs": CZECH_CLIPS,
    "zh": CHINESE_CLIPS,
    "ja": JAPANESE_CLIPS,
}
CLIP_VOCABULARIES = {language: grammar.vocabulary() for language, grammar in CLIP_GRAMMARS.items()}

SOURCE_CLIP_VOICE = Voice(
    {"says": 0.3, "see": 0.2, "place": 0.1, "who": 0.2, "while": 0.2}, synonym_rate=0.3, texture_noun_rate=0.3
)
HUMAN_CLIP_VOICE = Voice({"who": 0.5, "while": 0.5}, synonym_rate=0.6, texture_noun_rate=0.7)


def sample_telling(voice: Voice, rng: random.Random) -> Telling:
    """Draw how one caption will be worded."""
    frame = rng.choices(list(voice.frames), weights=list(voice.frames.values()))[0]
    return Telling(frame, rng.random() < voice.synonym_rate, rng.random() < voice.texture_noun_rate)


def write_clip_caption(language: str, facts: ClipFacts, telling: Telling) -> str:
    """One grammatical sentence in a language.

    Raises:
        ValueError: there is no grammar for the language.
    """
    grammar = _grammar(language)
    return grammar.sentence(grammar.words(facts, telling))


def translate_clip_caption(
    language: str, facts: ClipFacts, telling: Telling, *, noise: float, rng: random.Random
) -> str:
    """The machine translation of the English caption with these facts and this wording.

    Args:
        language: a target language.
        facts: what the caption tells.
        telling: as in English.
        noise: probability for each word, in [0, 1], to be dropped, swapped with the next one or replaced.
        rng: the generator of this caption's mistakes.

    Raises:
        ValueError: there is no grammar for the language.
    """
    grammar = _grammar(language)
    words = disturb_words(grammar.words(facts, telling), CLIP_VOCABULARIES[language], noise=noise, rng=rng)
    return grammar.sentence(words)


def _grammar(language: str) -> ClipGrammar:
    if language not in CLIP_GRAMMARS:
        raise ValueError(f"language must be one of {sorted(CLIP_GRAMMARS)}, got {language!r}.")
    return CLIP_GRAMMARS[language]
