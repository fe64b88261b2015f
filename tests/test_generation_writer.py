"""The benchmark of the writer runs as a command, and the memory of a job does not grow with its rows."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import generation_writer

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")


def test_benchmark_runs_as_a_command_and_writes_its_json(tmp_path: Path, root_dir: Path):
    """A benchmark that nobody runs breaks with the first change of the writer."""
    output = tmp_path / "folder" / "report.json"
    command = [sys.executable, "-m", "benchmarks.generation_writer", "--num-rows", "30", "--rows-per-shard", "8"]
    finished = subprocess.run(
        [*command, "--output", str(output)],
        cwd=root_dir,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    report = json.loads(output.read_text(encoding="utf-8"))
    assert report["benchmark"] == "generation_writer" and {"machine", "seed", "num_words"} <= set(report)
    (row,) = report["rows"]
    assert (row["rows"], row["shards"]) == (30, 4)
    assert row["job_microseconds_per_row"] > row["translator_microseconds_per_row"] > 0
    assert row["peak_resident_mib"] > row["peak_anonymous_mib"] > 0
    assert "job_microseconds_per_row" in finished.stdout


def test_a_job_of_many_rows_holds_no_more_than_one_of_few(tmp_path: Path):
    """A job of a million rows would end when memory does, after days."""
    growth = []
    for num_rows in (1000, 20_000):
        folder = tmp_path / str(num_rows)
        generation_writer.make_rows(folder, num_rows, num_words=400, seed=0)
        row = generation_writer.measure(folder, rows_per_shard=200)
        growth.append(row["anonymous_growth_mib"])
    assert row["input_mib"] > 60  # and as much is written
    assert growth[1] < growth[0] + 15


def test_no_figures_are_given_for_a_job_that_loses_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A writer is fast where it writes nothing."""
    generation_writer.make_rows(tmp_path, 10, num_words=2, seed=0)

    def translate_badly(self: Any, rows: Any, events: Any) -> dict[str, list[list[str]]]:
        return {"caption_de_mt": [["x"]] * len(rows), "caption_de_mt_flag": [["ok"]] * len(rows)}

    monkeypatch.setattr(generation_writer.NullTranslator, "__call__", translate_badly)
    with pytest.raises(RuntimeError, match="wrote other rows than to_parquet"):
        generation_writer.measure(tmp_path, rows_per_shard=4)
    manifests = iter([1, 2])
    monkeypatch.setattr(generation_writer, "run_job", lambda *_, **__: next(manifests))
    with pytest.raises(RuntimeError, match="was not known again"):
        generation_writer.measure(tmp_path, rows_per_shard=4)


def test_a_process_that_fails_is_an_error(tmp_path: Path):
    """A crash for lack of memory must not be read as little memory."""
    with pytest.raises(RuntimeError, match=r"generation_writer with .*absent.* failed"):
        generation_writer.measure_in_child(tmp_path / "absent", generation_writer.parse_arguments([]))
