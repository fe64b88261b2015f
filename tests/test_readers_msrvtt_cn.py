"""MSR-VTT-CN in the layout of NRCCR: captions joined by id and number, sizes, features, faults."""

import multiprocessing
from pathlib import Path

import pytest

from processing.missing import MissingReport
from processing.readers import msrvtt_cn
from processing.readers.feature_store import FeatureStore
from processing.readers.msrvtt_cn import read_msrvtt_cn
from processing.sources import open_splits, write_splits
from tests.caption_folders import make_msrvtt, write_captions, write_store
from tests.mutations import survive

TRAIN, TRANSLATED = "msrvtt10kcntrain.caption.txt", "msrvtt10kcntrain_google_enc2zh.caption.txt"
TEST = "msrvtt10kcntest_zh.caption.txt"


def read_small(root: Path, **options):
    return read_msrvtt_cn(root, check_counts=False, **options)


def test_rows_hold_english_translations_and_human_captions(tmp_path: Path):
    """Human Chinese captions that end among the translations would be trained on."""
    corpus = read_small(make_msrvtt(tmp_path))
    assert list(corpus.splits["train"]) == [
        {
            "video_id": f"video{n}",
            "caption_en": [f"english {k} of video{n}" for k in range(2)],
            "caption_zh": [],
            "caption_zh_mt": [f"机器 english {k} of video{n}" for k in range(2)],
        }
        for n in (1, 0)
    ]
    assert list(corpus.splits["test"]) == [
        {"video_id": f"video{n}", "caption_en": [], "caption_zh": [f"中文 video{n}"], "caption_zh_mt": []}
        for n in (4, 3)
    ]
    assert corpus.splits["validation"]["video_id"][:] == ["video2"] and not corpus.missing
    assert corpus.settings == {
        "reader": "msrvtt_cn",
        "languages": ["zh"],
        "collection": None,
        "partition": None,
        "ignored_files": [],
    }
    loaded = open_splits(write_splits(corpus.splits, tmp_path / "out"))
    assert list(loaded["train"]) == list(corpus.splits["train"])


def test_translations_join_by_number_and_not_by_line(tmp_path: Path):
    """The two files need not list captions in one order, and one translation may be absent."""
    root = make_msrvtt(tmp_path)
    lines = (root / "TextData" / TRANSLATED).read_text(encoding="utf-8").splitlines(keepends=True)
    (root / "TextData" / TRANSLATED).write_text("".join(lines[:0:-1]), encoding="utf-8")
    corpus = read_small(root)
    row = corpus.splits["train"][1]
    assert row["caption_zh_mt"] == [f"机器 {caption}" for caption in row["caption_en"]]
    assert corpus.splits["train"][0]["caption_zh_mt"] == [None, "机器 english 1 of video1"]
    assert corpus.missing.to_dict() == {"an English caption without caption_zh_mt": {"train": ["video1"]}}


def test_english_test_captions_and_ids_without_a_kind_are_read(tmp_path: Path):
    """Dual encoding writes `<video>#<number>`; others add English captions for the test videos."""
    root = make_msrvtt(tmp_path)
    write_captions(root / "TextData" / "msrvtt10kcntest_enc.caption.txt", None, {"video3.mp4": ["three"]})
    corpus = read_small(root)
    assert corpus.splits["test"]["video_id"][:] == ["video3", "video4"]
    assert corpus.splits["test"]["caption_en"][:] == [["three"], []]
    assert corpus.splits["test"]["caption_zh_mt"][:] == [[None], []]
    assert corpus.missing.to_dict() == {"no caption_en": {"test": ["video4"]}}


def test_files_without_a_role_are_passed_over_by_name(tmp_path: Path):
    """Back-translations look like English captions and are none."""
    root = make_msrvtt(tmp_path)
    names = ["msrvtt10kcntest_google_zh2enc.caption.txt", "msrvtt10kcntrain_google_enc2zh2enc.caption.txt"]
    for name in [*names, "notes.caption.txt", "msrvtt10kcntest_xx.caption.txt"]:
        (root / "TextData" / name).write_text("whatever\n")
    corpus = read_small(root)
    assert corpus.settings["ignored_files"] == sorted([*names, "notes.caption.txt", "msrvtt10kcntest_xx.caption.txt"])


def test_several_collections_need_a_choice(tmp_path: Path):
    """Two releases in one folder would be mixed line by line."""
    root = make_msrvtt(make_msrvtt(tmp_path), collection="other")
    with pytest.raises(ValueError, match=r"several files of one role.*collection"):
        read_small(root)
    assert read_small(root, collection="other").settings["collection"] == "other"


def test_published_sizes_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Three partitions of this data set are in use, and numbers on one do not compare with another."""
    root = make_msrvtt(tmp_path)
    with pytest.raises(ValueError, match=r"gives \(2, 1, 2\) videos to train, validate and test on"):
        read_msrvtt_cn(root)
    monkeypatch.setattr(msrvtt_cn, "PARTITIONS", {"small": (2, 1, 2), "1k-A": (2, 0, 2)})
    assert read_msrvtt_cn(root).settings["partition"] == "small"
    (root / "TextData" / "msrvtt10kcnval_zh.caption.txt").unlink()
    corpus = read_msrvtt_cn(root)
    assert corpus.settings["partition"] == "1k-A" and "validation" not in corpus.splits


def test_a_video_in_two_splits_is_reported(tmp_path: Path):
    """1k-A is often released with its test set as validation set, and then chooses checkpoints on it."""
    root = make_msrvtt(tmp_path)
    text = root / "TextData"
    (text / "msrvtt10kcnval_zh.caption.txt").write_bytes((text / TEST).read_bytes())
    assert read_small(root).missing.to_dict() == {"a row in another split too": {"test": ["video4", "video3"]}}


def test_lists_of_ids_give_the_order_and_what_has_no_caption(tmp_path: Path):
    """LECCR numbers its videos by these lists; a video that only they name must not vanish."""
    root = make_msrvtt(tmp_path)
    (root / "video_id").mkdir()
    (root / "video_id" / "train_id.txt").write_text("video0\nvideo9\nvideo1\n")
    corpus = read_small(root)
    assert corpus.splits["train"]["video_id"][:] == ["video0", "video9", "video1"]
    assert corpus.missing.to_dict() == {"no caption_en": {"train": ["video9"]}}
    (root / "video_id" / "train_id.txt").write_text("video0\n")
    with pytest.raises(ValueError, match=rf"{TRAIN}, line 1: the item 'video1' is not listed in .*train_id.txt"):
        read_small(root)
    (root / "video_id" / "train_id.txt").write_text("video0\nvideo0\n")
    with pytest.raises(ValueError, match=r"train_id\.txt, line 2: expected an id that is not listed above"):
        read_small(root)


def test_features_and_clips_are_reported(tmp_path: Path):
    """A video without features would stop a run in its first epoch."""
    root = make_msrvtt(tmp_path)
    write_store(root / "FeatureData" / "resnext", ["video0", "video2", "video3", "video4"])
    table = root / "FeatureData" / "resnext" / "video2frames.txt"
    table.write_text(table.read_text().replace("'video3_1'", "'video3_7'"))
    (root / "clips").mkdir()
    for name in ("video0.mp4", "video1.webm", "video3.mp4", "video4.avi"):
        (root / "clips" / name).touch()
    corpus = read_small(root, clips=root / "clips")
    assert corpus.missing.to_dict() == {
        "no features": {"train": ["video1"]},
        "a frame without features": {"test": ["video3"]},
        "no video": {"validation": ["video2"]},
    }
    assert FeatureStore(root / "FeatureData" / "resnext").frames_of("video3").shape == (1, 3)
    write_store(root / "FeatureData" / "other", ["video1"])
    with pytest.raises(ValueError, match=r"holds several stores.*give one as features"):
        read_small(root)
    assert read_small(root, features=root / "FeatureData" / "other").missing.counts() == {
        "no features": {"train": 1, "validation": 1, "test": 2}
    }


def test_code_in_the_frame_table_is_not_run(tmp_path: Path):
    """The released code evaluates this file, so whoever wrote it ran what they liked."""
    root = make_msrvtt(tmp_path)
    write_store(root / "FeatureData" / "resnext", ["video0"])
    mark = tmp_path / "ran"
    table = root / "FeatureData" / "resnext" / "video2frames.txt"
    table.write_text(f"{{'video0': [str(open({str(mark)!r}, 'w'))]}}")
    with pytest.raises(ValueError, match=r"video2frames\.txt, line 1, column 2: expected one dict"):
        read_small(root)
    assert not mark.exists()


def test_descriptions_are_read_by_video(tmp_path: Path):
    """LECCR describes its videos as it does its images."""
    root = make_msrvtt(tmp_path)
    (root / "descriptions").mkdir()
    (root / "descriptions" / "video0.txt").write_text("A man\nsings.\n")
    corpus = read_small(root, descriptions=root / "descriptions")
    assert corpus.splits["train"]["description"][:] == [None, "A man\nsings."]
    assert corpus.missing.counts() == {"no description": {"train": 1, "validation": 1, "test": 2}}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (TRAIN, "video0#enc#0 a\n\nvideo0#enc#1 b\n", "line 2: expected '<item>#<kind>#<number> <caption>'"),
        (TRAIN, "video0#enc#0\n", "line 1: expected"),
        (TRAIN, "video0#enc#0   \n", "line 1: expected"),
        (TRAIN, "video0 a man\n", "line 1: expected"),
        (TRAIN, "video0#a#b#c a man\n", "line 1: expected"),
        (TRAIN, "#enc#0 a man\n", "line 1: expected"),
        (TRAIN, "video0#enc#0 a\nvideo0#enc#0 b\n", "line 2: 'video0#enc#0' occurs twice, first in .*line 1"),
        (TRAIN, "../../x#enc#0 a\n", "line 1: .* must be a path inside its folder"),
        (TRAIN, "video0#enc2zh#0 a\n", "line 1: expected a caption of the kind 'enc'"),
        (TRAIN, "", "is empty"),
        (TRAIN, "video0#enc#0 a\0\n", "line 1: text must not hold a zero character"),
        (TRAIN, "video7#enc#0 a\n", "line 1: the translation '0' of 'video1' has no English caption"),
        (TRANSLATED, "video0#enc2zh#5 一\n", "line 1: the translation '5' of 'video0' has no English caption"),
        (TRANSLATED, "video0#zh#0 一\n", "line 1: expected a caption of the kind 'enc2zh'"),
        (TEST, "video3#zh#0 一\nvideo4#zh 二\nvideo5 三\n", "line 3: expected"),
    ],
)
def test_malformed_caption_files_are_refused_by_file_and_line(tmp_path: Path, name: str, content: str, message: str):
    """A line that is read the wrong way gives a video the caption of another one."""
    root = make_msrvtt(tmp_path)
    (root / "TextData" / name).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"\.caption\.txt.*{message}"):
        read_small(root)


def test_mixed_encodings_and_absent_files_are_refused(tmp_path: Path):
    """Chinese files come in GB18030 too, and half a file may be converted."""
    root = make_msrvtt(tmp_path)
    whole = (root / "TextData" / TEST).read_bytes()
    (root / "TextData" / TEST).write_bytes(whole + "video9#zh#0 人们\n".encode("gb18030"))
    with pytest.raises(ValueError, match=rf"{TEST}, line 3: byte \d+ is not UTF-8"):
        read_small(root)
    with pytest.raises(ValueError, match=r"has no captions in \['de'\]; its languages are \['zh'\]"):
        read_small(root, languages=["de"])
    with pytest.raises(ValueError, match="descriptions must be a folder"):
        read_small(root, descriptions=root / "absent")
    with pytest.raises(ValueError, match="holds no caption file"):
        read_small(tmp_path / "absent")


@pytest.mark.parametrize("name", [TRAIN, TRANSLATED, TEST])
def test_damaged_captions_give_rows_or_a_value_error(tmp_path: Path, name: str):
    """A traceback from deep inside names neither file nor remedy."""
    root = make_msrvtt(tmp_path)
    assert survive(root / "TextData" / name, lambda: read_small(root), 150) > 40


def test_reports_travel_between_processes_and_join():
    """A worker that finds something missing has to be able to say so."""
    first, second = MissingReport(), MissingReport()
    first.add("no video", "train", "a")
    second.add("no video", "train", "b")
    second.add("no features", "test", "c")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        first.merge(pool.apply_async(_same, (second,)).get(timeout=60))
    assert first.to_dict() == {"no video": {"train": ["a", "b"]}, "no features": {"test": ["c"]}}


def _same(report: MissingReport) -> MissingReport:
    return report
