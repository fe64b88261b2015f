"""Processes that wait for one another: each of the ways in which one fails to come ends them all."""

import ctypes
import time
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from benchmarks.processes import ProcessesFailedError
from tests.launch_parts import run_processes

FOR_EVER = 3600


class SecondStays:
    """An argument with which one process of two never gets as far as the meeting."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return _stay_if_second, (self.folder,)


def _stay_if_second(folder: Path) -> None:
    try:
        (folder / "first").mkdir()
    except FileExistsError:
        time.sleep(FOR_EVER)


def _stay(*_: Any) -> None:
    time.sleep(FOR_EVER)


def _stay_with_the_lock(folder: Path) -> None:
    ctypes.PyDLL(None).sleep(FOR_EVER)  # PyDLL keeps the interpreter's lock


def _meet(folder: Path, *_: Any) -> None:
    dist.barrier()
    (folder / f"met-{dist.get_rank()}").touch()


def _meet_without_the_second(folder: Path) -> None:
    if dist.get_rank() == 1:
        _stay()
    _meet(folder)


def _fail_in_the_second(folder: Path) -> None:
    if dist.get_rank() == 1:
        raise ValueError("the reason")
    _meet(folder)


def test_processes_meet_again_in_a_folder_where_others_have_met(tmp_path: Path):
    """A file of an earlier meeting would tell of addresses where nobody is."""
    for _ in range(2):
        run_processes(_meet, tmp_path, world_size=2, seconds=60)
        for rank in range(2):
            (tmp_path / f"met-{rank}").unlink()
    assert not list(tmp_path.glob("meeting-*"))


def test_a_process_that_never_comes_to_the_meeting_is_an_error(tmp_path: Path):
    """The others would wait for gloo's half an hour."""
    with pytest.raises(ProcessesFailedError, match=r"rank \d still ran and was killed") as error:
        run_processes(_meet, tmp_path, SecondStays(tmp_path), world_size=2, seconds=4)
    assert "init_process_group" in str(error.value)


def test_a_process_that_never_comes_to_a_collective_is_an_error(tmp_path: Path):
    """It is named as what hangs, and the line that waited for it is shown."""
    with pytest.raises(ProcessesFailedError, match="rank 0 ended with 1, rank 1 still ran and was killed") as error:
        run_processes(_meet_without_the_second, tmp_path, world_size=2, seconds=6)
    assert "dist.barrier()" in str(error.value)


def test_a_process_that_hangs_tells_where_and_ends_by_itself(tmp_path: Path):
    """Killed from outside it would tell nothing, and after the end of its parent nobody would kill it."""
    with pytest.raises(ProcessesFailedError, match="ended with 1") as error:
        run_processes(_stay_with_the_lock, tmp_path, world_size=2, seconds=1)
    assert "Timeout (0:00:01)!" in str(error.value) and "in _stay_with_the_lock" in str(error.value)


def test_processes_that_none_hears_of_are_killed(tmp_path: Path):
    """Before they start they cannot watch themselves."""
    (tmp_path / "first").mkdir()
    with pytest.raises(ProcessesFailedError, match="rank 0 still ran and was killed, rank 1 still ran and was killed"):
        run_processes(_meet, tmp_path, SecondStays(tmp_path), world_size=2, seconds=0.5, start_seconds=0.5)


def test_the_error_of_a_process_is_told_and_ends_the_others(tmp_path: Path):
    """They wait for one that is gone."""
    with pytest.raises(ProcessesFailedError, match=r"(?s)_fail_in_the_second.*rank 1 ended with 1.*the reason"):
        run_processes(_fail_in_the_second, tmp_path, world_size=2, seconds=60)
