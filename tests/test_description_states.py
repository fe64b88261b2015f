"""The store of token states: what it gives back, what it refuses, and how it is filled and shared."""

import os
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch.utils.data import DataLoader

from modeling_leccr import LeccrModel
from modeling_leccr.description_encoder import DescriptionEncoder, fill_store
from processing.collator import LeccrCollator
from processing.description_states import DescriptionStates, StatesDtype
from processing.pairs import CaptionPairs
from tests.tiny import SENTENCES, tiny_model, tiny_processor
from tests.training_parts import tiny_split

DESCRIPTIONS = [description for _, _, description in SENTENCES]


@pytest.fixture(scope="module")
def model() -> LeccrModel:
    """A tiny model with a frozen description encoder."""
    return tiny_model(description_encoder="frozen")


@pytest.fixture(scope="module")
def encoder(model: LeccrModel) -> DescriptionEncoder:
    """Its encoder."""
    return DescriptionEncoder(model.description_model, tiny_processor())


def new_store(folder: Path, encoder: DescriptionEncoder, dtype: StatesDtype = "float16") -> DescriptionStates:
    return DescriptionStates.create(folder, encoder=encoder.identity(), width=encoder.width, dtype=dtype)


def filled_store(folder: Path, encoder: DescriptionEncoder, dtype: StatesDtype = "float16") -> DescriptionStates:
    store = new_store(folder, encoder, dtype)
    fill_store(store, encoder, DESCRIPTIONS, batch_size=3, rows_per_shard=5, progress=False)
    return store


class CountingEncoder(DescriptionEncoder):
    """Notes what it encodes, and fails when it has done enough."""

    def __init__(self, encoder: DescriptionEncoder, calls: int | None = None) -> None:
        super().__init__(encoder.tower, encoder.processor)
        self.encoded: list[str] = []
        self.calls = calls

    def __call__(self, descriptions: Sequence[str]) -> list[torch.Tensor]:
        if self.calls == 0:
            raise KeyboardInterrupt
        self.calls = None if self.calls is None else self.calls - 1
        self.encoded += descriptions
        return super().__call__(descriptions)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_store_gives_back_what_the_encoder_said(tmp_path: Path, encoder: DescriptionEncoder, dtype: StatesDtype):
    """States of the neighbour in the file would train slots on another picture's description, and nothing would fail.

    float16 keeps 11 bits of each number; int8 is off by at most half a step of 1/127 of the token's largest.
    """
    filled_store(tmp_path / "store", encoder, dtype)
    store = DescriptionStates(tmp_path / "store", encoder=encoder.identity())
    assert len(store) == len(DESCRIPTIONS)
    for description in DESCRIPTIONS:
        (exact,) = encoder([description])
        read = store.read(description)
        assert read.dtype == torch.float16 and read.shape == exact.shape
        error = (read.float() - exact).abs()
        if dtype == "float16":
            bound = exact.abs() * 2**-11 + 1e-7
        else:
            bound = exact.abs().amax(dim=1, keepdim=True) * (0.5 / 127 + 2**-11)
            assert error.max() > 1e-4, "these are not int8 numbers"
        assert (error <= bound).all()


def test_a_batch_from_the_store_gives_the_embeddings_of_the_encoder(
    tmp_path: Path, model: LeccrModel, encoder: DescriptionEncoder
):
    """Padding and masks are made in two places; a shift by one token would go unseen."""
    store = filled_store(tmp_path / "store", encoder)
    processor = encoder.processor
    pairs = CaptionPairs(tiny_split(), ["de"])
    rows = [pairs[i] for i in range(8)]
    with_ids = LeccrCollator(processor)(rows)
    with_states = LeccrCollator(processor, description_states=store)(rows)
    assert set(with_ids) - set(with_states) == {"description_input_ids"}
    assert set(with_states) - set(with_ids) == {"description_states"}
    assert torch.equal(with_states["description_attention_mask"], with_ids["description_attention_mask"])
    outputs = []
    for batch in (with_ids, with_states):
        for name in ("image_ids", "item_names", "num_skipped"):
            batch.pop(name)
        outputs.append(model(**batch))
    torch.testing.assert_close(outputs[1].image_embeds, outputs[0].image_embeds, atol=3e-4, rtol=0)
    torch.testing.assert_close(outputs[1].slot_embeds, outputs[0].slot_embeds, atol=3e-4, rtol=0)


def test_items_without_description_have_no_states(tmp_path: Path, encoder: DescriptionEncoder):
    """They get the null description, as with token ids: a row of zeros in the mask, also where all rows are such."""
    store = filled_store(tmp_path / "store", encoder)
    assert store.missing([None, "", "  ", *DESCRIPTIONS]) == []
    batch = store.batch([None, DESCRIPTIONS[0], " "], ["a", "b", "c"])
    assert batch["description_attention_mask"].any(dim=1).tolist() == [False, True, False]
    nothing = store.batch([None, ""], ["a", "b"])
    assert nothing["description_states"].shape == (2, 1, encoder.width)
    assert not nothing["description_attention_mask"].any()


def test_a_changed_description_is_refused_with_its_item_and_the_command(tmp_path: Path, encoder: DescriptionEncoder):
    """Its old states are of another text; the run would train on what nobody can read any more."""
    store = filled_store(tmp_path / "store", encoder)
    with pytest.raises(ValueError, match=r"item 'item-3' has no states .* `leccr encode_descriptions .*store`"):
        store.batch([DESCRIPTIONS[0], DESCRIPTIONS[1] + "."], ["item-0", "item-3"])
    assert store.missing([DESCRIPTIONS[1] + ".", DESCRIPTIONS[1]]) == [DESCRIPTIONS[1] + "."]


def test_the_states_of_another_encoder_are_refused(tmp_path: Path, encoder: DescriptionEncoder):
    """One weight, the tokenizer and the cut of long texts change the states, and none of it shows in their shape."""
    filled_store(tmp_path / "store", encoder)
    other = tiny_model(description_encoder="frozen")
    assert DescriptionEncoder(other.description_model, encoder.processor).identity() == encoder.identity()
    with torch.no_grad():
        other.description_model.get_input_embeddings().weight[7, 3] += 1e-3
    changed = {
        "weights": DescriptionEncoder(other.description_model, encoder.processor),
        "max_length": DescriptionEncoder(encoder.tower, tiny_processor(max_length=20)),
    }
    processor = tiny_processor()
    processor.tokenizer.add_tokens(["zebra"])
    changed["tokenizer"] = DescriptionEncoder(encoder.tower, processor)
    for name, different in changed.items():
        with pytest.raises(ValueError, match=f"another description encoder: {name} is [^;]*\\. .*encode_descriptions"):
            DescriptionStates(tmp_path / "store", encoder=different.identity())


def test_reading_texts_does_not_change_the_identity_of_an_encoder(encoder: DescriptionEncoder):
    """A tokenizer remembers how it was asked to pad; the same run would refuse its own store."""
    before = encoder.identity()
    encoder.processor.tokenizer(DESCRIPTIONS, padding="max_length", truncation=True, max_length=9)
    assert encoder.identity() == before


def test_a_killed_command_continues_where_it_stopped(tmp_path: Path, encoder: DescriptionEncoder):
    """Hours of encoding must not be lost, and what was half written must not be read."""
    whole = filled_store(tmp_path / "whole", encoder)
    store = new_store(tmp_path / "store", encoder)
    with pytest.raises(KeyboardInterrupt):
        fill_store(store, CountingEncoder(encoder, 3), DESCRIPTIONS, batch_size=2, rows_per_shard=3, progress=False)
    (tmp_path / "store" / ".states-1-2.safetensors").write_bytes(b"half a file of a killed process")
    again, rest = new_store(tmp_path / "store", encoder), CountingEncoder(encoder)
    assert len(again) == 3
    assert fill_store(again, rest, DESCRIPTIONS, batch_size=2, rows_per_shard=3, progress=False) == 5
    assert sorted(rest.encoded) == sorted(DESCRIPTIONS[3:])
    for description in DESCRIPTIONS:
        assert (again.read(description).float() - whole.read(description).float()).abs().max() < 2e-3
    nothing = CountingEncoder(encoder)
    assert fill_store(again, nothing, DESCRIPTIONS, progress=False) == 0 and not nothing.encoded


def test_processes_share_the_work_whenever_they_start(tmp_path: Path, encoder: DescriptionEncoder):
    """A process that cut what is left, and not the whole, would leave out what its neighbour had just done."""
    encoded: list[str] = []
    for process in (2, 0, 1):
        counting = CountingEncoder(encoder)
        store = new_store(tmp_path / "store", encoder)
        fill_store(
            store, counting, [*DESCRIPTIONS, *DESCRIPTIONS], batch_size=2, rows_per_shard=2, process_index=process,
            num_processes=3, progress=False,
        )  # fmt: skip
        assert counting.encoded
        encoded += counting.encoded
    assert sorted(encoded) == sorted(DESCRIPTIONS)
    assert store.missing(DESCRIPTIONS) == []


def test_what_two_processes_add_at_once_is_the_same_file(tmp_path: Path, encoder: DescriptionEncoder):
    """Two shells with the same command may meet; the folder must not grow by it."""
    first, second = (new_store(tmp_path / "store", encoder) for _ in range(2))
    for store in (first, second):
        fill_store(store, encoder, DESCRIPTIONS, progress=False)
    assert len(list((tmp_path / "store").glob("states-*"))) == 1 and len(second) == len(DESCRIPTIONS)


def test_workers_of_a_data_loader_read_a_store_that_is_open(tmp_path: Path, encoder: DescriptionEncoder):
    """A file position that forked workers share would mix up their reads; an open map cannot be pickled."""
    store = filled_store(tmp_path / "store", encoder)
    expected = [store.read(text) for text in DESCRIPTIONS]
    loader = DataLoader(DESCRIPTIONS * 8, batch_size=4, num_workers=2, collate_fn=_ReadBatch(store))
    rows = [states for batch in loader for states in batch]
    assert len(rows) == 64
    for position, states in enumerate(rows):
        assert torch.equal(states, expected[position % 8])
    assert torch.equal(pickle.loads(pickle.dumps(store)).read(DESCRIPTIONS[0]), expected[0])


class _ReadBatch:
    def __init__(self, store: DescriptionStates) -> None:
        self.store = store

    def __call__(self, texts: list[str]) -> list[torch.Tensor]:
        return [self.store.read(text) for text in texts]


def test_reading_one_item_does_not_read_the_file(tmp_path: Path):
    """A store is larger than the memory; a read of one item must cost one item."""
    store = DescriptionStates.create(tmp_path / "store", encoder={}, width=1024)
    store.add([f"text {i}" for i in range(64)], [torch.full((512, 1024), float(i)) for i in range(64)])
    store.reload()
    before = _resident_mib()
    assert store.read("text 40")[0, 0] == 40
    assert _resident_mib() - before < 24  # of 64


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.parametrize("damage", ["cut", "garbage", "ends", "width"])
def test_a_damaged_file_is_refused_by_its_name(tmp_path: Path, encoder: DescriptionEncoder, damage: str):
    """The states of all items behind the damage would be those of others."""
    filled_store(tmp_path / "store", encoder)
    path = sorted((tmp_path / "store").glob("states-*"))[0]
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "garbage":
        path.write_bytes(b"no states at all, for sure")
    else:
        content = load_file(path)
        if damage == "ends":
            content["ends"] = content["ends"] + 1
        else:
            content["states"] = np.ascontiguousarray(content["states"][:, :-1])
        save_file(content, path)
    with pytest.raises(ValueError, match=f"{path.name} is damaged .*encode_descriptions"):
        DescriptionStates(tmp_path / "store")


def test_folders_that_are_no_store_are_refused(tmp_path: Path, encoder: DescriptionEncoder):
    """A wrong path must neither train without descriptions nor scatter files over somebody's data."""
    with pytest.raises(ValueError, match="holds no states of descriptions; run `leccr encode_descriptions"):
        DescriptionStates(tmp_path / "nowhere")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.parquet").touch()
    with pytest.raises(ValueError, match=r"holds files and no store\.json"):
        new_store(tmp_path / "data", encoder)
    store = new_store(tmp_path / "store", encoder)
    with pytest.raises(ValueError, match="holds float16 states, got int8"):
        new_store(tmp_path / "store", encoder, "int8")
    (store.folder / "store.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"store\.json is damaged"):
        DescriptionStates(store.folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e5])
@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_states_that_float16_cannot_hold_are_refused(tmp_path: Path, value: float, dtype: StatesDtype):
    """They would come back as infinity, and the loss as NaN, hours later."""
    store = DescriptionStates.create(tmp_path / "store", encoder={}, width=2, dtype=dtype)
    with pytest.raises(ValueError, match="this encoder cannot be stored"):
        store.add(["text"], [torch.tensor([[1.0, value]])])
    assert not list(store.folder.glob("states-*"))


def test_sizes_below_one_are_refused(tmp_path: Path, encoder: DescriptionEncoder):
    """A range with step 0 says nothing about the option."""
    store = new_store(tmp_path / "store", encoder)
    with pytest.raises(ValueError, match="at least 1, got 0 and 5"):
        fill_store(store, encoder, DESCRIPTIONS, batch_size=0, rows_per_shard=5)
