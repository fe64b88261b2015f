"""Small pictures, splits and processors for the tests of processing/."""

import io
from typing import Any

import datasets
import numpy as np
from PIL import Image
from transformers import PreTrainedTokenizerFast, ViTImageProcessorPil

from processing.processing_leccr import LeccrProcessor
from processing.tokenizer import train_tokenizer

TEXTS = [
    "A man in a blue shirt, standing on a ladder.",
    "Two dogs play in the snow; one is black.",
    "Ein Mann fährt Fahrrad, zwei Hunde spielen im Schnee.",
    "一个男人正在打篮球。",
    "男の人が自転車に乗っています。",
]


def picture(seed: int = 0, width: int = 24, height: int = 16) -> Image.Image:
    """A smooth random RGB picture: distinct for each seed, and kind to resizing."""
    small = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def png_bytes(image: Image.Image) -> bytes:
    """The picture as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def tiny_tokenizer(max_length: int = 64) -> PreTrainedTokenizerFast:
    """A tokenizer that knows TEXTS."""
    return train_tokenizer(TEXTS * 3, 300, max_length=max_length)


def tiny_processor(size: int = 8, **settings: Any) -> LeccrProcessor:
    """A processor for square pictures of `size` pixels."""
    image_processor = ViTImageProcessorPil(size={"height": size, "width": size})
    return LeccrProcessor(image_processor, tiny_tokenizer(), **settings)


def items(num_items: int = 3, captions_per_item: int = 2, **columns: list[Any]) -> datasets.Dataset:
    """A split in the schema with German and Chinese translations; `columns` replace whole columns."""

    def captions(word: str) -> list[list[str]]:
        return [[f"{word} {item} {position}" for position in range(captions_per_item)] for item in range(num_items)]

    data: dict[str, list[Any]] = {
        "image": [{"bytes": png_bytes(picture(item)), "path": None} for item in range(num_items)],
        "image_id": [f"item-{item}" for item in range(num_items)],
        "description": [f"a picture of number {item}" for item in range(num_items)],
        "caption_en": captions("dog"),
        "caption_de_mt": captions("Hund"),
        "caption_zh_mt": captions("狗"),
    }
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "image_id": datasets.Value("string"),
            "description": datasets.Value("string"),
            **{name: datasets.List(datasets.Value("string")) for name in data if name.startswith("caption_")},
        }
    )
    return datasets.Dataset.from_dict(data | columns, features=features)
