"""Which language and which scripts a text is written in."""

import copy
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

from processing.extras import install_hint
from processing.languages import find_language

# py3langid knows every language of the table; it names this one by its older code.
_LABELS = {"fil": "tl"}
# First words of Unicode names that are not the name of the script.
_SCRIPTS_BY_WORD = {"CJK": "Han", "IDEOGRAPHIC": "Han", "KATAKANA-HIRAGANA": "Katakana"}


def identify(texts: Sequence[str], candidates: Sequence[str]) -> list[str]:
    """The most likely language of each text among some candidates.

    A text of a few words is often misjudged; the fewer the candidates, the fewer errors. The same text always gives
    the same answer, whatever was asked before.

    Args:
        texts: plain texts; one without any letter gives the first candidate.
        candidates: codes of processing/languages.py, each once.

    Returns:
        One of `candidates` for each text.

    Raises:
        ValueError: `candidates` is empty, repeats a code or holds an unknown one.
        ImportError: py3langid is not installed.
    """
    if not candidates or len(set(candidates)) != len(candidates):
        raise ValueError(f"candidates must be language codes, each once and at least one, got {list(candidates)}.")
    identifier = _restricted_identifier(tuple(candidates))
    return [_best(identifier, text, candidates) for text in texts]


def _best(identifier: Any, text: str, candidates: Sequence[str]) -> str:
    if not any(char.isalpha() for char in text):
        return candidates[0]
    scores = dict(identifier.rank(text))
    # max keeps the first of equals, so the order of the candidates decides a tie.
    return max(candidates, key=lambda code: scores[_LABELS.get(code, code)])


@cache
def _identifier() -> Any:
    """An identifier of our own: the functions of the module share one, which other code may restrict."""
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise ImportError(f"finding the language of a text needs py3langid: {install_hint('data')}.") from error
    return LanguageIdentifier.from_model_file(MODEL_FILE)


@lru_cache(maxsize=64)
def _restricted_identifier(candidates: tuple[str, ...]) -> Any:
    labels = [_LABELS.get(find_language(code).code, code) for code in candidates]
    # The copy shares the large tables, which are read only, and has a list of languages of its own.
    restricted = copy.copy(_identifier())
    restricted.set_languages(labels)
    return restricted


def scripts_of(text: str) -> Counter[str]:
    """Number of letters of each Unicode script, such as {"Latin": 12, "Han": 3}.

    Digits, punctuation, spaces and combining marks belong to no script here. Full-width Latin counts as Latin.
    """
    scripts = (_script(char) for char in unicodedata.normalize("NFKC", text))
    return Counter(script for script in scripts if script is not None)


def script_share(text: str, language: str) -> float:
    """Share of the letters that are in the scripts of a language.

    Returns:
        A number in [0, 1]; 1 for a text without letters, in which nothing is in a wrong script.

    Raises:
        ValueError: the language is unknown.
    """
    counts = scripts_of(text)
    own = sum(counts[script] for script in find_language(language).scripts)
    return own / counts.total() if counts else 1.0


@lru_cache(maxsize=65_536)
def _script(char: str) -> str | None:
    """Script of a letter, read from its Unicode name; None for what is not a letter of one script."""
    if not unicodedata.category(char).startswith("L"):
        return None
    word = unicodedata.name(char, "").partition(" ")[0]
    # "MODIFIER LETTER APOSTROPHE" is written in several scripts.
    return None if word in ("", "MODIFIER") else _SCRIPTS_BY_WORD.get(word, word.capitalize())
