"""Where items come from: folders of pictures, data sets, description files."""

import json

import datasets
import pytest
import torch
from PIL import Image

from processing.visual_rows import VisualRows
from retrieval.index import ItemIndex
from retrieval.items import PictureFolder, open_items, pictures_of, read_column, read_ids
from tests.tiny import tiny_image


@pytest.fixture
def picture_folder(tmp_path):
    """Three pictures, one in a sub-folder, beside a file that is none, and one description."""
    folder = tmp_path / "pictures"
    (folder / "sub").mkdir(parents=True)
    tiny_image(0).save(folder / "b.png")
    tiny_image(1).save(folder / "a.JPG", format="JPEG")
    tiny_image(2).convert("L").save(folder / "sub" / "c.webp")
    (folder / "notes.txt").write_text("no picture")
    record = {"image_id": "sub/c.webp", "description": "eine graue Fläche"}
    (folder / "descriptions.jsonl").write_text(json.dumps(record) + "\n\n", encoding="utf-8")
    return folder


def test_a_folder_of_pictures_is_read_as_rows(picture_folder):
    """Ids are stable paths, pictures are RGB, descriptions are found by name."""
    rows = open_items(str(picture_folder))
    assert len(rows) == 3
    assert read_ids(rows) == ["a.JPG", "b.png", "sub/c.webp"]
    assert read_column(rows, "description") == [None, None, "eine graue Fläche"]
    assert rows[2]["description"] == "eine graue Fläche"
    assert [rows[i]["image"].mode for i in range(3)] == ["RGB"] * 3


def test_a_turned_photo_stands_upright(tmp_path):
    """Phones store the turn beside the pixels; a model that sees photos on their side finds them badly."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "photo.jpg", exif=exif)
    assert PictureFolder(tmp_path)[0]["image"].size == (20, 30)


def test_a_corrupt_file_in_a_folder_is_named(picture_folder):
    """One broken download among thousands must be found by its name."""
    (picture_folder / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(ValueError, match=r"item 'b.png' \(row 1\): its image must be readable"):
        VisualRows(PictureFolder(picture_folder), "image").read(1)


def test_folders_and_description_files_that_do_not_fit_are_refused(tmp_path, picture_folder):
    """Each message names the place."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty holds no file .*\.jpg"):
        PictureFolder(tmp_path / "empty")
    with pytest.raises(ValueError, match="is not a folder"):
        PictureFolder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="does not exist"):
        PictureFolder(picture_folder, description_file=tmp_path / "none.jsonl")
    (tmp_path / "bad.jsonl").write_text('{"image_id": "b.png", "description": "x"}\n{"id": 3}\n')
    with pytest.raises(ValueError, match=r"line 2: expected .* 'image_id' \(or 'video_id'\) and 'description'"):
        PictureFolder(picture_folder, description_file=tmp_path / "bad.jsonl")


@pytest.mark.parametrize("form", ["saved", "parquet"])
def test_data_sets_on_disk_are_opened_by_split(tmp_path, form):
    """Both forms in which data sets lie on disk; neither is a folder of pictures."""
    data = datasets.Dataset.from_dict({"image_id": ["x", "y"], "caption_de": [["a"], ["b"]]})
    folder = tmp_path / form
    if form == "saved":
        datasets.DatasetDict(test=data).save_to_disk(str(folder))
    else:
        (folder / "data").mkdir(parents=True)
        data.to_parquet(str(folder / "data" / "test-00000-of-00001.parquet"))
    rows = open_items(str(folder), split="test")
    assert read_ids(rows) == ["x", "y"]
    assert read_column(rows, "description") == [None, None]
    with pytest.raises(ValueError, match="train"):
        open_items(str(folder), split="train")
    with pytest.raises(ValueError, match="drop the description file"):
        open_items(str(folder), description_file=tmp_path / "d.jsonl")


def test_rows_without_ids_are_numbered():
    """Rows of a list may have no id; a hit must still say which row it is."""
    assert read_ids([{"image": None}, {"image": None, "image_id": "b"}]) == ["0", "b"]


def test_pictures_of_a_changed_folder_are_refused(picture_folder):
    """Read by position, every thumbnail after a new file would show another picture than its id says."""
    index = ItemIndex(torch.ones(3, 1, 4), ["a.JPG", "b.png", "sub/c.webp"])
    source = {"location": str(picture_folder)}
    assert len(pictures_of(index, source)) == 3
    tiny_image(3).save(picture_folder / "aa.png")
    with pytest.raises(ValueError, match="are not those of the index"):
        pictures_of(index, source)
    with pytest.raises(ValueError, match="does not say where its items lie"):
        pictures_of(index, {})


def test_a_description_of_no_picture_is_told(picture_folder, caplog):
    """A renamed picture would lose its description in silence."""
    with (picture_folder / "descriptions.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"image_id": "old-name.png", "description": "x"}) + "\n")
    PictureFolder(picture_folder)
    assert "1 descriptions name none of the pictures" in caplog.text and "old-name.png" in caplog.text


def test_items_of_a_data_set_of_texts_get_their_pictures_from_a_folder(tmp_path, picture_folder, caplog):
    """Descriptions travel as text; a search over them needs the pictures beside it."""
    rows = datasets.Dataset.from_dict({"image_id": ["b.png", "gone", "sub/c"], "description": ["one", "two", None]})
    rows.to_parquet(str(tmp_path / "texts" / "test-00000-of-00001.parquet"))
    found = open_items(str(tmp_path / "texts"), images=str(picture_folder))
    assert read_ids(found) == ["b.png", "sub/c"]
    assert found[1]["image"].size == tiny_image(2).size
    assert "1 items have no image (first: gone)" in caplog.text


def test_a_description_file_is_read_strictly(tmp_path, picture_folder):
    """A line separator inside a description is text; the second description of a picture would win in silence."""
    file = tmp_path / "d.jsonl"
    line = '{"image_id": "b.png", "description": "one\u2028two"}\n'
    file.write_text("\ufeff" + line, encoding="utf-8")
    assert PictureFolder(picture_folder, description_file=file).descriptions == {"b.png": "one\u2028two"}
    file.write_text(line * 2, encoding="utf-8")
    with pytest.raises(ValueError, match=r"line 2: 'b\.png' has a description already"):
        PictureFolder(picture_folder, description_file=file)


def test_a_data_set_of_texts_without_its_pictures_says_what_to_give(tmp_path, picture_folder):
    """The error would otherwise come from the first picture, and ask to repair it."""
    rows = datasets.Dataset.from_dict({"image_id": ["b.png"], "description": ["one"]})
    rows.to_parquet(str(tmp_path / "texts" / "test-00000-of-00001.parquet"))
    with pytest.raises(ValueError, match=r"reads the column 'image', .* the folder of their images .* --images"):
        VisualRows(open_items(str(tmp_path / "texts")), "image")
    with pytest.raises(ValueError, match="is a folder of pictures itself; leave --images"):
        open_items(str(picture_folder), images=str(picture_folder))


def test_damaged_pictures_are_left_out_where_asked_and_told(tmp_path, picture_folder, caplog):
    """One damaged photo among thousands would stop a search after hours of encoding."""
    (picture_folder / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    rows = open_items(str(picture_folder), skip_corrupt=True)
    assert read_ids(rows) == ["a.JPG", "sub/c.webp"] and len(rows) == 2
    assert [rows[position]["image"].mode for position in range(2)] == ["RGB", "RGB"]
    assert "1 of 3 pictures cannot be read and are left out (first: ['b.png'])" in caplog.text
    index = ItemIndex(torch.ones(2, 1, 4), read_ids(rows))
    assert len(pictures_of(index, {"location": str(picture_folder), "skip_corrupt": True})) == 2
    table = datasets.Dataset.from_dict({"image_id": ["b.png", "a.JPG"]})
    table.to_parquet(str(tmp_path / "texts" / "test-00000-of-00001.parquet"))
    assert read_ids(open_items(str(tmp_path / "texts"), images=str(picture_folder), skip_corrupt=True)) == ["a.JPG"]
    for name in ("a.JPG", "sub/c.webp"):
        (picture_folder / name).write_bytes(b"broken")
    with pytest.raises(ValueError, match="none of the 3 pictures can be read"):
        open_items(str(picture_folder), skip_corrupt=True)
