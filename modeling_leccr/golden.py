"""A few inputs of our own with their embeddings, by which anybody can check a model that they loaded."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import BatchFeature

from modeling_leccr.streams_leccr import TextStreamModel, TwoStreamModel
from processing.files import write_json_atomic
from processing.languages import SOURCE_LANGUAGE
from processing.processing_leccr import LeccrProcessor
from processing.records import DESCRIPTION_COLUMN, IMAGE_COLUMN, caption_column
from processing.scenes import TARGET_LANGUAGES, ScenesConfig, load_scenes

GOLDEN_FOLDER = "golden"
NUM_ITEMS = 3
IMAGE_SIZE = 64


def write_golden(model: TextStreamModel, processor: LeccrProcessor, folder: Path, languages: Sequence[str]) -> None:
    """Write drawn pictures, their captions and descriptions, as far as the model reads them, and what it makes of them.

    The embeddings are those of a copy in float32 on the CPU, whose rounding others can repeat.

    Args:
        model: in any precision, on any device; it stays as it is.
        processor: its processor.
        folder: for `inputs.json`, `embeds.safetensors`, and of a model with items `0.png`, ....
        languages: captions are in English and in those of these that the scenes have; in all if none is known.
    """
    known = [language for language in languages or TARGET_LANGUAGES if language in TARGET_LANGUAGES]
    sizes: dict[str, Any] = {"train_size": 1, "validation_size": 1, "test_size": NUM_ITEMS, "captions_per_item": 1}
    split = load_scenes(ScenesConfig(**sizes, image_size=IMAGE_SIZE))["test"]
    texts = [row[0] for language in (SOURCE_LANGUAGE, *known) for row in split[caption_column(language)]]
    items: dict[str, Any] = {}
    if isinstance(model, TwoStreamModel):
        items["images"] = [image.convert("RGB") for image in split[IMAGE_COLUMN]]
    if model.config.reads_description:
        items["descriptions"] = list(split[DESCRIPTION_COLUMN])
    folder.mkdir(parents=True, exist_ok=True)
    inputs: dict[str, Any] = {"texts": texts} | items
    if "images" in items:
        inputs["images"] = [f"{position}.png" for position in range(NUM_ITEMS)]
        for name, image in zip(inputs["images"], items["images"], strict=True):
            image.save(folder / name)
    write_json_atomic(folder / "inputs.json", inputs)
    counts = processor.num_texts, processor.num_truncated
    texts_in, items_in = processor(text=texts), processor(**items) if items else None
    # The truncation rate that a run reports is that of its own data.
    processor.num_texts, processor.num_truncated = counts
    save_file(_embeds(_float_copy(model), texts_in, items_in), folder / "embeds.safetensors")


@torch.no_grad()
def _embeds(model: Any, texts_in: BatchFeature, items_in: BatchFeature | None) -> dict[str, torch.Tensor]:
    embeds = {"text_embeds": model.get_text_features(**texts_in).pooler_output}
    if items_in is not None:
        items = model.get_image_features(**items_in)
        embeds |= {"image_embeds": items.pooler_output, "slot_embeds": items.slot_embeds}
        if model.config.reads_description and not model.config.needs_description:
            alone = model.get_image_features(pixel_values=items_in["pixel_values"])
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
