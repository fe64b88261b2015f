"""Pictures and clips on disk, joined with rows by id."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import datasets

from processing.missing import MissingReport
from processing.records import (
    FILE_COLUMN,
    ID_COLUMN,
    IMAGE_COLUMN,
    MEDIA_COLUMNS,
    VIDEO_COLUMN,
    VIDEO_ID_COLUMN,
    check_columns,
    schema_features,
)
from processing.sources import is_data_set, open_splits

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".flv"})
NO_IMAGE, NO_VIDEO = "no image", "no video"

Rows = TypeVar("Rows", datasets.Dataset, datasets.DatasetDict)


class MediaFolder:
    """The pictures or clips of a folder and its sub-folders.

    An id finds its file by path inside the folder, by that path without its suffix, or by file name or stem where
    only one file has it.

    Args:
        folder: where the files lie.
        suffixes: which files count, lower case.

    Raises:
        ValueError: no such folder, or no such file in it.
    """

    def __init__(self, folder: str | Path, suffixes: frozenset[str] = PICTURE_SUFFIXES) -> None:
        self.folder = Path(folder)
        self._suffixes = suffixes
        if not self.folder.is_dir():
            raise ValueError(f"{folder} is not a folder; give the folder that holds the files {sorted(suffixes)}.")
        found = (path for path in self.folder.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
        self.names = sorted(path.relative_to(self.folder).as_posix() for path in found)
        if not self.names:
            raise ValueError(f"{folder} holds no file with a suffix of {sorted(suffixes)}, in it or below.")
        self._by_key: dict[str, set[str]] = defaultdict(set)
        for name in self.names:
            path = Path(name)
            for key in (name, path.with_suffix("").as_posix(), path.name, path.stem):
                self._by_key[key].add(name)

    def find(self, name: str) -> Path | None:
        """The file of an id or file name; None if there is none.

        Raises:
            ValueError: several files fit and none is named in full.
        """
        found = self._by_key.get(name, set())
        if name in found:
            return self.folder / name
        if len(found) > 1:
            raise ValueError(
                f"{name!r} fits several files in {self.folder}: {sorted(found)[:3]}; give paths inside the folder in "
                f"a column {FILE_COLUMN!r}."
            )
        return self.folder / next(iter(found)) if found else None

    def column(self, found: list[Path]) -> datasets.Dataset:
        """A split of one column with files found before: `image`, opened when its row is read, or `video`, a path."""
        paths = [str(path) for path in found]
        if self._suffixes == VIDEO_SUFFIXES:
            return datasets.Dataset.from_dict({VIDEO_COLUMN: paths}, features=schema_features([VIDEO_COLUMN]))
        return datasets.Dataset.from_dict({IMAGE_COLUMN: paths}, features=schema_features([IMAGE_COLUMN]))


def attach_images(
    rows: Rows, images: str | Path | datasets.Dataset | datasets.DatasetDict
) -> tuple[Rows, MissingReport]:
    """Join rows of texts with pictures by id.

    Rows without a picture are left out and reported. Pictures of a folder are not opened here.

    Args:
        rows: a split or all splits, with `image_id` and perhaps `file_name`.
        images: a folder of pictures, or a data set with `image_id` and `image` (loaded, a folder or a Hub name). Ids
            match with or without a suffix such as `.jpg`.

    Returns:
        The rows that have a picture, with it in the column `image`; and the report, reason "no image".

    Raises:
        ValueError: a column is missing, an id fits several pictures, or not one row has a picture.
    """
    if isinstance(images, str | Path):
        is_folder_of_pictures = Path(images).is_dir() and not is_data_set(Path(images))
        source = MediaFolder(images) if is_folder_of_pictures else _PictureTable(open_splits(images))
    else:
        source = _PictureTable(images)
    return _attach(rows, source, ID_COLUMN, NO_IMAGE)


def attach_videos(rows: Rows, videos: str | Path) -> tuple[Rows, MissingReport]:
    """As `attach_images`, for rows with `video_id`; the column `video` holds the path of the clip."""
    return _attach(rows, MediaFolder(videos, VIDEO_SUFFIXES), VIDEO_ID_COLUMN, NO_VIDEO)


class _PictureTable:
    """Pictures of a data set, found by id with or without a suffix."""

    def __init__(self, table: datasets.Dataset | datasets.DatasetDict) -> None:
        splits = list(table.values()) if isinstance(table, Mapping) else [table]
        for split in splits:
            check_columns(split.column_names, [ID_COLUMN, IMAGE_COLUMN], split=str(split.split or "unnamed"))
        ids = [item_id for split in splits for item_id in split[ID_COLUMN]]
        self._rows = datasets.concatenate_datasets([split.select_columns([IMAGE_COLUMN]) for split in splits])
        self._positions: dict[str, int] = {}
        for position, item_id in enumerate(ids):
            if self._positions.setdefault(_without_suffix(item_id), position) != position:
                raise ValueError(f"{ID_COLUMN} must name one picture, got {item_id!r} twice among the pictures.")

    def find(self, name: str) -> int | None:
        return self._positions.get(_without_suffix(name))

    def column(self, found: list[Any]) -> datasets.Dataset:
        return self._rows.select(found)


def _without_suffix(name: str) -> str:
    path = Path(name)
    return path.with_suffix("").as_posix() if path.suffix.lower() in PICTURE_SUFFIXES else name


def _attach(rows: Any, source: Any, id_column: str, reason: str) -> Any:
    missing = MissingReport()
    splits = rows if isinstance(rows, Mapping) else {str(rows.split or "unnamed"): rows}
    joined = {name: _attach_split(split, source, id_column, name, reason, missing) for name, split in splits.items()}
    if not any(len(split) for split in joined.values()):
        raise ValueError(
            f"not one of the {sum(map(len, splits.values()))} rows has a file; their ids begin with "
            f"{[split[id_column][0] for split in splits.values() if len(split)][:3]}: is it the right folder?"
        )
    return (datasets.DatasetDict(joined) if isinstance(rows, Mapping) else next(iter(joined.values()))), missing


def _attach_split(split: Any, source: Any, id_column: str, name: str, reason: str, missing: MissingReport) -> Any:
    check_columns(split.column_names, [id_column], split=name)
    names = split[FILE_COLUMN] if FILE_COLUMN in split.column_names else split[id_column]
    kept: list[int] = []
    found: list[Any] = []
    for position, (item_id, file_name) in enumerate(zip(split[id_column], names, strict=True)):
        match = source.find(file_name or item_id)
        if match is None:
            missing.add(reason, name, item_id)
        else:
            kept.append(position)
            found.append(match)
    texts = split.remove_columns([column for column in MEDIA_COLUMNS if column in split.column_names]).select(kept)
    return datasets.concatenate_datasets([texts, source.column(found)], axis=1)
