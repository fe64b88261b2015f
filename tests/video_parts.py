"""Tiny splits of clips and of frame features, of unequal length, and recipes for them."""

import functools
import tempfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from modeling_leccr.training.arguments import Recipe
from modeling_leccr.training.building import build_processor, frame_sampling, load_splits
from modeling_leccr.training.run import SystemRun, train_system
from modeling_leccr.training.trained import model_config
from processing.processing_leccr import LeccrProcessor
from tests.clips import make_clip
from tests.processing_parts import picture
from tests.training_parts import tiny_recipe, tiny_split

FEATURE_DIM = 6
# Frames of each item: a batch is padded to its longest, and no two halves of these eight to the same.
LENGTHS = (3, 1, 5, 2, 4, 2, 7, 1)
TINY_VIDEO_MODEL: dict[str, Any] = {"slot_dim": 32, "embed_dim": 16, "num_slot_layers": 1, "num_attention_heads": 4}


def length_of(item: int) -> int:
    """Frames of an item."""
    return LENGTHS[item % len(LENGTHS)]


def features_of(item: int, dim: int = FEATURE_DIM) -> np.ndarray:
    """Features of the frames of an item, (num_frames, dim)."""
    return np.random.default_rng(item).standard_normal((length_of(item), dim), np.float32)


@functools.cache
def clip_bytes(item: int) -> bytes:
    """A video file of an item."""
    with tempfile.TemporaryDirectory() as folder:
        shown = np.asarray(picture(item, 48, 32))
        return make_clip(Path(folder) / "clip.mp4", length_of(item), picture=shown).read_bytes()


def text_split(num_items: int = 8, **columns: list[Any]) -> datasets.Dataset:
    """The texts of `video_split`."""
    return tiny_split(num_items, **columns).remove_columns(["image"]).rename_column("image_id", "video_id")


def video_split(vision_input: str, num_items: int = 8, **columns: list[Any]) -> datasets.Dataset:
    """Items in the schema with their clips or their features inside, as `tiny_split`."""
    column, feature = {
        "frames": ("video", datasets.Video(decode=False)),
        "features": ("features", datasets.List(datasets.List(datasets.Value("float32")))),
    }[vision_input]
    cells = columns.pop(column, None) or [
        {"bytes": clip_bytes(item), "path": None} if column == "video" else features_of(item).tolist()
        for item in range(num_items)
    ]
    return text_split(num_items, **columns).add_column(column, cells, feature=feature)


def write_data(folder: Path, vision_input: str, sizes: tuple[int, int, int] = (8, 6, 7)) -> Path:
    """A data set folder with three splits."""
    for name, size in zip(("train", "validation", "test"), sizes, strict=True):
        split = text_split(size) if vision_input == "texts" else video_split(vision_input, size)
        split.to_parquet(str(folder / f"{name}-00000-of-00001.parquet"))
    return folder


def write_clips(folder: Path, num_items: int) -> Path:
    """A folder with the clips of items, by their ids."""
    folder.mkdir()
    for item in range(num_items):
        (folder / f"item-{item}.mp4").write_bytes(clip_bytes(item))
    return folder


def video_recipe(folder: Path, data: Path, vision_input: str, **changes: Any) -> dict[str, Any]:
    """Settings of two steps of LECCR on videos; `changes` replace whole settings."""
    settings = {
        "dataset": str(data),
        "target_languages": ["de"],
        "model": {**TINY_VIDEO_MODEL, "num_slots": 2, "vision_input": vision_input},
        "eval_steps": 2,
        "save_steps": 2,
    }
    recipe = tiny_recipe(folder, **{**settings, **changes})
    del recipe["scenes"]
    return recipe


def trained(recipe: Recipe, folder: Path) -> tuple[SystemRun, LeccrProcessor, dict[str, Any]]:
    """What train.py does of a recipe: the run, its processor and its splits."""
    config = model_config(recipe)
    splits = load_splits(recipe.data, config, frame_sampling(recipe.model, config))
    processor = build_processor(recipe.model, splits["train"], recipe.data.target_languages)
    return train_system(recipe, splits, processor, folder / "checkpoints", parts_folder=folder), processor, splits
