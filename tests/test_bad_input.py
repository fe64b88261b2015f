"""Bad input through the whole of training: a clear error before or at the place, never a wrong model.

The parts refuse most of it on their own, see the tests of pairs, collator, configuration, losses, ranks and recipes.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling_leccr.training.arguments import build_recipe
from modeling_leccr.training.building import build_model
from modeling_leccr.training.checkpoints import seal
from modeling_leccr.training.run import train_system
from modeling_leccr.training.trainer import LeccrTrainer
from processing.pairs import CaptionPairs
from tests.test_training_building import TINY_MODEL, scratch_arguments
from tests.tiny import SENTENCES, tiny_image, tiny_model, tiny_processor
from tests.training_parts import TINY_VISION, tiny_recipe, tiny_split, tiny_trainer


def split_with_corrupt_image(num_items: int = 12) -> Any:
    """Item 3 is half a file."""
    split = tiny_split(num_items)
    whole = split.with_format(None).cast_column("image", split.features["image"].__class__(decode=False))[3]["image"]
    images: list[Any] = [tiny_image(i) for i in range(num_items)]
    images[3] = {"bytes": whole["bytes"][: len(whole["bytes"]) // 2], "path": None}
    return tiny_split(num_items, image=images)


def trainer_of_pairs(folder: Path, pairs: CaptionPairs, **arguments: Any) -> LeccrTrainer:
    trainer = tiny_trainer(folder, tiny_model(), **arguments)
    trainer.train_dataset = pairs
    return trainer


def test_a_corrupt_image_ends_training_with_the_name_of_its_item(tmp_path: Path):
    """The decoder's own message says neither which of 100,000 pictures it was nor what to do."""
    pairs = CaptionPairs(split_with_corrupt_image(), ["de"])
    trainer = trainer_of_pairs(tmp_path, pairs, max_steps=3)
    with pytest.raises(ValueError, match=r"item 'item-3' \(row 3\): its image must be readable.*corrupt_images: skip"):
        trainer.train()


def test_a_corrupt_image_is_skipped_and_counted_if_the_recipe_says_so(tmp_path: Path):
    """Skipped without a count, half a broken data set trains as if it were whole."""
    recipe = build_recipe(tiny_recipe(tmp_path, target_languages=["de"], corrupt_images="skip", max_steps=4))
    splits = {"train": split_with_corrupt_image(), "validation": tiny_split(4)}
    run = train_system(recipe, splits, tiny_processor(), tmp_path)
    entries = [entry for entry in run.log_history if "loss" in entry]
    assert len(entries) == 4
    assert all(torch.isfinite(torch.tensor(entry["loss"])) for entry in entries)
    # Two epochs of two steps: the item was met twice.
    assert entries[-1]["skipped_rows"] == 2.0


def test_a_batch_of_one_item_is_refused(tmp_path: Path):
    """With no negative the loss is 0 whatever the model does, and training looks perfect."""
    trainer = tiny_trainer(tmp_path, tiny_model(), per_device_train_batch_size=1)
    with pytest.raises(ValueError, match="a batch must hold at least 2 rows for a contrastive loss, got 1"):
        trainer.train()


def test_fewer_pairs_than_a_batch_are_refused(tmp_path: Path):
    """transformers trains for no step at all, writes a log line, and the untrained model is taken for the result."""
    with pytest.raises(ValueError, match=r"batches of 16 pairs .* only 8 .*; lower per_device_train_batch_size"):
        tiny_trainer(tmp_path, tiny_model(), per_device_train_batch_size=16).train()
    trainer = tiny_trainer(tmp_path, tiny_model(), per_device_train_batch_size=16, dataloader_drop_last=False)
    trainer.train()
    assert trainer.state.global_step == 2


def test_a_batch_of_one_item_is_refused_whatever_its_number_of_captions(tmp_path: Path):
    """Its captions are all positives of its one picture: nothing is told apart."""
    captions = {name: [["one", "two", "three", "four"]] for name in ("caption_en", "caption_de_mt", "caption_de")}
    trainer = tiny_trainer(tmp_path, tiny_model(), split=tiny_split(1, **captions))
    with pytest.raises(ValueError, match=r"2 items in the global batch, got 1: .*; raise per_device_train_batch_size"):
        trainer.train()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {**TINY_MODEL, "num_slots": 0}}, "num_slots must be at least 1, got 0; .*item_source='image'"),
        (
            {"vision_tower": {"model_type": "swin", "embed_dim": 16, "depths": [1], "num_heads": [2]}},
            "image_pooling='cls' needs a vision tower with a class token, got 'swin'.*use image_pooling='mean'",
        ),
        ({"vision_tower": {**TINY_VISION, "model_type": "vti"}}, "vti"),
    ],
)
def test_a_model_that_cannot_be_is_refused_when_it_is_built(changes: dict[str, Any], message: str):
    """K = 0, or a patch that is taken for the class token, would train to something useless."""
    with pytest.raises(Exception, match=message) as caught:
        build_model(scratch_arguments(**changes), tiny_processor().tokenizer)
    assert isinstance(caught.value, ValueError) or isinstance(caught.value.__cause__, ValueError)


def test_ragged_translations_are_refused_when_the_run_starts(tmp_path: Path):
    """Misaligned translations train on wrong pairs without any error."""
    captions = [[SENTENCES[i][1]] for i in range(8)]
    captions[5] = [*captions[5], "eine zweite"]
    splits = {"train": tiny_split(8, caption_de_mt=captions), "validation": tiny_split(4)}
    recipe = build_recipe(tiny_recipe(tmp_path, target_languages=["de"]))
    with pytest.raises(ValueError, match="'item-5': caption_de_mt has 2 captions and caption_en has 1"):
        train_system(recipe, splits, tiny_processor(), tmp_path)


def test_a_model_that_gives_nan_is_not_evaluated(tmp_path: Path):
    """NaN compares as false: every rank would be the first, and the broken model the best one ever."""
    model = tiny_model()
    with torch.no_grad():
        model.image_projection.bias.fill_(float("nan"))
    trainer = tiny_trainer(tmp_path, model, validation=tiny_split())
    with pytest.raises(ValueError, match="image_embeds"):
        trainer.evaluate()


def checkpoint(folder: Path) -> Path:
    """A checkpoint after two steps."""
    tiny_trainer(folder, tiny_model(vision="vit"), save_strategy="steps", save_steps=2).train()
    return folder / "checkpoint-2"


def resume(folder: Path, path: Path) -> None:
    tiny_trainer(folder, tiny_model(vision="vit"), max_steps=3).train(resume_from_checkpoint=str(path))


def test_a_checkpoint_that_lacks_or_adds_weights_is_not_resumed_from(tmp_path: Path):
    """The stock trainer warns and goes on with a part of the model at random."""
    path = checkpoint(tmp_path)
    whole = load_file(path / "model.safetensors")
    name = "slot_projection.weight"
    changed = [
        ({key: value for key, value in whole.items() if key != name}, f"1 missing_keys (first: ['{name}'])"),
        (whole | {"extra.weight": torch.zeros(2)}, "1 unexpected_keys (first: ['extra.weight'])"),
    ]
    for weights, message in changed:
        save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
        seal(path, {})
        with pytest.raises(ValueError, match=re.escape(message)):
            resume(tmp_path, path)


def test_a_checkpoint_without_its_weight_file_is_an_error(tmp_path: Path):
    """A copy that was interrupted must not train on from random weights."""
    path = checkpoint(tmp_path)
    (path / "model.safetensors").unlink()
    with pytest.raises((OSError, ValueError), match="checkpoint-2"):
        resume(tmp_path, path)


def test_a_checkpoint_of_another_model_is_an_error(tmp_path: Path):
    """Resuming a control from the main system's checkpoint would train neither."""
    path = checkpoint(tmp_path)
    trainer = tiny_trainer(tmp_path, tiny_model(vision="vit", num_slots=2), max_steps=3)
    with pytest.raises(ValueError, match=r"1 mismatched_keys .*slot_queries.*The settings of the model") as refused:
        trainer.train(resume_from_checkpoint=str(path))
    assert "\n" not in str(refused.value)


def test_a_path_that_is_no_checkpoint_is_an_error(tmp_path: Path):
    """A typo in the path must not start a new run in silence."""
    with pytest.raises((OSError, ValueError), match="checkpoint-9"):
        resume(tmp_path, tmp_path / "checkpoint-9")
