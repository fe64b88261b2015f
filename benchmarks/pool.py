"""Jobs in a few processes, of which any may die: its job is reported as failed, and the others go on."""

import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

Job = TypeVar("Job")
_PATIENCE = 10.0


def run_jobs(
    work: Callable[[Job], None], jobs: Sequence[Job], *, workers: int, variables: Mapping[str, str]
) -> Generator[tuple[Job, str | None]]:
    """Call `work` with each job in one of several fresh processes, each of which takes the next job when it is done.

    Close the iterator when you leave it early: that, an interrupt and an error kill the processes. They also end by
    themselves when this process is killed.

    Args:
        work: of a module, which each process imports; it keeps its result in a file.
        jobs: in the order in which they are begun.
        workers: number of processes.
        variables: of the environment of the processes.

    Yields:
        Each job when it has ended, and None or why it failed.

    Raises:
        ValueError: `workers` is below 1.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}.")
    waiting = deque(jobs)
    busy: dict[_Worker, Job] = {}
    try:
        while waiting and len(busy) < workers:
            _hand_out(_Worker(work, variables), waiting, busy)
        while busy:
            ready = connection.wait([worker.connection for worker in busy])
            for worker in [worker for worker in busy if worker.connection in ready]:
                job = busy.pop(worker)
                reason = worker.result()
                if waiting:
                    _hand_out(worker if worker.is_alive() else _Worker(work, variables), waiting, busy)
                else:
                    worker.end(patience=_PATIENCE)
                yield job, reason
    finally:
        for worker in busy:
            worker.end()


class _Worker:
    """A process that does one job after the other."""

    def __init__(self, work: Callable[[Any], None], variables: Mapping[str, str]) -> None:
        # Not a fork, which would inherit threads, random states and the libraries' choice of threads.
        context = multiprocessing.get_context("spawn")
        self.connection, remote = context.Pipe()
        self._process: BaseProcess = context.Process(target=_work_on, args=(work, remote))
        with _changed_environment(variables), _without_interrupts():
            self._process.start()
        remote.close()  # or the end of the process would not end the connection

    def begin(self, job: Any) -> None:
        with suppress(OSError):  # of a process that is dead already; `result` tells
            self.connection.send(job)

    def result(self) -> str | None:
        """None, or why the job that ended failed."""
        try:
            reason: str | None = self.connection.recv()
        except (EOFError, OSError):
            self._process.join()
            return _how_it_died(self._process.exitcode)
        return reason

    def is_alive(self) -> bool:
        return self._process.is_alive()

    def end(self, *, patience: float = 0.0) -> None:
        """End a process that has nothing to do by itself, within some seconds, or else kill it."""
        self.connection.close()
        self._process.join(patience)
        self._process.kill()
        self._process.join()


def _hand_out(worker: _Worker, waiting: deque[Job], busy: dict[_Worker, Job]) -> None:
    job = busy[worker] = waiting.popleft()  # first, so that whatever happens then, the process is ended
    worker.begin(job)


def _how_it_died(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        memory = "; the system does that when memory is full: use fewer workers" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{memory}"
    return f"its process ended with status {exit_code}"


def _work_on(work: Callable[[Any], None], parent: Connection) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            job = parent.recv()
        except EOFError:
            return
        try:
            work(job)
        except Exception as error:
            traceback.print_exc()
            parent.send(f"{type(error).__name__}: {error}")
        else:
            parent.send(None)


def _end_with_parent() -> None:
    """A parent that is killed cannot end its processes; in the midst of a training they would not notice."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


@contextmanager
def _changed_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Variables that a process has from its first import on; later ones would not reach the libraries."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes started here ignore ctrl-C, which the terminal sends to all: the parent alone decides what ends."""
    if threading.current_thread() is not threading.main_thread():  # others cannot set handlers, nor get ctrl-C
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
