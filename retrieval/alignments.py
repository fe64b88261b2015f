"""Which words of a caption a model takes for which words of its translation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from modeling_leccr.losses_cl2cm import token_cosines
from modeling_leccr.towers_leccr import eval_mode
from modeling_leccr.transport_cl2cm import marginal_error, transport_plan


@dataclass(frozen=True)
class Alignment:
    """The optimal alignment of one pair.

    Args:
        source_tokens, target_tokens: as the tokenizer cut them, with those that it added.
        plan: (num_source_tokens, num_target_tokens) mass that goes from one to the other; it sums to 1.
        cost: mean of 1 - cosine over that mass, in [0, 2].
        marginal_error: see `modeling_leccr.transport_cl2cm`.
    """

    source_tokens: list[str]
    target_tokens: list[str]
    plan: Tensor
    cost: float
    marginal_error: float

    @property
    def shares(self) -> Tensor:
        """(num_source_tokens, num_target_tokens) where the mass of each source token goes; rows sum to 1."""
        return self.plan / self.plan.sum(dim=1, keepdim=True)


@torch.no_grad()
def align_pairs(
    model: Any,
    processor: Any,
    pairs: Sequence[tuple[str, str]],
    *,
    epsilon: float,
    iterations: int,
    batch_size: int = 64,
) -> list[Alignment]:
    """Align the tokens of sentence pairs, as the cross-lingual network does in training.

    Args:
        model: any of ours; the cross-lingual network of CL2CM is trained to align.
        processor: its processor.
        pairs: (English sentence, translation).
        epsilon, iterations: see `transport_plan`.
        batch_size: pairs in one forward pass.

    Raises:
        ValueError: there is no pair, or a sentence is empty.
    """
    empty = [position for position, pair in enumerate(pairs) if not all(text.strip() for text in pair)]
    if not pairs or empty:
        raise ValueError(
            f"alignments need pairs of two sentences with words, got {len(pairs)} pairs of which {len(empty)} have an "
            f"empty one (first: {empty[:3]})."
        )
    found: list[Alignment] = []
    with eval_mode(model):
        for start in range(0, len(pairs), batch_size):
            sides = zip(*pairs[start : start + batch_size], strict=True)
            (source, source_states), (target, target_states) = (_states(model, processor, side) for side in sides)
            masks = source["attention_mask"], target["attention_mask"]
            costs = 1 - token_cosines(source_states, target_states)
            plans = transport_plan(costs, *masks, epsilon=epsilon, iterations=iterations)
            errors = marginal_error(plans, *masks)
            for row, plan in enumerate(plans):
                source_tokens, target_tokens = (_tokens(processor.tokenizer, side, row) for side in (source, target))
                own = plan[masks[0][row] == 1][:, masks[1][row] == 1]
                cost = float((plan * costs[row]).sum())
                found.append(Alignment(source_tokens, target_tokens, own.cpu(), cost, float(errors[row])))
    return found


def _states(model: Any, processor: Any, texts: Sequence[str]) -> tuple[Any, Tensor]:
    inputs = processor(text=list(texts), return_tensors="pt").to(model.device)
    return inputs, model.get_text_features(**inputs, return_dict=True).last_hidden_state.float()


def _tokens(tokenizer: Any, inputs: Any, row: int) -> list[str]:
    """What each token stands for; the names in a vocabulary can be bytes."""
    ids = inputs["input_ids"][row][inputs["attention_mask"][row] == 1].tolist()
    return [tokenizer.decode([token]).strip() or tokenizer.convert_ids_to_tokens(token) for token in ids]
