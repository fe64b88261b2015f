"""Multi30K as its authors distribute it: gzipped text, one line for each image, in the order of a list of images.

Task 1 is one English caption an image, translated by people (de, fr, cs). Task 2 is five English and five German
captions an image, written independently. Papers on cross-lingual retrieval train on the five English captions for each
language, and ask in French and Czech with the captions of task 1: so does task 2 here.

The images are those of Flickr30k, named `<photo number>.jpg`; Flickr8k has some of them under
`<photo number>_<secret>.jpg`. Read on the text of the repository multi30k/dataset.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import datasets

from processing.languages import SOURCE_LANGUAGE
from processing.media import attach_images
from processing.missing import MissingReport
from processing.readers.base import Corpus, build_split, check_count, read_lines, report_shared
from processing.records import FILE_COLUMN, ID_COLUMN, caption_column

LANGUAGES = ("de", "fr", "cs")
# Those with captions of their own; the others are asked in with the translations of task 1.
INDEPENDENT_LANGUAGES = ("en", "de")
TASKS = (1, 2)
# What the repository publishes; there is no Czech text for the test sets of 2017.
PUBLISHED_IMAGES = {
    "train": 29_000,
    "val": 1_014,
    "test_2016_flickr": 1_000,
    "test_2017_flickr": 1_000,
    "test_2017_mscoco": 461,
    "test_2018_flickr": 1_071,
}
TEST_SETS = tuple(name for name in PUBLISHED_IMAGES if name.startswith("test"))
NUM_INDEPENDENT_CAPTIONS = 5


def read_multi30k(
    root: str | Path,
    *,
    task: int,
    languages: Sequence[str],
    test: str = "test_2016_flickr",
    images: str | Path | datasets.DatasetDict | None = None,
    check_counts: bool = True,
) -> Corpus:
    """Multi30K with human captions in `caption_en` and `caption_<language>`.

    In task 1 the captions of a row say the same, one for each language. In task 2 there are five in English and five
    in German, all independent, and in French and Czech the one of task 1.

    Args:
        root: the folder that holds `data`, or `data` itself, with `task1` and `task2` in it.
        task: 1 (translations) or 2 (five independent captions).
        languages: besides English; any of de, fr, cs.
        test: which test set becomes the split "test"; task 2 has the texts of `test_2016_flickr` only.
        images: a folder of pictures, or a data set with `image_id` and `image`: who has none is reported.
        check_counts: refuse other sizes than the published ones; without it a cut copy is read.

    Returns:
        Splits "train" (29,000), "validation" (1,014) and "test" (1,000 for `test_2016_flickr`).

    Raises:
        ValueError: task, language or test set is not one of Multi30K; a file is missing, malformed or has not the
            published size; not one image of the rows is in `images`.
    """
    if task not in TASKS:
        raise ValueError(f"task must be one of {list(TASKS)}, got {task!r}.")
    if set(languages) - set(LANGUAGES) or not languages or len(set(languages)) != len(languages):
        raise ValueError(f"languages must be of {LANGUAGES}, each once, got {list(languages)}.")
    tests = TEST_SETS if task == 1 else TEST_SETS[:1]
    if test not in tests:
        raise ValueError(f"test of task {task} must be one of {tests}, got {test!r}.")
    folder = _data_folder(Path(root)) / f"task{task}"
    splits = datasets.DatasetDict()
    for split, part in (("train", "train"), ("validation", "val"), ("test", test)):
        published = PUBLISHED_IMAGES[part] if check_counts else None
        splits[split] = _read_part(folder, part, split, (SOURCE_LANGUAGE, *languages), published)
    missing = MissingReport()
    report_shared(splits, missing)
    if images is not None:
        missing.merge(attach_images(splits, images)[1])
    settings = {"reader": "multi30k", "task": task, "languages": list(languages), "test": test}
    return Corpus(splits, missing, settings)


def _data_folder(root: Path) -> Path:
    for folder in (root, root / "data"):
        if any((folder / f"task{task}").is_dir() for task in TASKS):
            return folder
    raise ValueError(f"{root} must be the folder of Multi30K, with task1 and task2 in it or in its folder data.")


def _read_part(
    folder: Path, part: str, split: str, languages: Sequence[str], published: int | None
) -> datasets.Dataset:
    name_list = _name_list(folder, part)
    names = _read_names(name_list)
    if published is not None:
        check_count(len(names), published, "images", name_list)
    if folder.name == "task2" and set(languages) - set(INDEPENDENT_LANGUAGES):
        other = _name_list(folder.with_name("task1"), part)
        if _read_names(other) != names:
            raise ValueError(
                f"{name_list} and {other} must list the same images in one order, for the captions of task 1 to be "
                f"joined with those of task 2; one is cut or of another edition."
            )
    captions = {
        caption_column(language): [
            _read_captions(path, expected=len(names)) for path in _caption_files(folder, part, language)
        ]
        for language in languages
    }
    rows = [
        {
            ID_COLUMN: name.removesuffix(".jpg"),
            FILE_COLUMN: name,
            **{column: [lines[position] for lines in files] for column, files in captions.items()},
        }
        for position, name in enumerate(names)
    ]
    return build_split(rows, [ID_COLUMN, FILE_COLUMN, *captions], split, source=str(name_list))


def _read_names(path: Path) -> list[str]:
    # In the list of test_2017_mscoco, "#" and the number of the COCO caption follow the file name.
    return [line.partition("#")[0] for line in read_lines(path)]


def _name_list(folder: Path, part: str) -> Path:
    task_2_name = f"{part.removesuffix('_flickr')}_images.txt"
    return _existing(folder / "image_splits" / (f"{part}.txt" if folder.name == "task1" else task_2_name))


def _caption_files(folder: Path, part: str, language: str) -> Iterator[Path]:
    if folder.name == "task1" or language not in INDEPENDENT_LANGUAGES:
        yield _existing(folder.with_name("task1") / "raw" / f"{part}.{language}")
        return
    for number in range(1, NUM_INDEPENDENT_CAPTIONS + 1):
        yield _existing(folder / "raw" / f"{part.removesuffix('_flickr')}.{number}.{language}")


def _existing(path: Path) -> Path:
    packed = path.with_name(f"{path.name}.gz")
    for candidate in (path, packed):
        if candidate.is_file():
            return candidate
    raise ValueError(f"neither {path} nor {packed.name} is there; get that file of Multi30K, or ask for less.")


def _read_captions(path: Path, *, expected: int) -> list[str]:
    lines = read_lines(path, expected=expected)
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            raise ValueError(f"{path}, line {number}: a caption must not be blank.")
    return lines
