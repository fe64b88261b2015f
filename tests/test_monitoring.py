"""What a run says about itself while it trains, and how it ends when it cannot go on."""

import logging
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from transformers import TrainerControl, TrainerState

from modeling_leccr.training import checks
from modeling_leccr.training.arguments import LeccrTrainingArguments
from modeling_leccr.training.failures import TrainingStoppedError, check_finite, explained_memory_errors
from modeling_leccr.training.monitoring import InputMeter, log_line
from processing.pairs import CaptionPairs
from tests.tiny import tiny_model
from tests.training_parts import TERMS, tiny_split, tiny_trainer

EVALUATED: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "no"}


class Clock:
    """A clock that goes only when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def settings(folder: Path, **changes: Any) -> LeccrTrainingArguments:
    return LeccrTrainingArguments(output_dir=str(folder), use_cpu=True, **changes)


def take_steps(meter: InputMeter, clock: Clock, number: int, *, waiting: float, working: float, skipped: int = 0):
    """Steps of two batches of three pairs each."""
    for _ in range(number):
        meter.begin_step()
        clock.now += waiting
        meter.batches_came([{"item_names": ["a", "b", "c"], "num_skipped": skipped}] * 2)
        clock.now += working
        meter.on_step_end(None, None, None)


def measured(*, history: list[dict[str, float]] | None = None) -> tuple[InputMeter, Clock]:
    clock = Clock()
    meter = InputMeter(clock)
    meter.on_train_begin(None, TrainerState(log_history=history or []), TrainerControl())
    return meter, clock


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_term_that_is_not_finite_stops_with_step_terms_and_items(value: float, tmp_path: Path):
    """Hours later, the weights are NaN, and nobody knows which picture did it."""
    terms = {"source_contrastive": torch.tensor(1.5), "slot_contrastive": torch.tensor([value])}
    message = r"step 7 must be finite, got source_contrastive 1.5, slot_contrastive -?(nan|inf).*\['cat', 'dog'\]"
    with pytest.raises(TrainingStoppedError, match=message):
        check_finite(terms, ["cat", "dog"], 7, settings(tmp_path))


def test_finite_terms_of_mixed_shapes_and_types_pass(tmp_path: Path):
    """A check that refuses bf16 or a one-element vector would stop sound runs."""
    terms = {"a": torch.tensor([2.0], dtype=torch.bfloat16), "b": torch.tensor(1e30)}
    check_finite(terms, ["cat"], 1, settings(tmp_path))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=["device", "python", "linux", "windows", "cublas"],
)
def test_a_failed_allocation_names_the_settings_that_save_memory(error: Exception, tmp_path: Path):
    """People answer with a smaller batch, which takes the negatives away, because it is the one knob they know."""
    with (
        pytest.raises(TrainingStoppedError, match="did not fit into memory") as stopped,
        explained_memory_errors(settings(tmp_path, per_device_train_batch_size=32)),
    ):
        raise error
    knobs = ["bf16", "gradient_cache_chunk_size", "gradient_checkpointing", "text_training", "description_states"]
    knobs += ["image_size", "per_device_train_batch_size (now 32)"]
    places = [str(stopped.value).index(knob) for knob in knobs]
    assert places == sorted(places) and stopped.value.__cause__ is error


def test_an_evaluation_that_fails_for_memory_names_its_own_batch_size(tmp_path: Path):
    """The training batch has nothing to do with it."""
    args = settings(tmp_path, per_device_eval_batch_size=48)
    message = r"the evaluation did not fit into memory: lower per_device_eval_batch_size \(now 48\)\."
    with pytest.raises(TrainingStoppedError, match=message), explained_memory_errors(args, evaluating=True):
        raise MemoryError


def test_an_allocation_that_torch_itself_refuses_is_recognised(tmp_path: Path):
    """The words of the message are torch's own, and may change with its version."""
    with pytest.raises(TrainingStoppedError, match="memory"), explained_memory_errors(settings(tmp_path)):
        torch.empty(2**60, dtype=torch.uint8)


def test_settings_that_are_used_already_are_not_advised(tmp_path: Path):
    """Advice that was followed before is noise."""
    used = settings(tmp_path, gradient_cache_chunk_size=4, text_training="lora")
    used.bf16 = used.gradient_checkpointing = True
    with pytest.raises(TrainingStoppedError) as stopped, explained_memory_errors(used):
        raise MemoryError
    message = str(stopped.value)
    assert "gradient_cache_chunk_size (now 4)" in message and "image_size" in message
    assert not [name for name in ("bf16", "gradient_checkpointing", "text_training") if name in message]


def test_other_errors_of_a_step_pass_unchanged(tmp_path: Path):
    """A wrong shape that is called a want of memory sends its reader the wrong way."""
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError) as passed, explained_memory_errors(settings(tmp_path)):
        raise error
    assert passed.value is error


def test_speed_and_waiting_are_those_of_the_steps_alone():
    """Evaluations, checkpoints and the start of the workers in the first step would make a sound input look slow."""
    meter, clock = measured()
    take_steps(meter, clock, 1, waiting=1000, working=1000)
    assert meter.line(Accelerator(cpu=True), 0) == {}
    take_steps(meter, clock, 1, waiting=1, working=3)
    clock.now += 500
    take_steps(meter, clock, 1, waiting=2, working=2)
    assert meter.line(Accelerator(cpu=True), 0) == {"pairs_per_second": 12 / 8, "data_wait_share": 3 / 8}
    take_steps(meter, clock, 1, waiting=0, working=6)
    assert meter.line(Accelerator(cpu=True), 0) == {"pairs_per_second": 1.0, "data_wait_share": 0.0}


def test_a_line_is_about_all_processes():
    """The main process alone would miss the skipped rows of the others, and the one that all the others wait for."""

    class ThreeProcesses:
        device, is_main_process = torch.device("cpu"), True

        def gather(self, counts: torch.Tensor) -> torch.Tensor:
            # skipped rows, pairs, seconds waited, seconds
            return torch.cat([counts, torch.tensor([[5.0, 12.0, 6.0, 8.0], [1.0, 12.0, 0.0, 7.0]])])

    meter, clock = measured()
    take_steps(meter, clock, 1, waiting=0, working=1)
    take_steps(meter, clock, 2, waiting=1, working=3, skipped=1)
    line = meter.line(ThreeProcesses(), 0)  # type: ignore[arg-type]
    assert line == {"pairs_per_second": 36 / 8, "data_wait_share": 6 / 8, "skipped_rows": 10.0}


def test_skipped_rows_are_those_of_the_whole_run():
    """The count of the last window alone, or one that a resumed run begins anew, hides how many are lost."""
    meter, clock = measured(history=[{"step": 3, "skipped_rows": 5.0}, {"step": 4, "eval_sum_r": 9.0}])
    assert meter.line(Accelerator(cpu=True), 0) == {"skipped_rows": 5.0}
    take_steps(meter, clock, 2, waiting=0, working=1, skipped=1)
    assert meter.line(Accelerator(cpu=True), 0)["skipped_rows"] == 9.0
    take_steps(meter, clock, 1, waiting=0, working=1)
    assert meter.line(Accelerator(cpu=True), 0)["skipped_rows"] == 9.0


def test_a_slow_input_is_told_once_and_names_the_settings(caplog: pytest.LogCaptureFixture):
    """An idle accelerator is paid for, and nothing in a stock log says that it is idle."""
    meter, clock = measured()
    with caplog.at_level(logging.WARNING):
        for _ in range(30):
            take_steps(meter, clock, 5, waiting=1, working=2)
            meter.line(Accelerator(cpu=True), 3)
    (warning,) = caplog.messages
    assert "33 % of the time" in warning and "dataloader_num_workers (now 3)" in warning and "image_size" in warning


def test_a_short_wait_is_not_told(caplog: pytest.LogCaptureFixture):
    """The first batches of an epoch are slow in every run."""
    meter, clock = measured()
    with caplog.at_level(logging.WARNING):
        for _ in range(10):
            take_steps(meter, clock, 40, waiting=1, working=2)
            meter.line(Accelerator(cpu=True), 0)
            take_steps(meter, clock, 40, waiting=1, working=9)
            meter.line(Accelerator(cpu=True), 0)
    assert not caplog.messages


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_run_logs_its_speed_and_counts_skipped_rows_of_all_workers(tmp_path: Path, num_workers: int):
    """A count in the collator stays in its worker: the log of a run with workers said that nothing was skipped."""
    picture = datasets.Image().encode_example(np.zeros((8, 8, 3), dtype=np.uint8))
    broken = {"bytes": b"no picture", "path": None}
    split = tiny_split(8).cast_column("image", datasets.Image(decode=False))
    split = split.map(lambda _row, place: {"image": broken if place in (2, 5) else picture}, with_indices=True)
    split = split.cast_column("image", datasets.Image())
    trainer = tiny_trainer(
        tmp_path,
        tiny_model(),
        split=split,
        num_train_epochs=2,
        max_steps=-1,
        per_device_train_batch_size=8,
        dataloader_num_workers=num_workers,
    )
    trainer.train_dataset = CaptionPairs(split, ["de"], corrupt_images="skip")
    trainer.train()
    lines = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["skipped_rows"] for entry in lines] == [2.0, 4.0]
    assert "pairs_per_second" not in lines[0]
    assert lines[1]["pairs_per_second"] > 0 and 0 <= lines[1]["data_wait_share"] <= 1


@pytest.mark.parametrize("with_bar", [False, True])
def test_training_shows_one_short_line_for_each_of_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], with_bar: bool
):
    """The stock line is a dictionary of 15 columns and more, in which nobody finds the loss."""
    caplog.set_level(logging.INFO, logger="modeling_leccr.training.monitoring")
    trainer = tiny_trainer(tmp_path, tiny_model(), validation=tiny_split(4), disable_tqdm=not with_bar, **EVALUATED)
    trainer.train()
    trainer.evaluate(tiny_split(4), metric_key_prefix="test")
    printed = capsys.readouterr().out.splitlines()
    lines = printed if with_bar else [record.getMessage() for record in caplog.records]
    assert with_bar or not printed
    forms = [
        r"loss \d[\d.]*",
        r"validation SumR [\d.]+",
        r"loss \d[\d.]*, [\d.]+ pairs/s",
        r"validation SumR [\d.]+",
        r"trained for \d+ s",
        r"test SumR [\d.]+",
    ]
    assert len(trainer.state.log_history) == len(forms)
    shown = [line for line in lines if line.startswith("step ")]
    for step, form, line in zip((1, 1, 2, 2, 2, 2), forms, shown, strict=not with_bar):
        assert re.fullmatch(f"step {step} of 2: {form}", line)
    assert len(shown) >= 5  # there is no bar any more after training
    assert log_line({"beans": 3}, trainer.state) == "step 2 of 2: beans 3"


class BadInput(torch.utils.data.Dataset):
    """Rows of which one cannot be given."""

    def __init__(self, pairs: CaptionPairs, fail: Callable[[], None]) -> None:
        self.pairs, self.fail = pairs, fail

    def __len__(self) -> int:
        return len(self.pairs)

    def pair(self, index: int, draw: int | None = None) -> Any:
        """As of the pairs, if it does not fail."""
        self.fail()
        return self.pairs.pair(index, draw)


def refuse() -> None:
    raise ValueError("item 'cat' (row 3): its image must be readable")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("fail", "kind", "message"),
    [
        (refuse, ValueError, r"^item 'cat' \(row 3\): its image must be readable$"),
        (die, TrainingStoppedError, r"a worker of the data loader died.* dataloader_num_workers"),
    ],
)
def test_what_fails_in_a_worker_is_told_as_if_it_failed_here(
    tmp_path: Path, fail: Callable[[], None], kind: type[Exception], message: str
):
    """torch wraps it in the traceback of the worker, forty lines around the name of the item."""
    trainer = tiny_trainer(tmp_path, tiny_model(), dataloader_num_workers=1)
    trainer.train_dataset = BadInput(CaptionPairs(tiny_split(), ["de"]), fail)
    with pytest.raises(kind, match=message):
        trainer.train()


def test_training_stops_when_recall_does_not_rise(tmp_path: Path):
    """Patience counts evaluations; a learning rate of zero never makes one better."""
    trainer = tiny_trainer(
        tmp_path,
        tiny_model(),
        validation=tiny_split(4),
        max_steps=8,
        learning_rate=0.0,
        early_stopping_patience=2,
        **EVALUATED,
    )
    trainer.train()
    assert trainer.state.global_step == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eval_strategy": "no"}, "early_stopping_patience needs evaluations .* eval_strategy 'no'"),
        ({"early_stopping_patience": 0}, "early_stopping_patience must be a number of evaluations from 1"),
    ],
)
def test_early_stopping_that_could_not_stop_is_refused(tmp_path: Path, changes: dict[str, Any], message: str):
    """transformers asserts at the start of training, or never stops."""
    evaluated = {"eval_strategy": "epoch", "load_best_model_at_end": False, "early_stopping_patience": 1}
    with pytest.raises(ValueError, match=message):
        settings(tmp_path, **{**evaluated, **changes})


def test_tensorboard_gets_every_term(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A term that is only in the file of the trainer cannot be watched while the run goes."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    trainer = tiny_trainer(
        tmp_path, tiny_model(), validation=tiny_split(4), max_steps=3, report_to="tensorboard", **EVALUATED
    )
    trainer.train()
    events = accumulator.EventAccumulator(str(tmp_path / "board")).Reload()
    tags = set(events.Tags()["scalars"])
    expected = {"loss", *(f"loss/{name}" for name in TERMS), "pairs_per_second", "data_wait_share", "learning_rate"}
    assert {f"train/{name}" for name in expected} | {"eval/sum_r", "eval/de/t2i_R@1"} <= tags
    logged = [entry["loss/slot_contrastive"] for entry in trainer.state.log_history if "loss" in entry]
    drawn = [event.value for event in events.Scalars("train/loss/slot_contrastive")]
    assert drawn == pytest.approx(logged) and len(drawn) == 3


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_a_missing_tracker_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    """Found by transformers only after the data and the model were made."""
    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda _module: None)
    with pytest.raises(ValueError, match=rf"report_to names {name}, which is not installed; run `pip install {name}`"):
        settings(tmp_path, report_to=name, eval_strategy="no", load_best_model_at_end=False)


def test_an_unknown_tracker_is_refused(tmp_path: Path):
    """A typo would show after the data were prepared."""
    with pytest.raises(ValueError, match=r"report_to must name known trackers .* got \['tensorbord'\]"):
        settings(tmp_path, report_to=["tensorbord"])


def test_memory_is_not_pinned_where_there_is_no_accelerator(tmp_path: Path):
    """torch warns in each run, and a warning that means nothing hides the next one."""
    args = LeccrTrainingArguments(output_dir=str(tmp_path))
    assert args.dataloader_pin_memory is torch.accelerator.is_available()
