"""A recipe with its controls: the same data, the same code, the same budget; and what is checked before it starts."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from modeling_leccr import LeccrModel
from modeling_leccr.training.arguments import build_recipe
from modeling_leccr.training.building import build_processor, load_splits
from modeling_leccr.training.controls import control_recipes
from modeling_leccr.training.run import SystemRun, check_texts, train_system, use_all_cores
from reporting.model_record import ModelRecord
from retrieval.evaluation import evaluate_retrieval
from tests.tiny import tiny_config
from tests.training_parts import tiny_recipe, tiny_split, weights_of

CONTROLS = {
    "two streams": {"model": {"item_source": "image", "interaction": "none"}},
    "description": {"model": {"item_source": "description", "interaction": "none"}},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SystemRun]:
    """LECCR and both controls, trained for two steps on the same scenes."""
    folder = tmp_path_factory.mktemp("run")
    recipe = build_recipe(tiny_recipe(folder, controls=CONTROLS))
    splits = load_splits(recipe.data)
    processor = build_processor(recipe.model, splits["train"], recipe.data.target_languages)
    systems = {"LECCR": recipe, **control_recipes(recipe)}
    return {name: train_system(system, splits, processor, folder / name) for name, system in systems.items()}


def test_every_system_is_scored_on_every_split_but_training(runs: dict[str, SystemRun]):
    """A control without test numbers leaves the main system's without measure."""
    for run in runs.values():
        assert set(run.record.metrics) == set(run.record.protocol) == {"validation", "test"}
        for language in ("de", "zh"):
            assert 0 <= run.record.metrics["test"][f"{language}/t2i_R@1"] <= 100
            assert run.record.metrics["test"][f"{language}/num_items"] == 6
            assert run.record.metrics["validation"][f"{language}/num_items"] == 4
        assert run.record.seconds > 0
        assert run.is_main_process


def test_controls_differ_from_the_main_system_in_what_they_read(runs: dict[str, SystemRun]):
    """A control that keeps its slots is no control."""
    sources = {name: run.record.protocol["test"]["item_source"] for name, run in runs.items()}
    assert sources == {"LECCR": "image_and_description", "two streams": "image", "description": "description"}
    assert {name: hasattr(run.model, "semantic_slots") for name, run in runs.items()} == {
        "LECCR": True,
        "two streams": False,
        "description": False,
    }
    assert not hasattr(runs["description"].model, "vision_model")
    steps = {name: max(entry["step"] for entry in run.log_history) for name, run in runs.items()}
    assert set(steps.values()) == {2}


def test_a_system_ends_with_the_checkpoint_that_validation_chose(runs: dict[str, SystemRun], tmp_path: Path):
    """Chosen on the test split, the numbers would be too good; and the last step is not the best one."""
    for run in runs.values():
        scores = {entry["step"]: entry["eval_sum_r"] for entry in run.log_history if "eval_sum_r" in entry}
        assert set(scores) == {1, 2}
        assert run.record.metrics["validation"]["sum_r"] == pytest.approx(max(scores.values()))


def test_a_stopped_run_resumes_and_starts_what_it_had_not_reached(tmp_path: Path):
    """`--resume_from_checkpoint true` after a stop in the main system: its controls have no checkpoint yet."""
    recipe = build_recipe(tiny_recipe(tmp_path, eval_strategy="no", load_best_model_at_end=False))
    splits = load_splits(recipe.data)
    processor = build_processor(recipe.model, splits["train"], recipe.data.target_languages)
    whole = train_system(copy.deepcopy(recipe), splits, processor, tmp_path / "main")
    recipe.training.resume_from_checkpoint = True  # type: ignore[assignment]
    fresh = train_system(copy.deepcopy(recipe), splits, processor, tmp_path / "control")
    torch.testing.assert_close(weights_of(fresh.model), weights_of(whole.model), rtol=0, atol=0)
    recipe.training.max_steps = 3
    resumed = train_system(recipe, splits, processor, tmp_path / "main")
    assert [entry["step"] for entry in resumed.log_history if "loss" in entry] == [1, 2, 3]
    assert resumed.log_history[0] == whole.log_history[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluation_languages": ["xx"]}, "language must be one of .*got 'xx'"),
        ({"evaluation_languages": ["fr"]}, r"lacks the columns \['caption_fr'\]"),
        ({"target_languages": ["fr"], "evaluation_languages": ["de"]}, r"lacks the columns \['caption_fr_mt'\]"),
    ],
)
def test_languages_that_the_data_lack_are_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
):
    """Evaluation comes after an epoch, and that of the test split after all of them."""
    recipe = build_recipe(tiny_recipe(tmp_path, **changes))
    monkeypatch.setattr("transformers.Trainer.train", _never)
    splits = {"train": tiny_split(8), "validation": tiny_split(4)}
    processor = build_processor(recipe.model, tiny_split(8), ["de"])
    with pytest.raises(ValueError, match=message):
        train_system(recipe, splits, processor, tmp_path)


def _never(*_: Any, **__: Any) -> None:
    raise AssertionError("training has started")


@pytest.mark.parametrize("broken", ["train", "validation", "test"])
@pytest.mark.parametrize("missing", [None, "", "  "])
def test_missing_descriptions_are_counted_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, missing: str | None
):
    """Without description dropout the model refuses them, but only in the batch that holds one."""
    splits = {name: tiny_split(8) for name in ("train", "validation", "test")}
    splits[broken] = tiny_split(8, description=["a", missing, "c", "d", missing, "f", "g", "h"])
    recipe = build_recipe(tiny_recipe(tmp_path, target_languages=["de"]))
    processor = build_processor(recipe.model, splits["train"], ["de"])
    monkeypatch.setattr("transformers.Trainer.train", _never)
    message = rf"2 of 8 items of the split '{broken}' have no description \(first rows: \[1, 4\]\); .*dropout above 0"
    with pytest.raises(ValueError, match=message):
        train_system(recipe, splits, processor, tmp_path)


def test_a_model_that_can_do_without_descriptions_trains_without_them(tmp_path: Path):
    """Pictures that nobody described are the common case in practice."""
    recipe = build_recipe(tiny_recipe(tmp_path, target_languages=["de"]))
    recipe.model.model = {**recipe.model.model, "description_dropout": 0.2}
    splits = {
        "train": tiny_split(8, description=[None, "a", None, None, "b", None, None, None]),
        "validation": tiny_split(4, description=[None] * 4),
    }
    processor = build_processor(recipe.model, splits["train"], ["de"])
    run = train_system(recipe, splits, processor, tmp_path)
    assert run.record.metrics["validation"]["de/sum_r"] > 0


def test_a_model_that_can_do_without_descriptions_is_also_scored_without_them(tmp_path: Path):
    """People search pictures that nobody described, and the loss without descriptions can be most of the recall."""
    recipe = build_recipe(tiny_recipe(tmp_path))
    recipe.model.model = {**recipe.model.model, "description_dropout": 0.2}
    recipe.data.scenes = {**recipe.data.scenes, "test_size": 24}  # of fewer, the recalls could be equal by chance
    splits = load_splits(recipe.data)
    processor = build_processor(recipe.model, splits["train"], ["de", "zh"])
    run = train_system(recipe, splits, processor, tmp_path)
    metrics, protocol = run.record.metrics, run.record.protocol
    name = "test without descriptions"
    assert list(metrics) == list(protocol) == ["validation", "test", name]
    assert protocol[name] == {**protocol["test"], "descriptions": False} and protocol["test"]["descriptions"] is True
    undescribed = splits["test"].remove_columns("description").add_column("description", [None] * 24)
    for split, expected in ((splits["test"], metrics["test"]), (undescribed, metrics[name])):
        found = evaluate_retrieval(run.model, processor, split, ["de", "zh"], progress=False)
        assert found == {key: value for key, value in expected.items() if key != "sum_r"}
    assert metrics[name] != metrics["test"]


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        ({}, True),
        ({"description_dropout": 0.1}, False),
        ({"item_source": "image"}, False),
        ({"item_source": "description"}, True),
        ({"item_source": "description", "description_dropout": 0.1}, True),
    ],
)
def test_descriptions_are_required_where_the_model_reads_them(fields: dict[str, Any], refused: bool):
    """The two-stream control needs none, and the description-only control cannot do without."""
    splits = {"train": tiny_split(2, description=["a", None])}
    if refused:
        with pytest.raises(ValueError, match="1 of 2 items"):
            check_texts(tiny_config(**fields), splits)
    else:
        check_texts(tiny_config(**fields), splits)


@pytest.mark.parametrize(
    ("environment", "threads"),
    [
        ({"ACCELERATE_MIXED_PRECISION": "no", "OMP_NUM_THREADS": "1"}, 8),
        ({"ACCELERATE_MIXED_PRECISION": "no", "OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": "4"}, 2),
        ({"ACCELERATE_MIXED_PRECISION": "no", "OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": "16"}, 1),
        ({"ACCELERATE_MIXED_PRECISION": "no", "OMP_NUM_THREADS": "3"}, None),
        ({"OMP_NUM_THREADS": "1"}, None),
    ],
)
def test_a_launched_process_takes_its_share_of_the_cores(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], threads: int | None
):
    """`accelerate launch` gives a process one thread without a word; a number that somebody chose must stay."""
    for name in ("ACCELERATE_MIXED_PRECISION", "OMP_NUM_THREADS", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    chosen: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    use_all_cores()
    assert chosen == ([] if threads is None else [threads])


def test_the_record_tells_the_size_of_a_global_batch(tmp_path: Path):
    """The losses are over the batch of all processes: a recipe run again in another number of them trains otherwise."""
    recipe = build_recipe(tiny_recipe(tmp_path, gradient_accumulation_steps=2, bf16=True))
    splits = load_splits(recipe.data)
    processor = build_processor(recipe.model, splits["train"], ["de", "zh"])
    run = train_system(recipe, splits, processor, tmp_path)
    launch = {"pairs_per_process": 6, "gradient_accumulation_steps": 2, "mixed_precision": "bf16", "num_processes": 1}
    assert run.record.launch == launch
    assert ModelRecord.read(tmp_path / "checkpoint-2").launch == launch


def test_the_model_of_a_run_is_the_model_class_itself(runs: dict[str, SystemRun]):
    """Wrapped for distributed training, it could not be saved for the Hub."""
    assert all(type(run.model) is LeccrModel for run in runs.values())
