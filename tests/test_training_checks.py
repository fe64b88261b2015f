"""What a user can ask for and not get: told in one line, and as early as it can be known."""

import copy
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from modeling_leccr.training.arguments import build_recipe, read_overrides
from modeling_leccr.training.checkpoints import changed_data
from modeling_leccr.training.run import train_system
from modeling_leccr.training.trainer import LeccrTrainer
from reporting.fingerprints import data_fingerprints
from tests.tiny import tiny_model, tiny_processor
from tests.training_parts import tiny_recipe, tiny_split, tiny_trainer

LANGUAGES = {"target_languages": ["de"], "use_cpu": True}


def refusal(settings: dict[str, Any]) -> str:
    with pytest.raises(ValueError) as refused:
        build_recipe(settings)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_processes_that_do_not_know_of_each_other_are_refused(monkeypatch: pytest.MonkeyPatch):
    """Without a GPU and without use_cpu, each of two processes trained alone, and they shared one folder."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("ACCELERATE_USE_CPU", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert build_recipe({"target_languages": ["de"]}).training.world_size == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    message = refusal({"target_languages": ["de"]})
    assert message.startswith("2 processes were started") and "add `--use_cpu true`" in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"metric_for_best_model": "recall"}, "metric_for_best_model must be sum_r, or LANGUAGE/.*'t2i_R@1'.*'recall'"),
        ({"metric_for_best_model": "fr/sum_r"}, r"a LANGUAGE of \['de'\]"),
        ({"metric_for_best_model": None}, "got 'loss'"),
        ({"metric_for_best_model": "de/t2i_median_rank"}, "greater_is_better must be false for de/t2i_median_rank"),
        ({"early_stopping_patience": 2, "eval_strategy": "no"}, "early_stopping_patience needs evaluations .*'no'"),
        ({"eval_strategy": "no"}, "got 'no' and 'epoch'.* add `--load_best_model_at_end false`"),
        ({"bf16": True, "use_cpu": False}, "bf16 needs a GPU, and there is none here; .*add `--use_cpu true`"),
        ({"gradient_cache_chunk_size": 2, "optim": "lomo"}, "gradient_cache_chunk_size works .*got optim 'lomo'"),
        ({"resume_from_checkpoint": "nowhere/checkpoint-2"}, "an intact checkpoint, but there is no such folder"),
        ({"resume_from_checkpoint": "tests"}, "but it has no readable checkpoint.json"),
        ({"vision_tower": None}, "vision_tower must be a text or a mapping, got None"),
    ],
)  # fmt: skip
def test_a_recipe_that_would_fail_later_is_refused_when_it_is_built(
    monkeypatch: pytest.MonkeyPatch, root_dir: Path, changes: dict[str, Any], words: str
):
    """Each of these showed at the first evaluation, after all data were prepared, or in three lines of transformers."""
    monkeypatch.chdir(root_dir)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    message = refusal(LANGUAGES | changes)
    assert re.search(words, message), message


@pytest.mark.parametrize(
    "changes",
    [
        {"metric_for_best_model": "mean/sum_r"},
        {"metric_for_best_model": "fr_mt/t2i_R@1", "evaluation_languages": ["fr_mt"]},
        {"metric_for_best_model": "de/i2t_median_rank", "greater_is_better": False},
        {"metric_for_best_model": "recall", "eval_strategy": "no", "load_best_model_at_end": False},
        {"bf16": True},
        {"eval_strategy": "epoch", "save_strategy": "best"},
    ],
)
def test_what_would_work_is_not_refused(changes: dict[str, Any]):
    """A check that is too strict takes away what people use."""
    build_recipe(LANGUAGES | changes)


@pytest.mark.parametrize("words", [["--bf16"], ["--bf16", "--seed", "3"]])
def test_a_switch_without_value_is_told_its_form(words: list[str]):
    """The next name was taken for its value, and the error was about the word after that."""
    with pytest.raises(ValueError, match="got '--bf16' without a value; a switch is turned on with `--bf16 true`"):
        read_overrides(words)


def test_null_takes_back_what_a_recipe_says_beside_a_base():
    """From the shell, no recipe with towers could be trained on from a model."""
    recipe = LANGUAGES | {"vision_tower": {"model_type": "vit"}, "image_size": 32, "model": {"num_slots": 2}}
    message = refusal(recipe | {"base_model": "a/b"})
    assert "take them back with `--image_size null --model null --vision_tower null`" in message
    overrides = read_overrides(message.partition("`")[2].rstrip("`.").split())
    built = build_recipe(recipe | {"base_model": "a/b"} | overrides)
    assert built.model.base_model == "a/b" and built.model.model == {}
    assert built.settings == LANGUAGES | {"base_model": "a/b"}


def test_fewer_pairs_than_a_batch_are_refused_before_descriptions_are_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """All descriptions were encoded before anybody counted the pairs."""
    monkeypatch.setattr("modeling_leccr.training.run.training_states", None)
    recipe = build_recipe(tiny_recipe(tmp_path, target_languages=["de"], per_device_train_batch_size=64))
    with pytest.raises(ValueError, match=r"batches of 64 pairs .*, but there are only 8"):
        train_system(recipe, {"train": tiny_split(8), "validation": tiny_split(4)}, tiny_processor(), tmp_path)


class BestAtFirst(LeccrTrainer):
    """Scores each later model lower."""

    def retrieval_metrics(self, split: Any, **_: Any) -> dict[str, float]:
        return {"sum_r": 600.0 - self.state.global_step}


def test_early_stopping_says_when_and_why(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """A run that ended at a third of its steps looked like one that had crashed."""
    every: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}

    def run(folder: str, **settings: Any) -> LeccrTrainer:
        trainer = tiny_trainer(
            tmp_path / folder,
            tiny_model(),
            validation=tiny_split(),
            trainer_class=BestAtFirst,
            load_best_model_at_end=True,
            early_stopping_patience=2,
            **every,
            **settings,
        )
        with caplog.at_level(logging.INFO):
            trainer.train()
        return trainer

    assert run("whole", max_steps=3).record().checkpoint_choice == "best SumR on validation, step 1 of 3"
    assert "stops early" not in caplog.text
    stopped = run("stopped", max_steps=9)
    assert (
        "training stops early at step 3 of 9: sum_r was best at step 1, and early_stopping_patience is" in caplog.text
    )
    choice = "best SumR on validation, step 1 of 9; training stopped early at step 3"
    assert stopped.record().checkpoint_choice == choice


def fingerprints(num_items: int, **columns: Any) -> dict[str, Any]:
    return data_fingerprints({"train": tiny_split(num_items, **columns)}, "mine", {"train": "train"})


def test_changed_data_are_told_in_a_few_words():
    """Two hashes of 64 digits say nothing about what became of the data."""
    before, other = fingerprints(8), fingerprints(8, description=["another"] * 8)
    assert changed_data(before, fingerprints(8)) == [] == changed_data({}, before)
    assert changed_data(before, fingerprints(6)) == ["the training split changed: 8 -> 6 items"]
    (change,) = changed_data(before, other)
    assert change == "the training split changed: 8 items as before, with other contents"


def test_a_run_goes_on_with_changed_data_but_not_with_another_tokenizer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """The embeddings of a tokenizer from scratch passed to other words, with a warning about hashes."""

    def run(num_items: int, *, resumed: bool, new_words: tuple[str, ...] = ()) -> None:
        trainer = tiny_trainer(
            tmp_path,
            tiny_model(),
            split=tiny_split(num_items),
            max_steps=2 + resumed,
            save_strategy="steps",
            save_steps=1,
        )
        trainer.run_settings = {"data": fingerprints(num_items)}
        trainer.processing_class = copy.deepcopy(trainer.processing_class)
        trainer.processing_class.tokenizer.add_tokens(list(new_words))  # type: ignore[union-attr]
        trainer.train(resume_from_checkpoint=resumed)

    run(8, resumed=False)
    with pytest.raises(ValueError, match=r"other tokens than that of .*checkpoint-2.* split changed: 8 -> 6 items"):
        run(6, resumed=True, new_words=("zwölf",))
    caplog.clear()
    run(6, resumed=True)
    assert "the training split changed: 8 -> 6 items; " in caplog.text and "sha256" not in caplog.text
