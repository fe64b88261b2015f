"""Rows joined with features of frames, and the features read back by what the rows say."""

from pathlib import Path

import datasets
import numpy as np
import pytest

from processing.readers import feature_store
from processing.readers.feature_store import attach_features, read_features
from tests.test_feature_store import DIM, FRAMES, make_numpy, make_store, value


def rows_of(ids: list[str], **columns: list) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"video_id": ids, **columns})


def test_rows_find_the_features_of_their_own_video(tmp_path: Path):
    """Features of the video before it train as well as any, and retrieve nothing."""
    rows = rows_of(["c", "gone", "b", "a"], file_name=["b.mp4", "c", "a", "b"])  # of the clips, which have other names
    joined, missing = attach_features(rows, make_store(tmp_path))
    assert joined["video_id"] == ["c", "b", "a"] and joined.column_names == ["video_id", "file_name", "features"]
    assert joined.features["features"] == datasets.Value("string")
    for row in joined:
        expected = np.stack([value(frame) for frame in FRAMES[row["video_id"]]])
        assert np.array_equal(read_features(row["features"]), expected)
    assert missing.counts() == {"no features": {"unnamed": 1}}


def test_all_splits_are_joined_with_one_store(tmp_path: Path):
    """An empty test split keeps its columns, or the splits no longer fit each other."""
    splits = datasets.DatasetDict(train=rows_of(["two", "x"]), test=rows_of(["y"]))
    joined, missing = attach_features(splits, make_numpy(tmp_path))
    assert joined["train"]["features"] == [str(tmp_path / "two.npy")]
    assert joined["test"].features == joined["train"].features and len(joined["test"]) == 0
    assert missing.to_dict() == {"no features": {"train": ["x"], "test": ["y"]}}
    assert read_features(joined["train"]["features"][0]).shape == (2, DIM)


def test_a_video_with_a_lost_frame_stays_and_is_told(tmp_path: Path):
    """It can be trained on, but its numbers are not those of the papers."""
    joined, missing = attach_features(
        rows_of(["a", "b"]), make_store(tmp_path, frames={"a": ["a_0", "x"], "b": ["b_0"]})
    )
    assert joined["video_id"] == ["a", "b"]
    assert missing.to_dict() == {"a frame without features": {"unnamed": ["a"]}}


def test_features_of_pictures_are_joined_by_their_id(tmp_path: Path):
    """A store without frames has a row for each picture."""
    rows = datasets.Dataset.from_dict({"image_id": ["a_0", "b_2"]})
    joined, _ = attach_features(rows, make_store(tmp_path, frames=None))
    assert np.array_equal(read_features(joined["features"][1]), value("b_2")[None])


def test_a_store_with_features_of_nobody_is_refused(tmp_path: Path):
    """A typing mistake in a path should be told as one, not as an empty data set."""
    for make in (make_store, make_numpy):
        with pytest.raises(ValueError, match=r"all 2 rows have no features; .*\['x'\].*right folder"):
            attach_features(rows_of(["x", "y"]), make(tmp_path / make.__name__))
    with pytest.raises(ValueError, match="one column 'image_id' or 'video_id'"):
        attach_features(datasets.Dataset.from_dict({"id": ["a"]}), tmp_path / "make_store")


def test_marks_in_folders_and_ids_do_not_part_them(tmp_path: Path):
    """Folders and ids are other people's; a mark in them must not lead to another store."""
    folder = make_store(tmp_path / "run#1", frames={"a#x": ["a_0"], "a": ["a_1"]})
    joined, _ = attach_features(rows_of(["a#x", "a"]), folder)
    for known in (True, False):
        if not known:
            feature_store._STORES.clear()  # as in a process that only reads
        found = [read_features(name)[0] for name in joined["features"]]
        assert np.array_equal(found, [value("a_0"), value("a_1")])


def test_a_store_is_opened_once_and_anew_when_it_is_joined_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its ids take seconds to read; and what was written over must not be read from memory."""
    opened = []
    original = feature_store.FeatureStore.__init__
    monkeypatch.setattr(
        feature_store.FeatureStore, "__init__", lambda self, folder: opened.append(1) or original(self, folder)
    )
    joined, _ = attach_features(rows_of(["a", "b"]), make_store(tmp_path))
    before = [read_features(name) for name in joined["features"]]
    assert len(opened) == 1
    make_store(tmp_path, frames={"a": FRAMES["b"], "b": FRAMES["a"]})
    joined, _ = attach_features(rows_of(["a", "b"]), tmp_path)
    after = [read_features(name) for name in joined["features"]]
    assert len(opened) == 2
    assert all(np.array_equal(left, right) for left, right in zip(before, after[::-1], strict=True))


def test_what_cannot_be_read_is_refused(tmp_path: Path):
    """Each would be an error of numpy without a name, or numbers of another form in the batch."""
    store = make_store(tmp_path)
    wrong = {
        f"{store}#nobody": "has no features of 'nobody'",
        f"{tmp_path / 'none'}#a": "must be FOLDER#ID of a store or the path of a .npy file",
        "a": "must be FOLDER#ID",
        str(tmp_path / "none.npy"): "is not a readable .npy file",
    }
    for cell, message in wrong.items():
        with pytest.raises(ValueError, match=message):
            read_features(cell)
    for cell in ([[1.0], [1.0, 2.0]], [], [[]], [["a"]], np.zeros((2, 2, 3)), {"a": 1}):
        with pytest.raises(ValueError, match=r"features must be numbers \(num_frames, dim\)"):
            read_features(cell)
    for number in (float("nan"), float("inf"), 1e300):
        with pytest.raises(ValueError, match="features must be finite"):
            read_features([[1.0, number]])
    read = read_features(np.ones(3, np.float16))
    assert read.shape == (1, 3) and read.dtype == np.float32
