"""Texts without their padding: several short texts share one row, and attention keeps them apart."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

# Encoders that take a (batch, 1, length, length) attention mask and explicit positions, which start at 0.
PACKABLE_TOWERS = frozenset({"bert"})
# Attention kernels that take such a mask.
PACKABLE_ATTENTION = frozenset({"sdpa", "eager"})
# A row of two long texts, or of this many tokens of short ones: longer rows fill better, but attend to more.
MIN_ROW_LENGTH = 128
# Below this share of padding the bookkeeping and the wider attention cost as much as the padding.
MIN_PADDING = 0.1


def text_states(tower: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Token states of a text encoder, at the cost of the real tokens where the encoder allows it.

    Packing gives the states of the padded forward (up to rounding; dropout draws other numbers). It is for the CPU,
    where the time goes with the number of tokens; on a GPU reading the lengths would stall the queue.

    Args:
        tower: any text encoder.
        input_ids: (batch, length).
        attention_mask: (batch, length), 1 = keep; None keeps all.

    Returns:
        (batch, length, hidden_size). The states of padding are arbitrary but finite.
    """
    rows = None if attention_mask is None else _packed_rows(tower, attention_mask)
    if rows is None or attention_mask is None:
        return tower(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
    return _packed_states(tower, input_ids, rows)


def fill_rows(lengths: list[int], capacity: int) -> list[list[int]]:
    """Distribute texts over rows of at most `capacity` tokens, the longest first, each into the first row it fits.

    Args:
        lengths: tokens of each text, at most `capacity`; texts of 0 tokens are left out.

    Returns:
        Positions of the texts in each row.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for text in sorted(range(len(lengths)), key=lambda text: -lengths[text]):
        if not lengths[text]:
            continue
        row = next((row for row, free in enumerate(room) if free >= lengths[text]), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(capacity)
        rows[row].append(text)
        room[row] -= lengths[text]
    return rows


def _packed_rows(tower: PreTrainedModel, attention_mask: Tensor) -> list[list[tuple[int, int]]] | None:
    """(text, length) of each text in each packed row; None where the padded forward is as good or the only way."""
    config = tower.config
    if attention_mask.device.type != "cpu" or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return None
    if config.model_type not in PACKABLE_TOWERS or config._attn_implementation not in PACKABLE_ATTENTION:
        return None
    if config.is_decoder or attention_mask.ndim != 2:
        return None
    lengths = attention_mask.sum(dim=1)
    padded_right = bool((attention_mask.cumsum(dim=1)[:, -1:] == lengths[:, None]).all()) and bool(
        (attention_mask[:, 1:] <= attention_mask[:, :-1]).all()
    )
    sizes = lengths.tolist()
    if not padded_right or not any(sizes):
        return None
    rows = fill_rows(sizes, max(2 * max(sizes), MIN_ROW_LENGTH))
    width = max(sum(sizes[text] for text in row) for row in rows)
    if len(rows) * width > (1 - MIN_PADDING) * attention_mask.numel():
        return None
    return [[(text, sizes[text]) for text in row] for row in rows]


def _packed_states(tower: PreTrainedModel, input_ids: Tensor, rows: list[list[tuple[int, int]]]) -> Tensor:
    batch_size, length = input_ids.shape
    width = max(sum(size for _, size in row) for row in rows)
    source, packed, segment = [], [], torch.zeros(len(rows), width, dtype=torch.long)
    positions = torch.zeros(len(rows), width, dtype=torch.long)
    for r, row in enumerate(rows):
        start = 0
        for text, size in row:
            source.append(torch.arange(text * length, text * length + size))
            packed.append(torch.arange(r * width + start, r * width + start + size))
            positions[r, start : start + size] = torch.arange(size)
            segment[r, start : start + size] = text + 1
            start += size
    source_index, packed_index = torch.cat(source), torch.cat(packed)
    ids = input_ids.new_zeros(len(rows) * width).index_copy(0, packed_index, input_ids.flatten()[source_index])
    keep = segment[:, None, :, None] == segment[:, None, None, :]  # (rows, 1, width, width)
    states = tower(input_ids=ids.view(len(rows), width), attention_mask=keep, position_ids=positions).last_hidden_state
    unpacked = states.new_zeros(batch_size * length, states.shape[-1])
    return unpacked.index_copy(0, source_index, states.flatten(0, 1)[packed_index]).view(batch_size, length, -1)
