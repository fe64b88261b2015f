"""The order of the training pairs: a pure function of (seed, epoch, step), however many processes share it."""

import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from processing.augmentation import draw_of
from processing.pairs import CaptionPairs


class DrawnPairs(Dataset[dict[str, Any] | None]):
    """Pairs that are asked for by (epoch, index), so that each row knows the draw that decides its augmentation, and
    which frames of its clip are read.

    The epoch comes with the index because a data loader's workers hold a copy of the data set, of whatever epoch it
    was made in.

    Args:
        pairs: of a split that is read as a whole.
        seed: of the run.
    """

    def __init__(self, pairs: CaptionPairs, seed: int) -> None:
        self.pairs = pairs
        self.seed = seed

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.pairs)

    def __getitem__(self, place: tuple[int, int]) -> dict[str, Any] | None:
        """The row of the pair with its `draw`; None stays None."""
        epoch, index = place
        draw = draw_of(self.seed, epoch, index)
        row = self.pairs.pair(index, draw)
        return None if row is None else row | {"draw": draw}


class GlobalBatches(Sampler[list[tuple[int, int]]]):
    """The share of one process in each global batch, as places (epoch, index) for `DrawnPairs`.

    An epoch is one permutation of the pairs; global batch i is its i-th slice, of which each process takes a
    contiguous share. N processes with batches of b so see the batches of one process with batches of N * b.

    Args:
        num_pairs: number of pairs.
        batch_size: pairs of one process and batch.
        seed: of the permutations.
        num_processes: processes that share a batch.
        process_index: which of them this one is.
        groups: (num_pairs,) a number for each pair; pairs with the same one follow each other, in a random order, so
            that they share a batch but where one ends. None: no pair follows another.
        drop_last: leave a short last batch out. Otherwise it is shared as evenly as can be, but still left out where
            that would give a process fewer than two pairs, for which there is no contrastive loss.

    Raises:
        ValueError: there is not a single batch.
    """

    def __init__(
        self,
        num_pairs: int,
        batch_size: int,
        *,
        seed: int,
        num_processes: int = 1,
        process_index: int = 0,
        groups: np.ndarray | None = None,
        drop_last: bool = True,
    ) -> None:
        self.num_pairs = num_pairs
        self.groups = None if groups is None else torch.from_numpy(groups)
        self.global_size = batch_size * num_processes
        self.seed = seed
        self.num_processes = num_processes
        self.process_index = process_index
        self.epoch = 0
        self._num_batches, rest = divmod(num_pairs, self.global_size)
        if not drop_last and rest >= 2 * num_processes:
            self._num_batches += 1
        if self._num_batches == 0:
            raise ValueError(
                f"training takes batches of {self.global_size} pairs (per_device_train_batch_size {batch_size} x "
                f"{num_processes} processes), but there are only {num_pairs} pairs (English captions x target "
                f"languages); lower per_device_train_batch_size."
            )

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation; the trainer calls it at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches of an epoch; the same in every process."""
        return self._num_batches

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """The batches of the epoch, from the first."""
        generator = torch.Generator().manual_seed(draw_of(self.seed, self.epoch))
        order = torch.randperm(self.num_pairs, generator=generator)
        if self.groups is not None:
            # Each group stands where the permutation has the first of it.
            groups = self.groups[order]
            firsts = torch.full((int(groups.max()) + 1,), self.num_pairs)
            firsts.scatter_reduce_(0, groups, torch.arange(self.num_pairs), "amin")
            order = order[firsts[groups].argsort(stable=True)]
        for start in range(0, self._num_batches * self.global_size, self.global_size):
            batch = order[start : start + self.global_size]
            size, larger = divmod(len(batch), self.num_processes)  # the first `larger` processes take one more
            first = self.process_index * size + min(self.process_index, larger)
            share = batch[first : first + size + (self.process_index < larger)]
            yield [(self.epoch, index) for index in share.tolist()]


def leave_inherited(_: int) -> None:
    """In a new worker: garbage collection leaves alone what the worker has from its parent.

    It writes to every object that it looks at, so each forked worker would get a copy of all of them: some hundred
    megabytes, and only after some hundred batches.
    """
    gc.freeze()


class TrainingLoader(DataLoader):
    """A data loader over `GlobalBatches` that passes the epoch on to them, and whose workers share memory.

    Args:
        pairs: a data set that is asked for by (epoch, index), such as `DrawnPairs`.
        kwargs: of `torch.utils.data.DataLoader`, but for `worker_init_fn`.
    """

    def __init__(self, pairs: Dataset[Any], **kwargs: Any) -> None:
        super().__init__(pairs, worker_init_fn=leave_inherited, **kwargs)

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer at the start of each epoch."""
        self.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]
