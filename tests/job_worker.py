"""Processes of a job that are killed, for tests/test_jobs_killed.py: python job_worker.py MODE FOLDER.

The processes are forks of one that has imported everything, so that a kill after 20 ms hits the job and not an import.
Prints a report as JSON; what the job left lies in FOLDER.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from processing import sources
from processing.jobs import Job, run_job
from processing.manifest import Manifest
from processing.records import schema_features

NUM_PROCESSES = 3
NUM_KILLS = 10
NUM_ROWS = 2000
ROWS_PER_SHARD = 20
SECONDS_PER_ROW = 0.003
SECONDS_PER_WRITE = 0.03
LONGEST_RUN_S = 0.3
NUM_SHARDS = NUM_ROWS // ROWS_PER_SHARD
# With so many shards done, each of the processes still has one to do, even if all of them finish one at once.
NUM_SHARDS_BEFORE_KILLS_END = NUM_SHARDS - 2 * NUM_PROCESSES
NEW_COLUMNS = ("caption_de_mt", "caption_de_mt_flag")
WRITING = os.O_WRONLY | os.O_RDWR
CHANGES = {"os.mkdir", "os.rename"}
SETTINGS = {"model": "null", "seed": 0, "languages": ["de"]}


def make_splits(num_rows: int) -> datasets.DatasetDict:
    """Rows of one or two captions; a tenth of them in a second split."""
    splits = {}
    for name, numbers in {"train": range(num_rows // 10, num_rows), "test_2016": range(num_rows // 10)}.items():
        rows = {
            "image_id": [f"{number:05d}" for number in numbers],
            "caption_en": [[f"a dog {number}"] + ["ein Ölbild – 狗"] * (number % 2) for number in numbers],
        }
        splits[name] = datasets.Dataset.from_dict(rows, features=schema_features(rows))
    return datasets.DatasetDict(splits)


def make_job(rows_per_shard: int, **settings: Any) -> Job:
    """A translation without a model."""
    return Job("translate", {**SETTINGS, **settings}, schema_features(NEW_COLUMNS), rows_per_shard)


class UpperCase:
    """Translates into capital letters, slowly; every seventh row fails unless `reliable`. Counts an event for a row."""

    def __init__(self, seconds_per_row: float = 0.0, *, reliable: bool = True) -> None:
        self.seconds_per_row = seconds_per_row
        self.reliable = reliable
        self.seen: list[str] = []

    def __call__(self, rows: datasets.Dataset, events: Counter[str]) -> dict[str, list[Any]]:
        texts: list[list[str | None]] = []
        flags = []
        for row in rows:
            time.sleep(self.seconds_per_row)
            self.seen.append(row["image_id"])
            events["row"] += 1
            failed = not self.reliable and int(row["image_id"]) % 7 == 0
            texts.append([None if failed else caption.upper() for caption in row["caption_en"]])
            flags.append(["error" if failed else "ok"] * len(row["caption_en"]))
        return dict(zip(NEW_COLUMNS, (texts, flags), strict=True))


class Patient(UpperCase):
    """Slow, and does not do the last shards before `kills_over` is there, however long the kills take."""

    def __init__(self, folder: Path, kills_over: Path) -> None:
        super().__init__(SECONDS_PER_ROW)
        self.folder, self.kills_over = folder, kills_over

    def __call__(self, rows: datasets.Dataset, events: Counter[str]) -> dict[str, list[Any]]:
        while not self.kills_over.exists() and count_shards(self.folder) >= NUM_SHARDS_BEFORE_KILLS_END:
            time.sleep(0.01)
        return super().__call__(rows, events)


def count_shards(folder: Path) -> int:
    """Shards that are finished."""
    return len(list(folder.glob("data/[!.]*.parquet")))


def fork(run: Callable[[], Any]) -> int:
    """Run in a new process and give its id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        run()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def slow_write(table: pa.Table, path: Path, **settings: Any) -> None:
    """As a slow disk writes: for a while, half a file is there."""
    path.write_bytes(b"PAR1 half a file")
    time.sleep(SECONDS_PER_WRITE)
    pq.write_table(table, path, **settings)


def killed_at_moments(folder: Path) -> dict[str, Any]:
    """Three processes; after random times all or one of them are killed and started again, then they are left alone."""
    splits, job, kills_over = make_splits(NUM_ROWS), make_job(ROWS_PER_SHARD), folder.with_name("kills_over")
    moments = random.Random(0)
    sources.pq = SimpleNamespace(ParquetFile=pq.ParquetFile, read_schema=pq.read_schema, write_table=slow_write)

    def run() -> Manifest:
        return run_job(job, splits, folder, lambda: Patient(folder, kills_over), progress=False)

    pids = [fork(run) for _ in range(NUM_PROCESSES)]
    kills = []
    for number in range(NUM_KILLS):
        time.sleep(moments.uniform(0, LONGEST_RUN_S))
        while number == NUM_KILLS - 1 and not count_shards(folder):  # on busy cores
            time.sleep(0.01)
        victims = pids if moments.random() < 0.5 else [moments.choice(pids)]
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        ends = [os.waitpid(pid, 0)[1] for pid in victims]
        kills.append(
            {
                "processes": sum(os.WIFSIGNALED(end) for end in ends),
                "shards": count_shards(folder),
                "temporary": len(list(folder.glob("data/.*.parquet"))),
            }
        )
        pids = [pid for pid in pids if pid not in victims] + [fork(run) for _ in victims]
    kills_over.touch()
    return {"kills": kills, "ends": [os.waitpid(pid, 0)[1] for pid in pids]}


def killed_at_operations(folder: Path, *, redo: bool) -> dict[str, Any]:
    """One process, killed before its first change of a file, its second, and so on, each time in a new folder."""
    splits, job = make_splits(40), make_job(18)
    folder.mkdir()
    operations: list[str] = []
    ends = []
    while True:
        out = folder / str(len(operations))
        start = partial(run_job, job, splits, out, partial(UpperCase, reliable=False), progress=False)
        run = partial(run_job, job, splits, out, UpperCase, redo={"error"} if redo else (), progress=False)
        if redo:
            ends.append(end_of(start))
        end, operation = killed_before(len(operations), out, run)
        if not os.WIFSIGNALED(end):
            return {"operations": operations, "ends": [*ends, end]}
        operations.append(operation)
        ends.append(end_of(run))


def end_of(run: Callable[[], Any]) -> int:
    """Run in a new process; its wait status."""
    return os.waitpid(fork(run), 0)[1]


def killed_before(number: int, out: Path, run: Callable[[], Any]) -> tuple[int, str]:
    """Run in a new process that dies before it changes a file of a folder for the n-th time, counted from 0.

    Returns:
        Its wait status and what it was about to do.
    """
    report = out.with_name("operation.txt")

    def run_and_die() -> None:
        seen = 0

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal seen
            opened = event == "open" and isinstance(arguments[2], int) and bool(arguments[2] & WRITING)
            # `shutil.rmtree` names files without their folder.
            if event in {"os.remove", "os.rmdir"} or ((opened or event in CHANGES) and str(out) in str(arguments)):
                seen += 1
                if seen == number + 1:
                    report.write_text(f"{event} {Path(str(arguments[0])).name}", encoding="utf-8")
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        run()

    end = end_of(run_and_die)
    return end, report.read_text(encoding="utf-8")


def main() -> None:
    """MODE is "moments", "operations" or "redo"."""
    mode, folder = sys.argv[1], Path(sys.argv[2])
    report = killed_at_moments(folder) if mode == "moments" else killed_at_operations(folder, redo=mode == "redo")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
