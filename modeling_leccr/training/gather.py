"""Gather rows over processes with an exact gradient: N processes train as one with the global batch."""

import dataclasses
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from modeling_leccr.objectives_leccr import BatchRows, Rows


class _GatherRows(torch.autograd.Function):
    """All-gather in forward; in backward this process's rows get N times their gradient, N being the processes.

    Every process computes the same loss of the same gathered rows, so each already holds what an all-reduce of the
    gradient would bring: N equal parts. DDP's and FSDP's mean over processes divides by N again.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: list[int]) -> Tensor:
        ctx.sizes = sizes
        return _all_gather(rows, sizes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0].split(ctx.sizes)[dist.get_rank()] * len(ctx.sizes), None


def row_counts(rows: Tensor) -> list[int]:
    """How many rows each process holds, in the order of the processes; every one has to ask."""
    if not _several_processes():
        return [rows.shape[0]]
    counts = torch.empty(dist.get_world_size(), dtype=torch.int64, device=rows.device)
    dist.all_gather(list(counts.split(1)), counts.new_tensor([rows.shape[0]]))
    return counts.tolist()


def gather_batch(batch: Rows, sizes: list[int] | None = None) -> Rows:
    """The global batch, rows in the order of the processes; with one process the batch itself.

    Processes may hold different numbers of rows, as after skipping corrupt images. The gradient is right where every
    process computes the same loss of the result.

    Paper: arXiv:2409.19961. Differs: the released gather keeps the local slice of the gradient alone, which leaves
    1/N of it after the mean over processes.

    Args:
        batch: the rows of this process.
        sizes: what `row_counts` gives for them, where that is known already.
    """
    if not _several_processes():
        return batch
    sizes = row_counts(batch.image_ids) if sizes is None else sizes
    parts = float_parts(batch)
    # One matrix, so that a step waits for one collective and not for seven.
    packed = torch.cat([value.reshape(len(value), -1) for value in parts.values()], dim=1)
    widths = [value[0].numel() for value in parts.values()]
    columns = _GatherRows.apply(packed, sizes).split(widths, dim=1)
    gathered = {
        name: column.reshape(-1, *value.shape[1:]) for (name, value), column in zip(parts.items(), columns, strict=True)
    }
    return type(batch)(image_ids=_all_gather(batch.image_ids, sizes), **gathered)


def float_parts(batch: BatchRows) -> dict[str, Tensor]:
    """The tensors through which gradients flow, by name."""
    parts = {entry.name: getattr(batch, entry.name) for entry in dataclasses.fields(batch)}
    return {name: value for name, value in parts.items() if value is not None and value.is_floating_point()}


def _several_processes() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _all_gather(rows: Tensor, sizes: list[int]) -> Tensor:
    longest = max(sizes)
    padded = rows.new_zeros(longest, *rows.shape[1:])
    padded[: rows.shape[0]] = rows
    gathered = rows.new_empty(longest * len(sizes), *rows.shape[1:])
    parts = list(gathered.split(longest))
    dist.all_gather(parts, padded)
    if len(set(sizes)) == 1:
        return gathered
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
