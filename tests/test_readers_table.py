"""Tables of captions: JSON lines, CSV, TSV."""

import gzip
import json
import random
from pathlib import Path

import pytest

from processing.readers.table import column_names, read_table

COLUMNS = {"image_id": "image", "caption_en": "comment"}


def written(path: Path, text: str) -> Path:
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def test_a_row_for_each_caption_is_gathered_by_item(tmp_path: Path):
    """Flickr30k's file: five rows a picture, cells between bars; other orders of the rows must not mix pictures."""
    file = written(
        tmp_path / "results.csv", "image|n|comment\n1.jpg|0|A dog , running .\n2.jpg|0|Two men\n1.jpg|1|A \nx|0|b\n"
    )
    corpus = read_table({"train": file}, COLUMNS, caption_rows=True, delimiter="|")
    assert corpus.splits["train"][:] == {
        "image_id": ["1.jpg", "2.jpg", "x"],
        "caption_en": [["A dog , running .", "A"], ["Two men"], ["b"]],
    }
    assert not corpus.missing


def test_quoted_cells_may_hold_commas_quotes_and_line_ends(tmp_path: Path):
    """A reader that splits at commas or lines breaks the table in silence."""
    file = written(tmp_path / "a.csv.gz", 'image,comment\r\n1,"a ""b"", c\nd"\r\n\r\n2,e\r\n')
    corpus = read_table({"test": file}, COLUMNS)
    assert corpus.splits["test"]["caption_en"] == [['a "b", c\nd'], ["e"]]


def test_json_lines_may_hold_lists_and_numbers_as_ids(tmp_path: Path):
    """COCO-like ids are numbers; a list of captions is what the schema holds already."""
    lines = [{"image": 17, "comment": ["a", "b"], "zh": "狗"}, {"image": 18, "comment": None, "zh": ""}]
    file = written(tmp_path / "a.jsonl", "\n".join(json.dumps(line) for line in lines))
    corpus = read_table({"train": file}, COLUMNS | {"caption_zh": "zh"})
    assert corpus.splits["train"][:] == {
        "image_id": ["17", "18"],
        "caption_en": [["a", "b"], []],
        "caption_zh": [["狗"], []],
    }
    assert corpus.missing.to_dict() == {"no English caption": {"train": ["18"]}}


def test_parts_of_a_clip_are_rows_with_their_seconds(tmp_path: Path):
    """A table of moments has many rows for one file; text and number are the same second."""
    columns = {"video_id": "id", "file_name": "clip", "start": "from", "end": "to", "caption_en": "says"}
    text = "id,clip,from,to,says\na,x.mp4,0,1.5,A\na,x.mp4,0.0,1.5,B\nb,x.mp4,1.5,,C\nc,x.mp4,,,D\n"
    lines = [
        {"id": "a", "clip": "x.mp4", "from": 0, "to": 1.5, "says": ["A", "B"]},
        {"id": "b", "clip": "x.mp4", "from": 1.5, "says": "C"},
        {"id": "c", "clip": "x.mp4", "from": None, "to": None, "says": "D"},
    ]
    files = {
        "train": written(tmp_path / "a.csv", text),
        "test": written(tmp_path / "a.jsonl", "\n".join(json.dumps(line) for line in lines)),
    }
    for split in read_table(files, columns, caption_rows=True).splits.values():
        assert split["start"][:] == [0.0, 1.5, None] and split["end"][:] == [1.5, None, None]
        assert split.features["start"].dtype == "float64"


@pytest.mark.parametrize(
    ("seconds", "message"),
    [
        ('"later", "to": 2', "start: expected seconds, a number of at least 0, got 'later'"),
        ("-1", "start: expected seconds"),
        ("NaN", "start: expected seconds"),
        ("Infinity", "start: expected seconds"),
        ("true", "start: expected seconds"),
        ("[1]", "start: expected seconds"),
        ('2, "to": 2', "end must lie behind start, got 2.0 and 2.0"),
        ('null, "to": 0', "end must lie behind start, got 0.0 and 0.0"),
    ],
)
def test_a_part_that_is_none_is_refused_by_its_line(tmp_path: Path, seconds: str, message: str):
    """It would show as a clip that cannot be read, hours later."""
    file = written(tmp_path / "a.jsonl", f'{{"id": "a", "from": {seconds}}}')
    with pytest.raises(ValueError, match=rf"a\.jsonl, line 1.*{message}"):
        read_table({"train": file}, {"video_id": "id", "start": "from", **({"end": "to"} if "to" in seconds else {})})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "image,comment\n1,a\n1,b\n", r"a\.csv, line 3: image '1' occurs twice; .* caption_rows"),
        ("a.csv", "image,comment\n1,a,b\n", r"a\.csv, line 2: expected 2 cells, got 3"),
        ("a.csv", "image,image\n1,a\n", r"a\.csv, line 1: expected different column names"),
        ("a.csv", "", r"a\.csv, line 1: expected different column names"),
        ("a.csv", 'image,comment\n1,"a\n', r"a\.csv, line 2: not a table"),
        (
            "a.csv",
            "image,text\n1,a\n",
            r"a\.csv: no column 'comment' for caption_en; there are \['image', 'text'\]",
        ),
        ("a.tsv", "image\tcomment\n1\ta\n\ta\n", r"a\.tsv, line 3: 'image' \(image_id\) must name the item"),
        ("a.jsonl", '\n{"comment": "a"}\n{"image": "1"}', r"a\.jsonl, line 2: 'image' \(image_id\) must name"),
        ("a.tsv", "image\tcomment\n1\ta\n../x\ta\n", r"a\.tsv, line 3.*'\.\./x' must be a path inside"),
        ("a.jsonl", '{"image": "1", "comment": "a"}\n{"image": ', r"a\.jsonl, line 2: not JSON"),
        ("a.jsonl", '{"image": {}, "comment": "a"}', r"a\.jsonl, line 1: 'image' must be a text"),
        (
            "a.jsonl",
            '{"image": "1", "comment": [3]}',
            r"a\.jsonl, line 1, caption_en: .*must not be blank or of another type, got 3",
        ),
        ("a.txt", "1 a", r"a\.txt must end in \.jsonl, \.csv or \.tsv"),
    ],
)
def test_malformed_tables_name_file_and_line(tmp_path: Path, name: str, text: str, message: str):
    """A reader that guesses trains on the wrong pairs."""
    with pytest.raises(ValueError, match=message):
        read_table({"train": written(tmp_path / name, text)}, COLUMNS)


def test_rows_of_one_item_must_agree_in_what_is_no_caption(tmp_path: Path):
    """Two descriptions of one id mean that the ids are not ids."""
    file = written(tmp_path / "a.csv", "image,comment,text\n1,a,x\n1,b,y\n")
    with pytest.raises(ValueError, match=r"line 3: description is 'y' and was 'x'"):
        read_table({"train": file}, COLUMNS | {"description": "text"}, caption_rows=True)


def test_a_column_outside_the_schema_is_refused(tmp_path: Path):
    """A typing mistake in the column map would make a column that nobody reads."""
    file = written(tmp_path / "a.csv", "image,comment\n1,a\n")
    with pytest.raises(ValueError, match="'captions_en' is not in the schema"):
        read_table({"train": file}, {"image_id": "image", "captions_en": "comment"})
    with pytest.raises(ValueError, match="must have one column 'image_id'"):
        read_table({"train": file}, {"caption_en": "comment"})
    with pytest.raises(ValueError, match="a table for at least one split"):
        read_table({}, COLUMNS)


TRANSLATED = COLUMNS | {"caption_de_mt": "mt"}


@pytest.mark.parametrize(
    ("name", "text", "caption_rows"),
    [
        ("a.jsonl", '{"image": "1", "comment": ["a dog", "", "a cat"], "mt": ["ein Hund", " ", null]}', False),
        ("a.jsonl", '{"image": "1", "comment": ["a dog", null, "a cat"], "mt": ["ein Hund", null, ""]}', False),
        ("a.jsonl", '{"image": "1", "comment": "a dog", "mt": "ein Hund"}\n{"image": "1", "comment": "a cat"}', True),
        ("a.csv", "image,comment,mt\n1,a dog,ein Hund\n1, ,\n1,a cat, \n", True),
    ],
)
def test_a_refused_translation_stays_null_at_its_place(tmp_path: Path, name: str, text: str, caption_rows: bool):
    """A null that is dropped moves every later translation to another caption; our own data sets have nulls."""
    corpus = read_table({"train": written(tmp_path / name, text)}, TRANSLATED, caption_rows=caption_rows)
    assert corpus.splits["train"][:] == {
        "image_id": ["1"],
        "caption_en": [["a dog", "a cat"]],
        "caption_de_mt": [["ein Hund", None]],
    }


def test_an_item_without_translations_has_a_null_for_each_caption(tmp_path: Path):
    """Where a whole cell is null or absent, nothing was translated; that is no broken row."""
    lines = [{"image": "1", "comment": ["a", "b"], "mt": None}, {"image": "2", "comment": []}, {"image": "3", "mt": ""}]
    file = written(tmp_path / "a.jsonl", "\n".join(json.dumps(line) for line in lines))
    corpus = read_table({"train": file}, TRANSLATED)
    assert corpus.splits["train"]["caption_de_mt"] == [[None, None], [], []]
    assert corpus.missing.to_dict() == {"no English caption": {"train": ["2", "3"]}}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "image,comment,mt\n1,a dog,\n1,,eine Katze\n", r"a\.csv, line 3: caption_de_mt translates a blank"),
        (
            "a.jsonl",
            '\n{"image": "1", "comment": ["a", ""], "mt": ["b", "c"]}',
            r"a\.jsonl, line 2: caption_de_mt translates a blank",
        ),
        (
            "a.jsonl",
            '{"image": "1", "comment": ["a", "b"], "mt": ["c"]}',
            r"a\.jsonl, line 1: caption_de_mt has 1 entries and caption_en has 2",
        ),
        ("a.jsonl", '{"image": "1", "comment": "a", "mt": 3}', r"a\.jsonl, line 1, caption_de_mt: .*got 3"),
    ],
)
def test_a_translation_without_its_caption_is_refused(tmp_path: Path, name: str, text: str, message: str):
    """Nothing says which caption it belongs to."""
    with pytest.raises(ValueError, match=message):
        read_table({"train": written(tmp_path / name, text)}, TRANSLATED, caption_rows=True)


def test_blank_texts_are_no_captions_however_they_are_blank(tmp_path: Path):
    """A cell of white space and an empty cell look the same in a spreadsheet."""
    file = written(tmp_path / "a.csv", "image,comment,de,text\n1,a,eins,\n1, ,,\n1,\u3000,zwei,x\n")
    columns = COLUMNS | {"caption_de": "de", "description": "text"}
    assert read_table({"train": file}, columns, caption_rows=True).splits["train"][0] == {
        "image_id": "1",
        "caption_en": ["a"],
        "caption_de": ["eins", "zwei"],
        "description": "x",
    }


def test_an_id_in_two_tables_is_reported(tmp_path: Path):
    """A test picture that was trained on makes the test an easy one."""
    files = {name: written(tmp_path / f"{name}.csv", f"image,comment\n1,a\n{name},b\n") for name in ("train", "test")}
    assert read_table(files, COLUMNS).missing.to_dict() == {"a row in another split too": {"test": ["1"]}}


def test_the_columns_of_a_table_are_those_of_all_its_rows(tmp_path: Path):
    """The folder reader asks before it reads; a first picture without a caption must not hide those of the others."""
    assert column_names(written(tmp_path / "a.csv", "a, b\n1,2\n")) == ["a", "b"]
    assert column_names(written(tmp_path / "a.jsonl", '{"a": 1}\n{"b": 1, "a": 2}\n')) == ["a", "b"]
    with pytest.raises(ValueError, match="has no row"):
        column_names(written(tmp_path / "b.jsonl", "\n"))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".csv.gz"])
def test_damaged_files_give_a_clear_error_or_a_table(tmp_path: Path, suffix: str):
    """Downloads break in any place; anything but a ValueError would be a stack trace without a file name."""
    lines = [{"image": f"{i}.jpg", "comment": f"a dog, {i}"} for i in range(9)]
    rows = "".join(f'{line["image"]},"{line["comment"]}"\n' for line in lines)
    text = "\n".join(json.dumps(line) for line in lines) if suffix == ".jsonl" else f"image,comment\n{rows}"
    good = written(tmp_path / f"good{suffix}", text).read_bytes()
    generator = random.Random(0)
    refused = 0
    for _ in range(150):
        data = bytearray(good)
        for _ in range(generator.randint(1, 3)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        file = tmp_path / f"bad{suffix}"
        file.write_bytes(bytes(data[: generator.randint(0, len(data))] if generator.random() < 0.3 else data))
        try:
            read_table({"train": file}, COLUMNS)
        except ValueError as error:
            assert file.name in str(error)
            refused += 1
    assert refused > 20
