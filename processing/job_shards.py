"""Shards of a job: how the rows are cut, what a finished shard tells, and what identifies a job."""

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from processing.records import MEDIA_COLUMNS
from processing.sources import cut_rows, read_shard_metadata, shard_name

FINGERPRINT_ROWS = 1000
UNREADABLE = (OSError, ValueError)  # pyarrow's ArrowInvalid is a ValueError


@dataclass(frozen=True)
class Shard:
    """Some rows of one split, and the file of the data set folder that they become."""

    split: str
    rows: range
    name: str


@dataclass(frozen=True)
class ShardState:
    """What a finished shard tells about itself.

    Attributes:
        flags: flag column -> flag -> number of texts.
        events: faults on the way -> number.
        round: 0 when its rows were done once, and the number of the redo that did some of them again.
        redo: flags that this redo looked for, sorted.
    """

    flags: Mapping[str, Counter[str]]
    events: Counter[str]
    round: int
    redo: tuple[str, ...]

    def has_any(self, flags: Collection[str]) -> bool:
        """Whether a text of the shard has one of the flags."""
        return any(found[flag] for found in self.flags.values() for flag in flags)


def cut_shards(splits: Mapping[str, datasets.Dataset], rows_per_shard: int) -> list[Shard]:
    """The shards of all splits, in order."""
    shards = []
    for split, rows in splits.items():
        parts = cut_rows(len(rows), rows_per_shard)
        shards += [Shard(split, part, shard_name(split, position, len(parts))) for position, part in enumerate(parts)]
    return shards


def flag_columns(column_names: Iterable[str]) -> list[str]:
    """The columns that hold flags."""
    return [name for name in column_names if name.endswith("_flag")]


def read_shard_state(path: Path, num_rows: int, columns: Sequence[str]) -> ShardState | None:
    """What a shard tells, or None where the file is absent, damaged, or not `num_rows` rows of these new columns."""
    try:
        with pq.ParquetFile(path) as file:
            if file.metadata.num_rows != num_rows or not set(columns) <= set(file.schema_arrow.names):
                return None
            flags = {name: _count_flags(file.read([name])[name].to_pylist()) for name in flag_columns(columns)}
        metadata = read_shard_metadata(path)
        return ShardState(flags, Counter(metadata["events"]), metadata["round"], tuple(metadata.get("redo", ())))
    except (*UNREADABLE, KeyError):
        return None


def read_columns(path: Path, columns: Sequence[str]) -> dict[str, list[Any]] | None:
    """The values of some columns of a shard; None where they are damaged."""
    try:
        with pq.ParquetFile(path) as file:
            return file.read(list(columns)).to_pydict()
    except UNREADABLE:
        return None


def positions_to_redo(columns: Mapping[str, list[Any]], flags: Collection[str]) -> list[int]:
    """Rows of which a text has one of the flags, in order."""
    found = [columns[name] for name in flag_columns(columns)]
    return [
        position
        for position, values in enumerate(zip(*found, strict=True))
        if any(flag in flags for value in values for flag in _flags_of(value))
    ]


def replace_flagged(
    done: dict[str, list[Any]], again: Mapping[str, list[Any]], positions: Sequence[int], flags: Collection[str]
) -> None:
    """Put what came again in the place of texts that had one of the flags; the other texts of the rows stay.

    `caption_de_mt_flag` decides for all columns that begin with `caption_de_mt`, in lists element by element. A list
    whose length has changed, and a column without flags, are replaced for the whole row.

    Args:
        done: new columns of a shard; changed in place.
        again: the same columns for some of its rows.
        positions: of these rows in the shard.
        flags: which texts were asked for.
    """
    deciding = {name: _flag_column_of(name, done) for name in done}
    old_flags = {name: list(done[name]) for name in flag_columns(done)}
    for name, values in again.items():
        decider = deciding[name]
        for position, value in zip(positions, values, strict=True):
            if decider is not None:
                value = _merge(done[name][position], value, old_flags[decider][position], flags)
            done[name][position] = value


def fingerprint(rows: datasets.Dataset) -> str:
    """Digest of all columns but pictures and clips; the same however the rows are stored in chunks."""
    kept = rows.select_columns([name for name in rows.column_names if name not in MEDIA_COLUMNS])
    digest = hashlib.sha256(json.dumps(kept.column_names).encode())
    for batch in kept.with_format("arrow").iter(FINGERPRINT_ROWS):
        for column in batch.combine_chunks().itercolumns():
            digest.update(repr(column.to_pylist()).encode())
    return digest.hexdigest()[:16]


def describe_columns(features: datasets.Features) -> dict[str, str]:
    """Column -> Arrow type, for the manifest."""
    schema: pa.Schema = features.arrow_schema
    return {field.name: str(field.type) for field in schema}


def list_differences(found: Mapping[str, Any], asked: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Where two nested mappings differ, one line a key."""
    for key in [*asked, *(key for key in found if key not in asked)]:
        if isinstance(found.get(key), Mapping) and isinstance(asked.get(key), Mapping):
            yield from list_differences(found[key], asked[key], f"{prefix}{key}.")
        elif key not in found or key not in asked or found[key] != asked[key]:
            there, here = (repr(side[key]) if key in side else "absent" for side in (found, asked))
            yield f"{prefix}{key} is {there} there, {here} here"


def _count_flags(values: Iterable[Any]) -> Counter[str]:
    return Counter(flag for value in values for flag in _flags_of(value))


def _flag_column_of(name: str, column_names: Iterable[str]) -> str | None:
    """The column of flags that tells how the texts in a column, or what belongs to them, came out."""
    found = [flag for flag in flag_columns(column_names) if f"{name}_".startswith(flag.removesuffix("flag"))]
    return max(found, key=len, default=None)


def _merge(old: Any, new: Any, old_flags: str | list[str | None] | None, flags: Collection[str]) -> Any:
    """A value of a row after a redo, given the flags that the row had before."""
    if not isinstance(old_flags, list):
        return new if old_flags in flags else old
    redone = [flag in flags for flag in old_flags]
    if not any(redone):
        return old
    if all(redone) or not len(old) == len(new) == len(redone):
        return new
    return [after if is_redone else before for before, after, is_redone in zip(old, new, redone, strict=True)]


def _flags_of(value: str | list[str | None] | None) -> list[str]:
    """Flags of a row: one for a text, a list for texts; a row without a text has none."""
    flags = [value] if isinstance(value, str) else value or []
    return [flag for flag in flags if flag is not None]
