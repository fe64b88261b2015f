"""One resumable writer under translation and description: a worker adds columns to the rows, shard by shard.

    data/train-00000-of-00040.parquet    a shard, written under a temporary name and renamed
    manifest.json                        what the job is, written before the first shard; `complete` is false until
                                         every shard is there
    .leccr/                              locks, while the job runs

Processes that name the same folder share the job: each claims a shard by its lock, which the system frees when a
process ends, however it ends. A process waits for no other, and whichever finds every shard finished completes the
manifest. The rows and their order do not depend on who wrote them. The folder must lie on a file system with locks
that all processes see, as local disks and NFS 4 have.
"""

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import datasets
import pyarrow as pa
from tqdm import tqdm

from processing.job_folder import JobFolder
from processing.job_shards import (
    Shard,
    ShardState,
    cut_shards,
    describe_columns,
    fingerprint,
    flag_columns,
    positions_to_redo,
    read_columns,
    replace_flagged,
)
from processing.manifest import Manifest, Step
from processing.records import MEDIA_COLUMNS
from processing.sources import write_table

logger = logging.getLogger(__name__)

# What a command says when it ends before the data set is complete.
UNFINISHED = "other processes still hold shards; the last one completes the data set; if one dies, run this again"

# When this process began, as well as Python tells, or when its last job ended. A redo that other processes have done
# since then is the one that this process was started for as well.
_idle_since = time.time() - logging.makeLogRecord({}).relativeCreated / 1000


class Worker(Protocol):
    """What makes the new columns: a model in this process, or a client of a server."""

    def __call__(self, rows: datasets.Dataset, events: Counter[str]) -> dict[str, list[Any]]:
        """New columns for some rows.

        Args:
            rows: one shard, or those rows of it that are done again; at least one row.
            events: counts of faults on the way; added to.

        Returns:
            Each column of `Job.features`, one value for each row, in the same order.
        """
        ...


@dataclass(frozen=True)
class Job:
    """What is to be done; processes with equal jobs and equal rows may share a folder.

    Attributes:
        kind: "describe" or "translate".
        settings: JSON, everything that decides the result: model, revision, prompt, decoding, seed, languages. Not
            paths of a machine, not the number of processes or requests.
        features: types of the new columns.
        rows_per_shard: rows that are claimed, held in memory and written at once; at least 1.

    Raises:
        ValueError: there is no new column, or `rows_per_shard` is below 1.
        TypeError: `settings` holds a value that JSON has no form for.
    """

    kind: str
    settings: Mapping[str, Any]
    features: datasets.Features
    rows_per_shard: int = 256

    def __post_init__(self) -> None:
        if not self.features or self.rows_per_shard < 1:
            raise ValueError(
                f"a job needs new columns and rows_per_shard of at least 1, got {list(self.features)}, "
                f"{self.rows_per_shard}."
            )
        # As it will come back from the manifest, so that a tuple is not taken for a difference.
        object.__setattr__(self, "settings", json.loads(json.dumps(self.settings, allow_nan=False)))


def run_job(
    job: Job,
    splits: datasets.DatasetDict,
    out: str | Path,
    make_worker: Callable[[], Worker],
    *,
    source_steps: Sequence[Step] = (),
    redo: Collection[str] = (),
    progress: bool = True,
) -> Manifest:
    """Do what is left of a job, beside any other processes that do the same.

    Args:
        splits: what the worker sees, with the same columns in each split. One without rows is left out with a
            warning, for `load_dataset` loads no such split. The data set written has all columns but
            pictures and clips, then the new ones; a new column replaces one of its name.
        out: folder of the data set; absent, empty, or with a part of this job.
        make_worker: called once, and only if this process claims a shard, for loading a model is slow.
        source_steps: how `splits` were made.
        redo: flags such as "error": rows with one of them in a new column are asked again, once by all processes
            that were started before the redo ended. Texts with other flags stay, also in such a row.
        progress: show a bar on a terminal.

    Returns:
        The manifest; `complete` is False if other processes still hold shards.

    Raises:
        ValueError: `out` holds something else, the message lists the differences; there are no rows; the splits differ
            in their columns; the worker returned other columns or another number of rows; `redo` is given and no new
            column has flags, or it names a flag that nobody knows.
        Exception: whatever the worker raises. Finished shards stay, and the next run continues.
    """
    filled = _filled(splits)
    if redo and not flag_columns(job.features):
        raise ValueError(f"redo finds rows by their flags, and the columns {list(job.features)} hold none.")
    step = Step(job.kind, job.settings, job=_cut_of(job, filled))
    sizes = {name: len(rows) for name, rows in filled.items()}
    shards = cut_shards(filled, job.rows_per_shard)
    folder = JobFolder(Path(out), step, sizes, shards, list(job.features), source_steps=source_steps)
    global _idle_since
    try:
        manifest = folder.prepare(tuple(sorted(set(redo))), since=_idle_since)
        return manifest if manifest.complete else _Process(job, filled, folder, make_worker).run(progress=progress)
    finally:
        _idle_since = time.time()


class _Process:
    """One process at work on a job."""

    def __init__(
        self, job: Job, splits: Mapping[str, datasets.Dataset], folder: JobFolder, make_worker: Callable[[], Worker]
    ) -> None:
        self._job = job
        self._splits = splits
        self._kept = {name: _without({*job.features, *MEDIA_COLUMNS}, rows) for name, rows in splits.items()}
        self._folder = folder
        self._make_worker = make_worker
        self._worker: Worker | None = None
        self._made: set[tuple[Shard, int]] = set()

    def run(self, *, progress: bool) -> Manifest:
        """Work until every shard is done or held by another process."""
        while True:
            pending = dict.fromkeys(self._folder.shards)
            total = sum(len(shard.rows) for shard in pending)
            with tqdm(total=total, desc=self._job.kind, unit="row", disable=None if progress else True) as bar:
                while self._work_on_next(pending, bar):
                    pass
            if pending:
                return self._folder.manifest()
            manifest = self._folder.complete()
            if manifest.complete:
                return manifest

    def _work_on_next(self, pending: dict[Shard, None], bar: Any) -> bool:
        """Do the first shard that is free. Shards found done, by whomever, leave `pending` and count in the bar."""
        for shard in list(pending):
            worked = False
            if not self._folder.is_done(self._folder.state(shard)):
                with self._folder.claim(shard) as claimed:
                    if not claimed:
                        continue
                    # Read again: another process may have finished it between the look and the claim.
                    state = self._folder.state(shard)
                    worked = not self._folder.is_done(state)
                    if worked:
                        self._make(shard, state)
            del pending[shard]
            bar.update(len(shard.rows))
            if worked:
                return True
        return False

    def _make(self, shard: Shard, state: ShardState | None) -> None:
        """Write a shard, or write it anew with some of its rows done again."""
        path = self._folder.path(shard)
        if (shard, self._folder.round) in self._made:
            raise OSError(f"{path} was written by this process and cannot be read; check the disk.")
        self._made.add((shard, self._folder.round))
        rows = self._splits[shard.split].select(shard.rows)
        events: Counter[str] = Counter()
        done = read_columns(path, list(self._job.features)) if state is not None else None
        if state is None or done is None:
            if path.exists():
                logger.warning("%s cannot be read; its %d rows are done again.", path, len(rows))
            columns = self._ask(rows, events)
        else:
            events.update(state.events)
            columns = self._ask_again(rows, done, events)
        self._write(shard, columns, events)

    def _write(self, shard: Shard, columns: dict[str, list[Any]], events: Counter[str]) -> None:
        kept, new = self._kept[shard.split], self._job.features
        table = kept[shard.rows.start : shard.rows.stop]
        for field in new.arrow_schema:
            table = table.append_column(field, pa.array(columns[field.name], field.type))
        metadata = {
            "round": self._folder.round,
            "redo": list(self._folder.redo_flags),
            "events": dict(sorted(events.items())),
        }
        features = datasets.Features({**kept.features, **new})
        self._folder.begin()
        write_table(table, features, self._folder.path(shard), metadata=metadata)

    def _ask_again(
        self, rows: datasets.Dataset, done: dict[str, list[Any]], events: Counter[str]
    ) -> dict[str, list[Any]]:
        """The columns of a finished shard, with those texts replaced whose flags are to be redone."""
        positions = positions_to_redo(done, self._folder.redo_flags)
        again = self._ask(rows.select(positions), events)
        replace_flagged(done, again, positions, self._folder.redo_flags)
        return done

    def _ask(self, rows: datasets.Dataset, events: Counter[str]) -> dict[str, list[Any]]:
        names = list(self._job.features)
        if self._worker is None:
            self._worker = self._make_worker()
        columns = self._worker(rows, events)
        lengths = {name: len(values) for name, values in columns.items()}
        if lengths != dict.fromkeys(names, len(rows)):
            raise ValueError(f"the worker must return {len(rows)} values for each of {names}, got {lengths}.")
        return {name: list(columns[name]) for name in names}


def _without(columns: Collection[str], rows: datasets.Dataset) -> datasets.Dataset:
    """The other columns, as Arrow tables."""
    return rows.select_columns([name for name in rows.column_names if name not in columns]).with_format("arrow")


def _cut_of(job: Job, splits: Mapping[str, datasets.Dataset]) -> dict[str, Any]:
    """What identifies a job besides its settings, for the manifest."""
    return {
        "columns": describe_columns(job.features),
        "rows_per_shard": job.rows_per_shard,
        "input_digest": {name: fingerprint(rows) for name, rows in splits.items()},
    }


def _filled(splits: datasets.DatasetDict) -> dict[str, datasets.Dataset]:
    """The splits with rows, which must have the same columns."""
    for name, rows in splits.items():
        if not len(rows):
            logger.warning("split %r has no rows and is left out.", name)
    filled = {name: rows for name, rows in splits.items() if len(rows)}
    if not filled:
        raise ValueError(f"splits must hold rows, got none in {list(splits)}.")
    (first, rows), *others = filled.items()
    for name, other in others:
        if other.features != rows.features:
            raise ValueError(
                f"splits must have the same columns and types, got {dict(rows.features)} in {first!r} and "
                f"{dict(other.features)} in {name!r}; such a folder would not load."
            )
    return filled
