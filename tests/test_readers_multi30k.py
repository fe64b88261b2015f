"""Multi30K: small copies in its layout, and the distributed text where LECCR_DATA names its folder."""

import gzip
from pathlib import Path

import datasets
import pytest

from processing.media import attach_images
from processing.readers import multi30k
from processing.readers.multi30k import read_multi30k
from processing.readers.saving import save_corpus
from processing.sources import open_splits, write_splits
from tests.processing_parts import picture

NAMES = {"train": ["11.jpg", "12.jpg", "13.jpg"], "val": ["21.jpg"], "test_2016_flickr": ["31.jpg", "32.jpg"]}


def write_packed(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode()))


def write_list(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def make_task_1(root: Path, languages: tuple[str, ...] = ("en", "de", "fr", "cs")) -> Path:
    """A copy with three, one and two images; the caption says which language and image it is."""
    for part, names in NAMES.items():
        write_list(root / "data/task1/image_splits" / f"{part}.txt", names)
        for language in languages:
            write_packed(root / "data/task1/raw" / f"{part}.{language}.gz", [f"{language} {name}" for name in names])
    return root


def make_task_2(root: Path) -> Path:
    """As `make_task_1`, with five captions that say their number as well."""
    for part, names in NAMES.items():
        short = part.removesuffix("_flickr")
        write_list(root / "data/task2/image_splits" / f"{short}_images.txt", names)
        for language in ("en", "de"):
            for number in range(1, 6):
                lines = [f"{language} {number} {name}" for name in names]
                write_packed(root / "data/task2/raw" / f"{short}.{number}.{language}.gz", lines)
    return root


def read_small(root: Path, **options) -> datasets.DatasetDict:
    return read_multi30k(root, **{"task": 1, "languages": ["de"], "check_counts": False, **options}).splits


def test_task_1_pairs_each_image_with_its_caption_in_each_language(tmp_path: Path):
    """A reader that is off by one line pairs every image with its neighbour's caption."""
    splits = read_small(make_task_1(tmp_path), languages=["fr", "cs"])
    assert {name: split["image_id"][:] for name, split in splits.items()} == {
        "train": ["11", "12", "13"],
        "validation": ["21"],
        "test": ["31", "32"],
    }
    assert splits["train"][1] == {
        "image_id": "12",
        "file_name": "12.jpg",
        "caption_en": ["en 12.jpg"],
        "caption_fr": ["fr 12.jpg"],
        "caption_cs": ["cs 12.jpg"],
    }


def test_task_2_gathers_five_captions_in_the_order_of_their_files(tmp_path: Path):
    """Two captions of one image must not be taken for those of two images."""
    splits = read_small(make_task_2(tmp_path), task=2)
    assert splits["test"][1]["caption_de"] == [f"de {number} 32.jpg" for number in range(1, 6)]
    assert splits["test"][1]["caption_en"] == [f"en {number} 32.jpg" for number in range(1, 6)]


def test_task_2_takes_french_and_czech_from_task_1(tmp_path: Path):
    """Papers train on five English captions for these languages too, and nobody wrote five French ones."""
    make_task_1(tmp_path)
    splits = read_small(make_task_2(tmp_path), task=2, languages=["de", "fr", "cs"])
    row = splits["test"][1]
    assert row["caption_en"] == [f"en {number} 32.jpg" for number in range(1, 6)]
    assert row["caption_de"] == [f"de {number} 32.jpg" for number in range(1, 6)]
    assert (row["caption_fr"], row["caption_cs"]) == (["fr 32.jpg"], ["cs 32.jpg"])


def test_tasks_that_list_other_images_are_not_joined(tmp_path: Path):
    """Lines are joined by their number: in another order, each image would be asked for with a strange caption."""
    make_task_1(tmp_path)
    root = make_task_2(tmp_path)
    write_list(root / "data/task1/image_splits/train.txt", ["12.jpg", "11.jpg", "13.jpg"])
    assert len(read_small(root, task=2)["train"]) == 3
    with pytest.raises(ValueError, match=r"train_images\.txt and .*train\.txt must list the same images in one order"):
        read_small(root, task=2, languages=["fr"])


def test_the_data_folder_itself_and_unpacked_files_are_read(tmp_path: Path):
    """People unpack the files, and name the folder that they see the tasks in."""
    packed = make_task_1(tmp_path) / "data/task1/raw/val.de.gz"
    packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
    packed.unlink()
    assert read_small(tmp_path / "data")["validation"]["caption_de"][:] == [["de 21.jpg"]]


def test_another_test_set_is_read_on_demand_and_coco_names_lose_their_caption_number(tmp_path: Path):
    """The list of test_2017_mscoco has a caption number behind each name; no picture has that name."""
    root = make_task_1(tmp_path)
    write_list(root / "data/task1/image_splits/test_2017_mscoco.txt", ["COCO_val2014_000000000042.jpg#7"])
    for language in ("en", "de"):
        write_packed(root / f"data/task1/raw/test_2017_mscoco.{language}.gz", [language])
    splits = read_small(root, test="test_2017_mscoco")
    assert splits["test"]["image_id"][:] == ["COCO_val2014_000000000042"]
    assert splits["test"]["file_name"][:] == ["COCO_val2014_000000000042.jpg"]


def test_images_without_a_file_are_reported_and_their_texts_stay(tmp_path: Path):
    """A row that vanishes at reading changes the size of a benchmark without a word."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in ("11.jpg", "13.jpg", "21.jpg", "31.jpg", "32.jpg"):
        picture(0).save(pictures / name)
    root = make_task_1(tmp_path)
    corpus = read_multi30k(root, task=1, languages=["de"], images=pictures, check_counts=False)
    assert corpus.missing.to_dict() == {"no image": {"train": ["12"]}}
    assert corpus.splits["train"]["image_id"][:] == ["11", "12", "13"]
    assert corpus.settings == {"reader": "multi30k", "task": 1, "languages": ["de"], "test": "test_2016_flickr"}


def test_an_image_of_two_splits_is_reported(tmp_path: Path):
    """A test image that was trained on is found too easily."""
    root = make_task_1(tmp_path)
    write_list(root / "data/task1/image_splits/val.txt", ["12.jpg"])
    corpus = read_multi30k(root, task=1, languages=["de"], check_counts=False)
    assert corpus.missing.to_dict() == {"a row in another split too": {"validation": ["12"]}}


def test_a_small_copy_is_refused_unless_it_is_asked_for(tmp_path: Path):
    """Results on a cut copy would be compared with published ones."""
    with pytest.raises(ValueError, match=r"train\.txt gives 3 images, and 29,000 are published"):
        read_multi30k(make_task_1(tmp_path), task=1, languages=["de"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": 3}, r"task must be one of \[1, 2\], got 3"),
        ({"languages": ["zh"]}, r"languages must be of \('de', 'fr', 'cs'\), each once, got \['zh'\]"),
        ({"languages": []}, "each once"),
        ({"languages": ["de", "de"]}, "each once"),
        ({"test": "test_2019"}, "test of task 1 must be one of .* got 'test_2019'"),
        ({"task": 2, "test": "test_2017_flickr"}, "test of task 2 must be one of"),
    ],
)
def test_what_multi30k_does_not_have_is_refused(tmp_path: Path, options: dict, message: str):
    """A language that is not there must not become an empty column."""
    with pytest.raises(ValueError, match=message):
        read_small(make_task_1(tmp_path), **options)


def test_a_folder_without_the_tasks_or_a_missing_file_is_named(tmp_path: Path):
    """The usual mistake is one folder too high or too low."""
    with pytest.raises(ValueError, match="must be the folder of Multi30K, with task1 and task2"):
        read_small(tmp_path / "elsewhere")
    root = make_task_1(tmp_path, languages=("en", "de"))
    with pytest.raises(ValueError, match=r"neither .*train\.cs nor train\.cs\.gz is there"):
        read_small(root, languages=["cs"])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-12])


def drop_line(path: Path) -> None:
    write_packed(path, gzip.decompress(path.read_bytes()).decode().splitlines()[:-1])


def blank_line(path: Path) -> None:
    write_packed(path, ["de 11.jpg", " ", "de 13.jpg"])


def mix_encodings(path: Path) -> None:
    path.write_bytes(gzip.compress(b"M\xc3\xa4nner\nM\xe4nner\nFrau\n"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, r"train\.de\.gz, after line \d: damaged gzip file"),
        (drop_line, r"train\.de\.gz must have 3 lines, one for each item, and ends at line 2"),
        (blank_line, r"train\.de\.gz, line 2: a caption must not be blank"),
        (mix_encodings, r"train\.de\.gz, line 2: byte 1 is not UTF-8"),
    ],
)
def test_damaged_captions_are_an_error_with_file_and_line(tmp_path: Path, damage, message: str):
    """Nobody finds one bad line among 29,000 without its number."""
    root = make_task_1(tmp_path)
    damage(root / "data/task1/raw/train.de.gz")
    with pytest.raises(ValueError, match=message):
        save_corpus(read_multi30k(root, task=1, languages=["de"], check_counts=False), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["11.jpg", "12.jpg", "11.jpg"],
            r"train\.txt, split 'train', row 3 .*'11'\): the image_id occurs twice.*row 1",
        ),
        (["11.jpg", "../../12.jpg", "13.jpg"], r"train\.txt, split 'train', row 2 .*must be a path inside its folder"),
        (["11.jpg", "", "13.jpg"], r"train\.txt, split 'train', row 2 .*must not be blank"),
    ],
)
def test_a_bad_list_of_images_is_an_error_with_file_and_line(tmp_path: Path, names: list[str], message: str):
    """A name that climbs out of the folder would show somebody's private picture; a double one hides another."""
    root = make_task_1(tmp_path)
    write_list(root / "data/task1/image_splits/train.txt", names)
    with pytest.raises(ValueError, match=message):
        read_small(root)


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("task", "languages", "captions"), [(1, ["de", "fr", "cs"], 1), (2, ["de"], multi30k.NUM_INDEPENDENT_CAPTIONS)]
)
def test_the_distributed_text_has_the_published_size_and_survives_writing(
    data_dir: Path, tmp_path: Path, task: int, languages: list[str], captions: int
):
    """The numbers of a paper hold for 29,000, 1,014 and 1,000 images and for nothing else."""
    splits = read_multi30k(data_dir / "multi30k", task=task, languages=languages).splits
    assert {name: len(split) for name, split in splits.items()} == {"train": 29_000, "validation": 1_014, "test": 1_000}
    for language in ("en", *languages):
        assert {len(found) for split in splits.values() for found in split[f"caption_{language}"]} == {captions}
    back = open_splits(write_splits(splits, tmp_path / "out"))
    for name, split in splits.items():
        assert back[name].features == split.features
        assert back[name].to_dict() == split.to_dict()


@pytest.mark.realdata
def test_the_distributed_tasks_are_joined(data_dir: Path):
    """Five English captions an image to train on, one French and one Czech to ask with."""
    splits = read_multi30k(data_dir / "multi30k", task=2, languages=["de", "fr", "cs"]).splits
    one = read_multi30k(data_dir / "multi30k", task=1, languages=["fr", "cs"]).splits
    for name, split in splits.items():
        assert {len(found) for found in split["caption_en"]} == {multi30k.NUM_INDEPENDENT_CAPTIONS}
        for column in ("image_id", "caption_fr", "caption_cs"):
            assert split[column][:] == one[name][column][:]


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("test", "size"), [("test_2017_flickr", 1_000), ("test_2017_mscoco", 461), ("test_2018_flickr", 1_071)]
)
def test_the_later_test_sets_have_their_published_size(data_dir: Path, test: str, size: int):
    """The lists of 2017 and 2018 have other forms of names than that of 2016."""
    split = read_multi30k(data_dir / "multi30k", task=1, languages=["de", "fr"], test=test).splits["test"]
    assert len(split) == len(set(split["image_id"])) == size
    assert not [name for name in split["image_id"] if "#" in name or "." in name]


# Images of Multi30K that are Flickr8k photos at all, and those of them in the two splits of flickr8k-ccr.
IN_FLICKR8K = {"train": 6_993, "validation": 242, "test": 243}
JOINED = {"train": 6_043, "validation": 210, "test": 209}


@pytest.mark.realdata
def test_the_distributed_text_joins_with_the_flickr8k_pictures(data_dir: Path):
    """The pictures carry the sentence of Multi30K as well, so a wrong join shows in the texts."""
    pictures = open_splits(data_dir / "flickr8k-ccr")
    sentences = {
        item_id.partition("_")[0]: sentence
        for split in pictures.values()
        for item_id, sentence in zip(split["image_id"], split["m30k_en"], strict=True)
    }
    for name, split in pictures.items():
        # Flickr8k appends a secret to the photo number; Flickr30k, and so Multi30K, names photos by number alone.
        numbers = [item_id.partition("_")[0] for item_id in split["image_id"]]
        pictures[name] = split.select_columns("image").add_column("image_id", numbers)
    corpus = read_multi30k(data_dir / "multi30k", task=1, languages=["de"], images=pictures)
    joined, _ = attach_images(corpus.splits, pictures)
    counts = {name: len(split) for name, split in joined.items()}
    assert counts == JOINED and all(counts[name] <= IN_FLICKR8K[name] for name in counts)
    assert corpus.missing.counts()["no image"] == {
        name: len(split) - counts[name] for name, split in corpus.splits.items()
    }
    for split in joined.values():
        assert [sentences[name] for name in split["image_id"]] == [found[0] for found in split["caption_en"]]
    assert joined["test"][0]["image"].size == (128, 128)
    assert sum(counts.values()) == sum(sentence is not None for sentence in sentences.values())
