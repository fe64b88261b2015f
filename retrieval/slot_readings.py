"""What the slots of items read: which words of a description they attend to, how alike they are, which one wins."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from modeling_leccr.slots_leccr import CrossAttentionBlock
from modeling_leccr.towers_leccr import eval_mode
from processing.records import DESCRIPTION_COLUMN
from processing.visual_rows import VisualRows, as_processor_inputs
from retrieval.items import read_column


@dataclass(frozen=True)
class SlotReading:
    """What the slots of one item are made from, and what they became.

    Args:
        words: the description, split at spaces.
        weights: (num_slots, num_words) attention of the last slot block, averaged over its heads and summed over the
            tokens of a word. A word that was cut off has 0.
        special_weights: (num_slots,) attention to tokens of no word, such as [CLS]; with the words it sums to 1.
        slots: (num_slots, slot_dim) before the interaction.
        slot_embeds: (num_slots, embed_dim) after the interaction, as captions are matched with them.
    """

    words: list[str]
    weights: Tensor
    special_weights: Tensor
    slots: Tensor
    slot_embeds: Tensor


@torch.no_grad()
def read_slots(
    model: Any, processor: Any, rows: Sequence[Mapping[str, Any]], *, batch_size: int = 64
) -> list[SlotReading]:
    """Embed items and keep what their slots attended to.

    Args:
        model: a `LeccrModel` with slots.
        processor: its `LeccrProcessor`, with a fast tokenizer.
        rows: rows of the schema; each needs a description.
        batch_size: items in one forward pass.

    Raises:
        ValueError: the model has no slots, or an item no description.
    """
    if not model.config.has_slots:
        raise ValueError(f"item_source={model.config.item_source!r} has no slots; read a model that has.")
    descriptions = read_column(rows, DESCRIPTION_COLUMN)
    missing = [position for position, text in enumerate(descriptions) if not (text and text.strip())]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(descriptions)} items have no description that slots could attend to (first rows: "
            f"{missing[:3]}); leave them out."
        )
    seen = VisualRows(rows, model.config.vision_input, processor.sampling)
    readings: list[SlotReading] = []
    with eval_mode(model), recorded_attention(model.semantic_slots.layers[-1]) as recorded:
        for start in range(0, len(descriptions), batch_size):
            batch = range(start, min(start + batch_size, len(descriptions)))
            texts = [descriptions[i] for i in batch]
            items = as_processor_inputs([seen.read(i) for i in batch])
            inputs = processor(**items, descriptions=texts, return_tensors="pt")
            inputs = inputs.to(device=model.device, dtype=model.dtype)
            features = model.get_image_features(**inputs)
            attention = recorded.pop().mean(dim=1).float().cpu()  # (batch, num_slots, description_length)
            mask = inputs["description_attention_mask"].cpu()
            for row, text in enumerate(texts):
                words, weights = word_weights(processor.tokenizer, text, attention[row][:, mask[row] == 1])
                special = 1 - weights.sum(dim=-1)
                slots, slot_embeds = (part[row].float().cpu() for part in (features.slots, features.slot_embeds))
                readings.append(SlotReading(words, weights, special, slots, slot_embeds))
    return readings


@contextmanager
def recorded_attention(block: CrossAttentionBlock) -> Iterator[list[Tensor]]:
    """The attention weights of each call of a block in the body, appended as they come."""
    recorded: list[Tensor] = []
    handle = block.register_forward_pre_hook(lambda block, inputs: recorded.append(attention_weights(block, *inputs)))
    try:
        yield recorded
    finally:
        handle.remove()


def attention_weights(
    block: CrossAttentionBlock, queries: Tensor, memory: Tensor, memory_mask: Tensor | None = None
) -> Tensor:
    """The attention weights of a block, which its forward, made for fused kernels, does not show.

    Args: as `CrossAttentionBlock.forward`.

    Returns:
        (batch, heads, num_queries, memory_length), without dropout; each row sums to 1.
    """
    query, key = (
        projection(states).unflatten(-1, (block.num_heads, -1)).transpose(1, 2)
        for projection, states in ((block.q_proj, queries), (block.k_proj, memory))
    )
    scores = (query @ key.transpose(-1, -2)).float() * query.shape[-1] ** -0.5
    if memory_mask is not None:
        scores = scores.masked_fill(memory_mask[:, None, None, :] == 0, -torch.inf)
    return scores.softmax(dim=-1)


def word_weights(tokenizer: Any, text: str, weights: Tensor) -> tuple[list[str], Tensor]:
    """Sum the weights of tokens over the words, which are what spaces separate.

    Args:
        tokenizer: a fast one, as it made the tokens.
        text: the description.
        weights: (num_slots, num_tokens), without padding; a text that was cut has fewer tokens than it could.

    Returns:
        The words, and (num_slots, num_words).
    """
    encoded = tokenizer(text, truncation=True, max_length=weights.shape[1], return_offsets_mapping=True)
    spans = [match.span() for match in re.finditer(r"\S+", text)]
    word_of_character = {i: word for word, (start, end) in enumerate(spans) for i in range(start, end)}
    summed = weights.new_zeros(weights.shape[0], len(spans))
    for token, (start, end) in enumerate(encoded["offset_mapping"]):
        # The last character: with some tokenizers the span of a token begins with the space before its word.
        if start < end and end - 1 in word_of_character:  # special tokens span nothing
            summed[:, word_of_character[end - 1]] += weights[:, token]
    return [text[start:end] for start, end in spans], summed


def mean_slot_cosines(slots: Tensor) -> Tensor:
    """How alike the slots of an item are, averaged over items.

    Args:
        slots: (num_items, num_slots, width).

    Returns:
        (num_slots, num_slots) mean cosines.
    """
    directions = normalize(slots, dim=-1)
    return (directions @ directions.transpose(-1, -2)).mean(dim=0)


def mean_of_different(cosines: Tensor) -> float:
    """Mean cosine between different slots; 1 says that all slots of an item are one.

    Args:
        cosines: from `mean_slot_cosines`.

    Raises:
        ValueError: there is one slot alone.
    """
    if len(cosines) < 2:
        raise ValueError("cosines must be of two slots or more, got those of one, which has no other.")
    return float(cosines[~torch.eye(len(cosines), dtype=torch.bool)].mean())


def winning_slots(slot_embeds: Tensor, text_embeds: Tensor, owners: Tensor) -> Tensor:
    """The slot of its own item with which each text is matched.

    Args:
        slot_embeds: (num_items, num_slots, embed_dim).
        text_embeds: (num_texts, embed_dim).
        owners: (num_texts,) position of the item of each text.

    Returns:
        (num_texts,) positions of the slots with the highest score, the first one on a tie. In the fused score the
        same slot wins, because the global half is equal for all.
    """
    return torch.einsum("tkd,td->tk", slot_embeds[owners], text_embeds).argmax(dim=-1)
