"""Anybody's own folder of pictures or videos."""

import json
from pathlib import Path

import pytest

from processing.media import attach_images
from processing.readers.folder import read_folder
from tests.processing_parts import picture


def folder_of(path: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        picture(seed).save(path / name, format="PNG")
    return path


def test_a_bare_folder_gives_its_pictures_without_captions(tmp_path: Path):
    """The most common start: pictures, nothing else. Each item is told to lack a caption."""
    corpus = read_folder(folder_of(tmp_path, "b.png", "sub/a.jpg"))
    assert corpus.splits["train"][:] == {"image_id": ["b.png", "sub/a.jpg"], "caption_en": [[], []]}
    assert corpus.missing.to_dict() == {"no English caption": {"train": ["b.png", "sub/a.jpg"]}}
    joined, missing = attach_images(corpus.splits, tmp_path)
    assert len(joined["train"]) == 2 and not missing


def test_captions_lie_in_a_metadata_file(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """The layout of `imagefolder`; several rows may caption one picture, and a caption may have lost its picture."""
    folder_of(tmp_path, "a.png", "b.png", "c.png")
    rows = [("a.png", "one", "eins"), ("a.png", "two", "zwei"), ("b.png", "three", "drei"), ("gone.png", "x", "x")]
    lines = [{"file_name": name, "caption_en": en, "caption_de": [de], "camera": "x"} for name, en, de in rows]
    (tmp_path / "metadata.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    corpus = read_folder(tmp_path)
    assert corpus.splits["train"][:] == {
        "image_id": ["a.png", "b.png", "c.png"],
        "caption_de": [["eins", "zwei"], ["drei"], []],
        "caption_en": [["one", "two"], ["three"], []],
    }
    assert corpus.missing.to_dict() == {
        "a caption and no file": {"metadata.jsonl": ["gone.png"]},
        "no English caption": {"train": ["c.png"]},
    }
    assert "the columns ['camera'] are not in the schema" in caplog.text


def test_captions_lie_beside_their_pictures(tmp_path: Path):
    """One text file a picture, a caption a line, blank lines between them."""
    folder_of(tmp_path, "sub/a.png", "b.png")
    (tmp_path / "sub" / "a.txt").write_text("a dog \n\na black dog\n", encoding="utf-8")
    corpus = read_folder(tmp_path)
    assert corpus.splits["train"]["caption_en"] == [[], ["a dog", "a black dog"]]


def test_shares_divide_the_items_for_good(tmp_path: Path):
    """A picture that moves from test to train when the folder grows spoils every later comparison."""
    names = [f"{i}.png" for i in range(60)]
    before = read_folder(folder_of(tmp_path, *names), validation=0.2, test=0.2).splits
    assert {name: len(split) > 3 for name, split in before.items()} == dict.fromkeys(
        ("train", "validation", "test"), True
    )
    after = read_folder(folder_of(tmp_path, *(f"new-{i}.png" for i in range(30))), validation=0.2, test=0.2).splits
    for name, split in before.items():
        assert set(split["image_id"]) < set(after[name]["image_id"])
    assert sum(map(len, after.values())) == 90
    other = read_folder(tmp_path, validation=0.2, test=0.2, seed=1).splits
    assert other["test"]["image_id"] != after["test"]["image_id"]


def test_folders_named_after_splits_are_the_splits(tmp_path: Path):
    """The owner has divided the pictures already."""
    corpus = read_folder(folder_of(tmp_path, "train/a.png", "val/b.png", "test/c.png"))
    assert {name: split["image_id"] for name, split in corpus.splits.items()} == {
        "train": ["train/a.png"],
        "validation": ["val/b.png"],
        "test": ["test/c.png"],
    }
    with pytest.raises(ValueError, match="has folders for its splits; leave out the shares"):
        read_folder(tmp_path, validation=0.5)
    mixed = read_folder(folder_of(tmp_path, "holiday/d.png"))
    assert list(mixed.splits) == ["train"] and len(mixed.splits["train"]) == 4


def test_videos_have_ids_of_their_own(tmp_path: Path):
    """Clips among pictures: only what was asked for is read."""
    (tmp_path / "a.mp4").write_bytes(b"x")
    folder_of(tmp_path, "b.png")
    assert read_folder(tmp_path, videos=True).splits["train"]["video_id"] == ["a.mp4"]


def test_shares_and_metadata_that_do_not_fit_are_refused(tmp_path: Path):
    """Each message says what to do."""
    folder_of(tmp_path, "a.png")
    for validation, test in ((0.5, 0.5), (-0.1, 0.0), (0.0, 1.0)):
        with pytest.raises(ValueError, match="below 1 together"):
            read_folder(tmp_path, validation=validation, test=test)
    (tmp_path / "metadata.csv").write_text("name,caption_en\na.png,x\n")
    with pytest.raises(ValueError, match=r"metadata\.csv, line 1: a column 'file_name' must name the files"):
        read_folder(tmp_path)
    (tmp_path / "metadata.jsonl").write_text("")
    with pytest.raises(ValueError, match="keep one"):
        read_folder(tmp_path)
