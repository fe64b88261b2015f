"""MSCOCO with its English captions, the Chinese ones of COCO-CN and the Japanese ones of STAIR, as distributed.

| file, plain or `.gz`, in the root folder or in a folder in it | what |
|---|---|
| `dataset_coco.json` | English captions and Karpathy's splits |
| `captions_train2014.json`, `captions_val2014.json` | English captions, the official annotations |
| `coco-cn_train.txt`, `coco-cn_val.txt`, `coco-cn_test.txt` | COCO-CN: one image name a line |
| `imageid.human-written-caption.txt` | COCO-CN: `<image>#<number>`, tab, sentence; one or more an image |
| `imageid.manually-translated-caption.txt` | COCO-CN: `<image>#zhm#<number>`, tab or blank, sentence; 5 a test image |
| `stair_captions_v1.2_train.json`, `stair_captions_v1.2_val.json` | STAIR: like the official annotations; 5 an image |

Papers on cross-lingual retrieval report MSCOCO (zh) on the splits of COCO-CN, and MSCOCO (ja) on Karpathy's.

No copy of these files was at hand: the layouts are those that public code reads. Not settled: the page of COCO-CN
counts 18,341 training images, its paper one more; and whether published Chinese results ask with the written or with
the translated captions. The machine translations of COCO-CN are not read: they come as tagged words, without the
English caption that each renders; `hub_scripts/translate.py` makes aligned ones.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets

from processing.languages import SOURCE_LANGUAGE
from processing.media import attach_images
from processing.missing import MissingReport
from processing.readers.base import Corpus, build_split, check_count, iter_lines, read_json
from processing.records import ID_COLUMN, caption_column

KARPATHY, OFFICIAL, COCO_CN = "karpathy", "official", "coco-cn"
PUBLISHED_IMAGES = {
    KARPATHY: {"train": 113_287, "validation": 5_000, "test": 5_000},
    OFFICIAL: {"train": 82_783, "validation": 40_504},
    COCO_CN: {"train": 18_341, "validation": 1_000, "test": 1_000},
}
PUBLISHED_STAIR_CAPTIONS = 616_435
# "restval" is the part of the official validation set that Karpathy's splits train on.
KARPATHY_SPLITS = {"train": "train", "restval": "train", "val": "validation", "test": "test"}
OFFICIAL_SPLITS = {"train": "train", "val": "validation"}

_IMAGE_NAME = re.compile(r"COCO_[a-z]+\d{4}_\d{12}")
_COCO_CN_CAPTION = re.compile(r"(?P<key>(?P<name>[^#\s]+)#\S+)\s+(?P<caption>\S.*)")


@dataclass
class _Picture:
    """One image: the split that a list gives it, and its captions by language."""

    split: str
    captions: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


def read_mscoco(
    root: str | Path,
    *,
    languages: Sequence[str] = (),
    official_splits: bool = False,
    translated_test: bool = False,
    images: str | Path | datasets.DatasetDict | None = None,
    check_counts: bool = True,
) -> Corpus:
    """MSCOCO with human captions in `caption_en`, `caption_zh` and `caption_ja`, not aligned with each other.

    The image id is the name of the picture without `.jpg`, such as `COCO_val2014_000000000042`. It finds the picture
    in a flat folder and in one with `train2014` and `val2014`.

    Args:
        root: folder of the files named at the top of this module.
        languages: besides English, any of "zh" and "ja". With "zh" the splits are those of COCO-CN.
        official_splits: the official "train" and "validation" instead of Karpathy's splits.
        translated_test: "zh" in the split "test" is what people translated from English, not what people wrote who
            saw the image.
        images: a folder of pictures, or a data set with `image_id` and `image`: who has none is reported.
        check_counts: refuse other sizes than the published ones; without it a cut copy is read.

    Returns:
        Splits "train", "validation" and, unless they are the official ones, "test". An image without a caption in
        some language has an empty list there and is reported.

    Raises:
        ValueError: the options contradict each other; a file is missing, malformed or has not the published size;
            not one image of the rows is in `images`.
    """
    splits = COCO_CN if "zh" in languages else OFFICIAL if official_splits else KARPATHY
    _check_options(languages, official_splits=official_splits, translated_test=translated_test)
    folder, missing = Path(root), MissingReport()
    if splits == COCO_CN:
        # Either file has the English captions of all images; only the splits differ.
        english = _read_karpathy(folder) if _find(folder, "dataset_coco.json") else _read_official(folder)
        pictures = _read_coco_cn(folder, english, missing, translated_test=translated_test)
    else:
        pictures = _read_official(folder) if official_splits else _read_karpathy(folder)
    if "ja" in languages:
        _add_stair(folder, pictures, check_counts=check_counts)
    texts = _build_splits(folder, pictures, (SOURCE_LANGUAGE, *languages), missing)
    if check_counts:
        for name, published in PUBLISHED_IMAGES[splits].items():
            check_count(len(texts.get(name, ())), published, f"{name} images", f"{root} (splits: {splits})")
    if images is not None:
        missing.merge(attach_images(texts, images)[1])
    settings = {"reader": "mscoco", "languages": list(languages), "splits": splits, "translated_test": translated_test}
    return Corpus(texts, missing, settings)


def _check_options(languages: Sequence[str], *, official_splits: bool, translated_test: bool) -> None:
    if set(languages) - {"zh", "ja"} or len(set(languages)) != len(languages):
        raise ValueError(f"languages of MSCOCO must be of ('zh', 'ja'), each once, got {list(languages)}.")
    if official_splits and "zh" in languages:
        raise ValueError("official_splits must be off with 'zh': COCO-CN has splits of its own.")
    if translated_test and "zh" not in languages:
        raise ValueError(f"translated_test must be off without 'zh', got languages {list(languages)}.")


def _find(root: Path, name: str) -> Path | None:
    candidates = [f"{folder}{name}{suffix}" for folder in ("", "*/") for suffix in ("", ".gz")]
    found = sorted(path for candidate in candidates for path in root.glob(candidate))
    if len(found) > 1:
        raise ValueError(f"{root} must hold {name} once, got {[str(path) for path in found]}; move one away.")
    return found[0] if found else None


def _need(root: Path, name: str) -> Path:
    path = _find(root, name)
    if path is None:
        raise ValueError(f"{root} must hold {name} or {name}.gz, in it or in a folder in it; is it the right folder?")
    return path


def _take(entry: Any, key: str, kind: type, where: str) -> Any:
    """A value of a JSON object; texts must not be blank."""
    value = entry.get(key) if isinstance(entry, Mapping) else None
    if not isinstance(value, kind) or (isinstance(value, str) and not value.strip()):
        raise ValueError(f"{where}: {key!r} must be there as {kind.__name__} and not be blank, got {value!r:.80}.")
    return value


def _image_name(text: str, where: str) -> str:
    name = text.strip().removesuffix(".jpg")
    if not _IMAGE_NAME.fullmatch(name):
        raise ValueError(f"{where}: an image must be named like COCO_val2014_000000000042, got {text!r}.")
    return name


def _add_picture(pictures: dict[str, _Picture], name: str, split: str, where: str) -> _Picture:
    if name in pictures:
        raise ValueError(f"{where}: the image {name} occurs twice; each belongs to one split, and once.")
    pictures[name] = _Picture(split)
    return pictures[name]


def _read_karpathy(root: Path) -> dict[str, _Picture]:
    path = _need(root, "dataset_coco.json")
    pictures: dict[str, _Picture] = {}
    for position, entry in enumerate(_take(read_json(path), "images", list, str(path))):
        where = f"{path}, images[{position}]"
        name = _image_name(_take(entry, "filename", str, where), where)
        split = _take(entry, "split", str, where)
        if split not in KARPATHY_SPLITS:
            raise ValueError(f"{where}: 'split' must be one of {list(KARPATHY_SPLITS)}, got {split!r}.")
        sentences = [_take(sentence, "raw", str, where) for sentence in _take(entry, "sentences", list, where)]
        _add_picture(pictures, name, KARPATHY_SPLITS[split], where).captions[SOURCE_LANGUAGE] = sentences
    return pictures


def _read_official(root: Path) -> dict[str, _Picture]:
    pictures: dict[str, _Picture] = {}
    for part, split in OFFICIAL_SPLITS.items():
        path = _need(root, f"captions_{part}2014.json")
        content = read_json(path)
        captions = _captions_by_number(content, path)
        for position, entry in enumerate(_take(content, "images", list, str(path))):
            where = f"{path}, images[{position}]"
            name = _image_name(_take(entry, "file_name", str, where), where)
            picture = _add_picture(pictures, name, split, where)
            picture.captions[SOURCE_LANGUAGE] = captions.pop(_take(entry, "id", int, where), [])
        if captions:
            raise ValueError(f"{path}: captions of {len(captions)} images that it does not list: {list(captions)[:3]}.")
    return pictures


def _captions_by_number(content: Any, path: Path) -> dict[int, list[str]]:
    captions: dict[int, list[str]] = defaultdict(list)
    seen: set[int] = set()
    for position, entry in enumerate(_take(content, "annotations", list, str(path))):
        where = f"{path}, annotations[{position}]"
        number = _take(entry, "id", int, where)
        if number in seen:
            raise ValueError(f"{where}: the annotation {number} occurs twice.")
        seen.add(number)
        captions[_take(entry, "image_id", int, where)].append(_take(entry, "caption", str, where))
    return captions


def _read_coco_cn(
    root: Path, english: Mapping[str, _Picture], missing: MissingReport, *, translated_test: bool
) -> dict[str, _Picture]:
    """The images of COCO-CN in the order of its lists."""
    pictures: dict[str, _Picture] = {}
    for part, split in (("train", "train"), ("val", "validation"), ("test", "test")):
        path = _need(root, f"coco-cn_{part}.txt")
        for number, line in iter_lines(path):
            where = f"{path}, line {number}"
            name = _image_name(line, where)
            picture = _add_picture(pictures, name, split, where)
            picture.captions[SOURCE_LANGUAGE] = english[name].captions[SOURCE_LANGUAGE] if name in english else []
    written = _read_coco_cn_captions(_need(root, "imageid.human-written-caption.txt"))
    for name in written:
        if name not in pictures:
            missing.add("no split", COCO_CN, name)
    translated = {}
    if translated_test:
        translated = _read_coco_cn_captions(_need(root, "imageid.manually-translated-caption.txt"))
    for name, picture in pictures.items():
        captions = translated if translated_test and picture.split == "test" else written
        picture.captions["zh"] = captions.get(name, [])
    return pictures


def _read_coco_cn_captions(path: Path) -> dict[str, list[str]]:
    captions: dict[str, list[str]] = defaultdict(list)
    seen: set[str] = set()
    for number, line in iter_lines(path):
        where = f"{path}, line {number}"
        match = _COCO_CN_CAPTION.fullmatch(line)
        if match is None:
            raise ValueError(f"{where}: expected <image>#<number>, a tab and a caption, got {line!r:.80}.")
        if match["key"] in seen:
            raise ValueError(f"{where}: the caption {match['key']} occurs twice.")
        seen.add(match["key"])
        captions[_image_name(match["name"], where)].append(match["caption"])
    return captions


def _add_stair(root: Path, pictures: Mapping[str, _Picture], *, check_counts: bool) -> None:
    captions: dict[int, list[str]] = {}
    for part in OFFICIAL_SPLITS:
        path = _need(root, f"stair_captions_v1.2_{part}.json")
        found = _captions_by_number(read_json(path), path)
        double = sorted(found.keys() & captions.keys())
        if double:
            raise ValueError(
                f"{path} has captions of {len(double)} images that the other file captions too (first: {double[:3]}); "
                f"each image belongs to one of them."
            )
        captions.update(found)
    if check_counts:
        check_count(sum(map(len, captions.values())), PUBLISHED_STAIR_CAPTIONS, "Japanese captions", root)
    for name, picture in pictures.items():
        picture.captions["ja"] = captions.get(int(name.rpartition("_")[2]), [])


def _build_splits(
    root: Path, pictures: Mapping[str, _Picture], languages: Sequence[str], missing: MissingReport
) -> datasets.DatasetDict:
    columns = {caption_column(language): language for language in languages}
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "validation": [], "test": []}
    for name, picture in pictures.items():
        row = {column: picture.captions[language] for column, language in columns.items()}
        for column in columns:
            if not row[column]:
                missing.add(f"no {column}", picture.split, name)
        rows[picture.split].append({ID_COLUMN: name, **row})
    return datasets.DatasetDict(
        {
            split: build_split(found, [ID_COLUMN, *columns], split, source=str(root))
            for split, found in rows.items()
            if found
        }
    )
