"""Pictures and clips on disk, joined with rows by id."""

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from unicodedata import normalize

import datasets

from processing.missing import MissingReport
from processing.records import (
    FILE_COLUMN,
    ID_COLUMN,
    IMAGE_COLUMN,
    VIDEO_COLUMN,
    VIDEO_ID_COLUMN,
    check_columns,
    schema_features,
)
from processing.sources import is_data_set, open_splits
from processing.video_frames_leccr import PICTURE_SUFFIXES

logger = logging.getLogger(__name__)

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv", ".3gp", ".ogv", ".vob", ".ts"}
    | {".mts", ".m2ts"}
)
# Known by their names, so that they can be told, but not read.
_OTHER_SUFFIXES = frozenset(
    {".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".psd", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf"}
    | {".rw2", ".raf", ".rm", ".rmvb"}
)
MEDIA_SUFFIXES = PICTURE_SUFFIXES | VIDEO_SUFFIXES | _OTHER_SUFFIXES
# Descriptions of the pictures of a folder, `{"image_id": ..., "description": ...}` a line.
DESCRIPTIONS_FILE = "descriptions.jsonl"
NO_IMAGE, NO_VIDEO = "no image", "no video"

Rows = TypeVar("Rows", datasets.Dataset, datasets.DatasetDict)


class MediaFolder:
    """The pictures or clips of a folder and its sub-folders.

    An id finds its file by path inside the folder; else by that path without its suffix; else by file name or stem.
    The first of the three that fits decides, and must fit one file. Names that begin with a dot are passed over, as
    are the folders of such a name; links are followed.

    Args:
        folder: where the files lie.
        suffixes: which files count, lower case.

    Attributes:
        names: paths of the files inside the folder, sorted.
        unread_names: those of pictures and clips of other kinds, which do not count.

    Raises:
        ValueError: no such folder, or no such file in it.
    """

    def __init__(self, folder: str | Path, suffixes: frozenset[str] = PICTURE_SUFFIXES) -> None:
        self.folder = Path(folder)
        self._suffixes = suffixes
        if not self.folder.is_dir():
            raise ValueError(f"{folder} is not a folder; give the folder that holds the files {sorted(suffixes)}.")
        paths = list(walk(self.folder, suffixes | MEDIA_SUFFIXES))
        self.names = _names_in(self.folder, (path for path in paths if path.suffix.lower() in suffixes))
        self.unread_names = _names_in(self.folder, (path for path in paths if path.suffix.lower() not in suffixes))
        if not self.names:
            raise ValueError(f"{folder} holds no file with a suffix of {sorted(suffixes)}, in it or below.")
        by_path, by_stem_path, by_name = defaultdict(set), defaultdict(set), defaultdict(set)
        for name in self.names:
            path = Path(name)
            by_path[name_key(name)].add(name)
            by_stem_path[name_key(path.with_suffix("").as_posix())].add(name)
            for part in (path.name, path.stem):
                by_name[name_key(part)].add(name)
        self._by_key: list[dict[str, set[str]]] = [by_path, by_stem_path, by_name]

    def find(self, name: str) -> Path | None:
        """The file of an id or file name; None if there is none.

        Raises:
            ValueError: several files fit equally well.
        """
        key = name_key(name)
        found = next((files[key] for files in self._by_key if key in files), set())
        return _only(found, name, self.folder, kind="files")

    def column(self, found: list[Path]) -> datasets.Dataset:
        """A split of one column with files found before: `image`, opened when its row is read, or `video`, a path."""
        return _column_of(found, VIDEO_COLUMN if self._suffixes == VIDEO_SUFFIXES else IMAGE_COLUMN)


class FrameFolders:
    """Clips that lie as folders of their frames in a folder and its sub-folders.

    An id finds its clip by path inside the folder, else by the name of the clip's folder; a suffix of clips does no
    harm.

    Args:
        folder: where they lie; pictures right in it belong to no clip.

    Attributes:
        names: paths inside the folder of the folders that hold pictures, sorted.
        unread_names: paths of pictures right in it, and of pictures and clips of kinds that are not read.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        files = set(walk(self.folder, MEDIA_SUFFIXES))
        frames = {path for path in files if path.suffix.lower() in PICTURE_SUFFIXES and path.parent != self.folder}
        self.names = _names_in(self.folder, {path.parent for path in frames})
        self.unread_names = _names_in(self.folder, files - frames)
        self._paths = {name_key(name): name for name in self.names}
        self._by_name: dict[str, set[str]] = defaultdict(set)
        for name in self.names:
            self._by_name[name_key(Path(name).name)].add(name)

    def find(self, name: str) -> Path | None:
        """The folder of an id or file name; None if there is none.

        Raises:
            ValueError: several folders fit equally well.
        """
        path = Path(name)
        key = name_key(path.with_suffix("").as_posix() if path.suffix.lower() in VIDEO_SUFFIXES else name)
        found = {self._paths[key]} if key in self._paths else self._by_name.get(key, set())
        return _only(found, name, self.folder, kind="folders")

    def column(self, found: list[Path]) -> datasets.Dataset:
        """A split of one column with folders found before."""
        return _column_of(found, VIDEO_COLUMN)


def name_key(name: str) -> str:
    """A name as it is compared: some systems keep an umlaut in the name of a file as two characters."""
    return normalize("NFC", name)


def _names_in(folder: Path, paths: Iterable[Path]) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def _only(found: set[str], name: str, folder: Path, *, kind: str) -> Path | None:
    if len(found) > 1:
        raise ValueError(
            f"{name!r} fits several {kind} in {folder}: {sorted(found)[:3]}; give paths inside the folder in a column "
            f"{FILE_COLUMN!r}."
        )
    return folder / next(iter(found)) if found else None


def _column_of(paths: Iterable[Path], name: str) -> datasets.Dataset:
    return datasets.Dataset.from_dict({name: [str(path) for path in paths]}, features=schema_features([name]))


def walk(folder: Path, suffixes: frozenset[str], above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """Files of a folder and of those below it; names that begin with a dot are passed over, links are followed.

    Args:
        folder: where they lie.
        suffixes: which files count, lower case.
        above: real folders on the way down, where a link may lead back to.
    """
    real = folder.resolve()
    if real in above:
        return
    for name in os.listdir(folder):
        path = folder / name
        if name.startswith("."):
            continue
        if path.suffix.lower() in suffixes and path.is_file():
            yield path
        elif path.is_dir():
            yield from walk(path, suffixes, above | {real})


def attach_images(
    rows: Rows, images: str | Path | datasets.Dataset | datasets.DatasetDict
) -> tuple[Rows, MissingReport]:
    """Join rows of texts with pictures by id.

    Rows without a picture are left out and reported. Pictures of a folder are not opened here.

    Args:
        rows: a split or all splits, with `image_id` and perhaps `file_name`.
        images: a folder of pictures, or a data set with `image_id` and `image` (loaded, a folder or a Hub name). Ids
            match with or without a suffix such as `.jpg`. Where its splits share ids, each split of rows is joined
            with the split of the same name.

    Returns:
        The rows that have a picture, with it in the column `image`; and the report, reason "no image".

    Raises:
        ValueError: a column is missing, an id fits several pictures, or not one row has a picture.
    """
    if not isinstance(images, str | Path):
        return attach_found(rows, _picture_tables(images), ID_COLUMN, NO_IMAGE)
    if not Path(images).is_dir() or is_data_set(Path(images)):
        return attach_found(rows, _picture_tables(open_splits(images)), ID_COLUMN, NO_IMAGE)
    folder = MediaFolder(images)
    return attach_found(rows, lambda split: folder, ID_COLUMN, NO_IMAGE)


def attach_videos(rows: Rows, videos: str | Path) -> tuple[Rows, MissingReport]:
    """As `attach_images`, for rows with `video_id`; the column `video` holds the path of the clip.

    Args:
        rows: see there.
        videos: a folder of clips; or, where there is no clip in it or below, of folders with the frames of a clip each.
    """
    folder = open_clips(videos)
    return attach_found(rows, lambda split: folder, VIDEO_ID_COLUMN, NO_VIDEO)


def open_clips(videos: str | Path) -> MediaFolder | FrameFolders:
    """The clips of a folder as `attach_videos` finds them.

    Raises:
        ValueError: no such folder, or nothing in it that is a clip.
    """
    return find_frame_folders(videos) or MediaFolder(videos, VIDEO_SUFFIXES)


def find_frame_folders(videos: str | Path) -> FrameFolders | None:
    """The clips of a folder that lie as folders of their frames; None where there is a file of a clip, or neither."""
    folder = Path(videos)
    if not folder.is_dir() or next(walk(folder, VIDEO_SUFFIXES), None) is not None:
        return None
    found = FrameFolders(folder)
    if not found.names:
        return None
    # Said, because albums of photos look the same.
    logger.warning("no clip in %s: its %d folders of pictures are the frames of a clip each", folder, len(found.names))
    if found.unread_names:
        logger.warning("%d other files are left out (first: %s)", len(found.unread_names), found.unread_names[:3])
    return found


class _PictureTable:
    """Pictures of a data set, found by id with or without a suffix."""

    def __init__(self, splits: Sequence[datasets.Dataset]) -> None:
        for split in splits:
            check_columns(split.column_names, [ID_COLUMN, IMAGE_COLUMN], split=_name_of(split))
        self._rows = datasets.concatenate_datasets([split.select_columns([IMAGE_COLUMN]) for split in splits])
        self._positions: dict[str, int] = {}
        for position, item_id in enumerate(item_id for split in splits for item_id in split[ID_COLUMN]):
            if self._positions.setdefault(_without_suffix(item_id), position) != position:
                raise ValueError(f"{ID_COLUMN} must name one picture, got {item_id!r} twice among the pictures.")

    @property
    def ids(self) -> set[str]:
        return set(self._positions)

    def find(self, name: str) -> int | None:
        return self._positions.get(_without_suffix(name))

    def column(self, found: list[Any]) -> datasets.Dataset:
        return self._rows.select(found)


def _picture_tables(pictures: datasets.Dataset | datasets.DatasetDict) -> Callable[[str], _PictureTable]:
    """Where the rows of a split, given by its name, look for their pictures."""
    by_split = {"": pictures} if isinstance(pictures, datasets.Dataset) else pictures
    tables = {name: _PictureTable([split]) for name, split in by_split.items()}
    if sum(len(table.ids) for table in tables.values()) == len(set().union(*(table.ids for table in tables.values()))):
        everywhere = _PictureTable(list(by_split.values()))
        return lambda split: everywhere

    def namesake(split: str) -> _PictureTable:
        # An id that two splits share names a picture in each; only the split tells which one is meant.
        if split not in tables:
            raise ValueError(
                f"the splits {sorted(tables)} of the pictures share ids, and the rows are the split {split!r}; give "
                f"the rows as a DatasetDict with the same names of splits, or one split of the pictures."
            )
        return tables[split]

    return namesake


def _name_of(split: datasets.Dataset) -> str:
    return str(split.split or "unnamed")


def _without_suffix(name: str) -> str:
    path = Path(name)
    return path.with_suffix("").as_posix() if path.suffix.lower() in PICTURE_SUFFIXES else name


def attach_found(
    rows: Any, source_of: Callable[[str], Any], id_column: str, reason: str, *, name_column: str = FILE_COLUMN
) -> Any:
    """Join rows with what a source finds of them, in place of what they had of that kind.

    Args:
        rows: a split or all splits.
        source_of: where the rows of a split, given by its name, are looked up. Its `find` gives what belongs to an id,
            or None; its `column` gives a split of one column with what was found.
        id_column: of the rows.
        reason: noted of a row of which nothing is found; see `MissingReport`.
        name_column: asked for instead of the id in rows that have it.

    Returns:
        The rows of which something was found, and the report.

    Raises:
        ValueError: a column is missing, or nothing was found of all rows.
    """
    missing = MissingReport()
    splits = rows if isinstance(rows, Mapping) else {_name_of(rows): rows}
    joined = {
        name: _attach_split(split, source_of(name), (id_column, name_column), name, reason, missing)
        for name, split in splits.items()
    }
    if not any(len(split) for split in joined.values()):
        raise ValueError(
            f"all {sum(map(len, splits.values()))} rows have {reason}; their ids begin with "
            f"{[split[id_column][0] for split in splits.values() if len(split)][:3]}: is it the right folder?"
        )
    return (datasets.DatasetDict(joined) if isinstance(rows, Mapping) else next(iter(joined.values()))), missing


def _attach_split(
    split: Any, source: Any, columns: tuple[str, str], name: str, reason: str, missing: MissingReport
) -> Any:
    id_column, name_column = columns
    check_columns(split.column_names, [id_column], split=name)
    names = split[name_column] if name_column in split.column_names else split[id_column]
    kept: list[int] = []
    found: list[Any] = []
    for position, (item_id, file_name) in enumerate(zip(split[id_column], names, strict=True)):
        match = source.find(file_name or item_id)
        if match is None:
            missing.add(reason, name, item_id)
        else:
            kept.append(position)
            found.append(match)
    files = source.column(found)
    texts = split.remove_columns([column for column in files.column_names if column in split.column_names]).select(kept)
    if not kept:
        # `concatenate_datasets` drops the columns of a table without rows.
        features = datasets.Features({**texts.features, **files.features})
        return datasets.Dataset.from_dict({column: [] for column in features}, features=features, split=split.split)
    return datasets.concatenate_datasets([texts, files], axis=1, split=split.split)
