"""The schema: one row for each visual item, the same columns for every data set.

| column | type | meaning |
|---|---|---|
| `image` | Image | the picture; absent from a data set of texts, which `attach_images` joins with pictures by id |
| `image_id` | string | unique in its split; `video_id` for videos |
| `video` | string or Video | instead of `image`: path of a clip or of a folder of its frames, or the clip itself |
| `features` | string or list of list of float | beside `video` or instead: features of its frames, or where they lie |
| `start`, `end` | float or null | seconds of the part of the clip that the item is; null: its beginning, its end |
| `file_name` | string | path of the picture or clip inside its folder, where it is not the id itself |
| `description` | string or null | what an MLLM wrote about the picture, in English |
| `caption_<language>` | list of string | human captions, any number, not aligned between languages |
| `caption_<language>_mt` | list of string or null | translations of `caption_en`, aligned by index; null: refused |
| `<column>_flag` | like its column | "ok", or why a generated text is suspect or missing; null: a human caption |
| `<column>_similarity` | list of float | back-translation against `caption_en`, chrF in [0, 100] |

A training pair is one English caption with one of its machine translations. Human captions in a language other
than English are for evaluation only.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import datasets

from processing.languages import LANGUAGES, SOURCE_LANGUAGE, find_language

IMAGE_COLUMN = "image"
ID_COLUMN = "image_id"
VIDEO_COLUMN = "video"
VIDEO_ID_COLUMN = "video_id"
FILE_COLUMN = "file_name"
DESCRIPTION_COLUMN = "description"
FEATURES_COLUMN = "features"
START_COLUMN, END_COLUMN = "start", "end"
MEDIA_COLUMNS = (IMAGE_COLUMN, VIDEO_COLUMN, FEATURES_COLUMN)
OK_FLAG = "ok"
TextKind = Literal["human", "partly_generated", "translation", "description"]

LANGUAGE_NAMES: dict[str, str] = {code: language.name for code, language in LANGUAGES.items()}
_CAPTION_COLUMN = re.compile(r"caption_([a-z]{2,3})(_mt)?")


def caption_column(language: str, *, translated: bool = False) -> str:
    """Name of the column with the captions of a language.

    Args:
        language: a code of `LANGUAGES`.
        translated: the machine translations of `caption_en` instead of the human captions.

    Raises:
        ValueError: the language is unknown, or a translation of the source language is asked for.
    """
    find_language(language)
    if translated and language == SOURCE_LANGUAGE:
        raise ValueError(f"captions are translated from {SOURCE_LANGUAGE!r}; it has no translated column of its own.")
    return f"caption_{language}_mt" if translated else f"caption_{language}"


def query_column(name: str) -> str:
    """Column of the captions that evaluation asks with.

    Args:
        name: a language (`de`: human captions) or a language and `_mt` (`de_mt`: machine translations, where nobody
            wrote captions; the name shows in every metric).

    Raises:
        ValueError: the language is unknown.
    """
    return caption_column(name.removesuffix("_mt"), translated=name.endswith("_mt"))


def query_title(name: str) -> str:
    """What people read for a name of `query_column`: `German`, or `German (machine translation)` for `de_mt`.

    A code that the schema does not know is shown as it is.
    """
    language = name.removesuffix("_mt")
    title = LANGUAGE_NAMES.get(language, language)
    return f"{title} (machine translation)" if name.endswith("_mt") else title


def caption_columns(column_names: Iterable[str]) -> dict[str, tuple[str, bool]]:
    """The caption columns among some columns: name -> (language code, whether it is machine-translated)."""
    found = {}
    for name in column_names:
        match = _CAPTION_COLUMN.fullmatch(name)
        if match and match[1] in LANGUAGES:
            found[name] = (match[1], match[2] is not None)
    return found


def flag_column(column: str) -> str:
    """Name of the column that says what is wrong with the texts of `column`, if anything."""
    return f"{column}_flag"


def similarity_column(column: str) -> str:
    """Name of the column with the back-translation similarity of the texts of `column`."""
    return f"{column}_similarity"


def find_id_column(column_names: Iterable[str]) -> str:
    """`image_id`, or `video_id` in a data set of videos.

    Raises:
        ValueError: neither column is there, or both are.
    """
    found = [name for name in column_names if name in (ID_COLUMN, VIDEO_ID_COLUMN)]
    if len(found) != 1:
        raise ValueError(f"a data set must have one column {ID_COLUMN!r} or {VIDEO_ID_COLUMN!r}, got {found}.")
    return found[0]


def schema_features(column_names: Iterable[str]) -> datasets.Features:
    """The types of some columns of the schema, in the order given.

    Raises:
        ValueError: a name is not in the schema.
    """
    text, texts = datasets.Value("string"), datasets.List(datasets.Value("string"))
    plain: dict[str, Any] = {
        IMAGE_COLUMN: datasets.Image(),
        VIDEO_COLUMN: text,
        FEATURES_COLUMN: text,
        **dict.fromkeys((START_COLUMN, END_COLUMN), datasets.Value("float64")),
        **dict.fromkeys((ID_COLUMN, VIDEO_ID_COLUMN, FILE_COLUMN, DESCRIPTION_COLUMN), text),
    }
    features = {}
    for name in column_names:
        base = name.removesuffix("_flag")
        if base in plain:
            features[name] = plain[base]
        elif caption_columns([base]):
            features[name] = texts
        elif caption_columns([name.removesuffix("_similarity")]):
            features[name] = datasets.List(datasets.Value("float32"))
        else:
            raise ValueError(f"column {name!r} is not in the schema; see processing/records.py.")
    return datasets.Features(features)


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
                f"item {row[find_id_column(row)]!r}: {column} has {num_targets} captions and caption_en has "
                f"{num_sources}; translations are aligned by index, so translate each English caption once."
            )


def text_columns(column_names: Iterable[str]) -> dict[str, tuple[str, TextKind]]:
    """The columns of texts among some columns, in their order: name -> (language code, who wrote them).

    A model wrote captions beside which there are flags; those of people have null flags there.
    """
    names = list(column_names)
    captions = caption_columns(names)
    found: dict[str, tuple[str, TextKind]] = {}
    for name in names:
        if name == DESCRIPTION_COLUMN:
            found[name] = (SOURCE_LANGUAGE, "description")
        elif name in captions:
            language, translated = captions[name]
            own: TextKind = "partly_generated" if flag_column(name) in names else "human"
            found[name] = (language, "translation" if translated else own)
    return found


def texts_of(column: str, cell: Any) -> list[str | None]:
    """The entries of a cell of a text column: one description, null or not, or any number of captions.

    A null list of captions has no entries. The flags of a column are read in the same way.
    """
    return [cell] if column == DESCRIPTION_COLUMN else list(cell or [])
