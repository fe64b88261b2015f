"""Texts without their padding: several texts share one row, and attention keeps them apart."""

import math
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

# Encoders that take positions, which start at 0, and a mask for each pair of tokens.
PACKABLE_TOWERS = frozenset({"bert"})
# Attention implementations that take such a mask.
PACKABLE_ATTENTION = frozenset({"sdpa", "eager"})
# Longer rows are filled better, but every token attends to its whole row.
MIN_ROW_LENGTH = 128
# With less padding than this share, the wider attention costs what the padding did.
MIN_PADDING = 0.1


def text_states(tower: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Token states of a text encoder, at the cost of the real tokens where the encoder allows it.

    Packing gives the states of the padded forward (up to rounding; dropout draws other numbers). It is for the CPU,
    where time goes with the number of tokens; on a GPU reading the lengths would stall the queue.

    Args:
        tower: any text encoder.
        input_ids: (batch, length).
        attention_mask: (batch, length), 1 = keep; None keeps all.

    Returns:
        (batch, length, hidden_size). The states of padding are arbitrary but finite.
    """
    if attention_mask is None or not _can_pack(tower, attention_mask):
        return _padded_outputs(tower, input_ids, attention_mask).last_hidden_state
    lengths = attention_mask.sum(dim=1).tolist()
    rows = fill_rows(lengths)
    width = max(sum(lengths[text] for text in row) for row in rows)
    if len(rows) * width > (1 - MIN_PADDING) * attention_mask.numel():
        return _padded_outputs(tower, input_ids, attention_mask).last_hidden_state
    owners = torch.full((len(rows), width), -1)
    for row, texts in enumerate(rows):
        filled = torch.repeat_interleave(torch.tensor(texts), torch.tensor([lengths[text] for text in texts]))
        owners[row, : len(filled)] = filled
    return _packed_states(tower, input_ids, owners)


def text_outputs(
    tower: PreTrainedModel, input_ids: Tensor | None, attention_mask: Tensor | None, **options: Any
) -> Any:
    """Token states of a text encoder, with what else it is asked for.

    Args:
        tower: any text encoder.
        input_ids: (batch, length), or None where `options` hold `inputs_embeds`.
        attention_mask: (batch, length), 1 = keep; None keeps all.
        options: arguments of the encoder, such as `output_hidden_states` and `output_attentions`; None leaves them to
            its configuration.

    Returns:
        `BaseModelOutput`: `last_hidden_state` as in `text_states`; `hidden_states` and `attentions`
        when asked for, else None.
    """
    options = {name: value for name, value in options.items() if value is not None}
    records = (options.get(name, getattr(tower.config, name)) for name in ("output_hidden_states", "output_attentions"))
    if input_ids is None or any(records):
        return _padded_outputs(tower, input_ids, attention_mask, **options)
    return BaseModelOutput(last_hidden_state=text_states(tower, input_ids, attention_mask))


def fill_rows(lengths: list[int]) -> list[list[int]]:
    """Distribute texts over rows of nearly equal length: the longest first, each into the emptiest row.

    Args:
        lengths: tokens of each text, not all 0; texts of 0 tokens are left out.

    Returns:
        Positions of the texts in each row.
    """
    longest_first = sorted((text for text, length in enumerate(lengths) if length), key=lambda text: -lengths[text])
    fewest = math.ceil(sum(lengths) / max(2 * max(lengths), MIN_ROW_LENGTH))
    fillings = []
    # A few texts do not fill any number of rows equally well.
    for num_rows in range(fewest, min(fewest + 3, len(longest_first) + 1)):
        rows: list[list[int]] = [[] for _ in range(num_rows)]
        sizes = [0] * num_rows
        for text in longest_first:
            emptiest = sizes.index(min(sizes))
            rows[emptiest].append(text)
            sizes[emptiest] += lengths[text]
        fillings.append((num_rows * max(sizes), rows))
    return min(fillings, key=lambda filling: filling[0])[1]


def _can_pack(tower: PreTrainedModel, attention_mask: Tensor) -> bool:
    config = tower.config
    if attention_mask.device.type != "cpu" or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    if config.model_type not in PACKABLE_TOWERS or config._attn_implementation not in PACKABLE_ATTENTION:
        return False
    if attention_mask.sum() > (1 - MIN_PADDING) * attention_mask.numel() or not attention_mask.any():
        return False
    return bool((attention_mask[:, 1:] <= attention_mask[:, :-1]).all())  # padding on the right only


def _padded_outputs(
    tower: PreTrainedModel, input_ids: Tensor | None, attention_mask: Tensor | None, **options: Any
) -> Any:
    if attention_mask is not None:
        # A row without text attends to its padding: nobody reads its states, but NaN would spread.
        is_empty = ~attention_mask.any(dim=-1, keepdim=True)
        attention_mask = torch.where(is_empty, torch.ones_like(attention_mask), attention_mask)
    return tower(input_ids=input_ids, attention_mask=attention_mask, **options)


def _packed_states(tower: PreTrainedModel, input_ids: Tensor, owners: Tensor) -> Tensor:
    """Run the rows and put each state back where its token was.

    Args:
        owners: (num_rows, width), the text that each token belongs to, -1 for the end of a row that is not full.
    """
    columns = torch.arange(owners.shape[1]).expand_as(owners)
    starts = torch.zeros_like(owners)
    starts[:, 1:] = torch.where(owners[:, 1:] != owners[:, :-1], columns[:, 1:], 0)
    positions = torch.where(owners >= 0, columns - starts.cummax(dim=1).values, 0)
    real = owners >= 0
    origins = (owners * input_ids.shape[1] + positions)[real]  # place of each real token in the padded batch
    ids = input_ids.new_zeros(owners.shape)
    ids[real] = input_ids.flatten()[origins]
    same_text = owners[:, None, :, None] == owners[:, None, None, :]  # (num_rows, 1, width, width)
    if tower.config._attn_implementation == "eager":
        same_text = torch.zeros_like(same_text, dtype=tower.dtype).masked_fill(~same_text, torch.finfo(tower.dtype).min)
    states = tower(input_ids=ids, attention_mask=same_text, position_ids=positions).last_hidden_state
    unpacked = states.new_zeros(input_ids.numel(), states.shape[-1]).index_copy(0, origins, states[real])
    return unpacked.view(*input_ids.shape, -1)
