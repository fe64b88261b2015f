"""Gather rows over processes with an exact gradient: N processes train as one with the global batch."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from modeling_leccr.losses_leccr import MatchingBatch


class _GatherRows(torch.autograd.Function):
    """All-gather in forward; in backward each process receives what every process's loss asks of its rows.

    Every process computes the same loss of the global batch. Summing the gradients over processes gives N times the
    single-process gradient, and DDP's mean over processes divides by N again.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: list[int]) -> Tensor:
        ctx.sizes = sizes
        return _all_gather(rows, sizes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient = gradients[0].contiguous()
        dist.all_reduce(gradient)
        return gradient.split(ctx.sizes)[dist.get_rank()], None


def gather_batch(batch: MatchingBatch) -> MatchingBatch:
    """The global batch, rows in the order of the ranks; with one process the batch itself.

    Processes may hold different numbers of rows, as after skipping corrupt images.

    Paper: arXiv:2409.19961. Differs: the released gather keeps the local slice of the gradient alone, which leaves
    1/N of it.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return batch
    own_size = torch.tensor([batch.image_ids.shape[0]], device=batch.image_ids.device)
    all_sizes = [torch.empty_like(own_size) for _ in range(dist.get_world_size())]
    dist.all_gather(all_sizes, own_size)
    sizes = [int(size) for size in all_sizes]

    def gather(rows: Tensor) -> Tensor:
        return _GatherRows.apply(rows, sizes) if rows.is_floating_point() else _all_gather(rows, sizes)

    return batch.map(gather)


def _all_gather(rows: Tensor, sizes: list[int]) -> Tensor:
    longest = max(sizes)
    padded = rows.new_zeros(longest, *rows.shape[1:])
    padded[: rows.shape[0]] = rows
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
