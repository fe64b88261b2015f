"""Caption files of the NRCCR family: one caption a line, behind an id that says whose it is.

A line of `TextData/<collection><train, val or test>...caption.txt` is `<item>#<kind>#<number> <caption>`:

| file name | kind | what |
|---|---|---|
| `msrvtt10kcntrain.caption.txt`, `Flickr30ktrain_enc.caption.txt` | `enc` | English captions |
| `Flickr30ktrain_google_enc2de.caption.txt` | `enc2de` | their machine translations, with the same item and number |
| `multi30kval_de.caption.txt`, `multi30ktest_de_2016.caption.txt` | any | human captions in German |

Back-translations (`enc2de2enc`) and translations of human captions (`de2enc`) are passed over and named in the result.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from processing.languages import LANGUAGES, SOURCE_LANGUAGE
from processing.readers.base import check_name, iter_lines

SPLIT_WORDS = {"train": "train", "val": "validation", "test": "test"}
_FILE = re.compile(r"(?P<collection>.+?)(?P<split>train|val|test)(?:_(?P<kind>[^.]+))?\.caption\.txt")
_TRANSLATED = re.compile(r"(?:[^_]+_)?enc2(?P<language>[a-z]{2,3})")
# The year is that of the test set of Multi30K; the released evaluation uses the one of 2016.
_HUMAN = re.compile(r"(?P<language>[a-z]{2,3})(?:_2016)?")
_MEDIA_SUFFIXES = (".jpg", ".mp4")


@dataclass(frozen=True)
class Caption:
    """One caption and where it stands.

    Attributes:
        text: the caption.
        place: file and line, for messages.
    """

    text: str
    place: str


Captions = Mapping[str, Mapping[str, Caption]]  # Item -> number of the caption -> caption, in the order of the file.


@dataclass
class SplitFiles:
    """The caption files of one split.

    Attributes:
        english: English captions; None where the split has none.
        translated: language -> machine translations of the English captions.
        human: language -> captions written by people.
    """

    english: Path | None = None
    translated: dict[str, Path] = field(default_factory=dict)
    human: dict[str, Path] = field(default_factory=dict)


def find_caption_files(folder: Path, *, collection: str | None) -> tuple[dict[str, SplitFiles], list[str]]:
    """The caption files of a folder `TextData`, by split, and the names of those passed over.

    Args:
        folder: where the files lie.
        collection: which beginning of the names counts where several files have one role.

    Raises:
        ValueError: there are none, or several for one role.
    """
    roles: dict[tuple[str, str, str], list[tuple[str, Path]]] = {}
    ignored = []
    for path in sorted(folder.glob("*.caption.txt")):
        match = _FILE.fullmatch(path.name)
        role = _role(match["kind"]) if match else None
        if match is None or role is None:
            ignored.append(path.name)
        else:
            roles.setdefault((SPLIT_WORDS[match["split"]], *role), []).append((match["collection"], path))
    if not roles:
        raise ValueError(f"{folder} holds no caption file such as msrvtt10kcntrain.caption.txt; name the folder above.")
    files: dict[str, SplitFiles] = {}
    for (split, kind, language), candidates in roles.items():
        path = _one_of(candidates, collection)
        found = files.setdefault(split, SplitFiles())
        if kind == "english":
            found.english = path
        else:
            getattr(found, kind)[language] = path
    return {split: files[split] for split in SPLIT_WORDS.values() if split in files}, ignored


def _role(kind: str | None) -> tuple[str, str] | None:
    if kind in (None, "enc"):
        return "english", SOURCE_LANGUAGE
    for role, pattern in (("translated", _TRANSLATED), ("human", _HUMAN)):
        match = pattern.fullmatch(kind or "")
        if match and match["language"] in LANGUAGES and match["language"] != SOURCE_LANGUAGE:
            return role, match["language"]
    return None


def _one_of(candidates: Sequence[tuple[str, Path]], collection: str | None) -> Path:
    named = [path for name, path in candidates if name == collection]
    paths = named if named and len(candidates) > 1 else [path for _, path in candidates]
    if len(paths) > 1:
        raise ValueError(
            f"{paths[0].parent} holds several files of one role, {[path.name for path in paths]}; keep one, or give "
            f"the beginning of its name as collection, one of {sorted({name for name, _ in candidates})}."
        )
    return paths[0]


def read_captions(path: Path, *, kind: str | None) -> Captions:
    """The captions of one file.

    Args:
        path: UTF-8 text.
        kind: what must stand between item and number, such as "enc2de"; anything may where it is None. An id
            without it, `<item>#<number>`, is taken.

    Returns:
        Item -> number -> caption, in the order of the file. Items lose a suffix `.jpg` or `.mp4`.

    Raises:
        ValueError: a line has not the form `<item>#<kind>#<number> <caption>`, is of another kind or occurs twice, or
            an item would climb out of a folder.
    """
    captions: dict[str, dict[str, Caption]] = {}
    for line_number, line in iter_lines(path):
        place = f"{path}, line {line_number}"
        name, _, text = line.strip().partition(" ")
        item, *rest = name.split("#")
        if not text.strip() or not 1 <= len(rest) <= 2 or not all((item, *rest)):
            raise ValueError(f"{place}: expected '<item>#<kind>#<number> <caption>', got {line[:80]!r}.")
        if kind is not None and len(rest) == 2 and rest[0] != kind:
            raise ValueError(f"{place}: expected a caption of the kind {kind!r}, got {name!r}; is it the right file?")
        item = item[:-4] if item.endswith(_MEDIA_SUFFIXES) else item
        check_name(item, source=place)
        numbers = captions.setdefault(item, {})
        if rest[-1] in numbers:
            raise ValueError(f"{place}: {name!r} occurs twice, first in {numbers[rest[-1]].place}.")
        numbers[rest[-1]] = Caption(text.strip(), place)
    if not captions:
        raise ValueError(f"{path} is empty; get the file again.")
    return captions
