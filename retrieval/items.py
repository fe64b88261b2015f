"""Items to index or evaluate: a folder of pictures, a data set on disk or on the Hub, and how their rows are read."""

import copy
import itertools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps
from tqdm import tqdm

from processing.media import DESCRIPTIONS_FILE, MediaFolder, attach_images
from processing.pairs import DECODING_ERRORS
from processing.readers.base import iter_json_lines
from processing.records import DESCRIPTION_COLUMN, ID_COLUMN, IMAGE_COLUMN
from processing.sources import is_data_set, open_split
from retrieval.sharing import Processes

logger = logging.getLogger(__name__)


class PictureFolder(Sequence):
    """The pictures of a folder and its sub-folders as rows of the schema; a picture is opened when its row is read.

    The id of a picture is its path inside the folder. Descriptions come from `descriptions.jsonl`, one object a line:
    `{"image_id": "holiday/beach.jpg", "description": "..."}`.

    Args:
        folder: where the pictures lie.
        description_file: None takes `descriptions.jsonl` in the folder if it is there.

    Raises:
        ValueError: no such folder, no picture in it, or a description file that is missing or malformed.
    """

    column_names = (IMAGE_COLUMN, ID_COLUMN, DESCRIPTION_COLUMN)

    def __init__(self, folder: str | Path, *, description_file: str | Path | None = None) -> None:
        self.folder = Path(folder)
        self.image_ids = MediaFolder(folder).names
        default_file = self.folder / DESCRIPTIONS_FILE
        if description_file is None and default_file.is_file():
            description_file = default_file
        self.descriptions = {} if description_file is None else read_description_file(description_file)
        strangers = sorted(set(self.descriptions) - set(self.image_ids))
        if strangers:
            logger.warning("%d descriptions name no picture in %s (first: %s)", len(strangers), folder, strangers[:3])

    def __len__(self) -> int:
        return len(self.image_ids)

    def select(self, positions: Sequence[int]) -> "PictureFolder":
        """The same folder with some of its pictures."""
        chosen = copy.copy(self)
        chosen.image_ids = [self.image_ids[position] for position in positions]
        return chosen

    def __getitem__(self, key: Any) -> Any:
        """A row by position, or a whole column by name (all but the pictures)."""
        if key == ID_COLUMN:
            return list(self.image_ids)
        if key == DESCRIPTION_COLUMN:
            return [self.descriptions.get(image_id) for image_id in self.image_ids]
        image_id = self.image_ids[key]
        with Image.open(self.folder / image_id) as file:
            # Phones store the turn of a photo beside its pixels.
            image = ImageOps.exif_transpose(file).convert("RGB")
        return {IMAGE_COLUMN: image, ID_COLUMN: image_id, DESCRIPTION_COLUMN: self.descriptions.get(image_id)}


def open_items(
    location: str,
    *,
    split: str = "test",
    config_name: str | None = None,
    images: str | None = None,
    description_file: str | Path | None = None,
    skip_corrupt: bool = False,
) -> Any:
    """Rows of the schema from a place named on the command line.

    Args:
        location: a folder of pictures, a data set folder (parquet, or from `save_to_disk`), or a data set on the Hub.
        split: which split of a data set.
        config_name: which configuration of a data set with several.
        images: folder of the pictures of a data set of texts, joined by id; items without a picture are left out.
        description_file: descriptions of a folder of pictures.
        skip_corrupt: leave items out whose picture cannot be read, see `drop_unreadable`.

    Raises:
        ValueError: the place has no such split, or nothing that can be read.
    """
    rows = _open_all(location, split, config_name, images, description_file)
    return drop_unreadable(rows) if skip_corrupt else rows


def drop_unreadable(rows: Any, *, shared: bool = False) -> Any:
    """Leave out the items whose picture is missing or damaged, and log how many.

    Each picture is read once, so that a damaged one is found before hours of encoding and not after.

    Args:
        rows: a split of a data set, or a `PictureFolder`.
        shared: the processes of a distributed run, which all call this, share the reading out.

    Raises:
        ValueError: no picture can be read.
    """
    unreadable = set(find_unreadable(rows, shared=shared))
    if not unreadable:
        return rows
    kept = [position for position in range(len(rows)) if position not in unreadable]
    names = read_ids(rows)
    if not kept:
        raise ValueError(f"none of the {len(rows)} pictures can be read (first: {names[:3]}); are they pictures?")
    logger.warning(
        "%d of %d pictures cannot be read and are left out (first: %s)",
        len(unreadable),
        len(rows),
        [names[position] for position in sorted(unreadable)[:3]],
    )
    return rows.select(kept)


def find_unreadable(rows: Any, *, shared: bool = False) -> list[int]:
    """Positions of the items whose picture is missing or damaged; `shared` as in `drop_unreadable`."""
    processes = Processes(shared=shared)
    if processes.count > 1:
        processes.check_same(read_ids(rows), name="items")
    found = []
    positions = range(processes.index, len(rows), processes.count)
    for position in tqdm(positions, desc="check pictures", disable=True if processes.index else None):
        try:
            read_image(rows, position)
        except ValueError:
            found.append(position)
    return sorted(itertools.chain.from_iterable(processes.gather(found)))


def _open_all(
    location: str, split: str, config_name: str | None, images: str | None, description_file: str | Path | None
) -> Any:
    path = Path(location)
    if path.is_dir() and not is_data_set(path):
        if images is not None:
            raise ValueError(f"{location} is a folder of pictures itself; leave --images {images} out.")
        return PictureFolder(path, description_file=description_file)
    if description_file is not None:
        raise ValueError(f"{location} is a data set and has its descriptions in a column; drop the description file.")
    rows = open_split(location, split, config_name=config_name)
    if images is None:
        return rows
    joined, missing = attach_images(rows, images)
    for line in missing.lines():
        logger.warning("%s; they are left out", line)
    return joined


def read_description_file(path: str | Path) -> dict[str, str]:
    """Descriptions by image id from a file of JSON lines.

    Raises:
        ValueError: the file is missing, no UTF-8, or a line is not an object with `image_id` and `description`, or
            names a picture for the second time.
    """
    if not Path(path).is_file():
        raise ValueError(f"the description file {path} does not exist; leave it out for pictures without descriptions.")
    descriptions: dict[str, str] = {}
    for number, record in iter_json_lines(path):
        if not {ID_COLUMN, DESCRIPTION_COLUMN} <= set(record):
            raise ValueError(
                f"{path}, line {number}: expected an object with {ID_COLUMN!r} and {DESCRIPTION_COLUMN!r}, got "
                f"{sorted(record)}."
            )
        image_id = str(record[ID_COLUMN])
        if image_id in descriptions:
            raise ValueError(f"{path}, line {number}: {image_id!r} has a description already; keep one.")
        descriptions[image_id] = str(record[DESCRIPTION_COLUMN] or "")
    return descriptions


def read_column(rows: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    """One column of the rows without decoding a picture; None for each row where there is no such column."""
    column_names = getattr(rows, "column_names", None)
    if column_names is None:
        return [row.get(name) for row in rows]
    return list(rows[name]) if name in column_names else [None] * len(rows)  # type: ignore[call-overload]


def read_ids(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The id of each row; its position where the rows have none."""
    return [str(position if name is None else name) for position, name in enumerate(read_column(rows, ID_COLUMN))]


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
    rows = open_items(**source)
    if read_ids(rows) != list(index.item_ids):
        raise ValueError(
            f"the items in {source['location']!r} are not those of the index any more; build the index again."
        )
    return rows


def read_image(rows: Sequence[Mapping[str, Any]], position: int) -> Image.Image:
    """The picture of a row as RGB.

    Raises:
        ValueError: the picture is missing, or its file is damaged; the message names the item.
    """
    if IMAGE_COLUMN not in getattr(rows, "column_names", [IMAGE_COLUMN]):
        raise ValueError("the items are texts alone; name the folder of their pictures, --images on the command line.")
    try:
        return rows[position][IMAGE_COLUMN].convert("RGB")
    # Pillow answers a damaged file with OSError or SyntaxError; an absent picture is None.
    except (*DECODING_ERRORS, AttributeError, KeyError) as error:
        name = read_ids(rows)[position] if getattr(rows, "column_names", None) else str(position)
        raise ValueError(
            f"the picture of item {position} (id {name!r}) cannot be read ({error}); repair it, or leave such "
            f"items out (--skip-corrupt; in a recipe corrupt_images: skip)."
        ) from error
