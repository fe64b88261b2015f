"""Training pairs from shards: each item once in a pass, whoever reads; the same again after a stop; bounded memory."""

import itertools
import pickle
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
from accelerate import skip_first_batches
from torch.utils.data import DataLoader

from processing import streaming
from processing.pairs import CaptionPairs
from processing.sources import write_splits
from processing.streaming import StreamedPairs, StreamPlace, find_parquet_split, shuffled
from processing.visual_rows import VisualReader
from tests.training_parts import tiny_split

SIZES = (7, 3, 12, 1, 5)  # items of each shard
IDS = [f"{shard}-{item}" for shard, size in enumerate(SIZES) for item in range(size)]


def write_shards(folder: Path, sizes: tuple[int, ...] = SIZES, **columns: Any) -> Path:
    """A training split in uneven shards, and a validation split; `columns`: name -> value of every row."""
    for shard, size in enumerate(sizes):
        rows = {name: [value] * size for name, value in columns.items()}
        rows["image_id"] = [f"{shard}-{item}" for item in range(size)]
        tiny_split(size, **rows).to_parquet(str(folder / f"train-{shard:05d}-of-{len(sizes):05d}.parquet"))
    tiny_split(4).to_parquet(str(folder / "validation-00000-of-00001.parquet"))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two captions an item, in two languages, one of the four translations refused."""
    captions = {"caption_en": ["one", "two"], "caption_de_mt": ["eins", "zwei"], "caption_fr_mt": ["un", None]}
    return write_shards(tmp_path_factory.mktemp("shards"), **captions)


def stream(folder: Path, **settings: Any) -> StreamedPairs:
    settings = {"seed": 0, "shuffle_buffer": 4, **settings}
    return StreamedPairs(find_parquet_split(folder, "train"), ["de", "fr"], **settings)


def ids_of(rows: Any) -> list[str]:
    return [row["image_id"] for row in rows]


def texts_of(rows: Any) -> list[dict[str, Any]]:
    """Rows without their pictures, which compare by identity."""
    return [{name: value for name, value in row.items() if name != "image"} for row in rows]


def one_pass(pairs: StreamedPairs, number: int, reader: int = 0) -> list[dict[str, Any]]:
    """The rows of one reader of the process in a pass, without their pictures."""
    first = sum(len(list(pairs.items_of_pass(before, reader))) for before in range(number))
    length = len(list(pairs.items_of_pass(number, reader)))
    return texts_of(pairs.__getitems__([StreamPlace(reader, first, length)]))


def loader(pairs: StreamedPairs, *, num_workers: int = 0) -> DataLoader:
    return DataLoader(pairs, batch_sampler=pairs.batches(3), num_workers=num_workers, collate_fn=texts_of)


def first_batches(pairs: StreamedPairs, num_batches: int, **settings: Any) -> list[list]:
    return list(itertools.islice(loader(pairs, **settings), num_batches))


@pytest.mark.parametrize(("num_processes", "num_readers"), [(1, 1), (2, 1), (1, 4), (2, 2), (5, 1), (7, 1), (3, 4)])
def test_a_pass_gives_every_item_once_however_many_readers_share_it(folder: Path, num_processes: int, num_readers: int):
    """Uneven shards, and more readers than shards: rows that two readers give count twice, and lost ones never."""
    processes = [
        stream(folder, process_index=process, num_processes=num_processes, num_readers=num_readers)
        for process in range(num_processes)
    ]
    for number in range(3):
        found = [ids_of(pairs.items_of_pass(number, reader)) for pairs in processes for reader in range(num_readers)]
        assert sorted(itertools.chain(*found)) == sorted(IDS), f"pass {number}"


def test_passes_and_seeds_have_orders_of_their_own_and_keep_them(folder: Path):
    """The order of the files in each pass is no shuffling; another order after a restart is no resume."""
    orders = [
        ids_of(stream(folder, seed=seed).items_of_pass(number, 0)) for seed, number in ((0, 0), (0, 1), (1, 0), (0, 0))
    ]
    assert orders[0] == orders[3]
    assert all(first != second for first, second in itertools.combinations(orders[:3], 2))
    assert orders[0] != IDS


def test_readers_of_one_pass_are_dealt_other_shards_in_the_next(folder: Path):
    """Readers with small shards go round faster: with the same for ever, their items would be seen more often."""
    pairs = stream(folder, num_processes=2)
    shares = [frozenset(ids_of(pairs.items_of_pass(number, 0))) for number in range(4)]
    assert len(set(shares)) > 1


def test_the_pair_of_an_item_depends_on_seed_pass_and_id_alone(folder: Path):
    """From a shared generator, the caption would depend on the rows before it, and with it on who reads."""
    pairs = stream(folder)
    alone = {row["image_id"]: row for row in one_pass(pairs, 2)}
    three = stream(folder, shuffle_buffer=1, num_readers=3)
    assert {row["image_id"]: row for reader in range(3) for row in one_pass(three, 2, reader)} == alone
    other = {row["image_id"]: row for row in one_pass(pairs, 3)}
    assert any(other[name]["target_caption"] != row["target_caption"] for name, row in alone.items())
    assert all(other[name]["draw"] != row["draw"] for name, row in alone.items())
    assert len({row["draw"] for row in alone.values()}) == len(alone)


def test_every_pair_of_an_item_has_its_turn_and_a_refused_translation_none(folder: Path):
    """Always the first caption, or always the first language, would train on a part of the data."""
    rows = stream(folder).__getitems__([StreamPlace(0, 0, 8 * len(IDS))])
    seen = Counter((row["source_caption"], row["target_language"], row["target_caption"]) for row in rows)
    assert set(seen) == {("one", "de", "eins"), ("two", "de", "zwei"), ("one", "fr", "un")}
    assert min(seen.values()) > 0.2 * sum(seen.values())


def test_rows_are_those_of_a_loaded_split(folder: Path):
    """The collator and the losses read the same keys from both."""
    loaded = CaptionPairs(find_parquet_split(folder, "train").load(), ["de", "fr"])
    keys = ("image_id", "source_caption", "target_language")
    expected = {tuple(row[key] for key in keys): row for row in loaded}
    for row in stream(folder).__getitems__([StreamPlace(0, 0, len(IDS))]):
        other = expected[tuple(row[key] for key in keys)]
        assert set(row) == {*other, "draw"}
        assert row["image"].tobytes() == other["image"].tobytes() and row["image"].mode == "RGB"
        assert all(row[name] == other[name] for name in ("target_caption", "description"))
        assert 0 <= row["item_index"] < 2**63


def test_two_processes_with_two_workers_each_never_wait_for_each_other(folder: Path):
    """One item in one shard and twelve in another: with an end to its pass, a process would leave the others in a
    collective without end. Here each has batches for as long as it is asked."""
    seen = []
    for process in range(2):
        pairs = stream(folder, process_index=process, num_processes=2, num_readers=2)
        batches = first_batches(pairs, 40, num_workers=2)
        assert [len(batch) for batch in batches] == [3] * 40
        rows = list(itertools.chain(*batches))
        # A draw belongs to one item and pass: twice the same draw would be the same row of the same pass.
        assert len({row["draw"] for row in rows}) == len(rows)
        seen += ids_of(rows)
    assert set(seen) == set(IDS)


@pytest.mark.parametrize("num_workers", [0, 2, 3])
def test_a_stream_that_was_stopped_goes_on_with_the_same_rows(folder: Path, num_workers: int):
    """The trainer skips the batches that it has trained on; what follows them must be what would have followed,
    also from a worker that is not the one that would have read it."""
    rows = first_batches(stream(folder, num_readers=2), 9)
    assert first_batches(stream(folder, num_readers=2), 9, num_workers=num_workers) == rows
    again = skip_first_batches(loader(stream(folder, num_readers=2), num_workers=num_workers), 5)
    assert list(itertools.islice(again, 4)) == rows[5:]


def test_rows_that_are_skipped_are_not_decoded(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """A run that goes on after a day would decode the pictures of a day before its first step."""
    decoded = []
    original = VisualReader.read
    monkeypatch.setattr(VisualReader, "read", lambda *a, **k: decoded.append(1) or original(*a, **k))
    list(itertools.islice(skip_first_batches(loader(stream(folder)), 30), 2))
    assert len(decoded) == 2 * 3


def test_a_second_training_begins_at_the_start(folder: Path):
    """The readers of the first have come further."""
    pairs = stream(folder, num_readers=2)
    assert first_batches(pairs, 5) == first_batches(pairs, 5)
    assert pickle.loads(pickle.dumps(pairs))._positions == {}


def test_shuffling_holds_no_more_rows_than_it_may_and_loses_none():
    """A buffer that grows holds the data set in the end."""
    held = most = 0

    def rows() -> Iterator[int]:
        nonlocal held, most
        for row in range(100):
            held += 1
            most = max(most, held)
            yield row

    found = []
    for row in shuffled(rows(), 8, random.Random(0)):
        held -= 1
        found.append(row)
    assert sorted(found) == list(range(100)) and found != list(range(100))
    assert most == 9  # the buffer, and the row that comes in for the one that goes out
    assert list(shuffled(iter(range(5)), 1, random.Random(0))) == list(range(5))


def test_pictures_wait_undecoded(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """A decoded picture takes ten times the memory of its file."""
    decoded = []
    original = VisualReader.read
    monkeypatch.setattr(VisualReader, "read", lambda *a, **k: decoded.append(1) or original(*a, **k))
    assert len(first_batches(stream(folder, shuffle_buffer=20), 1)) == 1
    assert len(decoded) == 3


def test_workers_share_the_buffer_of_their_process(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """A buffer for each worker: sixteen workers would hold sixteen times what was asked for."""
    sizes = []
    original = streaming.shuffled
    monkeypatch.setattr(streaming, "shuffled", lambda rows, size, rng: sizes.append(size) or original(rows, size, rng))
    for num_processes, num_readers in ((1, 1), (1, 4), (2, 2), (1, 64)):
        stream(folder, shuffle_buffer=20, num_processes=num_processes, num_readers=num_readers).items_of_pass(0, 0)
    assert sizes == [20, 5, 10, 1]


@pytest.mark.parametrize("corrupt_images", ["error", "skip"])
def test_a_damaged_picture_is_named_or_skipped(tmp_path: Path, corrupt_images: str):
    """As in a loaded split: a row of None is dropped and counted by the collator."""
    broken = datasets.Image(decode=False)
    split = tiny_split(3).cast_column("image", broken)
    rows = [dict(row) for row in split]
    rows[1]["image"] = {"bytes": rows[1]["image"]["bytes"][:40], "path": None}
    damaged = datasets.Dataset.from_list(rows, features=split.features).cast_column("image", datasets.Image())
    damaged.to_parquet(str(tmp_path / "train-00000-of-00001.parquet"))
    pairs = StreamedPairs(find_parquet_split(tmp_path, "train"), ["de"], seed=0, corrupt_images=corrupt_images)
    if corrupt_images == "error":
        with pytest.raises(ValueError, match="item 'item-1': its image must be readable"):
            pairs.__getitems__([StreamPlace(0, 0, 3)])
    else:
        found = pairs.__getitems__([StreamPlace(0, 0, 3)])
        assert found.count(None) == 1 and len(found) == 3


def test_a_stream_without_a_pair_ends_with_an_error(tmp_path: Path):
    """It would search for ever, without a word."""
    write_shards(tmp_path, (2, 3), caption_de_mt=[None])
    pairs = StreamedPairs(find_parquet_split(tmp_path, "train"), ["de"], seed=0)
    with pytest.raises(ValueError, match="found no pair in 20 passes over its share of 2 shards"):
        first_batches(pairs, 1)


def test_a_reader_whose_small_shard_has_no_row_for_it_goes_on(tmp_path: Path):
    """Three readers, two shards, one of them with a single row: in some passes one of the three has nothing."""
    write_shards(tmp_path, (1, 9))
    third = StreamedPairs(find_parquet_split(tmp_path, "train"), ["de"], seed=0, process_index=2, num_processes=3)
    lengths = [len(list(third.items_of_pass(number, 0))) for number in range(10)]
    assert 0 in lengths and max(lengths) > 0
    assert len(first_batches(third, 10)) == 10


def test_an_item_that_cannot_be_trained_on_is_named(tmp_path: Path):
    """In the middle of a run; what is wrong must not be searched for."""
    write_shards(tmp_path, (2,), caption_en=["one", "two"])
    pairs = StreamedPairs(find_parquet_split(tmp_path, "train"), ["de"], seed=0)
    with pytest.raises(ValueError, match="item '0-0': caption_de_mt has 1 captions and caption_en has 2"):
        first_batches(pairs, 1)


def test_fewer_shards_than_readers_are_told(folder: Path, caplog: pytest.LogCaptureFixture):
    """Each shard is then read several times over; more shards would end that."""
    stream(folder, process_index=0, num_processes=3, num_readers=2)
    assert "5 shards for 6 readers" in caplog.text
    caplog.clear()
    stream(folder, process_index=1, num_processes=6)
    stream(folder, process_index=0, num_processes=5)
    assert not caplog.text


def test_bad_arguments_are_refused(folder: Path):
    """Each at once, not in a worker of a data loader."""
    split = find_parquet_split(folder, "train")
    with pytest.raises(ValueError, match="shuffle_buffer must be at least 1"):
        StreamedPairs(split, ["de"], seed=0, shuffle_buffer=0)
    with pytest.raises(ValueError, match="corrupt_images must be"):
        StreamedPairs(split, ["de"], seed=0, corrupt_images="drop")
    with pytest.raises(ValueError, match="target_languages must not name a language twice"):
        StreamedPairs(split, ["de", "de"], seed=0)
    with pytest.raises(ValueError, match=r"lacks the columns \['caption_cs_mt'\]"):
        StreamedPairs(split, ["cs"], seed=0)


def test_the_files_of_a_split_are_found_and_no_other_is_read(tmp_path: Path):
    """Opening a data set reads all of its splits, the training split above all, which a stream is to avoid."""
    write_shards(tmp_path, (2, 3))
    (tmp_path / "test-00000-of-00001.parquet").write_bytes(b"not parquet")
    train, validation = (find_parquet_split(tmp_path, name) for name in ("train", "validation"))
    assert [Path(file).name for file in train.files] == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    assert len(validation.load()) == 4 and isinstance(validation.load().features["image"], datasets.Image)
    assert [set(row) for row in train.sample(["description"])] == [{"description"}] * 5


def test_a_sample_of_a_stream_is_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Of a billion items, a tokenizer needs some."""
    monkeypatch.setattr(streaming, "SAMPLE_ITEMS", 4)
    assert len(find_parquet_split(folder, "train").sample(["image_id"])) == 4


def test_places_that_cannot_be_streamed_are_refused(tmp_path: Path, folder: Path):
    """A folder of another kind would end in a message about a builder."""
    with pytest.raises(ValueError, match=r"has the splits \['train', 'validation'\], not 'dev'"):
        find_parquet_split(folder, "dev")
    tiny_split(3).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(ValueError, match="streaming reads parquet files"):
        find_parquet_split(tmp_path / "saved", "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no data set"):
        find_parquet_split(tmp_path / "empty", "train")


def test_written_shards_have_row_groups_that_a_reader_can_hold(tmp_path: Path):
    """A reader holds a row group: one of ten thousand pictures is a gigabyte, for each worker."""
    write_splits({"train": tiny_split(250)}, tmp_path / "data")
    (file,) = (tmp_path / "data").rglob("*.parquet")
    metadata = pq.read_metadata(file)
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [100, 100, 50]
