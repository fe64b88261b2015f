"""Gloo processes that wait for one another, with limits: what hangs or never comes ends them all with an error."""

import faulthandler
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from multiprocessing import connection, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist

STDERR = 2


class ProcessesFailedError(RuntimeError):
    """One of several processes failed, hung or did not come."""


def run_processes(
    target: Callable[..., None],
    folder: Path,
    *arguments: Any,
    method: Literal["fork", "forkserver"],
    world_size: int = 1,
    variables: Mapping[str, str] | None = None,
    seconds: float = 300,
    start_seconds: float = 60,
) -> None:
    """Call `target(folder, *arguments)` in each of several gloo processes, and wait for all of them.

    Args:
        target: of a module, which each process imports.
        folder: for what the processes write.
        arguments: further ones.
        method: "fork" where this process has no threads yet, for a fork could stall with them.
        world_size: number of processes; one alone joins no group.
        variables: further ones of the environment.
        seconds: that a process may take, and half of them for a collective; past that it tells where it hangs and ends.
        start_seconds: that all of them may take beyond that, to start and to end.

    Raises:
        ProcessesFailedError: one failed, which ends the others too, or the time is over; with the end of what they
            printed.
    """
    context: Any = get_context(method)  # the stubs know of no `Process` where the method is not fixed
    logs = [folder / f"log-{world_size}-{rank}.txt" for rank in range(world_size)]
    # Of this call alone: in the file of a group that was killed a later one would meet the dead.
    with tempfile.TemporaryDirectory(dir=folder, prefix="meeting-") as meeting:
        processes = [
            context.Process(
                target=_run, args=(target, folder, arguments, rank, world_size, variables or {}, seconds, meeting, log)
            )
            for rank, log in enumerate(logs)
        ]
        statuses = _statuses(processes, seconds + start_seconds)
    if any(status != 0 for status in statuses):
        ends = [f"{log.name}:\n{log.read_text(encoding='utf-8')[-4000:]}" for log in logs if log.is_file()]
        raise ProcessesFailedError("\n".join([_summary(target, statuses), *ends]))


def _statuses(processes: Sequence[BaseProcess], seconds: float) -> list[int | None]:
    """How each of them ended; None for those that were killed, because the time was over or another one failed."""
    statuses: list[int | None] = []
    try:
        for process in processes:
            process.start()
        deadline = time.monotonic() + seconds
        while (running := [process for process in processes if process.is_alive()]) and time.monotonic() < deadline:
            if any(process.exitcode for process in processes):
                break
            connection.wait([process.sentinel for process in running], timeout=max(0.0, deadline - time.monotonic()))
    finally:
        for process in processes:
            statuses.append(process.exitcode)
            if process.is_alive():
                process.kill()
                process.join()
    return statuses


def _summary(target: Callable[..., None], statuses: Sequence[int | None]) -> str:
    ended = [f"ended with {status}" if status is not None else "still ran and was killed" for status in statuses]
    states = ", ".join(f"rank {rank} {state}" for rank, state in enumerate(ended))
    return f"{target.__name__} in {len(statuses)} processes: {states}."


def _run(
    target: Callable[..., None],
    folder: Path,
    arguments: tuple[Any, ...],
    rank: int,
    world_size: int,
    variables: Mapping[str, str],
    seconds: float,
    meeting: str,
    log: Path,
) -> None:
    with log.open("a", encoding="utf-8") as file:
        for stream in (1, STDERR):
            os.dup2(file.fileno(), stream)
    # Needs neither the interpreter's lock, with which a process may hang, nor a parent that still lives.
    faulthandler.dump_traceback_later(seconds, exit=True, file=STDERR)
    torch.set_num_threads(1)
    os.environ |= {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true", **variables}
    if world_size == 1:
        target(folder, *arguments)
        return
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
    os.environ |= {name: str(value) for name, value in ranks.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}  # asked for, and not used: they meet in a file
    # Sooner than the end of the process, for the error of a collective says what it waited for.
    patience = timedelta(seconds=seconds / 2)
    dist.init_process_group("gloo", f"file://{meeting}/store", rank=rank, world_size=world_size, timeout=patience)
    target(folder, *arguments)
    dist.destroy_process_group()
