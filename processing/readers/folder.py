"""Anybody's own folder of pictures or videos, with captions beside them where there are any."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets

from processing.media import DESCRIPTIONS_FILE, FrameFolders, MediaFolder, name_key, open_clips
from processing.missing import MissingReport
from processing.readers.base import Corpus, build_split, iter_lines
from processing.readers.table import NO_CAPTION, column_names, read_items
from processing.records import (
    DESCRIPTION_COLUMN,
    END_COLUMN,
    FILE_COLUMN,
    ID_COLUMN,
    SOURCE_LANGUAGE,
    START_COLUMN,
    VIDEO_ID_COLUMN,
    caption_column,
    caption_columns,
)

logger = logging.getLogger(__name__)

METADATA_FILES = ("metadata.jsonl", "metadata.csv")
NO_FILE, NO_DESCRIBED_FILE = "a caption and no file", "a description and no file"
UNREAD_KIND = "a kind that is not read"
# What other tools call the column of the captions.
_CAPTION_WORDS = frozenset({"text", "caption", "captions", "sentence", "sentences", "raw"})
SPLITS = ("train", "validation", "test")
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

MediaFiles = MediaFolder | FrameFolders


def read_folder(
    root: str | Path,
    *,
    videos: bool = False,
    validation: float = 0.0,
    test: float = 0.0,
    seed: int = 0,
) -> Corpus:
    """Read the pictures (or videos) of a folder and the captions that lie beside them.

    The id of an item is its path inside the folder. Captions come from `metadata.jsonl` or `metadata.csv` (a column
    `file_name`, and any of the schema such as `caption_en`; several rows may name one file), which lies in the folder
    or in one below, as those of splits do; `file_name` starts where it lies. Of a clip it may also say `start` and
    `end`, in seconds, of the part that counts. Without such a file captions come from
    `<name>.txt` beside `<name>.jpg`, an English caption a line. Descriptions may also come from `descriptions.jsonl`
    in the folder, with the id and `description` in each line. All are optional.

    Where all files lie below folders named train, validation (valid, val, dev) and test, in small or capital letters,
    those are the splits. Otherwise an item is put into a split by a hash of its path: it stays there when the folder
    grows.

    Args:
        root: the folder; sub-folders are read too.
        videos: read clips instead of pictures: files, or where there is none, folders with the frames of a clip each.
        validation: share of the items in [0, 1).
        test: share of the items in [0, 1); train keeps the rest, which must be more than nothing.
        seed: another seed is another division.

    Returns:
        The splits that have items. Reported are items without an English caption, captions and descriptions without a
        file, and pictures and clips of a kind that is not read.

    Raises:
        ValueError: no files, malformed captions (with file and line), a file outside the folders of the splits, or
            shares that do not fit or leave a split without an item.
    """
    if not (0 <= validation < 1 and 0 <= test < 1 and validation + test < 1):
        raise ValueError(f"validation and test are shares of the items, below 1 together, got {validation} and {test}.")
    folder = open_clips(root) if videos else MediaFolder(root)
    id_column = VIDEO_ID_COLUMN if videos else ID_COLUMN
    missing = MissingReport()
    for name in folder.unread_names:
        missing.add(UNREAD_KIND, "files", name)
    split_of = _split_folders(folder)
    settings = {
        "reader": "folder",
        "validation": validation,
        "test": test,
        "seed": seed,
        "split_folders": bool(split_of),
    }
    if split_of and (validation or test):
        raise ValueError(f"{root} has folders for its splits; leave out the shares {validation} and {test}.")
    if not split_of:
        split_of = _divide(folder, validation, test, seed)
    texts = _read_texts(folder, id_column, missing)
    return Corpus(_build_splits(folder, id_column, split_of, texts, missing), missing, settings)


def _read_texts(folder: MediaFiles, id_column: str, missing: MissingReport) -> dict[str, dict[str, Any]]:
    """File name -> columns of the schema."""
    files = _metadata_files(folder)
    timed = id_column == VIDEO_ID_COLUMN
    texts = _read_metadata(files, folder, missing, timed=timed) if files else _read_sidecars(folder)
    path = folder.folder / DESCRIPTIONS_FILE
    if not path.is_file():
        return texts
    names = set(folder.names)
    for name, row in read_items(path, {column: column for column in (id_column, DESCRIPTION_COLUMN)}).items():
        if name not in names:
            missing.add(NO_DESCRIBED_FILE, path.name, name)
        elif texts.get(name, {}).get(DESCRIPTION_COLUMN):
            raise ValueError(f"{path}: {name!r} has a description in its metadata as well; keep one.")
        else:
            texts.setdefault(name, {})[DESCRIPTION_COLUMN] = row[DESCRIPTION_COLUMN]
    return texts


def _metadata_files(folder: MediaFiles) -> list[Path]:
    """Those beside the files and above them, the folder itself first."""
    files = []
    for parent in sorted({folder.folder / parent for name in folder.names for parent in Path(name).parents}):
        found = [parent / name for name in METADATA_FILES if (parent / name).is_file()]
        if len(found) > 1:
            raise ValueError(f"{parent} has {' and '.join(METADATA_FILES)}; keep one.")
        files += found
    return files


def _read_metadata(
    files: Sequence[Path], folder: MediaFiles, missing: MissingReport, *, timed: bool
) -> dict[str, dict[str, Any]]:
    texts: dict[str, dict[str, Any]] = {}
    names = {name_key(name): name for name in folder.names}
    for path in files:
        place = path.relative_to(folder.folder)
        for file_name, row in _read_metadata_file(path, timed=timed).items():
            wanted = (place.parent / file_name).as_posix()
            name = names.get(name_key(wanted))
            if name is None:
                missing.add(NO_FILE, place.as_posix(), wanted)
            elif name in texts:
                raise ValueError(f"{path}: {name!r} has captions in another metadata file, or spelling, too; keep one.")
            else:
                texts[name] = {column: value for column, value in row.items() if column != ID_COLUMN}
    return texts


def _read_metadata_file(path: Path, *, timed: bool) -> dict[str, dict[str, Any]]:
    columns = column_names(path)
    if FILE_COLUMN not in columns:
        raise ValueError(f"{path}: a column {FILE_COLUMN!r} must name the files, got {columns}.")
    known = [column for column in columns if caption_columns([column]) or column == DESCRIPTION_COLUMN]
    known += [column for column in (START_COLUMN, END_COLUMN) if timed and column in columns]
    unknown = sorted(set(columns) - {*known, FILE_COLUMN})
    if unknown and not known:
        likely = next((name for name in unknown if name.lower() in _CAPTION_WORDS), unknown[0])
        raise ValueError(
            f"{path}: no column beside {FILE_COLUMN!r} is in the schema, got {columns}; if {likely!r} holds the "
            f"English captions, rename {likely!r} to {caption_column(SOURCE_LANGUAGE)}, else move the file away."
        )
    if unknown:
        logger.warning("%s: the columns %s are not in the schema and are not read", path, unknown)
    return read_items(path, {ID_COLUMN: FILE_COLUMN, **{column: column for column in known}}, caption_rows=True)


def _read_sidecars(folder: MediaFiles) -> dict[str, dict[str, Any]]:
    texts = {}
    for name in folder.names:
        path = folder.folder / name
        # The name of a folder of frames has no suffix, even with a dot in it.
        sidecar = path.with_name(f"{path.name if path.is_dir() else path.stem}.txt")
        if sidecar.is_file():
            captions = [line.strip() for _, line in iter_lines(sidecar)]
            texts[name] = {caption_column(SOURCE_LANGUAGE): [caption for caption in captions if caption]}
    return texts


def _build_splits(
    folder: MediaFiles,
    id_column: str,
    split_of: Mapping[str, str],
    texts: Mapping[str, Mapping[str, Any]],
    missing: MissingReport,
) -> datasets.DatasetDict:
    found = {column for row in texts.values() for column in row} | {caption_column(SOURCE_LANGUAGE)}
    columns = [id_column, *sorted(found)]
    rows: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    for name in folder.names:
        row = {column: texts.get(name, {}).get(column, [] if caption_columns([column]) else None) for column in columns}
        rows[split_of[name]].append(row | {id_column: name})
        if not row[caption_column(SOURCE_LANGUAGE)]:
            missing.add(NO_CAPTION, split_of[name], name)
    source = str(folder.folder)
    splits = {split: build_split(rows[split], columns, split, source=source) for split in SPLITS if rows[split]}
    return datasets.DatasetDict(splits)


def _split_folders(folder: MediaFiles) -> dict[str, str]:
    """File name -> split, where the files lie below folders that are named after splits; else nothing."""
    tops = {name: name.partition("/")[0] for name in folder.names if "/" in name}
    splits = {name: _SPLIT_FOLDERS[top.lower()] for name, top in tops.items() if top.lower() in _SPLIT_FOLDERS}
    strays = [name for name in folder.names if name not in splits]
    if splits and strays:
        raise ValueError(
            f"{folder.folder}: {len(strays)} files lie outside the folders {sorted({tops[name] for name in splits})} "
            f"that are named after splits (first: {strays[:3]}); move them into one, or rename these folders."
        )
    return splits


def _divide(folder: MediaFiles, validation: float, test: float, seed: int) -> dict[str, str]:
    """File name -> split, by shares."""
    split_of = {name: _hashed_split(name, validation, test, seed) for name in folder.names}
    for split, share in (("train", 1 - validation - test), ("validation", validation), ("test", test)):
        if share and split not in split_of.values():
            raise ValueError(
                f"the split {split!r} gets none of the {len(split_of)} items of {folder.folder} with validation "
                f"{validation} and test {test}: a hash of its path divides them; give it a larger share, or another "
                f"seed."
            )
    return split_of


def _hashed_split(name: str, validation: float, test: float, seed: int) -> str:
    place = int.from_bytes(hashlib.sha256(f"{seed}\n{name}".encode()).digest()[:4], "big") / _BUCKETS
    if place < validation:
        return "validation"
    return "test" if place < validation + test else "train"
