"""Tiny towers, models, processors and batches for tests: made from configurations, in milliseconds, offline."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    BertConfig,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    ConvNextV2Config,
    DistilBertConfig,
    PreTrainedConfig,
    SiglipVisionConfig,
    SwinConfig,
    XLMRobertaConfig,
)

from modeling_leccr import Cl2cmConfig, Cl2cmModel, CrossLingualConfig, CrossLingualModel, LeccrConfig, LeccrModel
from processing.processing_leccr import LeccrProcessor
from processing.tokenizer import train_tokenizer

IMAGE_SIZE = 32
VOCAB_SIZE = 99
FEATURE_DIM = 20
# Fields of a configuration of each kind of video.
VIDEO_FIELDS: dict[str, dict[str, Any]] = {
    "frames": {"vision_input": "frames"},
    "features": {"vision_input": "features", "feature_dim": FEATURE_DIM},
}

# (English, German, description), each naming one picture of `tiny_image`.
SENTENCES = (
    ("a red ball", "ein roter ball", "a red ball lies on the grass in the sun"),
    ("a blue boat", "ein blaues boot", "a blue boat on a calm lake"),
    ("two green trees", "zwei grüne bäume", "two green trees stand beside a house"),
    ("a white dog", "ein weißer hund", "a white dog runs over the sand"),
    ("the black cat", "die schwarze katze", "the black cat sleeps on a chair"),
    ("three old men", "drei alte männer", "three old men sit on a bench and talk"),
    ("a yellow bus", "ein gelber bus", "a yellow bus waits in the street"),
    ("the small bird", "der kleine vogel", "the small bird sings on a roof"),
)


def tiny_vision_config(kind: str = "clip", image_size: int = IMAGE_SIZE) -> PreTrainedConfig:
    """A vision tower of width 32: "clip" (class token), "swin", "siglip", "convnextv2" (none), or by its type."""
    transformer: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": image_size,
        "patch_size": 8,
    }
    if kind == "clip":
        return CLIPVisionConfig(**transformer, projection_dim=32)
    if kind == "siglip":
        return SiglipVisionConfig(**transformer)
    if kind == "swin":
        return SwinConfig(
            image_size=image_size, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4
        )
    if kind == "convnextv2":
        return ConvNextV2Config(image_size=image_size, hidden_sizes=[16, 32], depths=[1, 1], num_stages=2)
    return AutoConfig.for_model(kind, **transformer)


def tiny_text_config(kind: str = "bert") -> PreTrainedConfig:
    """A text tower of width 32 without dropout in its attention scores: "bert", "xlm-roberta" or "distilbert"."""
    if kind == "distilbert":
        return DistilBertConfig(vocab_size=VOCAB_SIZE, dim=32, n_layers=2, n_heads=2, hidden_dim=64)
    sizes: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
    }
    if kind == "bert":
        return BertConfig(**sizes)
    if kind == "xlm-roberta":
        return XLMRobertaConfig(**sizes)
    raise ValueError(f"no tiny text tower {kind!r}.")


def tiny_config(*, vision: str = "clip", text: str = "bert", **fields: Any) -> LeccrConfig:
    """A configuration with tiny towers; any field can be set."""
    defaults: dict[str, Any] = {
        "vision_config": tiny_vision_config(vision),
        "text_config": tiny_text_config(text),
        "slot_dim": 32,
        "embed_dim": 16,
        "num_attention_heads": 4,
    }
    if fields.get("item_source", "image_and_description") != "image_and_description":
        defaults["interaction"] = "none"
    return LeccrConfig(**{**defaults, **fields})


def tiny_model(*, seed: int = 0, **fields: Any) -> LeccrModel:
    """A model with random weights, in evaluation mode; fields as in `tiny_config`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LeccrModel(tiny_config(**fields)).eval()


def tiny_cl2cm_config(*, vision: str = "clip", text: str = "bert", **fields: Any) -> Cl2cmConfig:
    """As `tiny_config`, of the cross-modal network of CL2CM."""
    towers = {"vision_config": tiny_vision_config(vision), "text_config": tiny_text_config(text)}
    return Cl2cmConfig(**{**towers, "visual_dim": 32, "embed_dim": 16, **fields})


def tiny_cl2cm(*, seed: int = 0, **fields: Any) -> Cl2cmModel:
    """As `tiny_model`; fields as in `tiny_cl2cm_config`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Cl2cmModel(tiny_cl2cm_config(**fields)).eval()


def tiny_cross_lingual_config(*, text: str = "bert", **fields: Any) -> CrossLingualConfig:
    """As `tiny_config`, of the cross-lingual network of CL2CM."""
    return CrossLingualConfig(**{"text_config": tiny_text_config(text), "embed_dim": 16, **fields})


def tiny_cross_lingual(*, seed: int = 0, **fields: Any) -> CrossLingualModel:
    """As `tiny_model`; fields as in `tiny_cross_lingual_config`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return CrossLingualModel(tiny_cross_lingual_config(**fields)).eval()


def tiny_processor(image_size: int = IMAGE_SIZE, **settings: Any) -> LeccrProcessor:
    """A processor whose tokenizer knows SENTENCES and fits the tiny text towers."""
    tokenizer = train_tokenizer((text for row in SENTENCES for text in row), VOCAB_SIZE, max_length=48)
    side = {"height": image_size, "width": image_size}
    image_processor = CLIPImageProcessorPil(size=side, crop_size=side, do_center_crop=False)
    return LeccrProcessor(image_processor, tokenizer, **settings)


def tiny_image(index: int, size: int = 40) -> Image.Image:
    """Picture number `index`: smooth coloured noise, different for each number and the same in every process."""
    blocks = np.random.default_rng(index).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((size, size), Image.Resampling.BICUBIC)


def tiny_texts(num_texts: int = 4, *, length: int = 7, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random token ids (num_texts, length) and masks; from the second text on, one token shorter each."""
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(5, VOCAB_SIZE, (num_texts, length), generator=generator)
    lengths = torch.tensor([max(length - i, 2) for i in range(num_texts)])
    attention_mask = (torch.arange(length) < lengths[:, None]).long()
    return input_ids * attention_mask, attention_mask


def tiny_items(batch_size: int = 4, *, seed: int = 0, image_size: int = IMAGE_SIZE) -> dict[str, torch.Tensor]:
    """Random `pixel_values` and `description_*`: the arguments of `get_image_features`."""
    generator = torch.Generator().manual_seed(seed + 1000)
    input_ids, attention_mask = tiny_texts(batch_size, length=11, seed=seed + 1)
    return {
        "pixel_values": torch.randn(batch_size, 3, image_size, image_size, generator=generator),
        "description_input_ids": input_ids,
        "description_attention_mask": attention_mask,
    }


def tiny_videos(
    vision_input: str, batch_size: int = 4, *, num_frames: int = 5, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Random `pixel_values` of frames or `frame_features`, with `frame_mask`; from the second on, one frame fewer each.

    Args:
        vision_input: "frames" or "features".
    """
    generator = torch.Generator().manual_seed(seed + 2000)
    shape = (FEATURE_DIM,) if vision_input == "features" else (3, IMAGE_SIZE, IMAGE_SIZE)
    frames = torch.randn(batch_size, num_frames, *shape, generator=generator)
    lengths = torch.tensor([max(num_frames - i, 1) for i in range(batch_size)])
    mask = torch.arange(num_frames) < lengths[:, None]
    frames[~mask] = 0
    return {"frame_features" if vision_input == "features" else "pixel_values": frames, "frame_mask": mask.long()}


def with_videos(batch: dict[str, torch.Tensor], vision_input: str, *, seed: int = 0) -> dict[str, torch.Tensor]:
    """A batch of pictures, of `tiny_items` or `tiny_pairs`, as one of videos."""
    videos = tiny_videos(vision_input, len(batch["pixel_values"]), seed=seed)
    return {name: value for name, value in batch.items() if name != "pixel_values"} | videos


def tiny_pairs(batch_size: int = 4, *, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random training pairs: `tiny_items` with `source_*` and `target_*` of other lengths."""
    source_ids, source_mask = tiny_texts(batch_size, length=8, seed=seed + 2)
    target_ids, target_mask = tiny_texts(batch_size, length=6, seed=seed + 3)
    return {
        **tiny_items(batch_size, seed=seed),
        "source_input_ids": source_ids,
        "source_attention_mask": source_mask,
        "target_input_ids": target_ids,
        "target_attention_mask": target_mask,
    }


def without_descriptions(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A batch for `Cl2cmModel`, of one for `LeccrModel`."""
    return {name: value for name, value in batch.items() if not name.startswith("description")}


def texts_alone(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A batch for `CrossLingualModel`, of one for `LeccrModel`."""
    return {name: value for name, value in without_descriptions(batch).items() if name != "pixel_values"}


def sentence_batch(processor: LeccrProcessor) -> dict[str, torch.Tensor]:
    """The eight pictures and SENTENCES as one batch of training pairs."""
    source, target, descriptions = (list(column) for column in zip(*SENTENCES, strict=True))
    images = [tiny_image(index) for index in range(len(SENTENCES))]
    batch = dict(processor(images=images, descriptions=descriptions))
    for prefix, texts in (("source", source), ("target", target)):
        batch |= {f"{prefix}_{key}": value for key, value in processor(text=texts).items()}
    return batch
