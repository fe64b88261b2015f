"""What the resumable writer costs a row, and whether its memory grows with the rows.

Synthetic captions go through `run_job` with a translator that copies them, in a fresh process for each number of rows.
The same rows are written with `to_parquet` of datasets in the same process. The input is memory-mapped; its pages count
in the resident memory and not in the anonymous one, which is what a job itself holds.
"""

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets

from benchmarks.commands import OUTPUT_FOLDER, in_child, machine, table
from benchmarks.measuring import resident_mib
from processing.files import write_json_atomic
from processing.jobs import Job, run_job
from processing.records import schema_features
from reporting.run_record import PeakMemory

KEPT_COLUMNS = ("image_id", "caption_en")
NEW_COLUMNS = ("caption_de_mt", "caption_de_mt_flag")
SAMPLE_SECONDS = 0.01
WORDS = ("a", "the", "small", "red", "dog", "cat", "boat", "runs", "sits", "over", "under", "grass", "two", "in", "sun")


class NullTranslator:
    """Gives the captions back, and knows how long it took."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, rows: datasets.Dataset, events: Counter[str]) -> dict[str, list[Any]]:
        start = time.perf_counter()
        captions = rows["caption_en"][:]
        columns = dict(zip(NEW_COLUMNS, (captions, [["ok"] * len(texts) for texts in captions]), strict=True))
        self.seconds += time.perf_counter() - start
        return columns


class PeakAnonymous:
    """Highest anonymous memory of this process while the block runs, in MiB, sampled."""

    def __enter__(self) -> "PeakAnonymous":
        self.before = self.peak = resident_mib("RssAnon")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self.peak = max(self.peak, resident_mib("RssAnon"))


def synthetic_rows(num_rows: int, num_words: int, seed: int) -> Iterator[dict[str, Any]]:
    """Rows as they are after translation, one caption each."""
    words = random.Random(seed)
    for number in range(num_rows):
        caption = f"{number} " + " ".join(words.choices(WORDS, k=num_words))
        values = (f"image-{number:08d}", [caption], [caption], ["ok"])
        yield dict(zip((*KEPT_COLUMNS, *NEW_COLUMNS), values, strict=True))


def make_rows(folder: Path, num_rows: int, num_words: int, seed: int) -> None:
    """Write the rows as an Arrow file, which is memory-mapped when it is opened."""
    rows = datasets.Dataset.from_generator(
        synthetic_rows,
        features=schema_features((*KEPT_COLUMNS, *NEW_COLUMNS)),
        gen_kwargs={"num_rows": num_rows, "num_words": num_words, "seed": seed},
        cache_dir=str(folder / "cache"),
    )
    rows.save_to_disk(str(folder / "rows"))


def measure(folder: Path, rows_per_shard: int) -> dict[str, Any]:
    """Seconds and memory of one job in this process.

    Raises:
        RuntimeError: the job wrote other rows than it was given.
    """
    rows = datasets.load_from_disk(str(folder / "rows"))
    splits = datasets.DatasetDict({"train": rows.select_columns(list(KEPT_COLUMNS))})
    job = Job("translate", {"model": "null"}, schema_features(NEW_COLUMNS), rows_per_shard)
    translator = NullTranslator()
    with PeakAnonymous() as anonymous, PeakMemory(SAMPLE_SECONDS) as resident:
        start = time.perf_counter()
        manifest = run_job(job, splits, folder / "out", lambda: translator, progress=False)
        seconds = time.perf_counter() - start
    start = time.perf_counter()
    if run_job(job, splits, folder / "out", lambda: translator, progress=False) != manifest:
        raise RuntimeError("the finished job was not known again.")
    again_seconds = time.perf_counter() - start
    start = time.perf_counter()
    rows.to_parquet(str(folder / "direct.parquet"))
    direct_seconds = time.perf_counter() - start
    check_same(folder)
    return {
        "rows": len(rows),
        "shards": len(list((folder / "out" / "data").iterdir())),
        "job_microseconds_per_row": 1e6 * seconds / len(rows),
        "translator_microseconds_per_row": 1e6 * translator.seconds / len(rows),
        "to_parquet_microseconds_per_row": 1e6 * direct_seconds / len(rows),
        "ratio": (seconds - translator.seconds) / direct_seconds,
        "finished_job_again_seconds": again_seconds,
        "anonymous_growth_mib": anonymous.peak - anonymous.before,
        "peak_anonymous_mib": anonymous.peak,
        "peak_resident_mib": resident.peak_gib * 1024,
        "input_mib": sum(path.stat().st_size for path in (folder / "rows").glob("*.arrow")) / 2**20,
    }


def check_same(folder: Path) -> None:
    """Refuse figures of a job that lost or moved a row.

    Raises:
        RuntimeError: the rows differ from those written directly.
    """

    def opened(files: str, cache: str) -> datasets.Dataset:
        name = str(folder / files)
        return datasets.load_dataset("parquet", data_files=name, split="train", cache_dir=str(folder / cache))

    written, direct = opened("out/data/*.parquet", "cache-out"), opened("direct.parquet", "cache-direct")
    batches = zip(*(rows.with_format("arrow").iter(10_000) for rows in (written, direct)), strict=True)
    if len(written) != len(direct) or not all(left.equals(right) for left, right in batches):
        raise RuntimeError("the job wrote other rows than to_parquet; no figures are reported.")


def measure_in_child(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """`measure` in a fresh process, so that the memory is its own.

    Raises:
        RuntimeError: that process failed.
    """
    return json.loads(in_child("generation_writer", options, measure=folder))


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Numbers of rows, their length, and where to write."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.generation_writer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, default=OUTPUT_FOLDER / "generation_writer.json")
    parser.add_argument("--num-rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--num-words", type=int, default=12, help="length of a caption")
    parser.add_argument("--rows-per-shard", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)  # in a child process: the folder
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark."""
    options = parse_arguments(argv)
    if options.measure:
        print(json.dumps(measure(options.measure, options.rows_per_shard)))
        return 0
    rows = []
    for num_rows in options.num_rows:
        with tempfile.TemporaryDirectory() as folder:
            make_rows(Path(folder), num_rows, options.num_words, options.seed)
            rows.append(measure_in_child(Path(folder), options))
    settings = {name: getattr(options, name) for name in ("num_words", "rows_per_shard", "seed")}
    report = {"benchmark": "generation_writer", "machine": machine(), **settings, "rows": rows}
    write_json_atomic(options.output, report)
    print(table(rows))
    print(f"written: {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
