"""Data sets in the schema: opened and written."""

import json
from pathlib import Path
from typing import Any
from unittest import mock

import datasets
import pytest
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

from processing.manifest import Manifest, Step, read_manifest
from processing.sources import (
    NoDataSetError,
    cut_rows,
    open_manifest,
    open_split,
    open_splits,
    read_shard_metadata,
    write_shard,
    write_splits,
)
from retrieval.items import open_items
from tests.hub_server import HubServer, hub
from tests.processing_parts import items, picture


def texts(num_items: int = 5) -> datasets.Dataset:
    return items(num_items).remove_columns(["image"])


def test_what_is_written_is_read_again_in_order(tmp_path: Path):
    """Several shards must come back as one split, by our reader and by plain load_dataset."""
    splits = {"train": texts(5), "test": texts(2)}
    step = Step("read", {"reader": "x"}, {"rows": 7}, "2026-01-01")
    write_splits(splits, tmp_path / "out", steps=[step], rows_per_shard=2)
    assert len(list((tmp_path / "out" / "data").glob("train-*-of-00003.parquet"))) == 3
    for loaded in (open_splits(tmp_path / "out"), datasets.load_dataset(str(tmp_path / "out"))):
        assert {name: split[:] for name, split in loaded.items()} == {name: split[:] for name, split in splits.items()}
        assert loaded["train"].features == splits["train"].features
    assert read_manifest(tmp_path / "out") == Manifest((step,), {"train": 5, "test": 2})
    assert open_split(tmp_path / "out", "test")[:] == splits["test"][:]
    with pytest.raises(ValueError, match=r"has the splits \['test', 'train'\], not 'dev'"):
        open_split(tmp_path / "out", "dev")


def test_a_split_without_rows_is_refused(tmp_path: Path):
    """A parquet file without rows makes the whole folder unreadable for load_dataset."""
    for splits in ({}, {"train": texts(2), "test": texts(2).select([])}):
        with pytest.raises(ValueError, match="splits must have rows"):
            write_splits(splits, tmp_path / "out")


def test_pictures_given_by_path_are_stored_as_pictures(tmp_path: Path):
    """A stored path names a file of the machine that wrote it."""
    picture(3).save(tmp_path / "secret-name.png")
    features = datasets.Features({"image": datasets.Image()})
    rows = datasets.Dataset.from_dict({"image": [str(tmp_path / "secret-name.png")]}, features=features)
    file = write_shard(rows, tmp_path / "shard.parquet", metadata={"events": {"retry": 2}})
    assert str(tmp_path).encode() not in file.read_bytes()
    (tmp_path / "secret-name.png").unlink()
    assert datasets.Dataset.from_parquet(str(file))[0]["image"].size == picture(3).size
    assert read_shard_metadata(file) == {"events": {"retry": 2}}


def test_a_folder_with_something_else_in_it_is_not_written_over(tmp_path: Path):
    """`--out ~` must not replace a home folder."""
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"exists and is not empty; .* pass --overwrite"):
        write_splits({"train": texts()}, tmp_path)
    with pytest.raises(ValueError, match="is not a data set of this package"):
        write_splits({"train": texts()}, tmp_path, overwrite=True)
    with pytest.raises(ValueError, match="is a file"):
        write_splits({"train": texts()}, tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_data_set_is_replaced_when_asked(tmp_path: Path):
    """A second run with other rows leaves no shard of the first."""
    write_splits({"train": texts(5)}, tmp_path / "out", rows_per_shard=1)
    write_splits({"train": texts(2)}, tmp_path / "out", overwrite=True)
    assert len(open_splits(tmp_path / "out")["train"]) == 2


def test_a_write_that_fails_leaves_the_old_data_set(tmp_path: Path):
    """Half a data set looks like a whole one to whoever loads it."""
    write_splits({"train": texts(2)}, tmp_path / "out")
    with pytest.raises(ValueError, match="rows_per_shard must be at least 1"):
        write_splits({"train": texts(3)}, tmp_path / "out", overwrite=True, rows_per_shard=0)
    broken = datasets.Dataset.from_dict(
        {"image": ["/no/such.png"]}, features=datasets.Features({"image": datasets.Image()})
    )
    with pytest.raises(FileNotFoundError):
        write_splits({"train": texts(3), "test": broken}, tmp_path / "out", overwrite=True)
    assert len(open_splits(tmp_path / "out")["train"]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_folders_that_are_no_finished_data_set_are_refused(tmp_path: Path):
    """Training on a part of the descriptions would not be noticed."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no data set"):
        open_splits(tmp_path / "empty")
    write_splits({"train": texts(2)}, tmp_path / "out")
    Manifest((), {"train": 2}, complete=False).write(tmp_path / "out")
    with pytest.raises(ValueError, match="is not finished; run the command that writes it again"):
        open_splits(tmp_path / "out")


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"format": 2}', '{"format": 1, "steps": [{"kind": "x"}], "splits": {}}']
)
def test_a_damaged_manifest_is_named(tmp_path: Path, content: str):
    """A card made from half a manifest would leave out who wrote the descriptions."""
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match=r"manifest.json is not a manifest"):
        read_manifest(tmp_path)


def test_a_folder_without_manifest_has_no_steps(tmp_path: Path):
    """Data sets from elsewhere have none."""
    assert read_manifest(tmp_path) == Manifest()


def push_files(server: HubServer, name: str, folder: Path) -> str:
    api = HfApi(token=server.token)
    api.create_repo(name, repo_type="dataset")
    api.upload_folder(folder_path=folder, repo_id=name, repo_type="dataset")
    return name


def test_a_data_set_on_the_hub_tells_its_steps(tmp_path: Path):
    """Translating `org/name` would forget who described it, and the next card would not say."""
    step = Step("describe", {"model": "m"}, {"rows": 2}, "2026-01-01")
    folder = write_splits({"train": texts(2)}, tmp_path / "out", steps=[step])
    assert open_manifest(folder) == read_manifest(folder)
    with hub(tmp_path / "home") as server:
        name = push_files(server, "owner/described", folder)
        assert open_manifest(name) == Manifest((step,), {"train": 2})
        server.fail("manifest.json", "500", times=100)
        with mock.patch.object(constants, "HF_HUB_OFFLINE", True):
            assert open_manifest(name).steps == (step,)


def test_a_data_set_from_elsewhere_on_the_hub_has_no_steps(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Other people's data sets have no manifest; a Hub that is away must not look like one of them."""
    (tmp_path / "other").mkdir()
    texts(2).to_parquet(str(tmp_path / "other" / "train.parquet"))
    with hub(tmp_path / "home") as server:
        name = push_files(server, "owner/other", tmp_path / "other")
        server.fail("manifest.json", "500", times=100)
        with pytest.raises(LocalEntryNotFoundError):
            open_manifest(name)
        with mock.patch.object(constants, "HF_HUB_OFFLINE", True):
            assert open_manifest(name) == Manifest() and "its earlier steps are not known" in caplog.text
        server.faults.clear()
        assert open_manifest(name) == Manifest()
        with pytest.raises(RepositoryNotFoundError):
            open_manifest("owner/absent")


def test_the_manifest_is_json_that_people_can_read(tmp_path: Path):
    """It is what a card, and a reader without this package, is told."""
    Manifest((Step("describe", {"model": "m"}, {"rows": 1}, "2026-01-01"),), {"train": 1}).write(tmp_path)
    content = json.loads((tmp_path / "manifest.json").read_text())
    assert content["steps"][0] == {
        "kind": "describe",
        "settings": {"model": "m"},
        "counts": {"rows": 1},
        "created": "2026-01-01",
        "job": {},
    }


def test_a_data_set_saved_to_disk_is_opened(tmp_path: Path):
    """The other form in which `datasets` leaves data on disk."""
    texts(3).save_to_disk(str(tmp_path / "one"))
    assert len(open_splits(tmp_path / "one")["train"]) == 3
    datasets.DatasetDict(dev=texts(2), test=texts(4)).save_to_disk(str(tmp_path / "two"))
    assert len(open_split(tmp_path / "two", "test")) == 4
    with pytest.raises(ValueError, match=r"has the splits \['dev', 'test'\], not 'train'"):
        open_split(tmp_path / "two", "train")


def test_a_single_split_saved_to_disk_answers_to_any_name(tmp_path: Path):
    """It has no name that one could ask for; `--split test` is the default of evaluate and index."""
    texts(3).save_to_disk(str(tmp_path / "one"))
    for name in ("test", "train"):
        assert open_split(tmp_path / "one", name)[:] == texts(3)[:]
    assert len(open_items(str(tmp_path / "one"))) == 3


@pytest.mark.parametrize(("num_rows", "rows_per_shard"), [(0, 3), (1, 3), (3, 3), (4, 3), (7, 1), (6, 2)])
def test_shards_hold_every_row_once_and_in_order(num_rows: int, rows_per_shard: int):
    """A row that falls between two shards is lost for good."""
    parts = cut_rows(num_rows, rows_per_shard)
    assert [row for part in parts for row in part] == list(range(num_rows))
    assert all(len(part) == rows_per_shard for part in parts[:-1])
    assert all(0 < len(part) <= rows_per_shard for part in parts)


@pytest.mark.parametrize("open_it", [open_splits, lambda name: open_split(name, "train")], ids=["all", "one"])
def test_a_data_set_that_is_nowhere_is_called_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, open_it: Any):
    """`Couldn't reach 'data/multi30k' on the Hub` sends a user without the folder to the wrong place."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(NoDataSetError, match=r"no folder data/none here, and the Hub is offline .* in the cache"):
        open_it("data/none")


def test_a_hub_without_the_data_set_or_without_connection_is_told_apart(monkeypatch: pytest.MonkeyPatch):
    """A user who is offline looks for the fault in the name, and the other way round."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for error, words in (
        (DatasetNotFoundError("gone"), "the Hub shows none of this name; a private one needs `hf auth login`"),
        (ConnectionError("no route\nto it"), r"the Hub cannot be reached \(no route\)"),
    ):
        monkeypatch.setattr(datasets, "load_dataset", mock.Mock(side_effect=error))
        with pytest.raises(NoDataSetError, match=words):
            open_splits("owner/none")


@pytest.mark.parametrize("name", ["flickr8k-ccr", "a/b/c", "/none/of/it", "./x", "../data/x"])
def test_a_name_that_no_users_data_set_has_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str):
    """`datasets` opens a bare name from its cache: whatever some folder of that name held on another day."""
    monkeypatch.chdir(tmp_path)
    opened = mock.Mock()
    monkeypatch.setattr(datasets, "load_dataset", opened)
    for open_it in (open_splits, lambda name: open_split(name, "train")):
        with pytest.raises(NoDataSetError, match=r"no folder .* here, and a data set on the Hub .* owner/name"):
            open_it(name)
    assert not opened.called
