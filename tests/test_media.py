"""Pictures and clips joined with rows by id."""

from pathlib import Path
from unicodedata import normalize

import datasets
import numpy as np
import pytest

from processing.media import VIDEO_SUFFIXES, MediaFolder, attach_images, attach_videos, open_clips
from processing.sources import open_splits
from tests.processing_parts import items, picture


def folder_of(path: Path, *names: str) -> Path:
    """Pictures under these names, the n-th made from seed n."""
    for seed, name in enumerate(names):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        picture(seed).save(path / name, format="PNG")
    return path


def texts(ids: list[str], **columns: list) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"image_id": ids, "caption_en": [[name] for name in ids], **columns})


def same(left, right) -> bool:
    return np.array_equal(np.asarray(left.convert("RGB")), np.asarray(right.convert("RGB")))


def test_ids_find_their_files_with_and_without_folder_and_suffix(tmp_path: Path):
    """Benchmarks name a picture by stem, by file name or by path; each must find the same file."""
    found = MediaFolder(folder_of(tmp_path, "a/1.jpg", "b/2.PNG"))
    for name in ("a/1.jpg", "a/1", "1.jpg", "1"):
        assert found.find(name) == tmp_path / "a/1.jpg"
    assert found.find("2") == tmp_path / "b/2.PNG"
    assert found.find("3") is None
    assert found.find("../a/1.jpg") is None


def test_an_id_that_fits_two_files_is_refused_unless_it_is_a_path(tmp_path: Path):
    """train/7.jpg and val/7.jpg are other pictures; taking the first would train on wrong pairs."""
    found = MediaFolder(folder_of(tmp_path, "train/7.jpg", "val/7.jpg"))
    with pytest.raises(ValueError, match=r"'7' fits several files .*'train/7.jpg', 'val/7.jpg'.*file_name"):
        found.find("7")
    assert found.find("val/7.jpg") == tmp_path / "val/7.jpg"
    assert found.find("val/7") == tmp_path / "val/7.jpg"


def test_a_file_in_the_root_wins_over_its_namesake_below(tmp_path: Path):
    """A name given in full is not ambiguous."""
    found = MediaFolder(folder_of(tmp_path, "7.jpg", "sub/7.jpg", "sub/8.jpg", "sub/sub/8.jpg"))
    assert found.find("7.jpg") == found.find("7") == tmp_path / "7.jpg"
    assert found.find("sub/8") == tmp_path / "sub/8.jpg"
    with pytest.raises(ValueError, match="'8' fits several files"):
        found.find("8")


def test_a_path_without_suffix_must_be_the_path_of_one_file(tmp_path: Path):
    """7.jpg and 7.png may be other pictures; nobody knows which one the id 7 means."""
    found = MediaFolder(folder_of(tmp_path, "7.jpg", "7.png"))
    with pytest.raises(ValueError, match=r"'7' fits several files .*'7.jpg', '7.png'"):
        found.find("7")


def test_hidden_files_are_no_pictures(tmp_path: Path):
    """macOS puts ._a.jpg beside a.jpg, and viewers keep thumbnails: neither is an item, and `a` has one file."""
    found = MediaFolder(folder_of(tmp_path, "a.jpg", "._a.jpg", ".thumbs/a.jpg", "sub/.cache/b.jpg"))
    assert found.names == ["a.jpg"] and found.find("a") == tmp_path / "a.jpg"
    assert MediaFolder(folder_of(tmp_path, ".thumbs/a.jpg").joinpath(".thumbs")).names == ["a.jpg"]


def test_linked_folders_are_read_and_loops_end(tmp_path: Path):
    """train2014 is often a link to another disk; a link back to a folder above must not be followed for ever."""
    folder_of(tmp_path / "disk", "1.jpg")
    folder_of(tmp_path / "pictures", "2.jpg")
    for link, target in (("pictures/train", "disk"), ("pictures/val", "disk"), ("disk/back", "pictures")):
        (tmp_path / link).symlink_to(tmp_path / target, target_is_directory=True)
    (tmp_path / "pictures/gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "pictures/itself").symlink_to(tmp_path / "pictures/itself")
    found = MediaFolder(tmp_path / "pictures")
    assert found.names == ["2.jpg", "train/1.jpg", "val/1.jpg"]


def test_rows_get_the_picture_of_their_id_and_the_others_are_reported(tmp_path: Path):
    """A join that shifts by one row pairs every caption with a stranger's picture."""
    rows = texts(["2", "none", "0", "1"])
    joined, missing = attach_images(rows, folder_of(tmp_path, "0.png", "1.png", "2.png"))
    assert joined["image_id"] == ["2", "0", "1"] and joined["caption_en"] == [["2"], ["0"], ["1"]]
    assert all(same(row["image"], picture(int(row["image_id"]))) for row in joined)
    assert missing.to_dict() == {"no image": {"unnamed": ["none"]}}
    assert missing.lines() == ["unnamed: 1 items have no image (first: none)"]


def test_a_joined_split_keeps_its_name(tmp_path: Path):
    """The protocol of an evaluation says on which split it was made; "unnamed" would be no answer."""
    texts(["0", "1"]).to_parquet(str(tmp_path / "texts" / "test-00000-of-00001.parquet"))
    rows = open_splits(tmp_path / "texts")["test"]
    joined, _ = attach_images(rows, folder_of(tmp_path / "pictures", "0.png"))
    assert str(rows.split) == str(joined.split) == "test"


def test_file_names_go_before_ids(tmp_path: Path):
    """An id may be any text; the column file_name says where the picture lies."""
    rows = texts(["x", "1"], file_name=["0.png", None])
    joined, missing = attach_images(rows, folder_of(tmp_path, "0.png", "1.png"))
    assert same(joined[0]["image"], picture(0)) and same(joined[1]["image"], picture(1)) and not missing


def test_pictures_of_a_data_set_are_joined_split_by_split(tmp_path: Path):
    """Splits of texts and of pictures need not agree; the id decides."""
    pictures = datasets.DatasetDict(train=items(2).select_columns(["image", "image_id"]))
    rows = datasets.DatasetDict(train=texts(["item-1.jpg", "item-0"]), test=texts(["item-9"]))
    joined, missing = attach_images(rows, pictures)
    assert same(joined["train"][0]["image"], picture(1)) and same(joined["train"][1]["image"], picture(0))
    assert len(joined["test"]) == 0 and missing.counts() == {"no image": {"test": 1}}
    pictures["train"].to_parquet(str(tmp_path / "train.parquet"))
    again, _ = attach_images(rows, tmp_path)
    assert same(again["train"][0]["image"], picture(1))


def test_an_image_column_that_is_there_is_replaced(tmp_path: Path):
    """Thumbnails in a data set give way to the pictures that the caller names."""
    rows = items(1, image_id=["0"])
    joined, _ = attach_images(rows, folder_of(tmp_path, "0.png"))
    assert joined.column_names.count("image") == 1


def test_a_join_without_a_match_is_an_error(tmp_path: Path):
    """The wrong folder should not give an empty data set."""
    with pytest.raises(ValueError, match=r"all 1 rows have no image; .*'nobody'.*right folder"):
        attach_images(texts(["nobody"]), folder_of(tmp_path, "0.png"))


def test_a_picture_that_two_rows_of_the_table_name_is_refused():
    """Which of the two is meant cannot be known."""
    pictures = items(2, image_id=["a.jpg", "a"]).select_columns(["image", "image_id"])
    with pytest.raises(ValueError, match="must name one picture, got 'a' twice"):
        attach_images(texts(["a"]), pictures)


def test_ids_that_repeat_between_splits_are_joined_split_by_split():
    """Ids are unique in their split only; a picture of the wrong split would be a wrong pair for every caption."""
    pictures = items(4).select_columns(["image"])
    first, second = (pictures.select(part).add_column("image_id", ["0", "1.png"]) for part in ([0, 1], [2, 3]))
    both = datasets.DatasetDict(test=second, train=first)
    rows = datasets.DatasetDict(train=texts(["1", "0", "2"]), test=texts(["0.png", "1"]))
    joined, missing = attach_images(rows, both)
    for split, seeds in (("train", [1, 0]), ("test", [2, 3])):
        assert all(same(row["image"], picture(seed)) for row, seed in zip(joined[split], seeds, strict=True))
    assert missing.counts() == {"no image": {"train": 1}}
    with pytest.raises(ValueError, match=r"\['test', 'train'\] of the pictures share ids, .*'unnamed'; give the rows"):
        attach_images(rows["train"], both)
    alone, _ = attach_images(rows["test"], both["test"])
    assert same(alone[0]["image"], picture(2))


def test_a_split_without_any_picture_keeps_its_columns(tmp_path: Path):
    """Splits with other columns than the rest cannot be written or joined again."""
    rows = datasets.DatasetDict(train=texts(["0"]), test=texts(["gone"]))
    pictures = folder_of(tmp_path, "0.png")
    for source in (
        pictures,
        datasets.DatasetDict(train=items(1, image_id=["0"]).select_columns(["image", "image_id"])),
    ):
        joined, missing = attach_images(rows, source)
        assert joined["test"].features == joined["train"].features and len(joined["test"]) == 0
        assert joined["test"].column_names == ["image_id", "caption_en", "image"]
        assert missing.counts() == {"no image": {"test": 1}}


def test_folders_that_hold_nothing_are_refused(tmp_path: Path):
    """A typing mistake in a path should be told as one."""
    with pytest.raises(ValueError, match="is not a folder"):
        MediaFolder(tmp_path / "none")
    with pytest.raises(ValueError, match=r"holds no file with a suffix of .*\.mp4"):
        MediaFolder(tmp_path, VIDEO_SUFFIXES)


@pytest.mark.parametrize("suffix", [".mp4", ".3gp", ".wmv", ".ogv", ".ts", ".M2TS"])
def test_clips_of_all_kinds_that_are_read_are_found(tmp_path: Path, suffix: str):
    """Of a data set in another format no clip would be found, although each could be read."""
    (tmp_path / f"a{suffix}").write_bytes(b"x")
    joined, _ = attach_videos(datasets.Dataset.from_dict({"video_id": ["a"]}), tmp_path)
    assert joined["video"] == [str(tmp_path / f"a{suffix}")]


def test_videos_are_joined_by_path(tmp_path: Path):
    """A clip is opened where its frames are read, so the row holds its path."""
    (tmp_path / "clip_000001_000010.mp4").write_bytes(b"x")
    rows = datasets.Dataset.from_dict({"video_id": ["clip_000001_000010", "gone"]})
    joined, missing = attach_videos(rows, tmp_path)
    assert joined["video"] == [str(tmp_path / "clip_000001_000010.mp4")]
    assert missing.counts() == {"no video": {"unnamed": 1}}


def test_clips_that_lie_as_folders_of_frames_are_joined(tmp_path: Path):
    """Frames that were extracted once are what many researchers have of a data set whose clips are gone."""
    names = ("a/clip1/10.png", "a/clip1/2.png", "clip.2/0.png", "b/same/0.png", "c/same/0.png", "stray.png")
    folder_of(tmp_path, *names)
    (tmp_path / "clip3").mkdir()
    rows = datasets.Dataset.from_dict(
        {"video_id": ["x", "clip.2", "clip3", "y"], "file_name": ["clip1.mp4", None, None, "b/same.MP4"]}
    )
    joined, missing = attach_videos(rows, tmp_path)
    assert joined["video"] == [str(tmp_path / name) for name in ("a/clip1", "clip.2", "b/same")]
    assert missing.counts() == {"no video": {"unnamed": 1}}
    with pytest.raises(ValueError, match=r"'same' fits several folders .*'b/same', 'c/same'.*file_name"):
        attach_videos(datasets.Dataset.from_dict({"video_id": ["same"]}), tmp_path)


def test_what_lies_beside_folders_of_frames_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Clips of a kind that is not read, and loose pictures, would be missing without a word."""
    folder_of(tmp_path, "thumbs/0.png", "loose.png")
    (tmp_path / "film.rmvb").write_bytes(b"x")
    found = open_clips(tmp_path)
    assert (found.names, found.unread_names) == (["thumbs"], ["film.rmvb", "loose.png"])
    assert "2 other files are left out (first: ['film.rmvb', 'loose.png'])" in caplog.text


@pytest.mark.parametrize(("on_disk", "asked"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_an_umlaut_is_one_letter_however_it_is_stored(tmp_path: Path, on_disk: str, asked: str):
    """macOS stores it as two characters in the names of files; both names look the same on the screen."""
    name = normalize(on_disk, "größe.jpg")
    found = MediaFolder(folder_of(tmp_path / "pictures", name))
    assert found.find(normalize(asked, "größe.jpg")) == tmp_path / "pictures" / name
    assert found.find(normalize(asked, "größe")) == tmp_path / "pictures" / name
    folder_of(tmp_path / "clips", f"{normalize(on_disk, 'größe')}/0.png")
    clip = open_clips(tmp_path / "clips").find(normalize(asked, "größe"))
    assert clip == tmp_path / "clips" / normalize(on_disk, "größe")


def test_thumbnails_beside_clips_are_no_clips(tmp_path: Path):
    """A data set often ships a folder of pictures with its clips; their ids would find folders instead of files."""
    folder_of(tmp_path, "thumbs/7/0.png")
    (tmp_path / "7.mp4").write_bytes(b"x")
    joined, _ = attach_videos(datasets.Dataset.from_dict({"video_id": ["7"]}), tmp_path)
    assert joined["video"] == [str(tmp_path / "7.mp4")]
    with pytest.raises(ValueError, match=r"holds no file with a suffix of .*\.mp4"):
        attach_videos(datasets.Dataset.from_dict({"video_id": ["7"]}), folder_of(tmp_path / "flat", "7.png"))
    with pytest.raises(ValueError, match="is not a folder"):
        attach_videos(datasets.Dataset.from_dict({"video_id": ["7"]}), tmp_path / "none")


def test_what_is_joined_replaces_its_own_kind_alone(tmp_path: Path):
    """A data set may hold clips and features of their frames; which of them is read is the model's choice."""
    (tmp_path / "7.mp4").write_bytes(b"x")
    rows = datasets.Dataset.from_dict({"video_id": ["7"], "video": ["gone.mp4"], "features": ["store#7"]})
    joined, _ = attach_videos(rows, tmp_path)
    assert joined[0] == {"video_id": "7", "features": "store#7", "video": str(tmp_path / "7.mp4")}
