"""From the files of an NRCCR or LECCR folder to rows: captions joined by item and number, ids, descriptions."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from processing.languages import SOURCE_LANGUAGE
from processing.missing import MissingReport
from processing.readers.base import build_split, inside, iter_lines, read_lines, report_shared
from processing.readers.caption_files import Captions, SplitFiles, find_caption_files, read_captions
from processing.records import DESCRIPTION_COLUMN, FILE_COLUMN, caption_column

logger = logging.getLogger(__name__)

NO_DESCRIPTION = "no description"
MAX_DESCRIPTION_BYTES = 1 << 20
_ID_FOLDERS = ("img_id", "video_id", "FeatureData")
_ID_FILES = {
    "train": ("train_id.txt",),
    "validation": ("{language}_val_id.txt", "val_id.txt"),
    "test": ("{language}_test_id.txt", "test_id.txt", "test_id_2016.txt"),
}


@dataclass(frozen=True)
class Layout:
    """What one folder holds.

    Attributes:
        splits: rows.
        missing: what is missing.
        languages: of the translations and human captions.
        ignored_files: caption files that have no role here, by name.
    """

    splits: datasets.DatasetDict
    missing: MissingReport
    languages: tuple[str, ...]
    ignored_files: list[str]


def read_layout(
    root: Path,
    *,
    id_column: str,
    languages: Sequence[str] | None,
    collection: str | None,
    descriptions: Path | None,
    file_names: Mapping[str, str] | None = None,
) -> Layout:
    """All rows of a folder with `TextData`.

    Args:
        root: holds `TextData`, and perhaps lists of ids in `img_id`, `video_id` or `FeatureData`.
        id_column: "image_id" or "video_id".
        languages: which translations and human captions to read; all where None.
        collection: which beginning of the names of caption files counts where several files have one role.
        descriptions: folder with one `.txt` an item, named after its file name or id; None for no descriptions.
        file_names: item -> file name, for a column of that name.

    Raises:
        ValueError: a file is malformed; a translation has no English caption; captions of an item that the list of
            ids lacks; languages that were evaluated on different items.
    """
    if descriptions is not None and not descriptions.is_dir():
        raise ValueError(f"descriptions must be a folder with one .txt file an item, got {descriptions}.")
    files, ignored = find_caption_files(root / "TextData", collection=collection)
    if ignored:
        logger.info("no role here for the caption files %s", ", ".join(ignored))
    spoken = _languages(files, languages, root)
    reader = _SplitReader(root, id_column, spoken, files, descriptions, file_names)
    splits = datasets.DatasetDict({split: reader.read(split) for split in files})
    report_shared(splits, reader.missing)
    return Layout(splits, reader.missing, spoken, ignored)


def _languages(files: Mapping[str, SplitFiles], wanted: Sequence[str] | None, root: Path) -> tuple[str, ...]:
    found = sorted({language for split in files.values() for language in (*split.translated, *split.human)})
    absent = [language for language in wanted or () if language not in found]
    if absent:
        raise ValueError(f"{root / 'TextData'} has no captions in {absent}; its languages are {found}.")
    return tuple(found if wanted is None else wanted)


@dataclass
class _SplitReader:
    root: Path
    id_column: str
    languages: tuple[str, ...]
    files: Mapping[str, SplitFiles]
    descriptions: Path | None
    file_names: Mapping[str, str] | None

    def __post_init__(self) -> None:
        self.missing = MissingReport()
        human = {language for split in self.files.values() for language in split.human}
        translated = {language for split in self.files.values() for language in split.translated}
        self.columns = [
            self.id_column,
            *([FILE_COLUMN] if self.file_names is not None else []),
            caption_column(SOURCE_LANGUAGE),
            *(caption_column(language) for language in self.languages if language in human),
            *(caption_column(language, translated=True) for language in self.languages if language in translated),
            *([DESCRIPTION_COLUMN] if self.descriptions is not None else []),
        ]

    def read(self, split: str) -> datasets.Dataset:
        files = self.files[split]
        english = read_captions(files.english, kind="enc") if files.english else {}
        human = {
            language: read_captions(path, kind=None)
            for language, path in files.human.items()
            if language in self.languages
        }
        translated = {
            language: read_captions(path, kind=f"enc2{language}")
            for language, path in files.translated.items()
            if language in self.languages
        }
        for captions in translated.values():
            _check_sources(captions, english)
        if split != "train":
            _check_same_items(human, self.root)
        items = self._items(split, [english, *human.values()])
        rows = [self._row(item, split, english, human, translated) for item in items]
        return build_split(rows, self.columns, split, source=str(self.root))

    def _items(self, split: str, sources: Sequence[Captions]) -> list[str]:
        """Items in the order of the list of ids; in that of the caption files where there is no list."""
        captioned = dict.fromkeys(item for captions in sources for item in captions)
        path = _find_id_file(self.root, split, self.languages)
        if path is None:
            return list(captioned)
        items: dict[str, None] = {}
        for number, line in iter_lines(path):
            item = line.strip()
            if not item or item in items:
                raise ValueError(f"{path}, line {number}: expected an id that is not listed above, got {line!r}.")
            items[item] = None
        for captions in sources:
            for item in captions.keys() - items.keys():
                place = next(iter(captions[item].values())).place
                raise ValueError(f"{place}: the item {item!r} is not listed in {path}.")
        return list(items)

    def _row(
        self,
        item: str,
        split: str,
        english: Captions,
        human: Mapping[str, Captions],
        translated: Mapping[str, Captions],
    ) -> dict[str, Any]:
        sources = english.get(item, {})
        row: dict[str, Any] = dict.fromkeys(self.columns)
        row[self.id_column] = item
        row[caption_column(SOURCE_LANGUAGE)] = [caption.text for caption in sources.values()]
        if self.files[split].english and not sources:
            self.missing.add(f"no {caption_column(SOURCE_LANGUAGE)}", split, item)
        for language in self.languages:
            column = caption_column(language)
            if column in row:
                row[column] = [caption.text for caption in human.get(language, {}).get(item, {}).values()]
                if language in human and not row[column]:
                    self.missing.add(f"no {column}", split, item)
            column = caption_column(language, translated=True)
            if column in row:
                targets = translated.get(language, {}).get(item, {})
                row[column] = [targets[number].text if number in targets else None for number in sources]
                if language in translated and None in row[column]:
                    self.missing.add(f"an English caption without {column}", split, item)
        if self.file_names is not None:
            row[FILE_COLUMN] = self._file_name(item)
        if self.descriptions is not None:
            row[DESCRIPTION_COLUMN] = self._description(item, split, self.descriptions)
        return row

    def _file_name(self, item: str) -> str:
        names = self.file_names or {}
        if item not in names:
            raise ValueError(f"the item {item!r} of {self.root} has no file name in its image_ids.txt.")
        return names[item]

    def _description(self, item: str, split: str, folder: Path) -> str | None:
        name = self._file_name(item) if self.file_names is not None else f"{item}.jpg"
        path = inside(folder, f"{name.removesuffix('.jpg')}.txt", source=str(self.root))
        text = ""
        if path.is_file():
            if path.stat().st_size > MAX_DESCRIPTION_BYTES:
                raise ValueError(f"{path} has {path.stat().st_size:,} bytes; a description is one paragraph.")
            text = "\n".join(read_lines(path)).strip()
        if not text:
            self.missing.add(NO_DESCRIPTION, split, item)
        return text or None


def _find_id_file(root: Path, split: str, languages: Sequence[str]) -> Path | None:
    # A name without a language counts once, also where no language is read.
    names = [
        name.format(language=language)
        for name in _ID_FILES[split]
        for language in (languages if "{language}" in name else ("",))
    ]
    paths = (root / folder / name for folder in _ID_FOLDERS for name in names)
    return next((path for path in paths if path.is_file()), None)


def _check_sources(translated: Captions, english: Captions) -> None:
    for item, numbers in translated.items():
        for number, caption in numbers.items():
            if number not in english.get(item, {}):
                raise ValueError(
                    f"{caption.place}: the translation {number!r} of {item!r} has no English caption; are both files "
                    f"of one collection?"
                )


def _check_same_items(human: Mapping[str, Captions], root: Path) -> None:
    """Languages with items of their own would be searched among items that their benchmark does not have."""
    if len({frozenset(captions) for captions in human.values()}) > 1:
        raise ValueError(
            f"the languages {sorted(human)} of {root} are evaluated on different items; read one at a time."
        )
