"""The pool of processes reports each job, whatever becomes of its process, and leaves no process behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from benchmarks.pool import run_jobs
from tests.pool_worker import work

ROOT = Path(__file__).resolve().parents[1]
VARIABLES = {"OMP_NUM_THREADS": "1"}
PATIENCE = 60.0


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {PATIENCE} seconds in vain")
        time.sleep(0.02)


def is_running(process_id: int) -> bool:
    return psutil.pid_exists(process_id) and psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE


def test_a_job_that_fails_or_whose_process_dies_is_reported_and_the_others_go_on(tmp_path: Path):
    """A process that the system ends for its memory was waited for without end, or took all others with it."""
    names = ["a", "fail", "die", "b", "leave", "c", "d"]
    found = dict(run_jobs(work, [(tmp_path, name) for name in names], workers=2, variables=VARIABLES))
    reasons = {name: found[tmp_path, name] for name in names}
    assert reasons["fail"] == "ValueError: no such tower"
    assert reasons["die"] is not None and "SIGKILL" in reasons["die"] and "fewer workers" in reasons["die"]
    assert reasons["leave"] == "its process ended with status 3"
    for name in "abcd":
        assert reasons[name] is None
        assert (tmp_path / f"{name}.done").read_text(encoding="utf-8").endswith(" 1")  # the variable came along


def test_a_process_does_one_job_after_the_other_in_order(tmp_path: Path):
    """A fresh process for each would read the data each time."""
    before = dict(os.environ)
    jobs = [(tmp_path, name) for name in "cab"]
    ended = list(run_jobs(work, jobs, workers=1, variables={"OMP_NUM_THREADS": "7"}))
    assert ended == [(job, None) for job in jobs]
    assert len({(tmp_path / f"{name}.done").read_text(encoding="utf-8") for name in "cab"}) == 1
    assert dict(os.environ) == before


def test_leaving_early_ends_the_processes(tmp_path: Path):
    """An error in the caller would leave processes that compute for nobody."""
    jobs = [(tmp_path, what) for what in ("short", "stay")]
    with closing(run_jobs(work, jobs, workers=2, variables=VARIABLES)) as ended:
        assert next(ended) == (jobs[0], None)
        wait_for(lambda: (tmp_path / "stay.begun").exists() and (tmp_path / "stay.begun").stat().st_size > 0)
    assert not is_running(int((tmp_path / "stay.begun").read_text(encoding="utf-8")))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_command_that_is_stopped_leaves_no_process(tmp_path: Path, how: signal.Signals):
    """Orphans would go on training on the cores of the next command."""
    code = f"from tests.pool_worker import main; main({str(tmp_path)!r})"
    command = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: all((tmp_path / f"stay-{i}.begun").exists() for i in (1, 2)))
    children = [child.pid for child in psutil.Process(command.pid).children(recursive=True)]
    if how == signal.SIGINT:  # as a terminal does, to each of them
        for child in children:
            os.kill(child, how)
    command.send_signal(how)
    _, said = command.communicate(timeout=PATIENCE)
    wait_for(lambda: not any(is_running(child) for child in children))
    assert command.returncode != 0 and (tmp_path / "short.done").exists()
    if how == signal.SIGINT:
        assert said.count("Traceback") == 1  # of the command alone


def test_no_workers_are_refused():
    """Nothing would ever be done."""
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        next(run_jobs(work, [], workers=0, variables={}))
