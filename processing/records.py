"""The schema: one row for each visual item, the same columns for every data set.

| column | type | meaning |
|---|---|---|
| `image` | Image | the picture |
| `image_id` | string | unique in its split |
| `description` | string or null | what an MLLM wrote about the picture, in English |
| `caption_<language>` | list of string | human captions, any number, not aligned between languages |
| `caption_<language>_mt` | list of string | machine translations of `caption_en`, aligned by index |

A training pair is one English caption with one of its machine translations. Human captions in a language other
than English are for evaluation only.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SOURCE_LANGUAGE = "en"
IMAGE_COLUMN = "image"
ID_COLUMN = "image_id"
DESCRIPTION_COLUMN = "description"

LANGUAGE_NAMES: dict[str, str] = {
    "en": "English",
    "de": "German",
    "fr": "French",
    "cs": "Czech",
    "zh": "Chinese",
    "ja": "Japanese",
}
LANGUAGES_WITHOUT_SPACES = frozenset({"zh", "ja"})


def caption_column(language: str, *, translated: bool = False) -> str:
    """Name of the column with the captions of a language.

    Args:
        language: a code of `LANGUAGE_NAMES`.
        translated: the machine translations of `caption_en` instead of the human captions.

    Raises:
        ValueError: the language is unknown, or a translation of the source language is asked for.
    """
    if language not in LANGUAGE_NAMES:
        raise ValueError(f"language must be one of {sorted(LANGUAGE_NAMES)}, got {language!r}.")
    if translated and language == SOURCE_LANGUAGE:
        raise ValueError(f"captions are translated from {SOURCE_LANGUAGE!r}; it has no translated column of its own.")
    return f"caption_{language}_mt" if translated else f"caption_{language}"


def check_columns(column_names: Iterable[str], required: Sequence[str], *, split: str) -> None:
    """Refuse a split that lacks a column before any work is spent on it.

    Raises:
        ValueError: a required column is missing; the message names it and the columns found.
    """
    found = list(column_names)
    missing = [name for name in required if name not in found]
    if missing:
        raise ValueError(f"split {split!r} lacks the columns {missing}; it has {found}. See processing/records.py.")


def check_aligned(row: Mapping[str, Any], languages: Sequence[str]) -> None:
    """Refuse an item whose translations do not line up with its English captions.

    Raises:
        ValueError: the number of translations differs from the number of English captions.
    """
    num_sources = len(row[caption_column(SOURCE_LANGUAGE)])
    for language in languages:
        column = caption_column(language, translated=True)
        num_targets = len(row[column])
        if num_targets != num_sources:
            raise ValueError(
                f"item {row[ID_COLUMN]!r}: {column} has {num_targets} captions and caption_en has {num_sources}; "
                f"translations are aligned by index, so translate each English caption once."
            )
