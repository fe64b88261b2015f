"""Rows shared out between the processes of a distributed run, and their results brought together by position."""

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

_ROWS_AT_ONCE = 65_536

Part = TypeVar("Part")


def has_split_weights(model: nn.Module) -> bool:
    """Whether each process holds a part of the weights (FSDP2, ZeRO-3), so that all meet in each forward pass."""
    return any(isinstance(part, FSDPModule) for part in model.modules()) or any(
        hasattr(parameter, "ds_id") for parameter in model.parameters()
    )


class Processes:
    """The processes that share a piece of work.

    Args:
        shared: False leaves all of the work to this process, and makes every method of this class a local one.

    Attributes:
        index: which of them this process is.
        count: how many there are.
    """

    def __init__(self, *, shared: bool) -> None:
        together = shared and dist.is_available() and dist.is_initialized()
        self.index: int = dist.get_rank() if together else 0
        self.count: int = dist.get_world_size() if together else 1

    def own_parts(self, parts: Sequence[Part]) -> Iterator[tuple[Part, bool]]:
        """The parts of this process, each with whether its result counts.

        Every process gets equally many: a model whose weights are themselves shared out exchanges them in each
        forward pass, and would wait for ever for a process that has one pass less. A part too many does not count.
        """
        for first in range(0, len(parts), self.count):
            position = first + self.index
            yield parts[position if position < len(parts) else 0], position < len(parts)

    def gather(self, value: Any) -> list[Any]:
        """What each process holds, in their order; for small values."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def add_up(self, values: Tensor, device: torch.device) -> None:
        """Replace values (num_rows, ...) on the CPU by their sum over the processes, by way of the device."""
        if self.count == 1:
            return
        # In pieces: all embeddings of a large split at once are more than a device may have left.
        for piece in values.split(_ROWS_AT_ONCE):
            summed = piece.to(device)
            dist.all_reduce(summed)
            piece.copy_(summed)

    @contextmanager
    def all_or_none(self, *, split_weights: bool = False) -> Iterator[None]:
        """Work that either succeeds in every process or fails in every one.

        Args:
            split_weights: the work is that of a model of which each process holds a part (`has_split_weights`).

        Raises:
            RuntimeError: it failed in another process, which raises its own error.
        """
        if self.count == 1:
            yield
            return
        try:
            yield
        except Exception as error:
            # The others wait below; without a word they would do so until the time limit of their collective. With
            # split weights they wait for this one's part, and would take the word for it: the launcher ends them.
            if not split_weights:
                self.gather(repr(error))
            raise
        failed = {index: error for index, error in enumerate(self.gather(None)) if error is not None}
        if failed:
            raise RuntimeError(f"the work shared with other processes failed in process {min(failed)}: {failed}.")

    def check_same(self, rows: Any, *, name: str) -> None:
        """Refuse to share out rows that are not the same in every process.

        Raises:
            RuntimeError: they differ between processes.
        """
        if self.count == 1:
            return
        hashes = self.gather(zlib.crc32(repr(rows).encode()))
        if len(set(hashes)) > 1:
            raise RuntimeError(
                f"the {name} must be the same in every process to be shared out, got {len(set(hashes))} versions of "
                f"them; does each machine read the same data?"
            )
