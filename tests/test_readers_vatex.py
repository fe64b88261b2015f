"""VATEX: small files in its form; the splits of its authors and of the papers, clips and features reported."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from processing.media import attach_videos
from processing.readers import vatex
from processing.readers.vatex import clip_times, read_vatex
from processing.sources import open_splits, write_splits
from processing.video_frames_leccr import FrameSampling
from processing.visual_rows import VisualRows
from tests.clips import make_clip, read_numbers
from tests.mutations import survive

TRAIN = "vatex_training_v1.0.json"
VALIDATION = "vatex_validation_v1.0.json"
TEST = "vatex_public_test_english_v1.1.json"
IDS = {
    TRAIN: ["Ptf_2VRj-V0_000122_000132", "-YouTube_id_000000_000010", "cccccccccc__000001_000011"],
    VALIDATION: [f"validation{letter}_000005_000015" for letter in "abcd"],
    TEST: ["testtesttes_000003_000013"],
}


def record(video_id: str, *, chinese: bool = True) -> dict[str, Any]:
    captions = {"videoID": video_id, "enCap": [f"English {number} of {video_id}" for number in range(10)]}
    return {**captions, "chCap": [f"中文 {number} {video_id}" for number in range(10)]} if chinese else captions


def make_vatex(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name, ids in IDS.items():
        content = [record(video_id, chinese=name != TEST) for video_id in ids]
        (root / name).write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
    return root


def edit(path: Path, change) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(change(content)), encoding="utf-8")


def test_the_authors_splits_are_read_in_order(tmp_path: Path):
    """The last five captions of both languages are pairs, which any sorting would take apart."""
    corpus = read_vatex(make_vatex(tmp_path), check_counts=False)
    assert {name: rows["video_id"][:] for name, rows in corpus.splits.items()} == {
        "train": IDS[TRAIN],
        "validation": IDS[VALIDATION],
        "test": IDS[TEST],
    }
    for name, file in (("train", TRAIN), ("validation", VALIDATION)):
        for row, video_id in zip(corpus.splits[name], IDS[file], strict=True):
            assert row["caption_en"] == record(video_id)["enCap"] and row["caption_zh"] == record(video_id)["chCap"]
    assert corpus.missing.to_dict() == {"no caption_zh": {"test": IDS[TEST]}}
    assert corpus.settings == {"reader": "vatex", "splits": "published", "untrimmed": False}


def test_the_data_set_is_written_and_loads_again(tmp_path: Path):
    """A column that is empty in one split must keep its type in all of them."""
    corpus = read_vatex(make_vatex(tmp_path / "vatex"), check_counts=False)
    loaded = open_splits(write_splits(corpus.splits, tmp_path / "out"))
    assert {name: list(rows) for name, rows in loaded.items()} == {
        name: list(rows) for name, rows in corpus.splits.items()
    }


@pytest.mark.parametrize("line", ["{}", "{}#zh#3 人们 在 跳舞"])
def test_papers_test_on_half_of_the_validation_clips(tmp_path: Path, line: str):
    """A number on the public test set, or on all validation clips, compares with no paper."""
    test_ids = tmp_path / "vatextest_zh.caption.txt"
    named = [IDS[VALIDATION][3], IDS[VALIDATION][1], IDS[VALIDATION][1]]
    test_ids.write_text("".join(line.format(video_id) + "\n" for video_id in named), encoding="utf-8")
    corpus = read_vatex(make_vatex(tmp_path), test_ids=test_ids, check_counts=False)
    assert corpus.splits["validation"]["video_id"][:] == [IDS[VALIDATION][0], IDS[VALIDATION][2]]
    assert corpus.splits["test"]["video_id"][:] == [IDS[VALIDATION][1], IDS[VALIDATION][3]]
    assert all(len(texts) == 10 for texts in corpus.splits["test"]["caption_zh"])
    assert not corpus.missing and corpus.settings["splits"] == "validation in halves"


def test_published_sizes_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A file that was cut at a record boundary is valid JSON."""
    root = make_vatex(tmp_path)
    with pytest.raises(ValueError, match="gives 3 clips, and 25,991 are published"):
        read_vatex(root)
    monkeypatch.setattr(vatex, "PUBLISHED_CLIPS", {"train": 3, "validation": 4, "test": 1})
    monkeypatch.setattr(vatex, "HALF_VALIDATION", 2)
    assert len(read_vatex(root).splits) == 3
    (tmp_path / "half.txt").write_text(f"{IDS[VALIDATION][0]}\n")
    with pytest.raises(ValueError, match=r"half\.txt gives 1 test clips"):
        read_vatex(root, test_ids=tmp_path / "half.txt")
    edit(root / TRAIN, lambda content: [{**content[0], "chCap": content[0]["chCap"][:9]}, *content[1:]])
    with pytest.raises(ValueError, match=r"record 1 .* must hold 10 captions, got 9"):
        read_vatex(root)


def test_clips_and_features_that_are_absent_are_reported(tmp_path: Path):
    """A tenth of the clips is gone from YouTube; who trains on the rest has to know which."""
    root = make_vatex(tmp_path / "vatex")
    have = [*IDS[TRAIN][:2], *IDS[VALIDATION]]
    for video_id in have:
        for folder, suffix in (("clips", ".mp4"), ("features", ".npy")):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / f"{video_id}{suffix}").touch()
        np.save(tmp_path / "features" / f"{video_id}.npy", np.ones((1, 3, 8), np.float32))
    corpus = read_vatex(root, clips=tmp_path / "clips", features=tmp_path / "features", check_counts=False)
    absent = {"train": [IDS[TRAIN][2]], "test": IDS[TEST]}
    found = corpus.missing.to_dict()
    assert found["no video"] == absent and found["no features"] == absent
    assert [len(rows) for rows in corpus.splits.values()] == [3, 4, 1]
    joined, _ = attach_videos(corpus.splits, tmp_path / "clips")
    assert joined["train"]["video"][0].endswith("Ptf_2VRj-V0_000122_000132.mp4")
    other = tmp_path / "other"
    other.mkdir()
    np.save(other / "somebody.npy", np.ones((3, 8), np.float32))
    with pytest.raises(ValueError, match=r"all \d+ rows have no features; .*right folder"):
        read_vatex(root, features=other, check_counts=False)


def test_whole_videos_are_read_from_start_to_end_of_the_clip(tmp_path: Path):
    """Frames of the ten minutes around a clip show what its captions do not tell."""
    root = make_vatex(tmp_path / "vatex")
    ids = ["-YouTube_id_000000_000001", "-YouTube_id_000001_000002", "gone_000000_000001"]
    edit(root / TRAIN, lambda content: [record(video_id) for video_id in ids])
    (tmp_path / "videos").mkdir()
    make_clip(tmp_path / "videos" / "-YouTube_id.mp4", 20, frames_per_second=10)
    corpus = read_vatex(root, clips=tmp_path / "videos", untrimmed=True, check_counts=False)
    assert corpus.missing.to_dict()["no video"]["train"] == ids[2:]
    loaded = open_splits(write_splits(corpus.splits, tmp_path / "out"))
    assert loaded["train"].remove_columns(["caption_en", "caption_zh"])[1] == {
        "video_id": ids[1],
        "file_name": "-YouTube_id",
        "start": 1.0,
        "end": 2.0,
    }
    rows = VisualRows(attach_videos(loaded["train"], tmp_path / "videos")[0], "frames", FrameSampling(2))
    assert [read_numbers(rows.read(position)["frames"]) for position in range(2)] == [[2, 7], [12, 17]]


def test_an_empty_caption_is_left_out_and_reported(tmp_path: Path):
    """It would be a query that every clip answers equally well."""
    root = make_vatex(tmp_path)
    edit(root / VALIDATION, lambda content: [{**content[0], "chCap": ["  ", "好"]}, *content[1:]])
    test_ids = tmp_path / "ids.txt"
    test_ids.write_text(IDS[VALIDATION][0])
    corpus = read_vatex(root, test_ids=test_ids, check_counts=False)
    assert corpus.splits["test"][0]["caption_zh"] == ["好"]
    assert corpus.missing.to_dict() == {"an empty caption, left out": {"test": [IDS[VALIDATION][0]]}}


def test_a_clip_of_two_splits_is_reported(tmp_path: Path):
    """A clip that was trained on is found too easily."""
    root = make_vatex(tmp_path)
    edit(root / VALIDATION, lambda content: [*content, record(IDS[TRAIN][0])])
    corpus = read_vatex(root, check_counts=False)
    assert corpus.missing.to_dict()["a row in another split too"] == {"validation": [IDS[TRAIN][0]]}


def test_the_times_of_a_clip_come_from_its_id():
    """A YouTube id may itself hold underscores and digits."""
    assert clip_times("Ptf_2VRj-V0_000122_000132") == (122, 132)
    assert clip_times("a_1_2_000000_000010") == (0, 10)
    for video_id in ("Ptf", "Ptf_000132_000122", "Ptf_000010_000010", "../a_000000_000010", "é_000000_000010", ""):
        with pytest.raises(ValueError, match="YouTube id"):
            clip_times(video_id)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: {"a": 1}, "must hold a list of clips, got dict"),
        (lambda content: ["text"], "record 1: expected an object with a text 'videoID'"),
        (lambda content: [{**content[0], "videoID": 3}], "record 1: expected an object"),
        (lambda content: [{**content[0], "videoID": "../../x_000000_000010"}], "record 1 .*YouTube id"),
        (lambda content: [{**content[0], "enCap": "text"}], "enCap must be a list of texts"),
        (lambda content: [{**content[0], "chCap": [None]}], "chCap must be a list of texts"),
        (lambda content: [content[0], {"videoID": IDS[TRAIN][1]}], "record 2 .*private test set"),
        (lambda content: [content[0], content[0]], "'Ptf_2VRj-V0_000122_000132'.*occurs twice"),
    ],
)
def test_malformed_records_are_refused_by_file_and_record(tmp_path: Path, change, message: str):
    """One wrong record among 26,000 has to be found by whoever reads the message."""
    root = make_vatex(tmp_path)
    edit(root / TRAIN, change)
    with pytest.raises(ValueError, match=message) as error:
        read_vatex(root, check_counts=False)
    assert TRAIN in str(error.value)


def test_damaged_and_absent_files_are_refused_by_file_and_line(tmp_path: Path):
    """A download that stopped, and a folder with two versions, are the usual faults."""
    root = make_vatex(tmp_path)
    whole = (root / TRAIN).read_bytes()
    (root / TRAIN).write_bytes(whole[:400])
    with pytest.raises(ValueError, match=rf"{TRAIN}, line \d+: not JSON"):
        read_vatex(root, check_counts=False)
    (root / TRAIN).write_bytes(b"[" * 200_000)
    with pytest.raises(ValueError, match=rf"{TRAIN}, line 1: brackets in brackets"):
        read_vatex(root, check_counts=False)
    (root / TRAIN).write_bytes(whole.replace("中文 3".encode(), "中文 3".encode("gb18030"), 1))
    with pytest.raises(ValueError, match=rf"{TRAIN}, line \d+: byte \d+ is not UTF-8"):
        read_vatex(root, check_counts=False)
    (root / TRAIN).unlink()
    with pytest.raises(ValueError, match=r"lacks vatex_training_v1\.0\.json"):
        read_vatex(root, check_counts=False)
    (root / f"{TRAIN}.gz").write_bytes(gzip.compress(whole))
    assert len(read_vatex(root, check_counts=False).splits["train"]) == 3
    (root / f"{TRAIN}.gz").write_bytes(gzip.compress(whole)[:-20])
    with pytest.raises(ValueError, match="damaged gzip file"):
        read_vatex(root, check_counts=False)
    (root / TRAIN).write_bytes(whole)
    with pytest.raises(ValueError, match="several files of one split"):
        read_vatex(root, check_counts=False)
    (root / f"{TRAIN}.gz").unlink()
    (root / "ids.txt").write_text(f"{IDS[VALIDATION][0]}\nnobody_000000_000010\n")
    with pytest.raises(ValueError, match=r"ids\.txt, line 2: 'nobody_000000_000010' is not a clip"):
        read_vatex(root, test_ids=root / "ids.txt", check_counts=False)


def test_damaged_json_gives_rows_or_a_value_error(tmp_path: Path):
    """A traceback from deep inside names neither file nor remedy."""
    root = make_vatex(tmp_path)
    edit(root / TRAIN, lambda content: [{key: texts[:] for key, texts in entry.items()} for entry in content[:2]])
    assert survive(root / TRAIN, lambda: read_vatex(root, check_counts=False), 250) > 100
