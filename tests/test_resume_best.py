"""The best checkpoint is that of the best evaluation; none has broken weights; time is that of all starts of a run."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import TrainerCallback

from modeling_leccr.training import resumable
from modeling_leccr.training.checkpoints import saved_checkpoints
from modeling_leccr.training.failures import TrainingStoppedError
from modeling_leccr.training.trainer import LeccrTrainer
from tests.tiny import tiny_model
from tests.training_parts import tiny_split, tiny_trainer, weights_of

# A checkpoint every second step, and an evaluation at each.
OFTEN_EVALUATED: dict[str, Any] = {
    "max_steps": 4,
    "eval_strategy": "steps",
    "eval_steps": 1,
    "save_strategy": "steps",
    "save_steps": 2,
    "load_best_model_at_end": True,
    "learning_rate": 0.01,
}


class BestAtThree(LeccrTrainer):
    """Keeps the weights of each evaluation, and scores that of step 3 highest."""

    seen: dict[int, dict[str, Tensor]]

    def retrieval_metrics(self, split: Any, **_: Any) -> dict[str, float]:
        model: Any = self.model
        self.seen = {**getattr(self, "seen", {}), self.state.global_step: weights_of(model)}
        return {"sum_r": {1: 1.0, 2: 2.0, 3: 9.0}.get(self.state.global_step, 3.0)}


class BestAtTwo(BestAtThree):
    def retrieval_metrics(self, split: Any, **_: Any) -> dict[str, float]:
        super().retrieval_metrics(split)
        return {"sum_r": 9.0 if self.state.global_step == 2 else float(self.state.global_step) / 10}


def trained(
    folder: Path,
    setting: str | bool | None = None,
    trainer_class: type[LeccrTrainer] = BestAtThree,
    seed: int = 0,
    callbacks: list[TrainerCallback] | None = None,
    **arguments: Any,
) -> Any:
    trainer = tiny_trainer(
        folder,
        tiny_model(seed=seed),
        validation=tiny_split(),
        trainer_class=trainer_class,
        callbacks=callbacks,
        **{**OFTEN_EVALUATED, **arguments},
    )
    trainer.train(resume_from_checkpoint=setting)
    return trainer


def best_of(trainer: LeccrTrainer) -> str | None:
    place = trainer.state.best_model_checkpoint
    return None if place is None else Path(place).name


class Saves(TrainerCallback):
    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps.append(state.global_step)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"save_steps": 100, "save_total_limit": None},
        {"per_device_train_batch_size": 8},
        {"save_strategy": "best"},
        {"save_strategy": "best", "per_device_train_batch_size": 8},
    ],
    ids=["seldom saved", "never saved", "ends of epochs", "best alone", "best alone at ends of epochs"],
)
def test_each_best_evaluation_has_its_checkpoint(tmp_path: Path, changes: dict[str, Any]):
    """Step 3 was the best, had no checkpoint, and the record gave its metrics to the weights of step 2."""
    saves = Saves()
    trainer = trained(tmp_path, callbacks=[saves], **changes)
    assert sorted(set(saves.steps)) == saves.steps, "a checkpoint was written twice"
    assert best_of(trainer) == "checkpoint-3"
    torch.testing.assert_close(weights_of(trainer.model), trainer.seen[3], rtol=0, atol=0)
    record = trainer.record()
    assert record.metrics == {"validation": {"sum_r": 9.0}}
    assert record.checkpoint_choice == f"best SumR on validation, step 3 of {trainer.state.max_steps}"


def test_what_an_earlier_run_left_is_not_the_best(tmp_path: Path):
    """Any folder of the right name passed for the best one: a run ended with the weights of another."""
    evaluated_late: dict[str, Any] = {"eval_steps": 3, "save_steps": 3, "max_steps": 3}
    old = trained(tmp_path, seed=5, **evaluated_late)
    assert best_of(old) == "checkpoint-3"
    new = trained(tmp_path)
    assert best_of(new) == "checkpoint-3"
    torch.testing.assert_close(weights_of(new.model), new.seen[3], rtol=0, atol=0)
    assert not new.model.text_projection.weight.equal(old.model.text_projection.weight)


def test_a_folder_of_the_step_is_not_taken_for_the_checkpoint_of_the_best_evaluation(tmp_path: Path):
    """Without load_best_model_at_end, the best evaluation may have no checkpoint; the state must not name another."""
    trained(tmp_path, seed=5, max_steps=3, save_steps=3, eval_steps=3)
    new = trained(tmp_path, load_best_model_at_end=False)
    assert new.state.best_global_step == 3 and best_of(new) is None


def test_a_best_checkpoint_that_was_replaced_since_is_not_loaded(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """A second run in the folder writes the same steps; whoever goes back to the first got the second one's best."""
    changes: dict[str, Any] = {"trainer_class": BestAtTwo, "save_total_limit": None}
    first = trained(tmp_path, **changes)
    assert best_of(first) == "checkpoint-2"
    trained(tmp_path, seed=5, max_steps=2, **changes)
    resumed = trained(tmp_path, str(tmp_path / "checkpoint-4"), max_steps=6, **changes)
    assert "checkpoint-2, is lost (it was written after" in caplog.text
    assert best_of(resumed) == "checkpoint-6"
    torch.testing.assert_close(weights_of(resumed.model), resumed.seen[6], rtol=0, atol=0)


def test_the_best_without_a_checkpoint_is_forgotten_where_the_best_is_wanted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """Its score would stay the best, and no later checkpoint would take its place."""
    trained(tmp_path, load_best_model_at_end=False)
    resumed = trained(tmp_path, True, max_steps=6)
    assert "checkpoint-3, is lost (it was never written); a later one will be the best" in caplog.text
    assert best_of(resumed) == "checkpoint-5"
    torch.testing.assert_close(weights_of(resumed.model), resumed.seen[5], rtol=0, atol=0)


def test_early_stopping_knows_the_best_evaluation_also_without_its_checkpoint(tmp_path: Path):
    """Evaluations after a stop would be compared with none, and the run would go on for longer than undisturbed."""
    changes: dict[str, Any] = {"load_best_model_at_end": False, "early_stopping_patience": 2}
    trained(tmp_path, max_steps=4, **changes)
    assert trained(tmp_path, True, max_steps=20, **changes).state.global_step == 5


class Stopped(Exception):
    """In place of a kill."""


class StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise Stopped


@pytest.mark.parametrize("batch_size", [4, 8], ids=["within an epoch", "at its end"])
def test_a_run_that_goes_on_from_its_best_ends_as_the_undisturbed_one(tmp_path: Path, batch_size: int):
    """A checkpoint out of turn must have all that those of save_steps have; 8 pairs make an epoch."""
    changes: dict[str, Any] = {"per_device_train_batch_size": batch_size, "logging_strategy": "epoch"}
    whole = trained(tmp_path / "whole", **changes, max_steps=6)
    with pytest.raises(Stopped):
        trained(tmp_path / "cut", **changes, max_steps=6, callbacks=[StopAt(3)])
    assert saved_checkpoints(tmp_path / "cut")[-1].name == "checkpoint-3"
    resumed = trained(tmp_path / "cut", True, **changes, max_steps=6)
    last = [load_file(tmp_path / name / "checkpoint-6" / "model.safetensors") for name in ("whole", "cut")]
    torch.testing.assert_close(*last, rtol=0, atol=0)
    lines = [
        [(line["step"], line["loss"]) for line in run.state.log_history if "loss" in line] for run in (whole, resumed)
    ]
    assert lines[0] == lines[1] and best_of(resumed) == "checkpoint-3"


def test_a_finished_run_keeps_its_last_checkpoint_at_a_limit_of_one(tmp_path: Path):
    """The stock trainer removes it, where another is the best: a finished run that is resumed trained again."""
    changes: dict[str, Any] = {"trainer_class": BestAtTwo, "save_steps": 1, "save_total_limit": 1}
    whole = trained(tmp_path, **changes)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    resumed = trained(tmp_path, True, **changes)
    assert getattr(resumed, "seen", {}) == {}, "it took a step"
    torch.testing.assert_close(weights_of(resumed.model), weights_of(whole.model), rtol=0, atol=0)


class BadGradient(torch.autograd.Function):
    """A loss that is finite, with a gradient that is not."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


class BadGradientAtThree(LeccrTrainer):
    factor = float("inf")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        total = self.criterion.total
        self.criterion.total = lambda terms: BadGradient.apply(  # type: ignore[method-assign]
            total(terms), self.factor if self.state.global_step == 2 else 1.0
        )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"max_grad_norm": 0.0},
        {"save_steps": 2},
        {"max_steps": 3, "save_strategy": "no"},
        {"gradient_accumulation_steps": 2, "gradient_cache_chunk_size": 2},
    ],
    ids=["saved", "not clipped", "not saved", "last step", "chunks"],
)
def test_a_gradient_that_is_not_finite_stops_before_its_weights_are_saved(tmp_path: Path, changes: dict[str, Any]):
    """The newest intact checkpoint held NaN, and each resumed run died of it at its next step, with wrong items."""
    settings: dict[str, Any] = {"max_steps": 6, "save_strategy": "steps", "save_steps": 1, "logging_steps": 100}
    trainer = tiny_trainer(tmp_path, tiny_model(), trainer_class=BadGradientAtThree, **{**settings, **changes})
    taken: list[list[str]] = []
    fetch = trainer.get_batch_samples

    def fetched(*args: Any, **kwargs: Any) -> Any:
        batches, number = fetch(*args, **kwargs)
        taken.append([name for batch in batches for name in batch["item_names"]])
        return batches, number

    trainer.get_batch_samples = fetched  # type: ignore[method-assign]
    with pytest.raises(TrainingStoppedError, match="the gradient of step 3 must be finite, got a norm of") as stopped:
        trainer.train()
    assert str(taken[2]) in str(stopped.value)
    for path in saved_checkpoints(tmp_path):
        assert all(value.isfinite().all() for value in load_file(path / "model.safetensors").values()), path.name


def test_a_loss_that_is_not_finite_is_told_as_such(tmp_path: Path):
    """The check of the gradient must not hide which term it was."""

    class BadLoss(LeccrTrainer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            model: Any = self.model
            with torch.no_grad():
                model.text_projection.weight.fill_(float("nan"))

    with pytest.raises(TrainingStoppedError, match="the loss of step 1 must be finite, got source_contrastive nan"):
        tiny_trainer(tmp_path, tiny_model(), trainer_class=BadLoss).train()


def test_steps_that_the_scaler_of_fp16_skips_are_no_error(tmp_path: Path):
    """Its first steps overflow by design, and it lowers its scale."""
    trainer = tiny_trainer(tmp_path, tiny_model(), trainer_class=BadGradientAtThree, max_steps=4)
    trainer.accelerator.state._mixed_precision = "fp16"
    try:
        with pytest.raises(TrainingStoppedError, match="the loss of step 4"):  # no scaler skips it here
            trainer.train()
    finally:
        trainer.accelerator.state._mixed_precision = "no"


def test_time_is_that_of_all_starts_up_to_their_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The report of a run that was stopped after a night said that it took the minutes since."""
    now = [100.0]

    class Hour(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            now[0] += 3600

    monkeypatch.setattr(resumable, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    changes: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2, "callbacks": [Hour()]}
    settings: dict[str, Any] = {"eval_strategy": "no", "load_best_model_at_end": False}
    whole = trained(tmp_path, **changes, **settings, max_steps=5)
    assert whole.training_time.seconds == 5 * 3600
    shutil.rmtree(tmp_path / "checkpoint-5")
    now[0] += 1000  # nobody trains
    resumed = trained(tmp_path, True, **changes, **settings, max_steps=5)
    assert resumed.training_time.seconds == 5 * 3600
    resumed.train()
    assert resumed.training_time.seconds == 5 * 3600, "a new run counts from its own start"
