"""The order of the training pairs: the same for any number of processes, and for a run that goes on."""

import gc
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from accelerate import skip_first_batches
from torch.utils.data import Dataset

from modeling_leccr.training.batches import DrawnPairs, GlobalBatches, TrainingLoader
from modeling_leccr.training.trainer import LeccrTrainer
from processing.augmentation import RandomResizedCrop, draw_of
from processing.pairs import CaptionPairs
from tests.tiny import tiny_model
from tests.training_parts import tiny_split, tiny_trainer


def epoch_of(num_pairs: int, batch_size: int, num_processes: int = 1, *, epoch: int = 0, **settings: Any) -> list:
    """The global batches of an epoch: for each the shares of the processes."""
    shares = []
    for process_index in range(num_processes):
        settings_here = {"seed": 3, "num_processes": num_processes, "process_index": process_index, **settings}
        batches = GlobalBatches(num_pairs, batch_size, **settings_here)
        batches.set_epoch(epoch)
        shares.append(list(batches))
        assert len(shares[-1]) == len(batches)
    return list(zip(*shares, strict=True))


def joined(batches: list) -> list:
    return [[place for share in shares for place in share] for shares in batches]


@pytest.mark.parametrize("num_processes", [2, 3, 4])
@pytest.mark.parametrize("drop_last", [True, False])
def test_processes_share_the_batches_of_one(num_processes: int, drop_last: bool):
    """Other batches on more processes are other negatives: a result could not be repeated on another machine."""
    for num_pairs in range(12, 30):
        one = joined(epoch_of(num_pairs, 12, drop_last=drop_last))
        many = joined(epoch_of(num_pairs, 12 // num_processes, num_processes, drop_last=drop_last))
        rest = num_pairs % 12
        left_out = not drop_last and 2 <= rest < 2 * num_processes
        assert many == one[: len(one) - left_out]


def test_an_epoch_has_each_pair_once_and_epochs_and_seeds_differ():
    """A sampler that starts anew at each epoch shows the same batches again and again."""
    orders = []
    for seed in (0, 1):
        for epoch in (0, 1, 2):
            places = [place for batch in joined(epoch_of(24, 4, epoch=epoch, seed=seed)) for place in batch]
            assert {place[0] for place in places} == {epoch}
            orders.append([index for _, index in places])
            assert sorted(orders[-1]) == list(range(24))
    assert len({tuple(order) for order in orders}) == 6


def test_pairs_of_one_group_follow_each_other_whatever_the_epoch_and_the_processes():
    """Hard negatives in different batches are none, and groups in one order would be the same batches again."""
    groups = np.array([0, 1, 0, 1, 2, 3, 2, 3, 4, 5, 4, 5])
    orders = []
    for epoch in range(4):
        one = joined(epoch_of(12, 4, epoch=epoch, groups=groups))
        assert one == joined(epoch_of(12, 2, 2, epoch=epoch, groups=groups))
        order = [index for batch in one for _, index in batch]
        assert sorted(order) == list(range(12))
        assert all(groups[first] == groups[second] for first, second in zip(order[::2], order[1::2], strict=True))
        orders.append(order)
    assert len({tuple(order) for order in orders}) == 4
    assert len({tuple(order[:2]) for order in orders}) > 2 and any(order[0] > order[1] for order in orders)
    alone = joined(epoch_of(12, 4, groups=np.arange(12)))
    assert alone == joined(epoch_of(12, 4))  # groups of one change nothing


def test_pairs_of_neighbours_are_grouped_by_their_place_in_the_item():
    """Items with other numbers of captions, or without any, shift the pairs of all that follow."""
    split = tiny_split(5)
    data = split.to_dict()
    data["caption_en"] = [["a", "b"], [], ["c", "d"], ["e"], ["f"]]
    data["caption_de_mt"] = [["A", "B"], [], ["C", None], ["E"], ["F"]]
    pairs = CaptionPairs(datasets.Dataset.from_dict(data, features=split.features), ["de"])
    told = [pairs.pair(index)["source_caption"] for index in range(len(pairs))]
    found: dict[int, str] = {}
    for text, group in zip(told, pairs.groups(2).tolist(), strict=True):
        found[group] = found.get(group, "") + text
    # Items 0 and 1 stand together, 2 and 3, and 4 alone.
    assert sorted(found.values()) == ["a", "b", "ce", "f"]
    assert len(set(pairs.groups(1).tolist())) == len(pairs)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        pairs.groups(0)


def test_a_run_takes_neighbours_together(tmp_path: Path):
    """A setting that nothing reads would pass for one that does not help."""
    trainer = tiny_trainer(tmp_path, tiny_model(), split=tiny_split(8), batch_neighbours=2)
    for batch in trainer.get_train_dataloader().batch_sampler:
        items = [trainer.train_dataset.pair(index)["item_index"] // 2 for _, index in batch]
        assert items[::2] == items[1::2]


def test_the_global_generator_has_no_say():
    """The order would depend on how much dropout was drawn before the epoch, and a resumed run would see another."""
    orders = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        orders.append(epoch_of(24, 4))
        assert torch.equal(torch.get_rng_state(), state)
    assert orders[0] == orders[1]


def test_a_short_last_batch_is_shared_as_evenly_as_can_be():
    """One process with one row has no loss, and processes with different numbers of batches wait for each other for
    ever."""
    for num_pairs, expected in [(20 + 9, [3, 2, 2, 2]), (20 + 8, [2] * 4), (20 + 19, [5, 5, 5, 4])]:
        sizes = [[len(share) for share in shares] for shares in epoch_of(num_pairs, 5, 4, drop_last=False)]
        assert sizes == [[5] * 4, expected]
    for num_pairs in (20 + 7, 20 + 1, 20):
        assert len(epoch_of(num_pairs, 5, 4, drop_last=False)) == 1
    assert len(epoch_of(20 + 19, 5, 4, drop_last=True)) == 1


@pytest.mark.parametrize(("num_pairs", "drop_last"), [(7, True), (3, False), (0, False)])
def test_an_epoch_without_a_batch_is_refused(num_pairs: int, drop_last: bool):
    """The stock trainer warns and ends as if it had trained."""
    with pytest.raises(ValueError, match=rf"batches of 8 pairs .*only {num_pairs} pairs .*; lower per_device"):
        GlobalBatches(num_pairs, 4, seed=0, num_processes=2, drop_last=drop_last)


class Rows:
    """Rows of which number 3 was skipped."""

    def __len__(self) -> int:
        return 5

    def pair(self, index: int, draw: int) -> dict[str, Any] | None:
        return None if index == 3 else {"index": index, "read with": draw}


def test_a_row_knows_its_draw_and_a_skipped_one_stays_none():
    """A draw of the index alone would crop a picture, and choose the frames of a clip, alike in each epoch."""
    pairs: Any = DrawnPairs(Rows(), seed=7)  # type: ignore[arg-type]
    assert pairs[2, 1] == {"index": 1, "draw": draw_of(7, 2, 1), "read with": draw_of(7, 2, 1)}
    assert pairs[2, 3] is None
    assert len({pairs[epoch, index]["draw"] for epoch in range(3) for index in (0, 1, 2, 4)}) == 12


def crop_trainer(folder: Path, **settings: Any) -> LeccrTrainer:
    trainer = tiny_trainer(folder, tiny_model(), split=tiny_split(8), **settings)
    trainer.data_collator.augmentation = RandomResizedCrop(32)
    return trainer


def epoch_batches(loader: TrainingLoader, epoch: int) -> list[dict[str, Any]]:
    loader.set_epoch(epoch)
    return list(loader)


def assert_same(left: list[dict[str, Any]], right: list[dict[str, Any]]) -> None:
    assert len(left) == len(right)
    for ours, theirs in zip(left, right, strict=True):
        assert ours["item_names"] == theirs["item_names"]
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items() if isinstance(value, torch.Tensor))


class CountFrozen(Dataset[int]):
    """How many objects garbage collection leaves alone where the row is read."""

    def __getitem__(self, place: tuple[int, int]) -> int:
        return gc.get_freeze_count()


def test_workers_share_the_objects_of_their_parent():
    """A collection writes to all of them, and hundreds of megabytes are copied into each worker; also in a run that
    goes on within an epoch."""
    before = gc.get_freeze_count()
    loader = TrainingLoader(CountFrozen(), batch_sampler=[[(0, 0)], [(0, 1)]], num_workers=1, collate_fn=list)
    for batches in (loader, skip_first_batches(loader, 1)):
        assert [count > before + 10_000 for [count] in batches] == [True] * len(batches)
    assert gc.get_freeze_count() == before


def test_the_loader_gives_the_same_batches_with_workers_and_after_a_skip(tmp_path: Path):
    """Augmentation that draws from a worker's generator changes with the number of workers, and a run that goes on in
    the middle of an epoch would crop its pictures otherwise."""
    settings = {"per_device_train_batch_size": 2}
    epochs = [epoch_batches(crop_trainer(tmp_path, **settings).get_train_dataloader(), epoch) for epoch in (0, 1)]
    workers = crop_trainer(tmp_path, **settings, dataloader_num_workers=2, dataloader_persistent_workers=True)
    loader = workers.get_train_dataloader()
    for epoch in (0, 1):
        assert_same(epoch_batches(loader, epoch), epochs[epoch])
    # As the trainer does: the sampler below the one that skips gets the epoch.
    skipping = skip_first_batches(crop_trainer(tmp_path, **settings).get_train_dataloader(), 3)
    skipping.batch_sampler.batch_sampler.set_epoch(1)
    assert_same(list(skipping), epochs[1][3:])
    pixels = [torch.cat([batch["pixel_values"] for batch in batches]) for batches in epochs]
    names = [[name for batch in batches for name in batch["item_names"]] for batches in epochs]
    assert sorted(names[0]) == sorted(names[1]) and names[0] != names[1]
    of_item = [{name: pixels[epoch][row] for row, name in enumerate(names[epoch])} for epoch in (0, 1)]
    assert not any(torch.equal(of_item[0][name], of_item[1][name]) for name in of_item[0]), "each epoch crops anew"


def test_fetching_batches_leaves_the_generator_of_dropout_alone(tmp_path: Path):
    """A loader takes a seed from the global generator when an epoch starts, and the trainer restores the state of a
    checkpoint only after it fetched the first batch."""
    loader = crop_trainer(tmp_path).get_train_dataloader()
    state = torch.get_rng_state()
    assert len(list(loader)) == 2
    assert torch.equal(torch.get_rng_state(), state)


def test_the_seed_of_the_data_can_differ_from_that_of_the_model(tmp_path: Path):
    """Two runs that differ in dropout and initialisation alone must see the same batches."""
    orders = [
        [name for batch in crop_trainer(tmp_path, **seeds).get_train_dataloader() for name in batch["item_names"]]
        for seeds in ({"seed": 1, "data_seed": 5}, {"seed": 2, "data_seed": 5}, {"seed": 1}, {"seed": 2})
    ]
    assert orders[0] == orders[1]
    assert all(left != right for left, right in pairwise(orders[1:]))


def test_other_orders_of_the_stock_trainer_are_refused(tmp_path: Path):
    """An order that is asked for and silently not taken is a wrong result."""
    with pytest.raises(ValueError, match="train_sampling_strategy must be 'random', got 'sequential'"):
        crop_trainer(tmp_path, train_sampling_strategy="sequential")
