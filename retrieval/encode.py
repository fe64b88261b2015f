"""Encode a split once: items and texts to unit vectors on the CPU, in the order they came."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from processing.records import DESCRIPTION_COLUMN
from retrieval.items import read_column, read_image
from retrieval.ranks import check_finite


def encode_items(
    model: Any,
    processor: Any,
    rows: Sequence[Mapping[str, Any]],
    batch_size: int = 64,
    *,
    use_descriptions: bool = True,
    progress: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Embed the items of a split, from what the model's `config.item_source` names.

    Args:
        model: a `LeccrModel`.
        processor: a `LeccrProcessor`.
        rows: rows of the schema (processing/records.py), such as a split of a data set.
        batch_size: items in one forward pass.
        use_descriptions: False leaves descriptions out, as for pictures that nobody described.
        progress: show a bar.

    Returns:
        image_embeds (num_items, embed_dim), and slot_embeds (num_items, num_slots, embed_dim) or None if the model
        has no slots; float32 on the CPU.

    Raises:
        ValueError: no rows, a picture that cannot be read, or an embedding that is not finite.
    """
    item_source = model.config.item_source
    descriptions: list[str | None] = [None] * len(rows)
    if use_descriptions and item_source != "image":
        descriptions = read_column(rows, DESCRIPTION_COLUMN)
    image_embeds, slot_embeds, order = [], [], []
    with _evaluation_mode(model), tqdm(total=len(rows), desc="items", disable=not progress) as bar:
        for batch in _batches_by_length([text or "" for text in descriptions], batch_size, name="rows"):
            images = None if item_source == "description" else [read_image(rows, i) for i in batch]
            batch_descriptions = [descriptions[i] for i in batch]
            inputs = processor(
                images=images,
                # No description at all: the model then takes its null description or says that it cannot.
                descriptions=batch_descriptions if any(batch_descriptions) else None,
                return_tensors="pt",
            ).to(device=model.device, dtype=model.dtype)
            inputs.setdefault("pixel_values", None)
            features = model.get_image_features(**inputs)
            image_embeds.append(features.pooler_output.float().cpu())
            if features.slot_embeds is not None:
                slot_embeds.append(features.slot_embeds.float().cpu())
            order += batch
            bar.update(len(batch))
    images_in_order = _in_order(image_embeds, order, name="image_embeds")
    return images_in_order, _in_order(slot_embeds, order, name="slot_embeds") if slot_embeds else None


def encode_texts(
    model: Any, processor: Any, texts: Sequence[str], batch_size: int = 256, *, progress: bool = True
) -> Tensor:
    """Embed captions or queries, each batch padded to its own longest text.

    Texts of like length share a batch. Padding does not change an embedding, so the sorting saves time only.

    Args:
        model: a `LeccrModel`.
        processor: a `LeccrProcessor`.
        texts: any language, any order.
        batch_size: texts in one forward pass.
        progress: show a bar.

    Returns:
        (num_texts, embed_dim) float32 on the CPU, in the order of `texts`.

    Raises:
        ValueError: no texts, or an embedding that is not finite.
    """
    embeds, order = [], []
    with _evaluation_mode(model), tqdm(total=len(texts), desc="texts", disable=not progress) as bar:
        for batch in _batches_by_length(texts, batch_size, name="texts"):
            inputs = processor(text=[texts[i] for i in batch], return_tensors="pt").to(device=model.device)
            features = model.get_text_features(inputs["input_ids"], attention_mask=inputs["attention_mask"])
            embeds.append(features.pooler_output.float().cpu())
            order += batch
            bar.update(len(batch))
    return _in_order(embeds, order, name="text_embeds")


@contextmanager
def _evaluation_mode(model: Any) -> Iterator[None]:
    """No dropout and no gradient inside; the model's mode is restored afterwards."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def _batches_by_length(texts: Sequence[str], batch_size: int, *, name: str) -> Iterator[list[int]]:
    """Positions of texts in batches of like length, the longest first, so that too large a batch fails at once."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    if len(texts) == 0:
        raise ValueError(f"{name} is empty; there is nothing to encode.")
    longest_first = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    for start in range(0, len(texts), batch_size):
        yield longest_first[start : start + batch_size]


def _in_order(batches: list[Tensor], order: list[int], *, name: str) -> Tensor:
    """Undo the sorting by length, and refuse what is not finite."""
    encoded = torch.cat(batches)
    embeds = torch.empty_like(encoded)
    embeds[torch.tensor(order)] = encoded
    check_finite(embeds, name)
    return embeds
