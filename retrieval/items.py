"""Items to index or evaluate: a folder of pictures or clips, a data set on disk or on the Hub, and their rows."""

import copy
import itertools
import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from PIL import Image, ImageOps
from tqdm import tqdm

from processing.media import (
    DESCRIPTIONS_FILE,
    PICTURE_SUFFIXES,
    VIDEO_SUFFIXES,
    MediaFolder,
    attach_images,
    attach_videos,
    find_frame_folders,
)
from processing.readers.base import iter_json_lines
from processing.readers.feature_store import attach_features, open_features, warn_of_missing
from processing.records import (
    DESCRIPTION_COLUMN,
    FEATURES_COLUMN,
    ID_COLUMN,
    IMAGE_COLUMN,
    VIDEO_COLUMN,
    VIDEO_ID_COLUMN,
    schema_features,
)
from processing.sources import is_data_set, open_split, open_splits
from processing.video_frames_leccr import FrameSampling
from processing.visual_rows import ARGUMENT_OF, VisualRows
from retrieval.sharing import Processes

logger = logging.getLogger(__name__)

# What is read of items -> what it is called.
SEEN_WORDS = {"image": "pictures", "frames": "clips", "features": "features"}


class MediaItems(Sequence):
    """The files of one kind in a folder and its sub-folders as rows of the schema.

    The id of an item is its path inside the folder. Descriptions come from `descriptions.jsonl`, one object a line:
    `{"image_id": "holiday/beach.jpg", "description": "..."}`, for clips `{"video_id": ...}`.

    Args:
        folder: where the files lie.
        description_file: None takes `descriptions.jsonl` in the folder if it is there.

    Raises:
        ValueError: no such folder, no file of the kind in it, or a description file that is missing or malformed.
    """

    column_names: tuple[str, ...]
    _suffixes: frozenset[str]
    _kind: str
    _other_kind: str
    _hint: str

    def __init__(self, folder: str | Path, *, description_file: str | Path | None = None) -> None:
        self.folder = Path(folder)
        media = MediaFolder(folder, PICTURE_SUFFIXES | VIDEO_SUFFIXES)
        files, unread = media.names, media.unread_names
        self.names = [name for name in files if Path(name).suffix.lower() in self._suffixes]
        others = f"{len(files) - len(self.names)} {self._other_kind}"
        if not self.names:
            raise ValueError(f"{folder} holds {others} and not one of the {self._kind} that {self._hint}.")
        if len(self.names) < len(files):
            logger.warning("%s of %s are left out: %s", others, folder, self._hint)
        if unread:
            logger.warning("%d files of %s are of kinds that are not read (first: %s)", len(unread), folder, unread[:3])
        self.descriptions = _descriptions_of(self.folder, description_file, self.names, self._kind)

    def __len__(self) -> int:
        return len(self.names)

    def select(self, positions: Sequence[int]) -> "MediaItems":
        """The same folder with some of its files."""
        chosen = copy.copy(self)
        chosen.names = [self.names[position] for position in positions]
        return chosen

    def __getitem__(self, key: Any) -> Any:
        """A row by position, or a whole column by name (all but the pictures)."""
        media_column, id_column, _ = self.column_names
        if key == id_column:
            return self.names  # no copy: readers ask for a name with each row
        if key == DESCRIPTION_COLUMN:
            return [self.descriptions.get(name) for name in self.names]
        name = self.names[key]
        row = {id_column: name, DESCRIPTION_COLUMN: self.descriptions.get(name)}
        return row | {media_column: self._open(self.folder / name)}

    @abstractmethod
    def _open(self, path: Path) -> Any:
        """What the row of a file holds of it."""


class PictureFolder(MediaItems):
    """The pictures of a folder; each is opened when its row is read."""

    column_names = (IMAGE_COLUMN, ID_COLUMN, DESCRIPTION_COLUMN)
    _suffixes, _kind, _other_kind = PICTURE_SUFFIXES, "pictures", "clips"
    _hint = "a model with vision_input 'image' reads; one with 'frames' reads clips"

    def _open(self, path: Path) -> Image.Image:
        with Image.open(path) as file:
            # Phones store the turn of a photo beside its pixels.
            return ImageOps.exif_transpose(file).convert("RGB")


class VideoFolder(MediaItems):
    """The clips of a folder, as paths; decoding is left to whoever knows which frames are wanted."""

    column_names = (VIDEO_COLUMN, VIDEO_ID_COLUMN, DESCRIPTION_COLUMN)
    _suffixes, _kind, _other_kind = VIDEO_SUFFIXES, "clips", "pictures"
    _hint = "a model with vision_input 'frames' reads; one with 'image' reads pictures"

    def _open(self, path: Path) -> str:
        return str(path)


def open_items(
    location: str,
    *,
    split: str = "test",
    config_name: str | None = None,
    vision_input: str = "image",
    images: str | None = None,
    videos: str | None = None,
    features: str | None = None,
    description_file: str | Path | None = None,
    skip_corrupt: bool = False,
    sampling: FrameSampling | None = None,
) -> Any:
    """Rows of the schema from a place named on the command line.

    Args:
        location: a folder of files of the kind that the model reads (pictures, clips, folders with the frames of a clip
            each, or features of frames as `readers.feature_store` reads them), a data set folder (parquet, or from
            `save_to_disk`), or a data set on the Hub.
        split: which split of a data set.
        config_name: which configuration of a data set with several.
        vision_input: of the model's configuration: `image`, `frames` or `features`.
        images: folder of the pictures of a data set of texts, joined by id; items without a picture are left out.
        videos: folder of its clips, likewise. For a model of features it is only where `ItemViews` looks.
        features: folder of the features of its clips, likewise.
        description_file: descriptions of a folder of files.
        skip_corrupt: leave items out of which the model cannot read what it sees, see `drop_unreadable`.
        sampling: of the processor, for `skip_corrupt`.

    Raises:
        ValueError: the place has no such split, nothing that can be read, or the files are not what the model sees.
    """
    folders = {"image": images, "frames": videos, "features": features}
    path = Path(location)
    if path.is_dir() and not is_data_set(path):
        rows = _open_folder(path, vision_input, folders, description_file)
    elif description_file is not None:
        raise ValueError(f"{location} is a data set and has its descriptions in a column; drop the description file.")
    else:
        rows = _join(open_split(location, split, config_name=config_name), vision_input, folders)
    return drop_unreadable(rows, vision_input, sampling=sampling) if skip_corrupt else rows


def drop_unreadable(
    rows: Any, vision_input: str = "image", *, sampling: FrameSampling | None = None, shared: bool = False
) -> Any:
    """Leave out the items whose picture, clip or features are missing or damaged, and log how many.

    Each is read once, so that a damaged one is found before hours of encoding and not after.

    Args:
        rows: a split of a data set, or a folder of files.
        vision_input: what is read of an item, see `processing.visual_rows.VisualReader`, as `sampling`.
        sampling: as the model that the items are for.
        shared: the processes of a distributed run, which all call this, share the reading out.

    Raises:
        ValueError: none can be read.
    """
    unreadable = set(find_unreadable(rows, vision_input, sampling=sampling, shared=shared))
    if not unreadable:
        return rows
    kept = [position for position in range(len(rows)) if position not in unreadable]
    names, word = read_ids(rows), SEEN_WORDS[vision_input]
    if not kept:
        raise ValueError(f"none of the {len(rows)} {word} can be read (first: {names[:3]}); are they {word}?")
    logger.warning(
        "%d of %d %s cannot be read and are left out (first: %s)",
        len(unreadable),
        len(rows),
        word,
        [names[position] for position in sorted(unreadable)[:3]],
    )
    return rows.select(kept)


def find_unreadable(
    rows: Any, vision_input: str = "image", *, sampling: FrameSampling | None = None, shared: bool = False
) -> list[int]:
    """Positions of the items whose picture, clip or features are missing or damaged; arguments as `drop_unreadable`."""
    processes = Processes(shared=shared)
    if processes.count > 1:
        processes.check_same(read_ids(rows), name="items")
    found, seen = [], VisualRows(rows, vision_input, sampling)
    positions = range(processes.index, len(rows), processes.count)
    for position in tqdm(
        positions, desc=f"check {SEEN_WORDS[vision_input]}", disable=True if processes.index else None
    ):
        try:
            seen.read(position)
        except ValueError:
            found.append(position)
    return sorted(itertools.chain.from_iterable(processes.gather(found)))


def _open_folder(
    path: Path, vision_input: str, folders: Mapping[str, str | None], description_file: str | Path | None
) -> Any:
    kind = SEEN_WORDS[vision_input]
    for name, folder in folders.items():
        if folder is not None and not _are_shown(name, vision_input):
            raise ValueError(f"{path} is a folder of {kind} itself; leave --{ARGUMENT_OF[name]} {folder} out.")
    if vision_input == "image":
        return PictureFolder(path, description_file=description_file)
    if vision_input == "frames":
        clips = find_frame_folders(path)
        if clips is None:
            return VideoFolder(path, description_file=description_file)
        ids, column, cells = clips.names, VIDEO_COLUMN, [str(path / name) for name in clips.names]
    else:
        store = open_features(path)
        warn_of_missing(store.missing)
        ids, column, cells = store.ids, FEATURES_COLUMN, [store.name_of(name) for name in store.ids]
    descriptions = _descriptions_of(path, description_file, ids, kind)
    columns = {VIDEO_ID_COLUMN: ids, column: cells, DESCRIPTION_COLUMN: [descriptions.get(name) for name in ids]}
    return datasets.Dataset.from_dict(columns, features=schema_features(columns))


def _are_shown(name: str, vision_input: str) -> bool:
    """Whether a folder of this kind is only looked at: clips, in place of the features that the model reads."""
    return (name, vision_input) == ("frames", "features")


def _join(rows: datasets.Dataset, vision_input: str, folders: Mapping[str, str | None]) -> datasets.Dataset:
    """A split with what the model sees of it, of the folder that was named for it."""
    for name, folder in folders.items():
        if folder is not None and name != vision_input and not _are_shown(name, vision_input):
            raise ValueError(
                f"--{ARGUMENT_OF[name]} {folder} is for models with vision_input {name!r}, and this one has "
                f"{vision_input!r}; give --{ARGUMENT_OF[vision_input]}."
            )
    folder = folders[vision_input]
    if folder is None:
        return rows
    join = {"image": attach_images, "frames": attach_videos, "features": attach_features}[vision_input]
    joined, missing = join(rows, folder)
    warn_of_missing(missing)
    return joined


def _descriptions_of(
    folder: Path, description_file: str | Path | None, names: Sequence[str], kind: str
) -> dict[str, str]:
    """Descriptions of the items of a folder, by id: of the file, or of `descriptions.jsonl` if it is there."""
    if description_file is None and (folder / DESCRIPTIONS_FILE).is_file():
        description_file = folder / DESCRIPTIONS_FILE
    descriptions = {} if description_file is None else read_description_file(description_file)
    if strangers := sorted(set(descriptions) - set(names)):
        logger.warning(
            "%d descriptions name none of the %s in %s (first: %s)", len(strangers), kind, folder, strangers[:3]
        )
    return descriptions


def read_description_file(path: str | Path) -> dict[str, str]:
    """Descriptions by id, from a file of JSON lines or from a data set folder such as `leccr describe` makes.

    Raises:
        ValueError: the file is missing, no UTF-8, or a line is not an object with `image_id` (or `video_id`) and
            `description`, or names an item for the second time.
    """
    if is_data_set(Path(path)):
        splits = open_splits(str(path)).values()
        pairs = (zip(read_ids(split), read_column(split, DESCRIPTION_COLUMN), strict=True) for split in splits)
        return {name: text for of_split in pairs for name, text in of_split if text}
    if not Path(path).is_file():
        raise ValueError(f"the description file {path} does not exist; leave it out for items without descriptions.")
    descriptions: dict[str, str] = {}
    for number, record in iter_json_lines(path):
        id_column = VIDEO_ID_COLUMN if VIDEO_ID_COLUMN in record else ID_COLUMN
        if not {id_column, DESCRIPTION_COLUMN} <= set(record):
            raise ValueError(
                f"{path}, line {number}: expected an object with {ID_COLUMN!r} (or {VIDEO_ID_COLUMN!r}) and "
                f"{DESCRIPTION_COLUMN!r}, got {sorted(record)}."
            )
        name = str(record[id_column])
        if name in descriptions:
            raise ValueError(f"{path}, line {number}: {name!r} has a description already; keep one.")
        descriptions[name] = str(record[DESCRIPTION_COLUMN] or "")
    return descriptions


def read_column(rows: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    """One column of the rows without decoding a picture; None for each row where there is no such column."""
    column_names = getattr(rows, "column_names", None)
    if column_names is None:
        return [row.get(name) for row in rows]
    return list(rows[name]) if name in column_names else [None] * len(rows)  # type: ignore[call-overload]


def read_ids(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The id of each row, `image_id` or `video_id`; its position where the rows have none."""
    pairs = zip(read_column(rows, ID_COLUMN), read_column(rows, VIDEO_ID_COLUMN), strict=True)
    return [str(next((name for name in names if name is not None), position)) for position, names in enumerate(pairs)]


def pictures_of(index: Any, source: Mapping[str, Any]) -> Any:
    """The rows that an index was made of, for their pictures.

    Args:
        index: an `ItemIndex`.
        source: arguments of `open_items`, as the index keeps them.

    Raises:
        ValueError: the index does not say where its items lie, or other items lie there now.
    """
    if not source:
        raise ValueError("this index does not say where its items lie; build it with source= to draw their pictures.")
    # The damaged ones were left out when the index was made; each file need not be read again for that.
    rows = open_items(**{**source, "skip_corrupt": False})
    names, wanted = read_ids(rows), list(index.item_ids)
    if source.get("skip_corrupt") and names != wanted:
        places = {name: position for position, name in enumerate(names)}
        rows = rows.select([places[name] for name in wanted if name in places])
        names = read_ids(rows)
    if names != wanted:
        raise ValueError(
            f"the items in {source['location']!r} are not those of the index any more; build the index again."
        )
    return rows
