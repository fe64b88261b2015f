"""What a run shows in the terminal: its own lines and bar, and of the libraries' what a user must see."""

import logging
import re
import warnings
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from accelerate.commands import launch
from torch.utils.data import DataLoader
from transformers import TrainerCallback
from transformers.utils import logging as transformers_logging

from modeling_leccr.training.arguments import LeccrTrainingArguments
from modeling_leccr.training.console import own_bars_alone, warn_once_of_many_workers
from modeling_leccr.training.failures import TrainingStoppedError, check_finite
from tests.tiny import tiny_model
from tests.training_parts import tiny_split, tiny_trainer

EVALUATED: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}


def settings(folder: Path, **changes: Any) -> LeccrTrainingArguments:
    return LeccrTrainingArguments(output_dir=str(folder), use_cpu=True, **changes)


def test_checkpoints_and_evaluations_bring_no_bar_of_a_library(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """`Writing model shards` and `Loading weights` cut the bar of the steps into pieces at each checkpoint."""
    transformers_logging.enable_progress_bar()
    trainer = tiny_trainer(
        tmp_path, tiny_model(), validation=tiny_split(4), load_best_model_at_end=True, disable_tqdm=False, **EVALUATED
    )
    trainer.train()
    shown = capfd.readouterr().err
    assert "2/2" in shown and not re.search("shards|weights|split", shown)
    assert transformers_logging.is_progress_bar_enabled() and datasets.is_progress_bar_enabled()


def test_bars_that_a_user_switched_off_stay_off():
    """Training must not bring back what somebody turned off for the log of a cluster."""
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        with pytest.raises(KeyError), own_bars_alone():
            raise KeyError
        assert not transformers_logging.is_progress_bar_enabled() and not datasets.is_progress_bar_enabled()
    finally:
        transformers_logging.enable_progress_bar()
        datasets.enable_progress_bars()
    with pytest.raises(KeyError), own_bars_alone():
        assert not transformers_logging.is_progress_bar_enabled() and not datasets.is_progress_bar_enabled()
        raise KeyError
    assert transformers_logging.is_progress_bar_enabled() and datasets.is_progress_bar_enabled()


def test_more_workers_than_cores_are_told_once_and_not_never():
    """torch says it for each loader and each epoch, and a user who never hears it waits for slow input."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_once_of_many_workers()
        for _ in range(3):
            DataLoader(torch.zeros(2), num_workers=1000)
    assert len([entry for entry in caught if "1000 worker processes" in str(entry.message)]) == 1


def test_the_documented_name_of_activation_checkpointing_brings_no_warning(tmp_path: Path):
    """transformers renamed it, which a user of our documents cannot know, and older versions lack the new name."""
    known: dict[str, Any] = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        args = settings(tmp_path, **known)
        assert not settings(tmp_path).gradient_checkpointing
    assert args.gradient_checkpointing and args.gradient_checkpointing_kwargs == {"use_reentrant": False}
    model = tiny_model()
    tiny_trainer(tmp_path, model, max_steps=1, gradient_checkpointing=True).train()
    assert any(getattr(part, "gradient_checkpointing", False) for part in model.modules())


def test_an_evaluation_is_one_line_with_system_split_and_languages(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Six lines `de: sum_r 96.7, 60 items` in a row tell neither which split nor which system they are about."""
    split = tiny_split(4)
    split = split.add_column("caption_fr", split["caption_de"][:])
    trainer = tiny_trainer(tmp_path / "two streams", tiny_model(description_dropout=0.1), validation=split)
    trainer.languages = ["de", "fr"]
    with caplog.at_level(logging.INFO, "retrieval.evaluation"):
        trainer.evaluate()
        trainer.retrieval_metrics(split, name="test without descriptions", use_descriptions=False)
    lines = [record.getMessage() for record in caplog.records if record.name == "retrieval.evaluation"]
    names = ("validation", "test without descriptions")
    assert len(lines) == 2
    for line, name in zip(lines, names, strict=True):
        assert re.fullmatch(rf"two streams, {name}, 4 items: SumR de \d+\.\d, fr \d+\.\d", line), line


def test_many_items_of_a_batch_are_in_the_log_and_eight_in_the_error(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """4,096 ids in the one line that a scheduler shows hide what to do."""
    terms, names = {"total": torch.tensor(float("nan"))}, [f"item-{i}" for i in range(20)]
    with pytest.raises(TrainingStoppedError) as stopped:
        check_finite(terms, names, 3, settings(tmp_path))
    message = str(stopped.value)
    assert "'item-7'] and 12 more, which are in the log." in message and "item-8" not in message
    (line,) = caplog.messages
    assert "step 3" in line and all(f"'{name}'" in line for name in names)
    caplog.clear()
    with pytest.raises(TrainingStoppedError, match=r"\['item-0', 'item-1'\]\.$"):
        check_finite(terms, names[:2], 3, settings(tmp_path))
    assert not caplog.messages


@pytest.mark.parametrize(
    ("changes", "advised"),
    [({}, set()), ({"max_grad_norm": 0.0}, {"max_grad_norm"}), ({"bf16": True}, {"bf16"}), ({"fp16": True}, {"fp16"})],
)
def test_only_what_applies_is_advised(changes: dict[str, Any], advised: set[str], tmp_path: Path):
    """`train without fp16` to someone who trains in float32 sends them through their settings for nothing."""
    args = settings(tmp_path)
    for name, value in changes.items():
        setattr(args, name, value)
    with pytest.raises(TrainingStoppedError, match="lower learning_rate, raise warmup_steps") as stopped:
        check_finite({"total": torch.tensor(float("inf"))}, ["cat"], 1, args)
    assert {name for name in ("max_grad_norm", "bf16", "fp16") if name in str(stopped.value)} == advised


class Clock(TrainerCallback):
    """A clock that goes on by a second in each step, and by much in what is no step."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.now += 1

    def on_evaluate(self, *_: Any, **__: Any) -> None:
        self.now += 1000

    on_save = on_log = on_epoch_end = on_epoch_begin = on_evaluate


def test_the_time_of_evaluations_and_checkpoints_is_not_counted_as_that_of_steps(tmp_path: Path):
    """A dip in the picture of the speed at each checkpoint looks like a fault of the input."""
    clock = Clock()
    trainer = tiny_trainer(
        tmp_path, tiny_model(), validation=tiny_split(4), max_steps=6, callbacks=[clock], **EVALUATED
    )
    trainer._input_meter._clock = clock
    trainer.train()
    speeds = [entry["pairs_per_second"] for entry in trainer.state.log_history if "pairs_per_second" in entry]
    assert speeds == [4.0] * 5 and clock.now > 6000


@pytest.mark.parametrize("name", ["single.yaml", "ddp.yaml"])
def test_a_launch_by_the_files_of_the_readme_brings_no_warning(
    name: str, monkeypatch: pytest.MonkeyPatch, root_dir: Path
):
    """accelerate lists each value that it had to choose; a user takes the list for a fault of the command."""
    told: list[str] = []
    monkeypatch.setattr(launch.logger, "warning", lambda message, *_, **__: told.append(message))
    words = ["--config_file", str(root_dir / "configs" / "accelerate" / name)]
    launch._validate_launch_command(launch.launch_command_parser().parse_args([*words, "train.py", "mine.yaml"]))
    assert told == []


def test_no_line_of_the_documents_starts_several_gpus_without_a_file(root_dir: Path):
    """`--multi_gpu` alone leaves accelerate to choose, and to warn."""
    documents = [root_dir / "README.md", *(root_dir / "docs").glob("*.md")]
    lines = [line for path in documents for line in path.read_text(encoding="utf-8").splitlines()]
    launches = [line for line in lines if line.startswith("accelerate launch")]
    assert len(launches) > 5
    assert not [line for line in launches if "--multi_gpu" in line]
