"""Anybody's own folder of pictures or videos."""

import json
from pathlib import Path
from unicodedata import normalize

import pytest

from processing.media import attach_images, attach_videos
from processing.readers.folder import read_folder
from tests.processing_parts import picture


def folder_of(path: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        picture(seed).save(path / name, format="PNG")
    return path


def test_captions_find_the_umlauts_of_another_system(tmp_path: Path):
    """Metadata written in an editor, pictures copied from a Mac: both names look the same on the screen."""
    name = normalize("NFD", "größe.png")
    folder_of(tmp_path, name)
    (tmp_path / "metadata.csv").write_text(f"file_name,caption_en\n{normalize('NFC', name)},a tree\n", encoding="utf-8")
    corpus = read_folder(tmp_path)
    assert corpus.splits["train"][:] == {"image_id": [name], "caption_en": [["a tree"]]} and not corpus.missing


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


@pytest.mark.parametrize("name", ["text", "caption"])
def test_metadata_without_a_column_of_the_schema_is_refused(tmp_path: Path, name: str):
    """The layout of `imagefolder` calls captions `text`; a data set without captions came out, with one warning."""
    folder_of(tmp_path, "a.png")
    (tmp_path / "metadata.csv").write_text(f"camera,file_name,{name}\nx,a.png,a dog\n")
    with pytest.raises(ValueError, match=rf"metadata\.csv: no column .* rename '{name}' to caption_en"):
        read_folder(tmp_path)
    (tmp_path / "metadata.csv").write_text("file_name\na.png\n")
    assert len(read_folder(tmp_path).splits["train"]) == 1


def test_captions_lie_beside_their_pictures(tmp_path: Path):
    """One text file a picture, a caption a line, blank lines between them."""
    folder_of(tmp_path, "sub/a.png", "b.png")
    (tmp_path / "sub" / "a.txt").write_text("a dog \n\na black dog\n", encoding="utf-8")
    corpus = read_folder(tmp_path)
    assert corpus.splits["train"]["caption_en"] == [[], ["a dog", "a black dog"]]


def test_files_of_kinds_that_are_not_read_are_reported(tmp_path: Path):
    """The half of a holiday that a phone saved as HEIC was missed after training."""
    folder_of(tmp_path, "a.jpg", "sub/b.png")
    for name in ("iphone.HEIC", "sub/x.avif", "clip.mp4", ".hidden.heic", "notes.md"):
        (tmp_path / name).write_bytes(b"x")
    corpus = read_folder(tmp_path)
    assert corpus.splits["train"]["image_id"] == ["a.jpg", "sub/b.png"]
    unread = corpus.missing.to_dict()["a kind that is not read"]
    assert unread == {"files": ["clip.mp4", "iphone.HEIC", "sub/x.avif"]}
    unread = read_folder(tmp_path, videos=True).missing.to_dict()["a kind that is not read"]
    assert unread == {"files": ["a.jpg", "iphone.HEIC", "sub/b.png", "sub/x.avif"]}


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
    folder_of(tmp_path, "holiday/d.png", "cover.png")
    with pytest.raises(ValueError, match=r"2 files lie outside the folders .*'cover\.png', 'holiday/d\.png'"):
        read_folder(tmp_path)


def test_folders_of_splits_may_begin_with_a_capital(tmp_path: Path):
    """On some systems Train and train are one folder, on others the test pictures would be trained on."""
    corpus = read_folder(folder_of(tmp_path, "Train/a.png", "TEST/b.png"))
    assert {name: split["image_id"] for name, split in corpus.splits.items()} == {
        "train": ["Train/a.png"],
        "test": ["TEST/b.png"],
    }


def test_a_first_row_without_a_caption_does_not_hide_the_others(tmp_path: Path):
    """JSON lines need not have the same keys; the captions of all later pictures were lost."""
    folder_of(tmp_path, "a.png", "b.png")
    lines = '{"file_name": "a.png"}\n{"file_name": "b.png", "caption_en": "B", "description": "text"}\n'
    (tmp_path / "metadata.jsonl").write_text(lines)
    assert read_folder(tmp_path).splits["train"][:] == {
        "image_id": ["a.png", "b.png"],
        "caption_en": [[], ["B"]],
        "description": [None, "text"],
    }


def test_metadata_may_lie_in_the_folders_of_the_splits(tmp_path: Path):
    """The layout of `imagefolder`: each split has a file of its own, and names are relative to it."""
    folder_of(tmp_path, "train/a.png", "train/sub/b.png", "test/a.png")
    (tmp_path / "train/metadata.jsonl").write_text(
        '{"file_name": "a.png", "caption_en": "A"}\n{"file_name": "sub/b.png", "caption_en": "B"}\n'
        '{"file_name": "gone.png", "caption_en": "C"}\n'
    )
    (tmp_path / "test/metadata.csv").write_text("file_name,caption_en\na.png,other\n")
    corpus = read_folder(tmp_path)
    assert corpus.splits["train"]["caption_en"] == [["A"], ["B"]]
    assert corpus.splits["test"]["caption_en"] == [["other"]]
    assert corpus.missing.to_dict() == {"a caption and no file": {"train/metadata.jsonl": ["train/gone.png"]}}
    (tmp_path / "metadata.csv").write_text("file_name,caption_en\ntrain/a.png,again\n")
    with pytest.raises(
        ValueError, match=r"train/metadata\.jsonl: 'train/a\.png' has captions in another metadata file, or"
    ):
        read_folder(tmp_path)


def test_descriptions_that_search_reads_are_read_here_too(tmp_path: Path):
    """The README puts descriptions.jsonl into the folder; training on a copy without them would not be noticed."""
    folder_of(tmp_path, "sub/a.png", "b.png")
    (tmp_path / "b.txt").write_text("a dog\n")
    records = [("sub/a.png", "a long text"), ("b.png", ""), ("gone.png", "x")]
    lines = [json.dumps({"image_id": name, "description": text}) for name, text in records]
    (tmp_path / "descriptions.jsonl").write_text("\n".join(lines))
    corpus = read_folder(tmp_path)
    assert corpus.splits["train"][:] == {
        "image_id": ["b.png", "sub/a.png"],
        "caption_en": [["a dog"], []],
        "description": [None, "a long text"],
    }
    assert corpus.missing.to_dict() == {
        "a description and no file": {"descriptions.jsonl": ["gone.png"]},
        "no English caption": {"train": ["sub/a.png"]},
    }
    (tmp_path / "metadata.csv").write_text("file_name,description\nsub/a.png,other\n")
    with pytest.raises(
        ValueError, match=r"descriptions\.jsonl: 'sub/a\.png' has a description in its metadata as well"
    ):
        read_folder(tmp_path)


def test_a_share_that_gets_no_item_is_refused(tmp_path: Path):
    """Six pictures and a share of 0.1 gave no validation split, which training missed much later."""
    folder_of(tmp_path, *(f"{number}.png" for number in range(6)))
    with pytest.raises(ValueError, match=r"'validation' gets none of the 6 items .* larger share, or another seed"):
        read_folder(tmp_path, validation=0.01)
    with pytest.raises(ValueError, match="'train' gets none of the 6 items"):
        read_folder(tmp_path, validation=0.99)


def test_a_row_that_names_no_file_is_refused_by_its_line(tmp_path: Path):
    """The blank name was written as null into the report, and the report failed when it was printed."""
    folder_of(tmp_path, "a.png")
    (tmp_path / "metadata.csv").write_text("file_name,caption_en\na.png,x\n,y\n")
    with pytest.raises(ValueError, match=r"metadata\.csv, line 3: 'file_name' .* must name the item"):
        read_folder(tmp_path)


def test_metadata_says_which_part_of_a_clip_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """A clip with a minute of titles before the scene that its caption tells of."""
    folder_of(tmp_path, "a.mp4", "b.mp4", "c.mp4", "d.jpg")
    (tmp_path / "metadata.csv").write_text("file_name,caption_en,start,end\na.mp4,one,1.5,3\nb.mp4,two,,\n")
    rows = read_folder(tmp_path, videos=True).splits["train"]
    assert rows["start"] == [1.5, None, None] and rows["end"] == [3.0, None, None] and not caplog.records
    assert "start" not in read_folder(tmp_path).splits["train"].column_names
    assert "the columns ['end', 'start'] are not in the schema" in caplog.text


def test_videos_have_ids_of_their_own(tmp_path: Path):
    """Clips among pictures: only what was asked for is read."""
    (tmp_path / "a.mp4").write_bytes(b"x")
    folder_of(tmp_path, "b.png")
    assert read_folder(tmp_path, videos=True).splits["train"]["video_id"] == ["a.mp4"]


def test_folders_of_frames_are_clips_with_captions_beside_them(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Clips are joined in that form, so they must be read in it; a dot in the name of a folder begins no suffix."""
    folder_of(tmp_path, "train/v1.5/0.png", "train/v1.5/1.png", "train/v1.6/0.png", "test/w/0.png")
    (tmp_path / "train" / "v1.5.txt").write_text("a dog\n")
    (tmp_path / "train" / "v1.txt").write_text("of nobody\n")
    corpus = read_folder(tmp_path, videos=True)
    assert corpus.splits["train"][:] == {"video_id": ["train/v1.5", "train/v1.6"], "caption_en": [["a dog"], []]}
    assert corpus.splits["test"]["video_id"] == ["test/w"]
    assert "its 3 folders of pictures are the frames of a clip each" in caplog.text
    joined, missing = attach_videos(corpus.splits, tmp_path)
    assert joined["train"]["video"][0] == str(tmp_path / "train" / "v1.5") and not missing


def test_shares_and_metadata_that_do_not_fit_are_refused(tmp_path: Path):
    """Each message says what to do."""
    folder_of(tmp_path, "a.png")
    for validation, test in ((0.5, 0.5), (-0.1, 0.0), (0.0, 1.0)):
        with pytest.raises(ValueError, match="below 1 together"):
            read_folder(tmp_path, validation=validation, test=test)
    (tmp_path / "metadata.csv").write_text("name,caption_en\na.png,x\n")
    with pytest.raises(ValueError, match=r"metadata\.csv: a column 'file_name' must name the files"):
        read_folder(tmp_path)
    (tmp_path / "metadata.jsonl").write_text("")
    with pytest.raises(ValueError, match="keep one"):
        read_folder(tmp_path)
