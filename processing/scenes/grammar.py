"""What the grammars of the scenes share: how a caption is worded, and how words become a sentence."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

FRAMES = ("is", "see", "there", "beside", "fronted")


@dataclass(frozen=True)
class Wording:
    """The free choices of a caption.

    `frame` is the sentence pattern, here with A, B as first and second object:
    `is` "A is left of B", `see` "we see A left of B", `there` "there is A left of B",
    `beside` "we see B and to the left of it A", `fronted` "left of B is A".
    """

    frame: str = "is"
    synonyms: bool = False
    texture_noun: bool = False

    def __post_init__(self) -> None:
        if self.frame not in FRAMES:
            raise ValueError(f"frame must be one of {list(FRAMES)}, got {self.frame!r}.")


@dataclass(frozen=True)
class Word:
    """A word that does not inflect, and a synonym for it where the language has a common one."""

    main: str
    synonym: str | None = None

    def pick(self, wording: Wording) -> str:
        """The form that this wording asks for."""
        return self.synonym if wording.synonyms and self.synonym else self.main


@dataclass(frozen=True)
class Noun:
    """A noun with its gender (m, f, n) and its singular forms by case."""

    gender: str
    forms: Mapping[str, str]


def spaced_sentence(words: list[str]) -> str:
    """Words with spaces, a capital and a full stop; a comma sticks to the word before it."""
    text = " ".join(words).replace(" ,", ",").strip(", ")
    return text[:1].upper() + text[1:] + "."


def unspaced_sentence(words: list[str]) -> str:
    """Chinese or Japanese: words without spaces and an ideographic full stop."""
    return "".join(words).strip("，、") + "。"


def joined(parts: Iterable[list[str]], conjunction: str) -> list[str]:
    """Lists of words as one list, with a conjunction between them."""
    result: list[str] = []
    for position, part in enumerate(parts):
        result += [conjunction, *part] if position else part
    return result


def content_words(*groups: Iterable[str]) -> tuple[str, ...]:
    """All single words of the groups, each once, in a fixed order."""
    words = [word for group in groups for phrase in group for word in phrase.split()]
    return tuple(dict.fromkeys(words))
