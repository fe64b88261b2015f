"""Optimal transport between the tokens of two sentences: a soft alignment in which every token of both takes part."""

import torch
from torch import Tensor


def transport_plan(
    cost: Tensor, source_mask: Tensor, target_mask: Tensor, *, epsilon: float, iterations: int
) -> Tensor:
    """Entropic optimal transport by Sinkhorn's iterations on logarithms, for a batch of sentence pairs.

    Each real token has the same mass: 1 / length on either side. The plan minimises <plan, cost> - epsilon * entropy,
    so that a small `epsilon` gives few and sharp links, and needs more iterations. An iteration scales the columns and
    then the rows: the sums of the rows are right after any number of them, and those of the columns come closer, see
    `marginal_error`.

    Args:
        cost: (batch, source_length, target_length), such as 1 - cosine; anything at padding.
        source_mask: (batch, source_length), 1 = keep.
        target_mask: (batch, target_length), 1 = keep.
        epsilon: weight of the entropy, in units of the cost.
        iterations: how often both sides are scaled.

    Returns:
        (batch, source_length, target_length), not negative, each pair sums to 1, padding is exactly 0. In fp32, or
        fp64 for such costs. Gradients flow to the costs of real tokens.

    Raises:
        ValueError: a shape does not fit, a sentence has no token, or `epsilon` or `iterations` is out of range.
    """
    _check_shapes(cost, source_mask, target_mask, "cost")
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive, got {epsilon}; try 0.05.")
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}; try 50.")
    source_keep, target_keep = source_mask.bool()[:, :, None], target_mask.bool()[:, None, :]
    keep = source_keep & target_keep  # (batch, source_length, target_length)
    precise = torch.promote_types(cost.dtype, torch.float32)
    # Minus infinity at padding would meet itself in a row of padding: NaN, in backward even where it is masked later.
    low = torch.finfo(precise).min / 4
    scores = (-cost.to(precise) / epsilon).masked_fill(~keep, low)
    source_log_mass = _log_mass(source_keep, dim=1, dtype=precise)
    target_log_mass = _log_mass(target_keep, dim=2, dtype=precise)
    source_scale = torch.zeros_like(source_log_mass)  # logarithms, as everything here
    for _ in range(iterations):
        columns = (scores + source_scale).logsumexp(dim=1, keepdim=True)
        target_scale = torch.where(target_keep, target_log_mass - columns, 0.0)
        rows = (scores + target_scale).logsumexp(dim=2, keepdim=True)
        source_scale = torch.where(source_keep, source_log_mass - rows, 0.0)
    return (scores + source_scale + target_scale).exp()


def marginal_error(plan: Tensor, source_mask: Tensor, target_mask: Tensor) -> Tensor:
    """How far a plan is from what it should be: the largest deviation of a row or column from its share of the mass.

    Args:
        plan: (batch, source_length, target_length).
        source_mask, target_mask: (batch, length), 1 = keep.

    Returns:
        (batch,) in [0, 1], without gradient; 0 where Sinkhorn's iterations have converged.

    Raises:
        ValueError: a shape does not fit or a sentence has no token.
    """
    _check_shapes(plan, source_mask, target_mask, "plan")
    plan = plan.detach()
    deviations = [
        (plan.sum(dim=dim) - mask / mask.sum(dim=1, keepdim=True)).abs().amax(dim=1)
        for dim, mask in ((2, source_mask), (1, target_mask))
    ]
    return torch.maximum(*deviations)


def _log_mass(keep: Tensor, *, dim: int, dtype: torch.dtype) -> Tensor:
    """Logarithm of a token's mass, 1 / length: (batch, 1, 1)."""
    return -keep.sum(dim=dim, keepdim=True).to(dtype).log()


def _check_shapes(pairs: Tensor, source_mask: Tensor, target_mask: Tensor, name: str) -> None:
    wanted = (pairs.ndim == 3, source_mask.shape == pairs.shape[:2], target_mask.shape == pairs.shape[::2])
    if not all(wanted):
        raise ValueError(
            f"{name} must be (batch, source_length, target_length) with masks (batch, source_length) and (batch, "
            f"target_length), got {tuple(pairs.shape)}, {tuple(source_mask.shape)} and {tuple(target_mask.shape)}."
        )
    for side, mask in (("source", source_mask), ("target", target_mask)):
        empty = (~mask.bool().any(dim=1)).nonzero()
        if len(empty):
            raise ValueError(
                f"{side}_mask must keep at least one token of each sentence, got none in rows "
                f"{empty.flatten().tolist()[:3]}; leave empty sentences out."
            )
