"""A few inputs of our own with their embeddings, by which anybody can check a model that they loaded."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from safetensors.torch import save_file
from transformers import BatchFeature

from modeling_leccr.streams_leccr import TextStreamModel, TwoStreamModel
from processing.files import write_json_atomic
from processing.languages import SOURCE_LANGUAGE
from processing.processing_leccr import LeccrProcessor
from processing.records import DESCRIPTION_COLUMN, IMAGE_COLUMN, caption_column
from processing.scenes import TARGET_LANGUAGES, ScenesConfig, load_scenes

GOLDEN_FOLDER = "golden"
FEATURES_FILE = "features.safetensors"
NUM_ITEMS = 3
IMAGE_SIZE = 64


def write_golden(model: TextStreamModel, processor: LeccrProcessor, folder: Path, languages: Sequence[str]) -> None:
    """Write drawn pictures, their captions and descriptions, as far as the model reads them, and what it makes of them.

    A model of videos sees the pictures as the frames of clips, or random features of as many frames; each clip has one
    frame less than the one before it. The embeddings are those of a copy in float32 on the CPU, whose rounding others
    can repeat.

    Args:
        model: in any precision, on any device; it stays as it is.
        processor: its processor.
        folder: for `inputs.json`, `embeds.safetensors`, and of a model with items `0.png`, ..., or
            `features.safetensors`.
        languages: captions are in English and in those of these that the scenes have; in all if none is known.
    """
    known = [language for language in languages or TARGET_LANGUAGES if language in TARGET_LANGUAGES]
    sizes: dict[str, Any] = {"train_size": 1, "validation_size": 1, "test_size": NUM_ITEMS, "captions_per_item": 1}
    split = load_scenes(ScenesConfig(**sizes, image_size=IMAGE_SIZE))["test"]
    texts = [row[0] for language in (SOURCE_LANGUAGE, *known) for row in split[caption_column(language)]]
    folder.mkdir(parents=True, exist_ok=True)
    written, items = _write_items(model, split, folder)
    if model.config.reads_description:
        written["descriptions"] = items["descriptions"] = list(split[DESCRIPTION_COLUMN])
    write_json_atomic(folder / "inputs.json", {"texts": texts} | written)
    counts = processor.num_texts, processor.num_truncated
    texts_in, items_in = processor(text=texts), processor(**items) if items else None
    # The truncation rate that a run reports is that of its own data.
    processor.num_texts, processor.num_truncated = counts
    save_file(_embeds(_float_copy(model), texts_in, items_in), folder / "embeds.safetensors")


def _write_items(model: TextStreamModel, split: Dataset, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write what the model sees; what to note of it in `inputs.json`, and the arguments of the processor."""
    if not isinstance(model, TwoStreamModel):
        return {}, {}
    if model.config.vision_input == "features":
        generator = torch.Generator().manual_seed(0)
        width = cast(int, model.config.feature_dim)
        features = [torch.randn(NUM_ITEMS - start, width, generator=generator) for start in range(NUM_ITEMS)]
        save_file({str(number): rows for number, rows in enumerate(features)}, folder / FEATURES_FILE)
        return {"features": FEATURES_FILE}, {"features": features}
    images = [image.convert("RGB") for image in split[IMAGE_COLUMN]]
    names = [f"{position}.png" for position in range(NUM_ITEMS)]
    for name, image in zip(names, images, strict=True):
        image.save(folder / name)
    if model.config.vision_input == "image":
        return {"images": names}, {"images": images}
    written, videos = ([row[start:] for start in range(NUM_ITEMS)] for row in (names, images))
    return {"videos": written}, {"videos": videos}


@torch.no_grad()
def _embeds(model: Any, texts_in: BatchFeature, items_in: BatchFeature | None) -> dict[str, torch.Tensor]:
    embeds = {"text_embeds": model.get_text_features(**texts_in).pooler_output}
    if items_in is not None:
        items = model.get_image_features(**items_in)
        embeds |= {"image_embeds": items.pooler_output, "slot_embeds": items.slot_embeds}
        if model.config.reads_description and not model.config.needs_description:
            seen = {name: value for name, value in items_in.items() if not name.startswith("description")}
            alone = model.get_image_features(**seen)
            embeds["image_embeds_without_description"] = alone.pooler_output
    return {name: value.contiguous() for name, value in embeds.items() if value is not None}


def _float_copy(model: TextStreamModel) -> TextStreamModel:
    # From the dictionary, which leaves out what fits one machine alone, such as the kernels for attention.
    config: Any = type(model.config).from_dict(model.config.to_dict())
    for part in (config, *(getattr(config, name) for name in config.sub_configs_defaults)):
        part.dtype = torch.float32
    with torch.random.fork_rng(devices=()):
        copy = type(model)(config)
    copy.load_state_dict(model.state_dict())
    return copy.eval()
