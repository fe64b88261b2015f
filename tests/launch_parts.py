"""Processes that the tests start: forks of one that has imported everything, and what `accelerate launch` makes of the
files of configs/accelerate."""

import os
import time
from argparse import Namespace
from collections.abc import Callable, Mapping
from datetime import timedelta
from multiprocessing import connection, get_context
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env

CONFIGURATIONS = Path(__file__).resolve().parents[1] / "configs" / "accelerate"
# Imports cost more than what the processes do. One list for all tests: the server of the forks is made once.
PRELOADED = ["peft", "tests.training_parts", "modeling_leccr.training.run"]


def run_processes(
    target: Callable[..., None],
    folder: Path,
    *arguments: Any,
    world_size: int = 1,
    variables: Mapping[str, str] | None = None,
    seconds: float = 300,
) -> None:
    """Call `target(folder, *arguments)` in each of several gloo processes, and wait for all of them.

    Args:
        target: of a module, which each process imports.
        folder: for what the processes write.
        arguments: further ones.
        world_size: number of processes.
        variables: further ones of the environment.
        seconds: that all may take.

    Raises:
        AssertionError: one failed, which ends the others too, or the time is over; with the end of what they printed.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    logs = [folder / f"log-{world_size}-{rank}.txt" for rank in range(world_size)]
    processes = [
        context.Process(target=_run, args=(target, folder, arguments, rank, world_size, variables or {}, log))
        for rank, log in enumerate(logs)
    ]
    for process in processes:
        process.start()
    deadline = time.monotonic() + seconds
    while (running := [process for process in processes if process.is_alive()]) and time.monotonic() < deadline:
        if any(process.exitcode for process in processes):
            break
        connection.wait([process.sentinel for process in running], timeout=max(0.0, deadline - time.monotonic()))
    for process in running:
        process.kill()
    for process in processes:
        process.join()
    statuses = [process.exitcode for process in processes]
    ends = [f"{log.name}:\n{log.read_text(encoding='utf-8')[-4000:]}" for log in logs if log.is_file()]
    assert not any(statuses), "\n".join([f"the processes ended with {statuses}.", *ends])


def _run(
    target: Callable[..., None],
    folder: Path,
    arguments: tuple[Any, ...],
    rank: int,
    world_size: int,
    variables: Mapping[str, str],
    log: Path,
) -> None:
    with log.open("a", encoding="utf-8") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    torch.set_num_threads(1)
    os.environ |= {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true", **variables}
    if world_size == 1:
        target(folder, *arguments)
        return
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
    os.environ |= {name: str(value) for name, value in ranks.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}  # asked for, and not used: they meet in a file
    # Processes that wait for one that is gone must not stay for gloo's half an hour.
    meeting, patience = f"file://{folder}/meeting-{world_size}", timedelta(minutes=3)
    dist.init_process_group("gloo", meeting, rank=rank, world_size=world_size, timeout=patience)
    target(folder, *arguments)
    dist.destroy_process_group()


def launched(name: str, *options: str) -> Namespace:
    """The arguments of a launch with one of the files; a fault in it is an error, as on the command line."""
    words = ["--config_file", str(CONFIGURATIONS / name), *options, "train.py", "configs/scenes.yaml"]
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    return arguments


def environment_of(arguments: Namespace) -> dict[str, str]:
    """What each process of the launch finds in its environment."""
    return {name: value for name, value in prepare_multi_gpu_env(arguments).items() if isinstance(value, str)}
