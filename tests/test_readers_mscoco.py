"""MSCOCO, COCO-CN and STAIR: tiny files in the layouts of the distributed ones."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from processing.media import attach_images
from processing.readers import mscoco
from processing.readers.base import Corpus
from processing.readers.mscoco import read_mscoco
from processing.readers.saving import save_corpus
from processing.sources import open_splits
from tests.processing_parts import picture

# Number -> official part and split of Karpathy.
IMAGES = {1: ("train", "train"), 2: ("val", "restval"), 3: ("val", "val"), 4: ("val", "test"), 5: ("train", "train")}


def name_of(number: int) -> str:
    return f"COCO_{IMAGES[number][0]}2014_{number:012d}"


def english(number: int) -> list[str]:
    return [f"caption {position} of image {number}" for position in range(2)]


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def write_lines(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def karpathy_entry(number: int, **changes: Any) -> dict[str, Any]:
    part, split = IMAGES[number]
    sentences = [{"tokens": text.split(), "raw": f"{text}\n", "imgid": number} for text in english(number)]
    entry = {"filepath": f"{part}2014", "filename": f"{name_of(number)}.jpg", "cocoid": number, "split": split}
    return {**entry, "sentences": sentences, **changes}


def make_karpathy(root: Path) -> Path:
    return write_json(root / "dataset_coco.json", {"dataset": "coco", "images": [karpathy_entry(n) for n in IMAGES]})


def annotations(part: str, texts: dict[int, list[str]]) -> dict[str, Any]:
    numbers = [number for number in IMAGES if IMAGES[number][0] == part]
    captions = [(number, text) for number in reversed(numbers) for text in texts.get(number, [])]
    return {
        "images": [{"id": number, "file_name": f"{name_of(number)}.jpg"} for number in numbers],
        "annotations": [
            {"id": position, "image_id": number, "caption": text} for position, (number, text) in enumerate(captions)
        ],
    }


def make_official(root: Path) -> Path:
    for part in ("train", "val"):
        content = annotations(part, {number: english(number) for number in IMAGES})
        write_json(root / f"annotations/captions_{part}2014.json", content)
    return root


def make_stair(root: Path) -> Path:
    japanese = {number: [f"画像{number}の説明{position}" for position in range(2)] for number in IMAGES if number != 5}
    for part in ("train", "val"):
        write_json(root / f"stair_captions_v1.2_{part}.json", annotations(part, japanese))
    return root


def make_coco_cn(root: Path) -> Path:
    """Images 2 and 1 train, 5 validates, 4 tests; image 3 is not in it."""
    folder = root / "coco-cn-version1805v1.1"
    for part, numbers in (("train", [2, 1]), ("val", [5]), ("test", [4])):
        write_lines(folder / f"coco-cn_{part}.txt", [name_of(number) for number in numbers])
    written = [(4, 0, "一只狗"), (1, 0, "两只猫"), (1, 1, "猫 和 狗"), (5, 0, "三只鸟")]
    lines = [f"{name_of(number)}#{position}\t{text}" for number, position, text in written]
    write_lines(folder / "imageid.human-written-caption.txt", lines)
    lines = [f"{name_of(4)}#zhm#{position} 翻译{position}" for position in range(5)]
    write_lines(folder / "imageid.manually-translated-caption.txt", lines)
    return root


def read(root: Path, **options) -> Corpus:
    return read_mscoco(root, **{"check_counts": False, **options})


def ids(corpus: Corpus) -> dict[str, list[str]]:
    return {name: split["image_id"][:] for name, split in corpus.splits.items()}


def test_karpathys_splits_train_on_restval(tmp_path: Path):
    """113,287 training images are "train" and "restval" together; without the second, every number is another."""
    make_karpathy(tmp_path)
    corpus = read(tmp_path)
    assert ids(corpus) == {
        "train": [name_of(1), name_of(2), name_of(5)],
        "validation": [name_of(3)],
        "test": [name_of(4)],
    }
    assert corpus.splits["train"][1] == {"image_id": name_of(2), "caption_en": english(2)}
    assert not corpus.missing
    assert corpus.settings == {
        "reader": "mscoco",
        "languages": [],
        "splits": "karpathy",
        "translated_test": False,
    }


def test_the_official_annotations_are_joined_by_number(tmp_path: Path):
    """Annotations are not in the order of the images; a join by position gives each image another's captions."""
    corpus = read(make_official(tmp_path), official_splits=True)
    assert ids(corpus) == {"train": [name_of(1), name_of(5)], "validation": [name_of(2), name_of(3), name_of(4)]}
    for split in corpus.splits.values():
        assert split["caption_en"][:] == [english(int(name[-12:])) for name in split["image_id"]]


def test_japanese_captions_of_an_image_in_both_files_are_refused(tmp_path: Path):
    """The captions of the second file replaced those of the first without a word."""
    make_karpathy(make_stair(tmp_path))
    path = tmp_path / "stair_captions_v1.2_val.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["annotations"][0]["image_id"] = 1
    write_json(path, content)
    with pytest.raises(ValueError, match=r"stair_captions_v1\.2_val\.json.*captions of 1 images.*\[1\]"):
        read(tmp_path, languages=["ja"])


def test_japanese_captions_join_karpathys_splits_and_gaps_are_reported(tmp_path: Path):
    """STAIR follows the official parts, the papers follow Karpathy's splits; the number joins them."""
    make_karpathy(tmp_path)
    corpus = read(make_stair(tmp_path), languages=["ja"])
    assert corpus.splits["validation"][0]["caption_ja"] == ["画像3の説明0", "画像3の説明1"]
    assert corpus.splits["train"][2] == {"image_id": name_of(5), "caption_en": english(5), "caption_ja": []}
    assert corpus.missing.to_dict() == {"no caption_ja": {"train": [name_of(5)]}}


@pytest.mark.parametrize("make_english", [make_karpathy, make_official])
def test_chinese_captions_come_with_the_splits_of_coco_cn(tmp_path: Path, make_english):
    """Its test images are training images of Karpathy: mixed splits would train on the test set."""
    make_english(tmp_path)
    corpus = read(make_coco_cn(tmp_path), languages=["zh"])
    assert ids(corpus) == {"train": [name_of(2), name_of(1)], "validation": [name_of(5)], "test": [name_of(4)]}
    assert corpus.splits["train"][1] == {
        "image_id": name_of(1),
        "caption_en": english(1),
        "caption_zh": ["两只猫", "猫 和 狗"],
    }
    assert corpus.splits["test"]["caption_zh"][:] == [["一只狗"]]
    assert corpus.missing.to_dict() == {"no caption_zh": {"train": [name_of(2)]}}


def test_the_test_split_can_hold_the_translations_by_people(tmp_path: Path):
    """Two papers with "COCO-CN" may have asked with one caption an image, or with five."""
    make_karpathy(tmp_path)
    corpus = read(make_coco_cn(tmp_path), languages=["zh"], translated_test=True)
    assert corpus.splits["test"]["caption_zh"][:] == [[f"翻译{position}" for position in range(5)]]
    assert corpus.splits["validation"]["caption_zh"][:] == [["三只鸟"]]
    assert corpus.settings["translated_test"]


def test_what_coco_cn_lists_and_nothing_describes_is_reported(tmp_path: Path):
    """A cut copy of the English file must show as missing captions, and a stray caption as one without a split."""
    make_coco_cn(tmp_path)
    write_json(tmp_path / "dataset_coco.json", {"images": [karpathy_entry(1), karpathy_entry(4), karpathy_entry(5)]})
    with (tmp_path / "coco-cn-version1805v1.1/imageid.human-written-caption.txt").open("a", encoding="utf-8") as lines:
        lines.write(f"{name_of(3)}#0\t多余\n")
    corpus = read(tmp_path, languages=["zh"])
    assert corpus.missing.to_dict() == {
        "no split": {"coco-cn": [name_of(3)]},
        "no caption_en": {"train": [name_of(2)]},
        "no caption_zh": {"train": [name_of(2)]},
    }
    assert corpus.splits["train"][0] == {"image_id": name_of(2), "caption_en": [], "caption_zh": []}


def test_pictures_are_found_in_a_flat_folder_and_in_the_official_ones(tmp_path: Path):
    """Half of the copies of MSCOCO lie in one folder, the other half in train2014 and val2014."""
    make_karpathy(tmp_path / "texts")
    for folder, place in (("flat", ""), ("official", "train2014/")):
        (tmp_path / folder / place).mkdir(parents=True)
        picture(1).save(tmp_path / folder / place / f"{name_of(1)}.jpg")
        corpus = read(tmp_path / "texts", images=tmp_path / folder)
        assert corpus.missing.counts() == {"no image": {"train": 2, "validation": 1, "test": 1}}
        joined, _ = attach_images(corpus.splits, tmp_path / folder)
        assert ids(Corpus(joined, corpus.missing, {}))["train"] == [name_of(1)]


def test_the_rows_survive_writing_and_files_may_be_packed(tmp_path: Path):
    """The annotations are hundreds of megabytes, so people keep them packed."""
    plain = make_karpathy(make_stair(make_coco_cn(tmp_path / "in")))
    plain.with_name(f"{plain.name}.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    corpus = read(tmp_path / "in", languages=["zh", "ja"])
    counts = save_corpus(corpus, tmp_path / "out")
    back = open_splits(tmp_path / "out")
    assert {name: split.to_dict() for name, split in back.items()} == {
        name: split.to_dict() for name, split in corpus.splits.items()
    }
    assert counts["missing"] == {"no caption_zh": {"train": 1}, "no caption_ja": {"validation": 1}}


def test_published_counts_are_checked_for_each_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A result on a part of MSCOCO would be compared with published ones on the whole."""
    make_stair(make_coco_cn(make_official(tmp_path)))
    make_karpathy(tmp_path)
    with pytest.raises(ValueError, match=r"splits: karpathy\) gives 3 train images, and 113,287 are published"):
        read_mscoco(tmp_path)
    with pytest.raises(ValueError, match=r"splits: official\) gives 2 train images, and 82,783 are published"):
        read_mscoco(tmp_path, official_splits=True)
    with pytest.raises(ValueError, match=r"splits: coco-cn\) gives 2 train images, and 18,341 are published"):
        read_mscoco(tmp_path, languages=["zh"])
    with pytest.raises(ValueError, match="gives 8 Japanese captions, and 616,435 are published"):
        read_mscoco(tmp_path, languages=["ja"])
    monkeypatch.setitem(mscoco.PUBLISHED_IMAGES, "karpathy", {"train": 3, "validation": 1, "test": 1})
    assert len(read_mscoco(tmp_path).splits) == 3
    write_json(tmp_path / "dataset_coco.json", {"images": [karpathy_entry(number) for number in (1, 2, 5, 3)]})
    with pytest.raises(ValueError, match="gives 0 test images, and 1 are published"):
        read_mscoco(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"languages": ["de"]}, r"languages of MSCOCO must be of \('zh', 'ja'\), each once, got \['de'\]"),
        ({"languages": ["ja", "ja"]}, "each once"),
        ({"languages": ["zh"], "official_splits": True}, "official_splits must be off with 'zh'"),
        ({"languages": ["ja"], "translated_test": True}, "translated_test must be off without 'zh'"),
    ],
)
def test_options_that_contradict_each_other_are_refused(tmp_path: Path, options: dict, message: str):
    """An option that does nothing lets its user believe in it."""
    with pytest.raises(ValueError, match=message):
        read(tmp_path, **options)


def test_a_missing_or_double_file_is_named(tmp_path: Path):
    """With two editions in one folder, chance would decide which is read."""
    with pytest.raises(ValueError, match=r"must hold dataset_coco\.json or dataset_coco\.json\.gz"):
        read(tmp_path)
    make_karpathy(tmp_path)
    make_karpathy(tmp_path / "copy")
    with pytest.raises(ValueError, match=r"must hold dataset_coco\.json once, got \[.*copy"):
        read(tmp_path)


def without(key: str) -> dict[str, Any]:
    entry = karpathy_entry(1)
    del entry[key]
    return entry


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([karpathy_entry(1), karpathy_entry(1)], rf"images\[1\]: the image {name_of(1)} occurs twice"),
        ([karpathy_entry(1, split="dev")], r"images\[0\]: 'split' must be one of .* got 'dev'"),
        ([karpathy_entry(1, filename="../../secret.jpg")], r"images\[0\]: an image must be named like COCO_val2014"),
        ([karpathy_entry(1, filename="COCO_val2014_../../1.jpg")], r"images\[0\]: an image must be named like"),
        ([without("filename")], r"images\[0\]: 'filename' must be there as str"),
        ([karpathy_entry(1, sentences=[{"raw": " "}])], r"images\[0\]: 'raw' must be there .* not be blank, got ' '"),
        ([karpathy_entry(1, sentences=[{"raw": 7}])], r"images\[0\]: 'raw' must be there as str"),
        ([7], r"images\[0\]: 'filename' must be there"),
        ({"1": 7}, r"dataset_coco\.json: 'images' must be there as list"),
    ],
)
def test_a_malformed_entry_of_karpathys_file_is_named(tmp_path: Path, images: Any, message: str):
    """A KeyError without the place in a file of 123,287 entries helps nobody."""
    write_json(tmp_path / "dataset_coco.json", {"images": images})
    with pytest.raises(ValueError, match=message) as error:
        save_corpus(read(tmp_path), tmp_path / "out")
    assert "dataset_coco.json" in str(error.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": [{"id": 1, "image_id": 99, "caption": "x"}]}, r"captions of 1 images that it does not list"),
        ({"annotations": [{"id": 1, "image_id": 1, "caption": "x"}] * 2}, r"annotations\[1\]: the annotation 1 occurs"),
        ({"annotations": [{"id": 1, "image_id": "1", "caption": "x"}]}, r"annotations\[0\]: 'image_id' must be there"),
        ({"images": [{"id": 1, "file_name": f"{name_of(1)}.jpg"}] * 2}, r"images\[1\]: the image .* occurs twice"),
        ({"images": [{"id": 1, "file_name": "000000000001.jpg"}]}, r"images\[0\]: an image must be named like"),
    ],
)
def test_a_malformed_entry_of_the_annotations_is_named(tmp_path: Path, change: dict, message: str):
    """Annotations of 2017 name their files in another way, and belong to other splits."""
    path = make_official(tmp_path) / "annotations/captions_train2014.json"
    write_json(path, {**json.loads(path.read_text(encoding="utf-8")), **change})
    with pytest.raises(ValueError, match=rf"captions_train2014\.json.*{message}"):
        read(tmp_path, official_splits=True)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("coco-cn_val.txt", name_of(1), r"coco-cn_val\.txt, line 1: the image .* occurs twice; each belongs to one"),
        ("coco-cn_val.txt", "../secret", r"coco-cn_val\.txt, line 1: an image must be named like"),
        ("coco-cn_val.txt", "", None),
        ("coco-cn_val.txt", f"{name_of(5)}\n\n", r"coco-cn_val\.txt, line 2: an image must be named like .* got ''"),
        ("imageid.human-written-caption.txt", f"{name_of(1)}\t狗", r"caption\.txt, line 1: expected <image>#<number>"),
        ("imageid.human-written-caption.txt", f"{name_of(1)}#0\t ", r"caption\.txt, line 1: expected <image>#<number>"),
        (
            "imageid.human-written-caption.txt",
            f"{name_of(1)}#0\t狗\n{name_of(1)}#0\t猫",
            r"caption\.txt, line 2: the caption .*#0 occurs twice",
        ),
        ("imageid.human-written-caption.txt", "../1#0\t狗", r"caption\.txt, line 1: an image must be named like"),
    ],
)
def test_a_malformed_line_of_coco_cn_is_named(tmp_path: Path, file: str, content: str, message: str | None):
    """A line that is passed over takes a caption, or an image of the test split, with it."""
    make_karpathy(make_coco_cn(tmp_path))
    (tmp_path / "coco-cn-version1805v1.1" / file).write_text(content, encoding="utf-8")
    if message is None:
        assert set(ids(read(tmp_path, languages=["zh"]))) == {"train", "test"}
        return
    with pytest.raises(ValueError, match=message):
        read(tmp_path, languages=["zh"])


CAPTIONS = "coco-cn-version1805v1.1/imageid.human-written-caption.txt"


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        (CAPTIONS, lambda data: gzip.compress(data)[:-9], r"caption\.txt\.gz, after line \d: damaged gzip file"),
        (CAPTIONS, lambda data: gzip.compress(data + "狗".encode("gbk")), r"txt\.gz, line 5: byte 0 is not UTF-8"),
        ("dataset_coco.json", lambda data: gzip.compress(data[:-9]), r"dataset_coco\.json\.gz, line 1: not JSON"),
        (
            "stair_captions_v1.2_val.json",
            lambda data: gzip.compress(data.replace(b'"id"', b'"image_id"')),
            r"val\.json\.gz, line 1: an object has the key 'image_id' twice",
        ),
    ],
)
def test_damaged_files_are_an_error_and_nothing_is_written(tmp_path: Path, file: str, damage, message: str):
    """Chinese text still comes in GBK at times, and downloads break."""
    root = tmp_path / "in"
    make_karpathy(make_stair(make_coco_cn(root)))
    path = root / file
    path.with_name(f"{path.name}.gz").write_bytes(damage(path.read_bytes()))
    path.unlink()
    with pytest.raises(ValueError, match=message):
        save_corpus(read(root, languages=["zh", "ja"]), tmp_path / "out")
    assert not (tmp_path / "out").exists()
