"""Processes that the tests start: forks of one that has imported everything, and what `accelerate launch` makes of the
files of configs/accelerate."""

from argparse import Namespace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env

from benchmarks import processes

CONFIGURATIONS = Path(__file__).resolve().parents[1] / "configs" / "accelerate"
# Imports cost more than what the processes do. One list for all tests: the server of the forks is made once.
get_context("forkserver").set_forkserver_preload(["peft", "tests.training_parts", "modeling_leccr.training.run"])
run_processes = partial(processes.run_processes, method="forkserver")


def launched(name: str, *options: str) -> Namespace:
    """The arguments of a launch with one of the files; a fault in it is an error, as on the command line."""
    words = ["--config_file", str(CONFIGURATIONS / name), *options, "train.py", "configs/scenes.yaml"]
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    return arguments


def environment_of(arguments: Namespace) -> dict[str, str]:
    """What each process of the launch finds in its environment."""
    return {name: value for name, value in prepare_multi_gpu_env(arguments).items() if isinstance(value, str)}
