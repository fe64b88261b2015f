"""The image layout of the released LECCR code: captions, ids, descriptions, several languages, faults."""

from pathlib import Path

import pytest

from processing.readers import caption_layout, official
from processing.readers.official import read_official_layout
from processing.sources import open_splits, write_splits
from tests.caption_folders import make_multi30k, write_captions
from tests.mutations import survive
from tests.processing_parts import picture


def read_small(root: Path, **options):
    return read_official_layout(root, check_counts=False, **options)


def make_mscoco(root: Path) -> Path:
    """Chinese and Japanese are evaluated on images of their own, and images have a number and a file name."""
    text = root / "TextData"
    write_captions(text / "mscocotrain_enc.caption.txt", "enc", {"1": ["a dog"], "2": ["a cat"]})
    names = {f"{n}": f"COCO_train2014_{n:012d}.jpg" for n in range(1, 9)}
    for language, start in (("zh", 3), ("ja", 5)):
        translated = {item: [f"{language} mt"] for item in "12"}
        write_captions(text / f"mscocotrain_google_enc2{language}.caption.txt", f"enc2{language}", translated)
        for offset, split in enumerate(("val", "test")):
            item = f"{start + offset}"
            write_captions(text / f"mscoco{split}_{language}.caption.txt", language, {item: [f"{language} {split}"]})
    (root / "img_id").mkdir()
    for name, ids in (("train", "12"), ("zh_val", "3"), ("zh_test", "4"), ("ja_val", "5"), ("ja_test", "68")):
        (root / "img_id" / f"{name}_id.txt").write_text("\n".join(ids) + "\n")
    (root / "img_id" / "image_ids.txt").write_text("".join(f"{item} {name}\n" for item, name in names.items()))
    (root / "descriptions").mkdir()
    for name in names.values():
        (root / "descriptions" / f"{name[:-4]}.txt").write_text(f"About {name}.")
    return root


def test_multi30k_rows_hold_all_languages_in_the_order_of_the_ids(tmp_path: Path):
    """The caption file lists 12 before 11; descriptions, ids and captions have to stay with their image."""
    corpus = read_small(make_multi30k(tmp_path), descriptions=tmp_path / "descriptions")
    assert list(corpus.splits["train"]) == [
        {
            "image_id": item,
            "caption_en": [f"a {animal}", f"one {animal}"],
            "caption_de": [],
            "caption_fr": [],
            "caption_de_mt": [f"de a {animal}", f"de one {animal}"],
            "caption_fr_mt": [f"fr a {animal}", f"fr one {animal}"],
            "description": f"A long text about {item}.",
        }
        for item, animal in (("11", "cat"), ("12", "dog"))
    ]
    assert corpus.splits["test"][0]["caption_de"] == ["de test"] and corpus.splits["test"]["image_id"][:] == ["31"]
    assert not corpus.missing
    assert corpus.settings == {
        "reader": "official",
        "languages": ["de", "fr"],
        "collection": None,
        "ignored_files": [],
    }
    loaded = open_splits(write_splits(corpus.splits, tmp_path / "out"))
    assert list(loaded["train"]) == list(corpus.splits["train"])


def test_descriptions_that_are_absent_or_blank_are_reported(tmp_path: Path):
    """The released code stops at the first image without a file; a blank text trains slots on nothing."""
    root = make_multi30k(tmp_path)
    (root / "descriptions" / "11.txt").write_text(" \n\n")
    (root / "descriptions" / "31.txt").unlink()
    corpus = read_small(root, languages=["de"], descriptions=root / "descriptions")
    assert corpus.splits["train"]["description"][:] == [None, "A long text about 12."]
    assert corpus.missing.to_dict() == {"no description": {"train": ["11"], "test": ["31"]}}
    assert "description" not in read_small(root).splits["train"].column_names


def test_mscoco_languages_are_read_one_at_a_time_with_file_names(tmp_path: Path):
    """Searching the Chinese captions among the Japanese images as well is another benchmark."""
    root = make_mscoco(tmp_path)
    with pytest.raises(ValueError, match=r"\['ja', 'zh'\] .* on different items; read one at a time"):
        read_small(root)
    corpus = read_small(root, languages=["ja"], descriptions=root / "descriptions")
    assert corpus.splits["test"]["image_id"][:] == ["6", "8"]
    assert corpus.splits["test"]["file_name"][0] == "COCO_train2014_000000000006.jpg"
    assert corpus.splits["test"]["description"][0] == "About COCO_train2014_000000000006.jpg."
    assert corpus.splits["train"]["caption_ja_mt"][:] == [["ja mt"], ["ja mt"]]
    assert corpus.missing.to_dict() == {"no caption_ja": {"test": ["8"]}}
    assert "caption_zh" not in corpus.splits["test"].column_names
    assert read_official_layout(root, languages=["zh"]).splits["validation"]["image_id"][:] == ["3"]


def test_images_that_are_absent_are_reported(tmp_path: Path):
    """Rows of text stay, so that the same data set serves whoever has the picture."""
    root = make_multi30k(tmp_path)
    (root / "pictures").mkdir()
    for item in ("11", "21", "31"):
        picture(1).save(root / "pictures" / f"{item}.jpg")
    corpus = read_small(root, images=root / "pictures")
    assert corpus.missing.to_dict() == {"no image": {"train": ["12"]}} and len(corpus.splits["train"]) == 2


def test_lists_of_ids_may_lie_with_the_features(tmp_path: Path):
    """NRCCR, from which the layout comes, keeps them there."""
    root = make_multi30k(tmp_path)
    (root / "img_id").rename(root / "FeatureData")
    assert read_small(root).splits["train"]["image_id"][:] == ["11", "12"]
    (root / "FeatureData" / "train_id.txt").unlink()
    assert read_small(root).splits["train"]["image_id"][:] == ["12", "11"]


def test_lists_of_ids_count_without_languages_too(tmp_path: Path):
    """An image that the list names and nobody captioned was lost where there were English captions alone."""
    write_captions(tmp_path / "TextData/Flickr30ktrain_enc.caption.txt", "enc", {"11": ["a dog"]})
    (tmp_path / "img_id").mkdir()
    (tmp_path / "img_id/train_id.txt").write_text("12\n11\n")
    corpus = read_small(tmp_path)
    assert corpus.splits["train"]["image_id"][:] == ["12", "11"]
    assert corpus.missing.to_dict() == {"no caption_en": {"train": ["12"]}}


def test_published_sizes_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A cut file has valid lines to its end."""
    root = make_multi30k(tmp_path)
    with pytest.raises(ValueError, match="gives 2 images of the split 'train', and 29,000 are published"):
        read_official_layout(root)
    monkeypatch.setattr(official, "MULTI30K_IMAGES", {"train": 2, "validation": 1, "test": 1})
    assert len(read_official_layout(root).splits) == 3
    (root / "TextData" / "multi30ktest_de_2016.caption.txt").unlink()
    (root / "TextData" / "multi30ktest_fr_2016.caption.txt").unlink()
    with pytest.raises(ValueError, match="gives 0 images of the split 'test'"):
        read_official_layout(root)


def test_other_years_of_the_test_set_are_passed_over(tmp_path: Path):
    """Captions of 2017 are of other images; joined with those of 2016 they would make one wrong test set."""
    root = make_multi30k(tmp_path)
    write_captions(root / "TextData" / "multi30ktest_de_2017.caption.txt", "de", {"77": ["nein"]})
    corpus = read_small(root)
    assert corpus.splits["test"]["image_id"][:] == ["31"]
    assert corpus.settings["ignored_files"] == ["multi30ktest_de_2017.caption.txt"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1\n", r"image_ids\.txt, line 1: expected '<new id> <file name>'"),
        ("1 a.jpg\n1 b.jpg\n", r"image_ids\.txt, line 2: expected '<new id>"),
        ("1 ../../etc.jpg\n", r"image_ids\.txt, line 1: .* must be a path inside its folder"),
        ("1 a.jpg\n", r"the item '2' .* has no file name"),
    ],
)
def test_malformed_lists_of_file_names_are_refused(tmp_path: Path, content: str, message: str):
    """A file name is opened later; one that climbs out opens somebody else's file."""
    root = make_mscoco(tmp_path)
    (root / "img_id" / "image_ids.txt").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_small(root, languages=["zh"])


def test_descriptions_in_another_encoding_or_of_another_kind_are_refused(tmp_path: Path, monkeypatch):
    """A binary file under the name of a description is a wrong folder, not a text."""
    root = make_multi30k(tmp_path)
    (root / "descriptions" / "12.txt").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(ValueError, match=r"12\.txt, line 1: byte 0 is not UTF-8"):
        read_small(root, descriptions=root / "descriptions")
    monkeypatch.setattr(caption_layout, "MAX_DESCRIPTION_BYTES", 2)
    with pytest.raises(ValueError, match=r"11\.txt has 22 bytes; a description is one paragraph"):
        read_small(root, descriptions=root / "descriptions")


@pytest.mark.parametrize(
    "name", ["img_id/train_id.txt", "img_id/image_ids.txt", "descriptions/COCO_train2014_000000000001.txt"]
)
def test_damaged_lists_and_descriptions_give_rows_or_a_value_error(tmp_path: Path, name: str):
    """A traceback from deep inside names neither file nor remedy."""
    root = make_mscoco(tmp_path)
    read = lambda: read_small(root, languages=["zh"], descriptions=root / "descriptions")  # noqa: E731
    assert survive(root / name, read, 120) > 5
