"""From the tokens of a text, a picture or a video to one vector."""

from torch import Tensor


def masked_mean(states: Tensor, token_mask: Tensor | None) -> Tensor:
    """Mean over the tokens that are there: (batch, tokens, width) -> (batch, width).

    Args:
        states: (batch, tokens, width).
        token_mask: (batch, tokens), 1 = keep; None keeps all.
    """
    if token_mask is None:
        return states.mean(dim=1)
    kept = token_mask.to(states.dtype).unsqueeze(-1)
    return (states * kept).sum(dim=1) / kept.sum(dim=1).clamp_min(1)
