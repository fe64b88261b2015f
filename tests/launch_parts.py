"""What `accelerate launch --config_file` makes of the files of configs/accelerate, for the tests."""

from argparse import Namespace
from pathlib import Path

from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env

CONFIGURATIONS = Path(__file__).resolve().parents[1] / "configs" / "accelerate"


def launched(name: str, *options: str) -> Namespace:
    """The arguments of a launch with one of the files; a fault in it is an error, as on the command line."""
    words = ["--config_file", str(CONFIGURATIONS / name), *options, "train.py", "configs/scenes.yaml"]
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    return arguments


def environment_of(arguments: Namespace) -> dict[str, str]:
    """What each process of the launch finds in its environment."""
    return {name: value for name, value in prepare_multi_gpu_env(arguments).items() if isinstance(value, str)}
