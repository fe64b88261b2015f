"""What a run was trained and evaluated on, in a few numbers that change when the data do."""

import contextlib
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow.compute

from processing.records import (
    DESCRIPTION_COLUMN,
    END_COLUMN,
    FEATURES_COLUMN,
    ID_COLUMN,
    IMAGE_COLUMN,
    START_COLUMN,
    VIDEO_COLUMN,
    VIDEO_ID_COLUMN,
    caption_columns,
)
from processing.visual_rows import VisualRows

# Reading all pictures of a large data set would take as long as an epoch of their input.
_MAX_READ = {IMAGE_COLUMN: 1000, VIDEO_COLUMN: 100, FEATURES_COLUMN: 1000}
_ROWS_AT_A_TIME = 1000


def fingerprint(split: datasets.Dataset) -> dict[str, Any]:
    """Numbers of a split, and a hash of what training and evaluation read of it, in the order of its rows.

    The hash covers all ids, captions, translations and descriptions, the size in bytes of each picture or clip, and, at
    equal distances, the bytes of up to 1,000 pictures or 100 clips and the features of up to 1,000 videos. Where the
    files lie, and how they are cut into shards, does not count; nor do clips that are folders of frames.

    Args:
        split: in the schema of records.py.

    Returns:
        `num_items`; `num_captions`, column -> number of captions, those that were refused left out; `num_described`,
        items with a description; `sha256`.
    """
    captions = sorted(caption_columns(split.column_names))
    texts = (ID_COLUMN, VIDEO_ID_COLUMN, START_COLUMN, END_COLUMN, DESCRIPTION_COLUMN, *captions)
    present = [name for name in texts if name in split.column_names]
    digest = hashlib.sha256()
    num_captions, num_described = dict.fromkeys(captions, 0), 0
    for rows in split.with_format(None).select_columns(present).iter(batch_size=_ROWS_AT_A_TIME):
        digest.update(json.dumps(rows, sort_keys=True).encode())
        for name in captions:
            num_captions[name] += sum(caption is not None for texts in rows[name] for caption in texts or ())
        num_described += sum(bool(text) for text in rows.get(DESCRIPTION_COLUMN, ()))
    for column in (name for name in _MAX_READ if name in split.column_names):
        for part in _feature_parts(split) if column == FEATURES_COLUMN else _media_parts(split, column):
            digest.update(part)
    return {
        "num_items": len(split),
        "num_captions": num_captions,
        "num_described": num_described,
        "sha256": digest.hexdigest(),
    }


def data_fingerprints(splits: Mapping[str, Any], dataset: str, split_names: Mapping[str, str]) -> dict[str, Any]:
    """Role -> data set, split and `fingerprint`.

    Of a stream, whose rows are not here, `num_files`, and the `sha256` of names and sizes of the files; a name on the
    Hub holds the revision.

    Args:
        splits: role -> split, or the list of its files, see `processing.streaming.ParquetSplit`.
        dataset: name of the data set as it may be published.
        split_names: role -> the name of the split there.
    """
    return {
        role: {
            "dataset": dataset,
            "split": split_names[role],
            **(fingerprint(split) if isinstance(split, datasets.Dataset) else _file_fingerprint(split.files)),
        }
        for role, split in splits.items()
    }


def _file_fingerprint(files: Sequence[str]) -> dict[str, Any]:
    sizes = [(file if (size := _file_size(file)) is None else Path(file).name, size) for file in files]
    return {"num_files": len(files), "sha256": hashlib.sha256(json.dumps(sizes).encode()).hexdigest()}


def _media_parts(split: datasets.Dataset, column: str) -> Iterator[bytes]:
    """Of pictures or clips."""
    # As tables, in which nothing is decoded.
    tables = split.with_format(None).select_columns([column]).with_format("arrow")
    for table in tables.iter(batch_size=_ROWS_AT_A_TIME):
        stored, names = table[column], table[column]
        if pyarrow.types.is_struct(stored.type):
            names = pyarrow.compute.struct_field(stored, "path")
            stored = pyarrow.compute.struct_field(stored, "bytes")
            # Lengths are in the offsets of the column: its bytes stay on the disk.
            sizes = pyarrow.compute.binary_length(stored).to_pylist()
        else:
            sizes = [None] * len(stored)
        both = zip(sizes, names.to_pylist(), strict=True)
        yield json.dumps([_file_size(path) if size is None else size for size, path in both]).encode()
    for position in _positions_read(split, _MAX_READ[column]):
        cell = tables[position][column][0].as_py() or {"bytes": None, "path": None}
        cell = {"bytes": None, "path": cell} if isinstance(cell, str) else cell
        if cell["bytes"] is not None:
            yield cell["bytes"]
        elif cell["path"] is not None and Path(cell["path"]).is_file():
            yield Path(cell["path"]).read_bytes()


def _feature_parts(split: datasets.Dataset) -> Iterator[bytes]:
    rows = VisualRows(split, "features")
    for position in _positions_read(split, _MAX_READ[FEATURES_COLUMN]):
        with contextlib.suppress(ValueError):  # a run that skips them shall not end here
            features = rows.read(position)["features"]
            yield json.dumps(features.shape).encode() + features.tobytes()


def _positions_read(split: datasets.Dataset, most: int) -> range:
    return range(0, len(split), max(1, math.ceil(len(split) / most)))


def _file_size(path: str | None) -> int | None:
    """None for a picture that is missing; a run that skips it shall not end here."""
    return Path(path).stat().st_size if path is not None and Path(path).is_file() else None
