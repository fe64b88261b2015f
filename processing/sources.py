"""Data sets in the schema: opened by folder or Hub name, written as a folder that loads like a Hub repository."""

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.exceptions import DatasetNotFoundError
from datasets.table import embed_table_storage
from huggingface_hub import hf_hub_download, is_offline_mode
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from processing.files import atomic_folder, atomic_write
from processing.manifest import MANIFEST_FILE, Manifest, Step, read_manifest
from processing.records import MEDIA_COLUMNS

logger = logging.getLogger(__name__)

EMBEDDED_DATASETS = ("scenes", "scenes_video")  # made by this package, stored nowhere
SHARD_METADATA = b"leccr"
DEFAULT_ROWS_PER_SHARD = 10_000
_PICTURES_PER_ROW_GROUP = 100
_HUB_NAME = re.compile(r"[^\W_][\w.-]*/[\w.-]+", re.ASCII)


class NoDataSetError(FileNotFoundError):
    """There is no data set at a place, neither a folder nor one on the Hub."""


def open_splits(location: str | Path, *, config_name: str | None = None) -> datasets.DatasetDict:
    """All splits of a data set.

    Args:
        location: a folder of parquet files (also `data/train-*.parquet`), a folder from `save_to_disk`, or a name on
            the Hub.
        config_name: which configuration of a data set with several, such as the language `de`.

    Raises:
        ValueError: the folder holds no data set, or one that a job has not finished.
        NoDataSetError: there is no such folder, and on the Hub no such data set.
    """
    path = Path(location)
    check_finished(location)
    if not path.is_dir():
        with explained_absence(location):
            return datasets.load_dataset(str(location), config_name)
    if saved_to_disk(path):
        loaded = datasets.load_from_disk(str(path))
        return loaded if isinstance(loaded, datasets.DatasetDict) else datasets.DatasetDict({"train": loaded})
    return datasets.load_dataset(str(path), config_name)


@contextmanager
def explained_absence(location: str | Path) -> Iterator[None]:
    """Say that a data set is neither here nor on the Hub; the block looks for one that is no folder.

    Raises:
        NoDataSetError: the block did not find it, or it has no name that a user's data set can have on the Hub.
    """
    # Under a bare name `datasets` opens whatever it has in its cache under that name, from whatever folder.
    if not _HUB_NAME.fullmatch(str(location)):
        raise NoDataSetError(
            f"there is no folder {location} here, and a data set on the Hub has a name of the form owner/name; give "
            f"the place of the data set."
        )
    try:
        yield
    except (ConnectionError, DatasetNotFoundError) as error:
        if is_offline_mode():
            elsewhere = "the Hub is offline (HF_HUB_OFFLINE) and has left none of this name in the cache"
        elif isinstance(error, DatasetNotFoundError):
            elsewhere = "the Hub shows none of this name; a private one needs `hf auth login`"
        else:
            elsewhere = f"the Hub cannot be reached ({str(error).partition(chr(10))[0]})"
        raise NoDataSetError(f"there is no folder {location} here, and {elsewhere}.") from error


def check_finished(location: str | Path) -> None:
    """Refuse a folder that cannot be opened as a data set; a name on the Hub is left to the Hub.

    Raises:
        ValueError: the folder holds no data set, or one that a job has not finished.
    """
    path = Path(location)
    if not path.is_dir():
        return
    if not is_data_set(path):
        raise ValueError(f"{location} holds no data set; expected parquet files in it or in its folder `data`.")
    if not read_manifest(path).complete:
        raise ValueError(f"the data set {location} is not finished; run the command that writes it again.")


def open_split(location: str | Path, split: str, *, config_name: str | None = None) -> datasets.Dataset:
    """One split of a data set; of one on the Hub, the others are not downloaded.

    A single `datasets.Dataset` from `save_to_disk` is the split, whatever its name.

    Raises:
        ValueError: there is no such split, or as `open_splits`.
        NoDataSetError: as `open_splits`.
    """
    if not Path(location).is_dir():
        with explained_absence(location):
            return datasets.load_dataset(str(location), config_name, split=split)
    loaded = open_splits(location, config_name=config_name)
    if _is_single_split(Path(location)):
        return loaded["train"]
    if split not in loaded:
        raise ValueError(f"{location} has the splits {sorted(loaded)}, not {split!r}.")
    return loaded[split]


def open_manifest(location: str | Path) -> Manifest:
    """The steps that made a data set; an empty manifest where there is none, as for a data set from elsewhere.

    Args:
        location: a folder, or a name on the Hub, where every push leaves its manifest.

    Raises:
        ValueError: the manifest is damaged or of another format.
        OSError: the Hub cannot be reached, or has no such data set.
    """
    if Path(location).is_dir():
        return read_manifest(location)
    try:
        return read_manifest(Path(hf_hub_download(str(location), MANIFEST_FILE, repo_type="dataset")).parent)
    except LocalEntryNotFoundError:
        if not is_offline_mode():
            raise
        logger.warning("the manifest of %s is not in the cache; offline, its earlier steps are not known", location)
        return Manifest()
    except EntryNotFoundError:
        return Manifest()


def is_data_set(path: Path) -> bool:
    """Whether a folder is a data set rather than, say, a folder of pictures."""
    return saved_to_disk(path) or any(path.glob("*.parquet")) or any(path.glob("*/*.parquet"))


def saved_to_disk(path: Path) -> bool:
    """Whether `datasets` wrote the folder with `save_to_disk`."""
    return (path / "dataset_dict.json").is_file() or _is_single_split(path)


def _is_single_split(path: Path) -> bool:
    return (path / "state.json").is_file()


def cut_rows(num_rows: int, rows_per_shard: int) -> list[range]:
    """The rows of each shard of a split, in order; all shards but the last are full.

    Raises:
        ValueError: `rows_per_shard` is below 1.
    """
    if rows_per_shard < 1:
        raise ValueError(f"rows_per_shard must be at least 1, got {rows_per_shard}.")
    return [range(start, min(num_rows, start + rows_per_shard)) for start in range(0, num_rows, rows_per_shard)]


def shard_name(split: str, position: int, num_shards: int) -> str:
    """File of a shard inside the data set folder; the form that `load_dataset` knows as a split."""
    return f"data/{split}-{position:05d}-of-{num_shards:05d}.parquet"


def write_shard(rows: datasets.Dataset, path: str | Path, *, metadata: Mapping[str, Any] | None = None) -> Path:
    """Write rows as one parquet file, pictures included, whole or not at all.

    Args:
        rows: read into memory at once.
        path: an existing file is replaced.
        metadata: JSON that travels inside the file, see `read_shard_metadata`.
    """
    return write_table(rows.with_format("arrow")[:], rows.features, path, metadata=metadata)


def write_table(
    table: pa.Table, features: datasets.Features, path: str | Path, *, metadata: Mapping[str, Any] | None = None
) -> Path:
    """As `write_shard`, for rows that are in memory as an Arrow table with the columns of `features`."""
    schema = features.arrow_schema
    # A picture given by its path would otherwise be stored as that path, which means nothing elsewhere.
    table = embed_table_storage(table.cast(schema))
    encoded = {SHARD_METADATA: json.dumps(metadata or {}, ensure_ascii=False, allow_nan=False).encode()}
    table = table.replace_schema_metadata({**(schema.metadata or {}), **encoded})
    # A reader of a stream holds a whole row group, and one of pictures alone may not fit into memory.
    row_group_size = _PICTURES_PER_ROW_GROUP if set(MEDIA_COLUMNS) & set(features) else None
    with atomic_write(path) as temporary:
        pq.write_table(table, temporary, row_group_size=row_group_size)
    return Path(path)


def read_shard_metadata(path: str | Path) -> dict[str, Any]:
    """What `write_shard` stored beside the rows; the rows are not read."""
    return json.loads((pq.read_schema(path).metadata or {}).get(SHARD_METADATA, b"{}"))


def write_splits(
    splits: Mapping[str, datasets.Dataset],
    folder: str | Path,
    *,
    steps: Sequence[Step] = (),
    overwrite: bool = False,
    rows_per_shard: int = DEFAULT_ROWS_PER_SHARD,
) -> Path:
    """Write a data set folder with its manifest; an error leaves what was there before.

    Args:
        splits: name -> rows.
        folder: where; must be absent or empty unless `overwrite`.
        steps: how the rows were made.
        overwrite: replace a data set folder that is there.
        rows_per_shard: rows of one parquet file, at least 1.

    Raises:
        ValueError: a split has no rows, `rows_per_shard` is below 1, or `folder` holds something that is not to be
            replaced.
    """
    target = Path(folder)
    check_output_folder(target, overwrite=overwrite)
    # `load_dataset` cannot read a parquet file without rows.
    empty = sorted(name for name, split in splits.items() if len(split) == 0)
    if empty or not splits:
        raise ValueError(f"splits must have rows, got {empty or 'no split'}; leave out those without any.")
    with atomic_folder(target) as fresh:
        for name, split in splits.items():
            parts = cut_rows(len(split), rows_per_shard)
            for position, part in enumerate(parts):
                write_shard(split.select(part), fresh / shard_name(name, position, len(parts)))
        Manifest(tuple(steps), {name: len(split) for name, split in splits.items()}).write(fresh)
    return target


def check_output_folder(folder: Path, *, overwrite: bool) -> None:
    """Refuse to write over what somebody else put there.

    Raises:
        ValueError: `folder` is a file, or holds files and is not a data set that may be replaced.
    """
    if folder.is_file():
        raise ValueError(f"{folder} is a file; name a folder to write to.")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not overwrite:
        raise ValueError(f"{folder} exists and is not empty; name another folder, or pass --overwrite.")
    if not (folder / MANIFEST_FILE).is_file():
        raise ValueError(f"{folder} is not a data set of this package, so it is not replaced; name another folder.")
