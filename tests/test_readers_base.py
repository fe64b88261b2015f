"""What all readers share: strict text and JSON, names that stay in their folder, rows checked one by one."""

import gzip
from pathlib import Path

import pytest

from processing.missing import MissingReport
from processing.readers.base import (
    IN_ANOTHER_SPLIT,
    build_split,
    check_count,
    inside,
    iter_json_lines,
    iter_lines,
    read_json,
    read_lines,
    report_shared,
)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_lines_end_at_line_feeds_and_nowhere_else(tmp_path: Path, name: str):
    """U+2028 and U+0085 occur in real captions; a split there shifts all later captions by one image."""
    content = "one\u2028still one\r\ntwo\u0085\x0b\x0cstill two\n\nfour \rstill four"
    path = write(tmp_path / name, content.encode())
    lines = ["one\u2028still one", "two\u0085\x0b\x0cstill two", "", "four \rstill four"]
    assert read_lines(path, expected=4) == lines
    assert list(iter_lines(path)) == list(enumerate(lines, start=1))


def test_a_final_line_end_makes_no_line_and_an_empty_file_has_none(tmp_path: Path):
    """With one line more than images, every benchmark file would be refused."""
    assert read_lines(write(tmp_path / "a.txt", b"one\ntwo\n")) == ["one", "two"]
    assert read_lines(write(tmp_path / "b.txt", b"")) == []


def test_a_byte_order_mark_is_dropped_at_the_start_only(tmp_path: Path):
    """Windows editors write one; as part of the first id it makes that image unfindable."""
    path = write(tmp_path / "a.txt", "\ufeffone\n\ufefftwo\n".encode())
    assert read_lines(path) == ["one", "\ufefftwo"]
    assert read_json(write(tmp_path / "a.json", '\ufeff{"a": 1}'.encode())) == {"a": 1}


def test_another_number_of_lines_is_refused_with_the_last_line(tmp_path: Path):
    """Captions of a cut file would be paired with the wrong images, or the last images with none."""
    with pytest.raises(ValueError, match=r"a\.txt must have 1,000 lines, one for each item, and ends at line 2"):
        read_lines(write(tmp_path / "a.txt", b"one\ntwo\n"), expected=1_000)


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_mixed_encodings_are_refused_with_file_line_and_byte(tmp_path: Path, name: str):
    """One Latin-1 line among UTF-8 must not become a replacement character, nor a guess of the encoding."""
    path = write(tmp_path / name, "Männer\n".encode() + "zwei Männer\n".encode("latin-1"))
    with pytest.raises(ValueError, match=rf"{name}, line 2: byte 6 is not UTF-8"):
        read_lines(path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le"])
def test_utf_16_is_refused(tmp_path: Path, encoding: str):
    """Without a byte order mark, plain English in UTF-16 is valid UTF-8 full of zero characters."""
    with pytest.raises(ValueError, match=r"line 1: (byte 0 is not UTF-8|text must not hold a zero character)"):
        read_lines(write(tmp_path / "a.txt", "a dog\n".encode(encoding)))


def test_a_truncated_gzip_file_is_refused_with_the_last_good_line(tmp_path: Path):
    """A broken download must not pass for a shorter benchmark."""
    path = tmp_path / "a.gz"
    whole = gzip.compress(b"".join(b"caption %d\n" % number for number in range(50_000)))
    path.write_bytes(whole[: len(whole) // 2])
    seen = 0
    with pytest.raises(ValueError, match=r"a\.gz, after line \d+: damaged gzip file") as error:
        for number, line in iter_lines(path):
            assert line == f"caption {number - 1}"
            seen = number
    assert 1_000 < seen < 50_000 and f"after line {seen}:" in str(error.value)


@pytest.mark.parametrize(
    "content",
    # Without a time stamp: pytest-xdist wants the same names from every worker.
    [b"plain text\n", gzip.compress(b"one\n" * 99, mtime=0)[:-8] + b"\0" * 8, b"\x1f\x8b\x08"],
    ids=["plain", "checksum", "header"],
)
def test_what_is_no_gzip_file_or_fails_its_checksum_is_refused(tmp_path: Path, content: bytes):
    """Some downloads save an error page, others flip a bit."""
    path = tmp_path / "a.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.gz, after line \d+: damaged gzip file"):
        read_lines(path)


def test_a_damaged_deflate_stream_is_refused(tmp_path: Path):
    """zlib raises an error type of its own."""
    content = bytearray(gzip.compress(b"".join(b"caption %d\n" % number for number in range(9_999))))
    content[100:140] = b"\xff" * 40
    path = tmp_path / "a.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.gz, after line \d+: damaged gzip file"):
        read_lines(path)


def test_broken_json_is_refused_with_file_and_line(tmp_path: Path):
    """An annotation file has a million lines."""
    with pytest.raises(ValueError, match=r"a\.json, line 3: not JSON \(.*column 1\)"):
        read_json(write(tmp_path / "a.json", b'{"a": 1,\r\n"b":\r\n}\r\n'))
    path = write(tmp_path / "a.jsonl", b'{"a": 1}\n{"a": \n')
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2: not JSON"):
        list(iter_json_lines(path))


def test_json_lines_carry_their_line_numbers_past_blank_lines(tmp_path: Path):
    """Messages of the readers point at lines, so a blank one counts."""
    path = write(tmp_path / "a.jsonl.gz", '{"a": "x\u2028y"}\n\n{"a": 2}\n'.encode())
    assert list(iter_json_lines(path)) == [(1, {"a": "x\u2028y"}), (3, {"a": 2})]
    with pytest.raises(ValueError, match=r"b\.jsonl, line 1: expected a JSON object, got list"):
        list(iter_json_lines(write(tmp_path / "b.jsonl", b"[1]\n")))


def test_a_key_that_occurs_twice_in_an_object_is_refused(tmp_path: Path):
    """Descriptions keyed by id: the JSON module keeps the last of two and says nothing."""
    with pytest.raises(ValueError, match=r"a\.json, line 1: an object has the key 'dog' twice"):
        read_json(write(tmp_path / "a.json", b'{"cat": "1", "dog": "2", "dog": "3"}'))
    with pytest.raises(ValueError, match=r"a\.json, line 1 or below: an object has the key 'dog' twice"):
        read_json(write(tmp_path / "a.json", b'{"cat": "1",\n"dog": "2", "dog": "3"}'))
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2: an object has the key 'dog' twice"):
        list(iter_json_lines(write(tmp_path / "a.jsonl", b'{"dog": "1"}\n{"dog": "2", "dog": "3"}\n')))


def test_a_number_that_python_does_not_convert_is_refused_with_file_and_line(tmp_path: Path):
    """Python stops at 4,300 digits with a message that names no file."""
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2: .*5000 digits"):
        list(iter_json_lines(write(tmp_path / "a.jsonl", b'{"id": 1}\n{"id": ' + b"9" * 5000 + b"}\n")))


def test_an_item_of_two_splits_is_reported(tmp_path: Path):
    """Whoever tests on what was trained on has to know it."""
    splits = {
        name: build_split(
            [{"image_id": item, "caption_en": []} for item in ids], ["image_id", "caption_en"], name, source="f"
        )
        for name, ids in (("train", "ab"), ("validation", "bc"), ("test", "cad"))
    }
    missing = MissingReport()
    report_shared(splits, missing)
    assert missing.to_dict() == {IN_ANOTHER_SPLIT: {"validation": ["b"], "test": ["c", "a"]}}


@pytest.mark.parametrize("name", ["a.jpg", "train2014/a.jpg", "..a.jpg", "a..b/c.jpg", "http:x", "a b.jpg"])
def test_names_inside_the_folder_are_joined_with_it(tmp_path: Path, name: str):
    """Dots are common in file names; only the component `..` climbs."""
    assert inside(tmp_path, name, source="list.txt, line 1") == tmp_path / name


@pytest.mark.parametrize(
    "name", ["../a", "a/../../b", "/etc/passwd", "..\\a", "a\\..\\..\\b", "\\\\host\\share", "C:\\a", "", ".", "a\0b"]
)
def test_names_that_lead_out_of_the_folder_are_refused_with_their_line(tmp_path: Path, name: str):
    """A list from the Internet must not make us read, and then publish, somebody's private file."""
    with pytest.raises(ValueError, match=r"list\.txt, line 7: .* must be a path inside its folder"):
        inside(tmp_path, name, source="list.txt, line 7")


def test_another_count_than_the_published_one_is_refused():
    """A benchmark with an image less is another benchmark."""
    check_count(1_000, 1_000, "images", "test.txt")
    with pytest.raises(ValueError, match=r"test\.txt gives 999 images, and 1,000 are published"):
        check_count(999, 1_000, "images", "test.txt")


COLUMNS = ["image_id", "file_name", "description", "caption_en", "caption_de", "caption_de_mt"]
ROW = {
    "image_id": "7",
    "file_name": "a/7.jpg",
    "description": None,
    "caption_en": ["a dog", "the dog"],
    "caption_de": [],
    "caption_de_mt": ["ein Hund", None],
}


def test_rows_become_a_split_in_the_schema_and_texts_lose_outer_white_space():
    """Files of Multi30K have trailing spaces; an id with one never finds its picture."""
    row = {**ROW, "image_id": " 7\t", "caption_en": ["a\u00a0dog ", " the dog\n"], "description": " text "}
    split = build_split([row, {**ROW, "image_id": "8"}], COLUMNS, "validation", source="f")
    assert split[0] == {**ROW, "caption_en": ["a\u00a0dog", "the dog"], "description": "text"}
    assert split[1] == {**ROW, "image_id": "8"}
    assert split.column_names == COLUMNS and str(split.split) == "validation"


def test_a_split_may_be_empty_and_still_has_the_types_of_the_schema():
    """A column of nulls would be concatenated with one of texts only by luck."""
    assert (
        build_split([], COLUMNS, "test", source="f").features == build_split([ROW], COLUMNS, "a", source="f").features
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": "1"}, "the image_id occurs twice, first in row 1"),
        ({"image_id": "1 "}, "the image_id occurs twice, first in row 1"),
        ({"image_id": ""}, "image_id: a text must not be blank"),
        ({"image_id": 7}, "image_id: a text must not be blank or of another type, got 7"),
        ({"image_id": "../7"}, "image_id: '../7' must be a path inside its folder"),
        ({"file_name": "/7.jpg"}, "file_name: '/7.jpg' must be a path inside its folder"),
        ({"description": " "}, "description: a text must not be blank"),
        ({"description": "\ud83d"}, "description: .* has no form in UTF-8"),
        ({"caption_en": ["a dog", "\u3000"]}, "caption_en: a text must not be blank"),
        ({"caption_en": ["a dog", None]}, "caption_en: a text must not be blank or of another type, got None"),
        ({"caption_en": ["a dog", "x\0"]}, "caption_en: .* holds a zero character"),
        ({"caption_en": "a dog"}, "caption_en must be a list of texts, got 'a dog'"),
        ({"caption_de_mt": ["ein Hund"]}, "caption_de_mt has 1 captions and caption_en has 2"),
        ({"more": 1}, "a row must have the columns"),
    ],
)
def test_a_bad_row_is_refused_with_file_row_and_id(change: dict, message: str):
    """Each of these is accepted by `datasets`, and shows much later or never."""
    rows = [{**ROW, "image_id": "1"}, {**ROW, **change}]
    with pytest.raises(ValueError, match=message) as error:
        build_split(rows, COLUMNS, "train", source="list.txt")
    assert str(error.value).startswith("list.txt") and str(rows[1]["image_id"]).strip() in str(error.value)
    assert "row 2" in str(error.value)


def test_rows_of_videos_are_checked_by_their_id_as_well():
    """The id column of clips has another name."""
    columns = ["video_id", "caption_en", "caption_zh_mt"]
    row = {"video_id": "v1", "caption_en": ["a dog"], "caption_zh_mt": []}
    with pytest.raises(ValueError, match=r"row 1 .*'v1'.*caption_zh_mt has 0 captions and caption_en has 1"):
        build_split([row], columns, "train", source="f")


def test_translations_need_the_captions_they_translate():
    """Without the source there is nothing that they could line up with."""
    with pytest.raises(ValueError, match=r"lacks the columns \['caption_en'\]"):
        build_split([], ["image_id", "caption_de_mt"], "train", source="f")
