"""Training on a stream: what a recipe may say, what is built of it, and a stopped run that goes on."""

import gc
import itertools
import shutil
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch

from modeling_leccr.training import building
from modeling_leccr.training.arguments import DataArguments, build_recipe
from modeling_leccr.training.building import build_processor, load_splits, training_texts
from modeling_leccr.training.run import SystemRun, check_texts, train_system, training_pairs
from processing import streaming
from processing.streaming import ParquetSplit, StreamedPairs, find_parquet_split
from tests.test_streaming import write_shards
from tests.tiny import tiny_config, tiny_model
from tests.training_parts import tiny_recipe, tiny_split, tiny_trainer, weights_of


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("data"))


def stream_recipe(folder: Path, data: Path, **changes: Any) -> dict[str, Any]:
    """Four steps on a stream, a checkpoint after two."""
    settings = {
        "dataset": str(data),
        "streaming": True,
        "shuffle_buffer": 8,
        "test_split": None,
        "target_languages": ["de"],
        "augmentation": {"scale": [0.5, 1.0]},
        "max_steps": 4,
        "save_steps": 2,
        "eval_steps": 2,
        "per_device_train_batch_size": 5,
    }
    recipe = tiny_recipe(folder, **{**settings, **changes})
    del recipe["scenes"]
    return recipe


def trained(folder: Path, data: Path, **changes: Any) -> SystemRun:
    recipe = build_recipe(stream_recipe(folder, data, **changes))
    splits = load_splits(recipe.data)
    processor = build_processor(recipe.model, splits["train"], recipe.data.target_languages)
    return train_system(recipe, splits, processor, folder)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stopped_run_on_a_stream_goes_on_as_if_it_had_not_been(tmp_path: Path, data: Path, num_workers: int):
    """The weights of the checkpoint on rows that were trained on before, or other dropout, is another run."""
    workers = {"dataloader_num_workers": num_workers}
    whole = trained(tmp_path / "whole", data, **workers)
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped" / "checkpoint-4")
    resumed = trained(tmp_path / "stopped", data, resume_from_checkpoint=True, **workers)
    expected, found = weights_of(whole.model), weights_of(resumed.model)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)

    def losses(run: SystemRun) -> list[float]:
        return [entry["loss"] for entry in run.log_history if "loss" in entry]

    assert losses(resumed) == losses(whole) and len(set(losses(whole))) == 4


def test_the_splits_of_a_stream_are_files_and_what_is_evaluated(data: Path):
    """The training split as a whole is what does not fit; the evaluated ones are ranked as a whole."""
    arguments = DataArguments(dataset=str(data), streaming=True, target_languages=["de"])
    splits = load_splits(arguments)
    assert isinstance(splits["train"], ParquetSplit) and len(splits["train"].files) == 5
    assert isinstance(splits["validation"], datasets.Dataset) and len(splits["validation"]) == 4
    with pytest.raises(ValueError, match="not 'dev'"):
        load_splits(DataArguments(dataset=str(data), streaming=True, validation_split="dev"))


@pytest.mark.parametrize("streaming", [True, False])
def test_pictures_are_checked_in_one_order_of_the_splits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streaming: bool
):
    """Processes share each check out. Where one is at validation and the other at test, both get wrong positions."""
    splits = ("train", "test", "validation")
    for number, split in enumerate(splits, start=2):
        tiny_split(number).to_parquet(str(tmp_path / f"{split}-00000-of-00001.parquet"))
    checked: list[int] = []
    monkeypatch.setattr(building, "find_unreadable", lambda rows, **_: checked.append(len(rows)) or [])
    for train, validation, test in itertools.permutations(splits):
        checked.clear()
        arguments = {"train_split": train, "validation_split": validation, "test_split": test}
        load_splits(DataArguments(dataset=str(tmp_path), streaming=streaming, **arguments))
        assert checked == [splits.index(validation) + 2, splits.index(test) + 2]


def test_a_tokenizer_from_scratch_reads_a_sample_of_the_stream(data: Path, monkeypatch: pytest.MonkeyPatch):
    """All texts of a stream may take a day to read."""
    train = load_splits(DataArguments(dataset=str(data), streaming=True))["train"]
    every = list(training_texts(train, ["de"]))
    assert len(every) == 28 * 3
    monkeypatch.setattr(streaming, "SAMPLE_ITEMS", 3)
    assert list(training_texts(train, ["de"])) == every[:9]


def test_a_stream_without_descriptions_is_refused_before_training(tmp_path: Path):
    """The first batch would do so too, after the weights are loaded and the buffer is filled."""
    write_shards(tmp_path, (3, 2), description=None)
    splits = load_splits(DataArguments(dataset=str(tmp_path), streaming=True))
    with pytest.raises(ValueError, match="5 of 5 items of the split 'train' have no description"):
        check_texts(tiny_config(description_dropout=0.0), {"train": splits["train"]})
    check_texts(tiny_config(description_dropout=0.1), {"train": splits["train"]})


def test_the_stream_is_that_of_this_process_and_seed(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch):
    """Without its number, every process would train on the same rows."""
    recipe = build_recipe(stream_recipe(tmp_path, data, seed=3, data_seed=4, dataloader_num_workers=3))
    monkeypatch.setattr(type(recipe.training), "process_index", 1)
    monkeypatch.setattr(type(recipe.training), "world_size", 2)
    splits = load_splits(recipe.data)
    pairs = training_pairs(recipe, splits["train"], recipe.config)
    assert isinstance(pairs, StreamedPairs)
    expected = StreamedPairs(
        splits["train"], ["de"], seed=4, shuffle_buffer=8, num_readers=3, process_index=1, num_processes=2
    )
    for reader in range(3):
        assert list(pairs.items_of_pass(0, reader)) == list(expected.items_of_pass(0, reader))
    assert pairs.num_readers == 3


def test_workers_of_a_stream_share_the_objects_of_their_parent(tmp_path: Path, data: Path):
    """A collection writes to all of them, and hundreds of megabytes are copied into each worker."""
    trainer = tiny_trainer(tmp_path, tiny_model(), dataloader_num_workers=1)
    trainer.train_dataset = StreamedPairs(find_parquet_split(data, "train"), ["de"], seed=0)
    trainer.data_collator = lambda pairs: gc.get_freeze_count()
    before = gc.get_freeze_count()
    assert next(iter(trainer.get_train_dataloader())) > before + 10_000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_steps": -1}, "streaming needs max_steps, got -1"),
        ({"eval_strategy": "epoch"}, "streaming has no epochs after which to evaluate or save"),
        ({"save_strategy": "epoch"}, "streaming has no epochs after which to evaluate or save"),
        ({"dataset": "scenes"}, "the embedded data set has none"),
        ({"images": "pictures"}, "streaming does not go with {'images': 'pictures'}"),
        ({"train_items": 10}, "streaming does not go with {'train_items': 10}"),
        ({"batch_neighbours": 2}, "streaming draws rows one by one, got batch_neighbours=2"),
        ({"shuffle_buffer": 0}, "shuffle_buffer must be at least 1"),
    ],
)
def test_settings_that_a_stream_cannot_follow_are_refused(
    tmp_path: Path, data: Path, changes: dict[str, Any], message: str
):
    """Silently ignored, each would give another training than the recipe says."""
    settings = {"load_best_model_at_end": False}
    with pytest.raises(ValueError, match=message):
        build_recipe(stream_recipe(tmp_path, data, **settings, **changes))
