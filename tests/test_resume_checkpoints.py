"""Checkpoints: damage is seen, the right ones stay, and a run that goes on is told what differs."""

import logging
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from modeling_leccr.training import checkpoints
from modeling_leccr.training.arguments import build_recipe
from modeling_leccr.training.checkpoints import (
    CHECKPOINT_FILE,
    changed_settings,
    checkpoint_folder,
    checkpoint_to_resume,
    find_fault,
    publish,
    remove_leftovers,
    remove_old,
    saved_checkpoints,
    seal,
    settings_of,
    staging_folder,
)
from modeling_leccr.training.controls import control_recipes
from modeling_leccr.training.trainer import LeccrTrainer
from tests.tiny import tiny_model
from tests.training_parts import tiny_recipe, tiny_split, tiny_trainer, weights_of


def written(run: Path, step: int, text: str = "weights") -> Path:
    """A checkpoint with a file in it and one in a folder."""
    folder = checkpoint_folder(run, step)
    staging = staging_folder(folder)
    (staging / "shards").mkdir(parents=True)
    (staging / "model.safetensors").write_text(text)
    (staging / "shards" / "0.pt").write_text("part")
    publish(folder, {"learning_rate": 1.0})
    return folder


def names(paths: Iterable[Path]) -> list[str]:
    return [path.name for path in paths]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The times that checkpoints are written at, one after the other."""
    times = [float(number) for number in range(100)]
    monkeypatch.setattr(checkpoints.time, "time", lambda: times.pop(0))
    return times


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda path: (path / "shards" / "0.pt").unlink(), "shards/0.pt is missing"),
        (lambda path: (path / "model.safetensors").write_text("weight"), "model.safetensors has 6 bytes instead of 7"),
        (lambda path: (path / "model.safetensors").write_text("wEights"), "contents of model.safetensors changed"),
        (lambda path: (path / CHECKPOINT_FILE).unlink(), f"no readable {CHECKPOINT_FILE}"),
        (lambda path: (path / CHECKPOINT_FILE).write_text("{"), f"no readable {CHECKPOINT_FILE}"),
        (lambda path: (path / CHECKPOINT_FILE).write_text("[]"), f"no readable {CHECKPOINT_FILE}"),
        (lambda path: shutil.rmtree(path), "there is no such folder"),
    ],
    ids=["missing", "cut", "changed", "unsealed", "cut seal", "no seal", "absent"],
)
def test_each_kind_of_damage_is_found_and_named(tmp_path: Path, damage: Any, fault: str):
    """Bytes that changed in place load without an error and train on as another model."""
    path = written(tmp_path, 2)
    assert find_fault(path) is None
    damage(path)
    assert fault in str(find_fault(path))
    with pytest.raises(ValueError, match=rf"checkpoint-2' must be an intact checkpoint, but .*{fault}.*pass true"):
        checkpoint_to_resume(tmp_path, str(path))


def test_damaged_checkpoints_are_set_aside_until_one_is_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Left in place, a damaged one counts among those that are kept, and the whole one before it is removed."""
    paths = [written(tmp_path, step) for step in (2, 4, 6, 8)]
    (paths[3] / "model.safetensors").write_text("")
    (paths[2] / CHECKPOINT_FILE).unlink()
    assert checkpoint_to_resume(tmp_path, True) == paths[1]
    assert names(saved_checkpoints(tmp_path)) == ["checkpoint-2", "checkpoint-4"]
    assert sorted(path.name for path in tmp_path.glob("damaged-*")) == ["damaged-checkpoint-6", "damaged-checkpoint-8"]
    assert caplog.text.count("is not resumed from") == 2 and "has 0 bytes instead of 7" in caplog.text
    shutil.rmtree(paths[0])
    (paths[1] / "model.safetensors").unlink()
    assert checkpoint_to_resume(tmp_path, True) is None
    assert checkpoint_to_resume(tmp_path / "absent", True) is None
    assert checkpoint_to_resume(tmp_path, None) is checkpoint_to_resume(tmp_path, False) is None


def test_the_newest_checkpoint_is_the_one_written_last(tmp_path: Path, clock: list[float]):
    """After a second run in the same folder, higher steps are those of the first one."""
    for step in (900, 1000, 100):
        written(tmp_path, step)
    assert checkpoint_to_resume(tmp_path, True) == tmp_path / "checkpoint-100"
    assert len(clock) == 97


@pytest.mark.parametrize(
    ("limit", "best", "kept"),
    [
        (2, 1, [1, 5]),
        (2, 5, [4, 5]),
        (1, 5, [4, 5]),
        (1, 2, [2, 5]),
        (3, 1, [1, 4, 5]),
        (None, 1, [1, 2, 3, 4, 5]),
        (0, 1, [1, 2, 3, 4, 5]),
        (9, 1, [1, 2, 3, 4, 5]),
    ],
)
def test_the_best_the_newest_and_never_fewer_than_two_stay(tmp_path: Path, limit: int | None, best: int, kept: list):
    """With a single one, a damaged last checkpoint costs the whole run."""
    paths = {step: written(tmp_path, step) for step in (1, 2, 3, 4, 5)}
    remove_old(tmp_path, limit, [paths[5], paths[best]])
    assert names(saved_checkpoints(tmp_path)) == [f"checkpoint-{step}" for step in kept]
    assert not list(tmp_path.glob(".*"))


def test_a_checkpoint_takes_the_place_of_an_older_one_and_leftovers_go(tmp_path: Path):
    """A run that was started again writes the same steps; what a killed run left must not fill the disk."""
    path = written(tmp_path, 2, "first")
    assert written(tmp_path, 2, "second") == path
    assert (path / "model.safetensors").read_text() == "second" and find_fault(path) is None
    (staging_folder(checkpoint_folder(tmp_path, 4)) / "shards").mkdir(parents=True)
    (tmp_path / "model").mkdir()
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "model"]


def test_changed_settings_are_named(tmp_path: Path):
    """A section that is compared as a whole shows two mappings and leaves the reader to find the difference."""
    assert settings_of(written(tmp_path, 2)) == {"learning_rate": 1.0}
    before = {"seed": 1, "model": {"num_slots": 4, "dropout": 0.1}, "gone": "x"}
    now = {"seed": 1, "model": {"num_slots": 2, "dropout": 0.1}, "new": None}
    assert changed_settings(before, now) == ["gone: 'x' -> None", "model.num_slots: 4 -> 2"]
    assert changed_settings(now, now) == []


SETTINGS: dict[str, Any] = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "learning_rate": 0.01}
WITH_BEST: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True}


class BestAtFirst(LeccrTrainer):
    """Scores each later checkpoint lower."""

    def retrieval_metrics(self, split: Any, **_: Any) -> dict[str, float]:
        return {"sum_r": 600.0 - self.state.global_step}


def trained(folder: Path, setting: str | bool | None = None, **arguments: Any) -> LeccrTrainer:
    trainer = tiny_trainer(
        folder, tiny_model(), validation=tiny_split(), trainer_class=BestAtFirst, **{**SETTINGS, **arguments}
    )
    trainer.train(resume_from_checkpoint=setting)
    return trainer


def test_a_run_that_goes_on_with_other_settings_is_told_which(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """The result is that of neither recipe, and weeks later nobody remembers."""
    trained(tmp_path)
    with caplog.at_level(logging.WARNING):
        trained(tmp_path, True, save_steps=1, logging_steps=3, dataloader_num_workers=0)
        assert "other settings" not in caplog.text
        trained(tmp_path, True, max_steps=6, seed=7)
    assert "the result will be that of neither: max_steps: 4 -> 6; seed: 42 -> 7" in caplog.text


def test_a_new_run_in_the_folder_of_another_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Its checkpoints go one by one, also if it was meant to be resumed."""
    trained(tmp_path)
    assert "earlier run" not in caplog.text
    trained(tmp_path, max_steps=2)
    assert "holds checkpoints of an earlier run (the last is checkpoint-4)" in caplog.text


def test_a_finished_run_takes_no_further_step(tmp_path: Path):
    """The stock trainer takes one more step where the last epoch was not whole."""
    whole = trained(tmp_path, max_steps=3)
    again = trained(tmp_path, True, max_steps=3)
    torch.testing.assert_close(weights_of(again.model), weights_of(whole.model), rtol=0, atol=0)
    assert [entry["step"] for entry in again.state.log_history if "loss" in entry] == [1, 2, 3]
    longer = trained(tmp_path, True, max_steps=5)
    assert [entry["step"] for entry in longer.state.log_history if "loss" in entry] == [1, 2, 3, 4, 5]


def test_the_best_checkpoint_is_found_where_the_run_was_moved(tmp_path: Path):
    """The stock trainer keeps the old path, does not find it, and ends with the last weights without an error."""
    whole = trained(tmp_path / "old", **WITH_BEST)
    (tmp_path / "old").rename(tmp_path / "new")
    moved = trained(tmp_path / "new", True, **WITH_BEST)
    assert moved.state.best_model_checkpoint == str(tmp_path / "new" / "checkpoint-2")
    torch.testing.assert_close(weights_of(moved.model), weights_of(whole.model), rtol=0, atol=0)


def test_a_lost_best_checkpoint_is_reported_and_a_later_one_is_the_best(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """Its score would stay the best, and no later checkpoint would take its place: the last weights pass for it."""
    trained(tmp_path, **WITH_BEST)
    (tmp_path / "checkpoint-2" / "model.safetensors").unlink()
    resumed = trained(tmp_path, True, **WITH_BEST, max_steps=8)
    assert "is lost (model.safetensors is missing); a later one will be the best" in caplog.text
    assert Path(str(resumed.state.best_model_checkpoint)).name == "checkpoint-6"
    assert resumed.record().checkpoint_choice == "best SumR on validation, step 6 of 8"


def test_early_stopping_goes_on_counting_and_can_be_added(tmp_path: Path):
    """A counter that starts at zero after each stop of a preempted run never reaches its patience; the stock trainer
    fails to write a checkpoint with a callback that the stopped run did not have."""
    trained(tmp_path / "without", **WITH_BEST)
    assert trained(tmp_path / "without", True, **WITH_BEST, max_steps=6, early_stopping_patience=9)
    # The first evaluation is the best, and those of steps 4, 6 and 8 are worse; the run is cut after step 4.
    trained(tmp_path / "cut", **WITH_BEST, max_steps=4, early_stopping_patience=3)
    resumed = trained(tmp_path / "cut", True, **WITH_BEST, max_steps=20, early_stopping_patience=3)
    assert resumed.state.global_step == 8
    # More patience, and the run that had stopped goes on.
    assert trained(tmp_path / "cut", True, **WITH_BEST, max_steps=20, early_stopping_patience=4).state.global_step == 10


def test_a_checkpoint_of_the_model_alone_is_refused(tmp_path: Path):
    """The stock trainer goes on with a new optimizer, at the learning rate of the first step, and says nothing."""
    trained(tmp_path, save_only_model=True)
    with pytest.raises(ValueError, match="checkpoint-4 holds the model alone, for it was saved with save_only_model"):
        trained(tmp_path, True, max_steps=5)


def test_controls_do_not_go_on_from_a_checkpoint_of_the_main_system(tmp_path: Path):
    """A control that changes the loss alone would take the weights of the main system, without any error."""
    changes = {"controls": {"plain": {"loss": {"slot_vision": 0.0}}}}
    checkpoint = str(written(tmp_path, 2))
    recipe = build_recipe(tiny_recipe(tmp_path, **changes, resume_from_checkpoint=checkpoint))
    assert recipe.training.resume_from_checkpoint == checkpoint
    assert control_recipes(recipe)["plain"].training.resume_from_checkpoint is True
    recipe = build_recipe(tiny_recipe(tmp_path, **changes))
    assert control_recipes(recipe)["plain"].training.resume_from_checkpoint is None


def test_nothing_of_a_checkpoint_can_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whoever can write a checkpoint could otherwise take over the machine that goes on from it."""
    trained(tmp_path)
    (tmp_path / "checkpoint-4" / "training_args.bin").write_bytes(b"no pickle")
    seal(tmp_path / "checkpoint-4", {})
    calls = []
    load = torch.load

    def checked(file: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs.get("weights_only"))
        return load(file, *args, **kwargs)

    monkeypatch.setattr(torch, "load", checked)
    assert trained(tmp_path, True, max_steps=5).state.global_step == 5
    assert calls and all(calls)
