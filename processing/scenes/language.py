"""Two voices over the same facts: the machine translator's, which training reads, and a person's, which searches.

The *translation* voice follows the English caption: its sentence frame, its order, its choice between `striped` and
`with stripes`; then `translation_noise` drops, swaps or replaces words. The *human* voice tells its own facts in
frames that the translator never or rarely uses, starts from another object, and prefers the rarer synonyms. It uses
hardly a word that the translator does not know: towers that are trained from scratch cannot guess an unseen word.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from .chinese import CHINESE
from .czech import CZECH
from .english import ENGLISH
from .french import FRENCH
from .german import GERMAN
from .grammar import Wording
from .japanese import JAPANESE
from .world import CaptionFacts

SOURCE_FRAMES = {"is": 0.35, "see": 0.25, "there": 0.2, "beside": 0.2}
HUMAN_FRAMES = {"fronted": 0.6, "beside": 0.4}
MISTAKES = ("drop", "swap", "replace")
COMMAS = frozenset({",", "，", "、"})

FactsT = TypeVar("FactsT", contravariant=True)
ChoicesT = TypeVar("ChoicesT", contravariant=True)
WordingT = TypeVar("WordingT", bound=Wording)


class Grammar(Protocol[FactsT, ChoicesT]):
    """What a language offers: words for facts, how words become a sentence, and words to slip in by mistake."""

    def words(self, facts: FactsT, wording: ChoicesT, /) -> list[str]:
        """The words of a sentence in order, without capital and full stop."""

    def sentence(self, words: list[str]) -> str:
        """The words as a written sentence."""

    def vocabulary(self) -> tuple[str, ...]:
        """Content words, in a fixed order."""


@dataclass(frozen=True)
class Voice(Generic[WordingT]):
    """How often a voice picks each frame, the rarer synonyms, and `with stripes` over `striped`."""

    wording: type[WordingT]
    frames: dict[str, float]
    synonym_rate: float
    texture_noun_rate: float

    def sample_wording(self, rng: random.Random) -> WordingT:
        """Draw how one caption will be worded."""
        frame = rng.choices(list(self.frames), weights=list(self.frames.values()))[0]
        return self.wording(frame, rng.random() < self.synonym_rate, rng.random() < self.texture_noun_rate)


class CaptionWriter(Generic[FactsT, ChoicesT]):
    """Captions in every language that has a grammar.

    Args:
        grammars: by language code.
    """

    def __init__(self, grammars: Mapping[str, Grammar[FactsT, ChoicesT]]) -> None:
        self.grammars = grammars
        self.vocabularies = {language: grammar.vocabulary() for language, grammar in grammars.items()}

    def write(self, language: str, facts: FactsT, wording: ChoicesT) -> str:
        """One grammatical sentence in a language.

        Raises:
            ValueError: there is no grammar for the language.
        """
        grammar = self._grammar(language)
        return grammar.sentence(grammar.words(facts, wording))

    def translate(self, language: str, facts: FactsT, wording: ChoicesT, *, noise: float, rng: random.Random) -> str:
        """The machine translation of the English caption with these facts and this wording.

        Args:
            language: a target language.
            facts: what the caption tells.
            wording: as in English.
            noise: probability for each word, in [0, 1], to be dropped, swapped with the next one or replaced.
            rng: the generator of this caption's mistakes.

        Raises:
            ValueError: there is no grammar for the language.
        """
        grammar = self._grammar(language)
        words = disturb_words(grammar.words(facts, wording), self.vocabularies[language], noise=noise, rng=rng)
        return grammar.sentence(words)

    def _grammar(self, language: str) -> Grammar[FactsT, ChoicesT]:
        if language not in self.grammars:
            raise ValueError(f"language must be one of {sorted(self.grammars)}, got {language!r}.")
        return self.grammars[language]


GRAMMARS: dict[str, Grammar[CaptionFacts, Wording]] = {
    "en": ENGLISH,
    "de": GERMAN,
    "fr": FRENCH,
    "cs": CZECH,
    "zh": CHINESE,
    "ja": JAPANESE,
}

SOURCE_VOICE = Voice(Wording, SOURCE_FRAMES, synonym_rate=0.3, texture_noun_rate=0.3)
HUMAN_VOICE = Voice(Wording, HUMAN_FRAMES, synonym_rate=0.6, texture_noun_rate=0.7)
WRITER = CaptionWriter(GRAMMARS)
write_caption, translate_caption = WRITER.write, WRITER.translate


def disturb_words(words: list[str], vocabulary: tuple[str, ...], *, noise: float, rng: random.Random) -> list[str]:
    """Drop, swap or replace each word with a probability; commas stay, and at least one word is left."""
    # Both numbers are drawn for every word at every noise, so that a larger noise adds mistakes and moves none.
    draws = [(rng.random(), rng.random()) for _ in words]
    if noise == 0.0 or all(draw >= noise for draw, _ in draws):
        return list(words)
    result: list[str] = []
    pending: str | None = None
    for word, (draw, detail) in zip(words, draws, strict=True):
        kind, choice = divmod(detail * len(MISTAKES), 1)
        mistake = MISTAKES[int(kind)] if draw < noise and word not in COMMAS else None
        if mistake == "replace":
            position = int(choice * len(vocabulary))
            word = vocabulary[position] if vocabulary[position] != word else vocabulary[position - 1]
        if mistake == "swap" and pending is None:
            pending = word
            continue
        if mistake != "drop":
            result.append(word)
        if pending is not None:
            result.append(pending)
            pending = None
    if pending is not None:
        result.append(pending)
    return result or words[:1]
