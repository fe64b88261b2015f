"""Anybody's own folder of pictures or videos, with captions beside them where there are any."""

import hashlib
import logging
from collections import defaultdict
from pathlib import Path
from typing import Any

import datasets

from processing.media import PICTURE_SUFFIXES, VIDEO_SUFFIXES, MediaFolder
from processing.missing import MissingReport
from processing.readers.base import Corpus, build_split, iter_lines
from processing.readers.table import NO_CAPTION, column_names, read_items
from processing.records import (
    DESCRIPTION_COLUMN,
    FILE_COLUMN,
    ID_COLUMN,
    SOURCE_LANGUAGE,
    VIDEO_ID_COLUMN,
    caption_column,
    caption_columns,
)

logger = logging.getLogger(__name__)

METADATA_FILES = ("metadata.jsonl", "metadata.csv")
NO_FILE = "a caption and no file"
# What people call the three splits.
_SPLIT_FOLDERS = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
_BUCKETS = 1 << 32


def read_folder(
    root: str | Path,
    *,
    videos: bool = False,
    validation: float = 0.0,
    test: float = 0.0,
    seed: int = 0,
) -> Corpus:
    """Read the pictures (or videos) of a folder and the captions that lie beside them.

    The id of an item is its path inside the folder. Captions come from `metadata.jsonl` or `metadata.csv` in the
    folder (a column `file_name`, and any of the schema such as `caption_en`; several rows may name one file), or
    from `<name>.txt` beside `<name>.jpg`, an English caption a line. Both are optional.

    Where all files lie below folders named train, validation (valid, val, dev) and test, those are the splits.
    Otherwise an item is put into a split by a hash of its path: it stays there when the folder grows.

    Args:
        root: the folder; sub-folders are read too.
        videos: read clips instead of pictures.
        validation: share of the items in [0, 1).
        test: share of the items in [0, 1); train keeps the rest, which must be more than nothing.
        seed: another seed is another division.

    Returns:
        The splits that have items. Reported are items without an English caption, and captions without a file.

    Raises:
        ValueError: no files, malformed captions (with file and line), or shares that do not fit.
    """
    if not (0 <= validation < 1 and 0 <= test < 1 and validation + test < 1):
        raise ValueError(f"validation and test are shares of the items, below 1 together, got {validation} and {test}.")
    folder = MediaFolder(root, VIDEO_SUFFIXES if videos else PICTURE_SUFFIXES)
    id_column = VIDEO_ID_COLUMN if videos else ID_COLUMN
    missing = MissingReport()
    texts = _read_captions(Path(root), folder, missing)
    columns = [
        id_column,
        *sorted({column for row in texts.values() for column in row} | {caption_column(SOURCE_LANGUAGE)}),
    ]
    split_of = _split_folders(folder.names)
    if split_of and (validation or test):
        raise ValueError(f"{root} has folders for its splits; leave out the shares {validation} and {test}.")
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for name in folder.names:
        split = split_of.get(name) or _hashed_split(name, validation, test, seed)
        row = {column: texts.get(name, {}).get(column, [] if caption_columns([column]) else None) for column in columns}
        rows[split].append(row | {id_column: name})
        if not row[caption_column(SOURCE_LANGUAGE)]:
            missing.add(NO_CAPTION, split, name)
    order = [split for split in ("train", "validation", "test") if rows[split]]
    splits = {split: build_split(rows[split], columns, split, source=str(root)) for split in order}
    settings = {
        "reader": "folder",
        "validation": validation,
        "test": test,
        "seed": seed,
        "split_folders": bool(split_of),
    }
    return Corpus(datasets.DatasetDict(splits), missing, settings)


def _read_captions(root: Path, folder: MediaFolder, missing: MissingReport) -> dict[str, dict[str, Any]]:
    """File name -> columns of the schema."""
    found = [root / name for name in METADATA_FILES if (root / name).is_file()]
    if len(found) > 1:
        raise ValueError(f"{root} has {' and '.join(METADATA_FILES)}; keep one.")
    if not found:
        return _read_sidecars(folder)
    texts = {}
    names = set(folder.names)
    for name, row in _read_metadata(found[0]).items():
        if name in names:
            texts[name] = {column: value for column, value in row.items() if column != ID_COLUMN}
        else:
            missing.add(NO_FILE, found[0].name, name)
    return texts


def _read_metadata(path: Path) -> dict[str, dict[str, Any]]:
    columns = column_names(path)
    if FILE_COLUMN not in columns:
        raise ValueError(f"{path}, line 1: a column {FILE_COLUMN!r} must name the files, got {columns}.")
    known = [column for column in columns if caption_columns([column]) or column == DESCRIPTION_COLUMN]
    unknown = sorted(set(columns) - {*known, FILE_COLUMN})
    if unknown:
        logger.warning("%s: the columns %s are not in the schema and are not read", path, unknown)
    return read_items(path, {ID_COLUMN: FILE_COLUMN, **{column: column for column in known}}, caption_rows=True)


def _read_sidecars(folder: MediaFolder) -> dict[str, dict[str, Any]]:
    texts = {}
    for name in folder.names:
        sidecar = (folder.folder / name).with_suffix(".txt")
        if sidecar.is_file():
            captions = [line.strip() for _, line in iter_lines(sidecar)]
            texts[name] = {caption_column(SOURCE_LANGUAGE): [caption for caption in captions if caption]}
    return texts


def _split_folders(names: list[str]) -> dict[str, str]:
    """File name -> split, where every file lies below a folder that is named after one; else nothing."""
    tops = {name: name.partition("/")[0] for name in names}
    if not all("/" in name and tops[name] in _SPLIT_FOLDERS for name in names):
        return {}
    return {name: _SPLIT_FOLDERS[top] for name, top in tops.items()}


def _hashed_split(name: str, validation: float, test: float, seed: int) -> str:
    place = int.from_bytes(hashlib.sha256(f"{seed}\n{name}".encode()).digest()[:4], "big") / _BUCKETS
    if place < validation:
        return "validation"
    return "test" if place < validation + test else "train"
