"""A job whose processes are killed ends with the data set of a job that nobody disturbed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest

from processing.jobs import run_job
from processing.manifest import MANIFEST_FILE, read_manifest
from processing.sources import open_splits
from tests.job_worker import (
    NUM_KILLS,
    NUM_ROWS,
    NUM_SHARDS,
    ROWS_PER_SHARD,
    UpperCase,
    make_job,
    make_splits,
)


def run_killed(mode: str, folder: Path, root_dir: Path) -> dict[str, Any]:
    """The report of tests/job_worker.py."""
    result = subprocess.run(
        [sys.executable, str(root_dir / "tests" / "job_worker.py"), mode, str(folder)],
        env={**os.environ, "PYTHONPATH": str(root_dir)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    report = json.loads(result.stdout)
    assert not any(report["ends"]), result.stderr[-4000:]
    return report


def contents(folder: Path) -> dict[str, Any]:
    """All that lies in a folder, hidden or not: path -> bytes; of the manifest what does not tell the date."""
    found: dict[str, Any] = {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else "a folder"
        for path in folder.rglob("*")
    }
    manifest = json.loads(found.pop(MANIFEST_FILE))
    for step in manifest["steps"]:
        step.pop("created")
    return found | {MANIFEST_FILE: manifest}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_job_killed_at_ten_random_moments_ends_as_if_nobody_had_killed_it(tmp_path: Path, root_dir: Path):
    """Days of generation are lost, doubled or out of order after the first preemption."""
    report = run_killed("moments", tmp_path / "killed", root_dir)
    kills = report["kills"]
    assert len(kills) == NUM_KILLS
    # Not vacuous: each kill ended live processes of an unfinished job, some while they wrote, and work was kept.
    assert all(kill["processes"] >= 1 for kill in kills)
    assert {kill["processes"] for kill in kills} == {1, 3}
    assert all(kill["shards"] < NUM_SHARDS for kill in kills)
    assert any(kill["temporary"] for kill in kills if kill["processes"] == 3)
    assert kills[-1]["shards"] > 0

    splits = make_splits(NUM_ROWS)
    run_job(make_job(ROWS_PER_SHARD), splits, tmp_path / "undisturbed", UpperCase, progress=False)
    assert contents(tmp_path / "killed") == contents(tmp_path / "undisturbed")
    # Each row was counted once, though some were done more often.
    assert read_manifest(tmp_path / "killed").steps[-1].counts["events"] == {"row": NUM_ROWS}

    loaded = open_splits(tmp_path / "killed")
    for name, rows in splits.items():
        expected = [{**row, "caption_de_mt": [text.upper() for text in row["caption_en"]]} for row in rows]
        assert loaded[name].remove_columns("caption_de_mt_flag").to_list() == expected


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("mode", ["operations", "redo"])
def test_a_job_killed_before_any_operation_on_a_file_continues(mode: str, tmp_path: Path, root_dir: Path):
    """Random moments rarely hit the few milliseconds in which the manifest and the locks change."""
    folder = tmp_path / "killed"
    operations = run_killed(mode, folder, root_dir)["operations"]
    for operation in ("open folder.lock", "os.rename .manifest", "os.rename .train", "os.rename .test", "os.rmdir"):
        assert any(found.startswith(operation) for found in operations), operation
    assert any(found.startswith("os.rename .redo") for found in operations) == (mode == "redo")

    undisturbed = tmp_path / "undisturbed"
    arguments = (make_job(18), make_splits(40), undisturbed)
    if mode == "redo":
        run_job(*arguments, lambda: UpperCase(reliable=False), progress=False)
        run_job(*arguments, UpperCase, redo={"error"}, progress=False)
    else:
        run_job(*arguments, UpperCase, progress=False)
    expected = contents(undisturbed)
    for number in range(len(operations) + 1):
        assert contents(folder / str(number)) == expected, operations[number : number + 1]
    assert isinstance(open_splits(folder / "3"), datasets.DatasetDict)
