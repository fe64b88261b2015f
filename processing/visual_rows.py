"""What items look like: the picture, the frames or the features of a row. The one place that knows their columns."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from processing.augmentation import draw_of
from processing.readers.feature_store import read_features
from processing.records import (
    END_COLUMN,
    FEATURES_COLUMN,
    ID_COLUMN,
    IMAGE_COLUMN,
    START_COLUMN,
    VIDEO_COLUMN,
    VIDEO_ID_COLUMN,
)
from processing.video_frames_leccr import PICTURE_ERRORS, FrameSampling, sample_frames, sample_positions

READING_ERRORS = (*PICTURE_ERRORS, KeyError)
# `vision_input` of a model, which is also the key of what was read -> the column that holds it.
COLUMN_OF = {"image": IMAGE_COLUMN, "frames": VIDEO_COLUMN, "features": FEATURES_COLUMN}
# The argument of the processor; a recipe and the command line call the folder that is joined with texts the same.
ARGUMENT_OF = {"image": "images", "frames": "videos", "features": "features"}


class VisualReader:
    """Reads what a model sees of one row.

    Args:
        vision_input: of the model's configuration: "image", "frames" or "features".
        sampling: which frames, or features of frames, are taken of an item; None takes all features, and of clips
            what `FrameSampling()` takes.

    Raises:
        ValueError: `vision_input` is something else.
    """

    def __init__(self, vision_input: str, sampling: FrameSampling | None = None) -> None:
        if vision_input not in COLUMN_OF:
            raise ValueError(f"vision_input must be one of {sorted(COLUMN_OF)}, got {vision_input!r}.")
        self.vision_input = vision_input
        self.sampling = sampling

    def columns(self, column_names: Iterable[str]) -> list[str]:
        """Those that it reads, among the columns of a split.

        Raises:
            ValueError: what the model sees is not among them.
        """
        found = list(column_names)
        needed = COLUMN_OF[self.vision_input]
        if needed not in found:
            setting = ARGUMENT_OF[self.vision_input]
            raise ValueError(
                f"a model with vision_input {self.vision_input!r} reads the column {needed!r}, and the items have the "
                f"columns {found}; name the folder of their {setting} (`{setting}` in a recipe, --{setting} on the "
                f"command line), or take a model of what there is."
            )
        optional = (START_COLUMN, END_COLUMN) if self.vision_input == "frames" else ()
        return [needed, *(name for name in optional if name in found)]

    def read(self, row: Mapping[str, Any], *, item: str, draw: int | None = None) -> dict[str, Any]:
        """One of `image` (PIL, RGB), `frames` (list of such, upright and in order) and `features` (num_frames, dim).

        Args:
            row: the cells of `columns`: a picture as it is stored or PIL, a clip as `sample_frames` takes it, features
                as `read_features` takes them.
            item: what messages call it.
            draw: decides which frames are taken in training; None takes the middle ones.

        Raises:
            ValueError: it is missing or cannot be read; the message names the item.
        """
        try:
            return self.view(row, draw)
        except READING_ERRORS as error:
            raise self.refusal(item, error) from error

    def view(self, row: Mapping[str, Any], draw: int | None) -> dict[str, Any]:
        """As `read`, but what goes wrong is one of `READING_ERRORS`, which `refusal` puts into words."""
        jitter = None if draw is None else draw_of(draw, "frames")
        cell = row[COLUMN_OF[self.vision_input]]
        if cell is None:
            raise ValueError("the column is null")
        if self.vision_input == "image":
            return {"image": _rgb_picture(cell)}
        if self.vision_input == "features":
            return {"features": self._thinned(read_features(cell), jitter)}
        start, end = row.get(START_COLUMN), row.get(END_COLUMN)
        sampling = self.sampling or FrameSampling()
        return {"frames": sample_frames(cell, sampling, start=start, end=end, draw=jitter)}

    def refusal(self, item: str, error: Exception) -> ValueError:
        """What is said of an item that cannot be read."""
        return ValueError(
            f"{item}: its {COLUMN_OF[self.vision_input]} must be readable, got {error!r}; replace it, or leave such "
            f"items out (corrupt_images: skip in a recipe, --skip-corrupt on the command line)."
        )

    def _thinned(self, features: np.ndarray, draw: int | None) -> np.ndarray:
        if self.sampling is None:
            return features
        return features[sample_positions(len(features), self.sampling.num_frames, draw)]


class VisualRows:
    """What a model sees of the rows of a split, read when it is asked for.

    Args:
        split: rows in the schema of records.py: a split, a folder of files, or a list of dicts.
        vision_input: see `VisualReader`, as `sampling`.
        sampling: see there.

    Raises:
        ValueError: the split lacks the column.
    """

    def __init__(self, split: Any, vision_input: str, sampling: FrameSampling | None = None) -> None:
        self._reader = VisualReader(vision_input, sampling)
        self._split = split
        columns = self._reader.columns(split.column_names) if hasattr(split, "column_names") else []
        self._rows = _StoredRows(split, columns) if isinstance(split, datasets.Dataset) else split

    def read(self, position: int, draw: int | None = None) -> dict[str, Any]:
        """What is seen of an item, see `VisualReader.read`.

        Raises:
            ValueError: it is missing or cannot be read; the message names the item.
        """
        try:
            return self._reader.view(self._rows[position], draw)  # a folder of pictures decodes them with the row
        except READING_ERRORS as error:
            # Looked up now and not before: in a data set that takes longer than to read features.
            raise self._reader.refusal(self._name_of(position), error) from error

    def _name_of(self, position: int) -> str:
        id_column = next((name for name in (ID_COLUMN, VIDEO_ID_COLUMN) if name in self._column_names()), None)
        return (
            f"item {position}" if id_column is None else f"item {self._split[id_column][position]!r} (row {position})"
        )

    def _column_names(self) -> Sequence[str]:
        return getattr(self._split, "column_names", ())


class _StoredRows:
    """Rows of a data set as they are stored, so that a broken picture is found where it is read and named there."""

    def __init__(self, split: datasets.Dataset, columns: Sequence[str]) -> None:
        stored = split.with_format(None).select_columns(list(columns))
        if IMAGE_COLUMN in columns:
            stored = stored.cast_column(IMAGE_COLUMN, datasets.Image(decode=False))
        # As tables: rows would be decoded, and the numbers of features come as Python's.
        self._tables = stored.with_format("arrow")

    def __getitem__(self, position: int) -> dict[str, Any]:
        return rows_of(self._tables[position])[0]


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    """The rows of a table, nothing decoded; numbers of features as arrays, a tenth of the size of lists."""
    columns = [
        [_array_of(cell) for cell in column] if name == FEATURES_COLUMN else column.to_pylist()
        for name, column in zip(table.column_names, table.columns, strict=True)
    ]
    return [dict(zip(table.column_names, cells, strict=True)) for cells in zip(*columns, strict=True)]


def _array_of(cell: pa.Scalar) -> Any:
    """(num_frames, dim) of a list of lists of numbers; whatever else it is as Python has it."""
    if isinstance(cell, pa.ExtensionScalar):  # Array2D of datasets
        cell = cell.value
    if not isinstance(cell, pa.ListScalar) or cell.values is None or not hasattr(cell.values, "flatten"):
        return cell.as_py()
    frames = cell.values
    lengths = pc.list_value_length(frames) if pa.types.is_nested(frames.type) else None
    if lengths is None or lengths.null_count or len(set(lengths.to_pylist())) != 1:
        return cell.as_py()
    # A copy, because a view would keep all rows of the table in memory.
    return np.array(frames.flatten().to_numpy(zero_copy_only=False)).reshape(len(frames), -1)


def as_processor_inputs(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """What rows of `read` are called by `LeccrProcessor`: `images`, `videos` or `features`; nothing for texts alone."""
    return {
        argument: [row[vision_input] for row in rows]
        for vision_input, argument in ARGUMENT_OF.items()
        if rows and vision_input in rows[0]
    }


def _rgb_picture(cell: Any) -> Image.Image:
    """A picture, stored or decoded, as RGB; a stored one is turned upright."""
    if isinstance(cell, Image.Image):
        return cell.convert("RGB")
    return datasets.Image(mode="RGB").decode_example(cell)
