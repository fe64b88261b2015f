"""Work for the processes of tests/test_benchmarks_pool.py; it imports little, so that they start fast."""

import os
import signal
import time
from pathlib import Path

from benchmarks.pool import run_jobs

FOR_EVER = 3600.0


def work(job: tuple[Path, str]) -> None:
    """Do what the second half of the job says, and tell of it in a file of this name in the folder."""
    folder, what = job
    if what == "fail":
        raise ValueError("no such tower")
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "leave":
        raise SystemExit(3)
    (folder / f"{what}.begun").write_text(str(os.getpid()), encoding="utf-8")
    if what.startswith("stay"):
        time.sleep(FOR_EVER)
    threads = os.environ["OMP_NUM_THREADS"]
    (folder / f"{what}.done").write_text(f"{os.getpid()} {threads}", encoding="utf-8")


def main(folder: str) -> None:
    """A command with one job that ends and two that do not, for a test that ends the command."""
    # A shell starts what it runs in the background with interrupts ignored, and Python keeps that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    jobs = [(Path(folder), what) for what in ("short", "stay-1", "stay-2")]
    list(run_jobs(work, jobs, workers=2, variables={"OMP_NUM_THREADS": "1"}))
