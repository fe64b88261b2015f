"""What is wrong with a translation, if anything: judged from the two texts alone.

The thresholds are chosen by the share of good translations that they would refuse. Of 87,000 human translations of
Multi30K captions (German, French, Czech) they refuse five, two of which are the text "@@"; of 36,000 machine
translations into Chinese from 2016 they refuse 0.5 %, nearly all for a long English word left inside. The tests
marked `realdata` count again.
"""

import math
import re
import unicodedata
from typing import Any

from processing.generation import EMPTY_FLAG
from processing.language_id import identify, script_share
from processing.languages import find_language
from processing.records import OK_FLAG

COPY_FLAG = "copy"
SCRIPT_FLAG = "script"
LANGUAGE_FLAG = "language"
LENGTH_FLAG = "length"

# Below half, more letters are foreign than not. A name of two words inside a Chinese sentence stays above it.
MIN_SCRIPT_SHARE = 0.5
# With 20 letters or more, one human caption in 30,000 is taken for English and no English one for another language;
# of their first two words up to 2 % and 19 %.
MIN_LETTERS_FOR_LANGUAGE = 20
# 2.5 keeps its promise in a language whose expectation below is wrong by a fifth, as 1 is for Czech (0.85).
MAX_LENGTH_FACTOR = 2.5
# Characters of English that are added to both texts: a one-word caption may well become three times as long.
LENGTH_SLACK = 10
# Characters of a translation for one of English, 1 for other languages. Chinese is the median of real captions, the
# others come from generated or single sentences.
_LENGTH_RATIOS = {"ar": 0.8, "he": 0.75, "ja": 0.4, "ko": 0.5, "zh": 0.31}

# Single ones are left out: they are apostrophes as well.
_QUOTES = ('""', "“”", "„“", "„”", "«»", "「」", "『』")


def filter_settings() -> dict[str, Any]:
    """The thresholds, for a manifest."""
    return {
        "min_script_share": MIN_SCRIPT_SHARE,
        "min_letters_for_language": MIN_LETTERS_FOR_LANGUAGE,
        "max_length_factor": MAX_LENGTH_FACTOR,
        "length_slack": LENGTH_SLACK,
    }


def find_fault(source: str, translation: str, *, source_language: str, target_language: str) -> str:
    """The first thing that is wrong with a translation.

    Args:
        source: the caption.
        translation: what a model made of it.
        source_language: code of the caption's language.
        target_language: code of the language that was asked for, another one.

    Returns:
        "empty", "copy", "script", "language", "length", or "ok".

    Raises:
        ValueError: a language is unknown, or both are the same.
    """
    if source_language == target_language:
        raise ValueError(f"target_language must differ from source_language, got {target_language!r} for both.")
    if is_empty(source, translation):
        return EMPTY_FLAG
    if is_copy(source, translation):
        return COPY_FLAG
    if script_share(translation, target_language) < MIN_SCRIPT_SHARE:
        return SCRIPT_FLAG
    if is_untranslated(translation, source_language=source_language, target_language=target_language):
        return LANGUAGE_FLAG
    if is_length_suspect(source, translation, source_language=source_language, target_language=target_language):
        return LENGTH_FLAG
    return OK_FLAG


def is_empty(source: str, translation: str) -> bool:
    """Whether nothing is left: no text, or no letter of a source that has some."""
    return not translation.strip() or (_has_letters(source) and not _has_letters(translation))


def is_copy(source: str, translation: str) -> bool:
    """Whether the source came back untranslated, up to case, punctuation and spaces.

    Names and numbers stay what they are in another language, and so does many a single word ("Restaurant"). So a
    copy needs two words or more, one of which begins with a small letter.
    """
    if _letters_and_digits(source) != _letters_and_digits(translation):
        return False
    words = [word for word in re.split(r"\W+", source) if word]
    return len(words) > 1 and any(word[0].islower() for word in words)


def is_untranslated(translation: str, *, source_language: str, target_language: str) -> bool:
    """Whether the text reads like the source language; False for texts too short to tell."""
    if sum(char.isalpha() for char in translation) < MIN_LETTERS_FOR_LANGUAGE:
        return False
    return identify([translation], [target_language, source_language]) == [source_language]


def is_length_suspect(source: str, translation: str, *, source_language: str, target_language: str) -> bool:
    """Whether a text is far longer or shorter than a translation should be.

    Both lengths, in characters, are measured against what English needs; beyond a factor of MAX_LENGTH_FACTOR either
    way, part of the sentence is missing or something was added, such as a repetition or an explanation.
    """
    ratio = _english_length(translation, target_language) / _english_length(source, source_language)
    return abs(math.log(ratio)) > math.log(MAX_LENGTH_FACTOR)


def clean_answer(answer: str, source: str, language: str) -> str:
    """The translation inside the answer of a chat model.

    Taken away: spaces around it, a label such as "Translation:" or "German:" before it, and one pair of quotation
    marks around all of it. What the caption has itself stays.

    Args:
        answer: what the model wrote.
        source: the caption.
        language: code of the language that was asked for.

    Raises:
        ValueError: the language is unknown.
    """
    name = re.escape(find_language(language).name)
    label = re.compile(rf"\s*(?:translation|translated caption|{name}|{name} translation)\s*[:：]\s*", re.IGNORECASE)
    text = answer.strip()
    if not label.match(source) and (found := label.match(text)):
        text = text[found.end() :]
    if _quoted(text) and not _quoted(source.strip()):
        text = text[1:-1].strip()
    return text


def _quoted(text: str) -> bool:
    """Whether one pair of quotation marks encloses the whole text, with none of its kind inside."""
    return len(text) > 1 and text[0] + text[-1] in _QUOTES and not {text[0], text[-1]} & set(text[1:-1])


def _has_letters(text: str) -> bool:
    return any(char.isalpha() for char in text)


def _letters_and_digits(text: str) -> str:
    return "".join(char for char in unicodedata.normalize("NFKC", text).casefold() if char.isalnum())


def _english_length(text: str, language: str) -> float:
    """Characters that the text would have in English, with the slack."""
    return len(text.strip()) / _LENGTH_RATIOS.get(find_language(language).code, 1.0) + LENGTH_SLACK
