"""The files of configs/accelerate reach `accelerate launch` as they are meant."""

import json
import re
import shlex
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import DistributedType

from tests.launch_parts import CONFIGURATIONS, environment_of, launched

FILES = sorted(path.name for path in CONFIGURATIONS.glob("*.yaml"))
KINDS = {
    "single.yaml": DistributedType.NO,
    "ddp.yaml": DistributedType.MULTI_GPU,
    "fsdp2.yaml": DistributedType.FSDP,
    "deepspeed_zero2.yaml": DistributedType.DEEPSPEED,
    "deepspeed_zero3.yaml": DistributedType.DEEPSPEED,
}


def commands(name: str) -> list[list[str]]:
    """The command lines of a file's comments, without the comment's sign."""
    text = re.sub(r"^# ?", "", (CONFIGURATIONS / name).read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.strip().startswith("accelerate launch")]


def test_there_is_a_file_for_each_kind_of_launch():
    """The tests below are of the files that are there, and would pass without one that the README names."""
    assert set(FILES) == set(KINDS)


@pytest.mark.parametrize("name", FILES)
def test_accelerate_reads_the_file(name: str):
    """An unknown name is an error of accelerate's, hours after somebody queued for the machines."""
    config = load_config_from_file(str(CONFIGURATIONS / name))
    assert isinstance(config, ClusterConfig)
    assert config.distributed_type == KINDS[name]


@pytest.mark.parametrize("name", FILES)
def test_the_commands_of_the_file_name_itself_and_are_accepted(name: str):
    """They are copied to the first machine, then to the others."""
    assert commands(name)
    for command in commands(name):
        arguments = launch_command_parser().parse_args(command[2:])
        assert Path(arguments.config_file).name == name
        assert (CONFIGURATIONS.parents[1] / arguments.config_file).is_file()
        assert arguments.training_script == "train.py"


def test_several_machines_share_the_processes():
    """`num_processes` counts those of all machines; a launch with fewer would leave GPUs idle."""
    (_, command) = commands("ddp.yaml")
    arguments = launched("ddp.yaml", *command[4 : command.index("train.py")])
    assert (arguments.num_machines, arguments.num_processes, arguments.multi_gpu) == (4, 32, True)


def test_fsdp_gets_the_settings_that_the_trainer_needs():
    """accelerate's own choices are version 1, and checkpoints that are no models."""
    found = environment_of(launched("fsdp2.yaml"))
    expected = {
        "ACCELERATE_USE_FSDP": "true",
        "ACCELERATE_MIXED_PRECISION": "bf16",
        "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
        "FSDP_RESHARD_AFTER_FORWARD": "true",
        "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    }
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(("name", "stage"), [("deepspeed_zero2.yaml", 2), ("deepspeed_zero3.yaml", 3)])
def test_deepspeed_takes_the_settings_of_the_recipe(name: str, stage: int, root_dir: Path):
    """DeepSpeed clips, accumulates and counts by its own settings; where they differ, the trainer stops."""
    arguments = launched(name)
    assert arguments.use_deepspeed and arguments.zero3_init_flag is False
    settings = json.loads((root_dir / arguments.deepspeed_config_file).read_text(encoding="utf-8"))
    assert settings["zero_optimization"]["stage"] == stage
    by_recipe = {setting for setting, value in settings.items() if value == "auto"}
    assert by_recipe == {
        "gradient_accumulation_steps",
        "gradient_clipping",
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
    }
