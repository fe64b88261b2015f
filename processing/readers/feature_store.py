"""Features of frames, extracted by somebody else: read a video at a time, never as a whole.

Two layouts. `FeatureStore` is the one of NRCCR, dual encoding and their relatives: `feature.bin` (float32, one row a
frame), `shape.txt` ("rows dim"), `id.txt` (a frame id for each row, separated by white space) and `video2frames.txt`
(a dict from video to frame ids). `NumpyStore` is a folder with one `.npy` file a video, as VATEX ships I3D features.
Both have `ids`, `dim`, `missing`, `in`, `frames_of` and `name_of`, may be opened before or after a fork, and can be
pickled.

A row names its features by a text in the column `features`: `FOLDER#ID` of a `FeatureStore`, or the path of a `.npy`
file.
"""

import logging
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray

from processing.media import Rows, attach_found, walk
from processing.missing import MissingReport
from processing.readers.base import check_name, read_lines
from processing.readers.frame_table import read_frame_table
from processing.records import FEATURES_COLUMN, find_id_column, schema_features
from processing.visual_inputs_leccr import frame_features, read_numpy

logger = logging.getLogger(__name__)

NO_FEATURES, NO_FRAME = "no features", "a frame without features"
MAX_ID_BYTES = 512
# Pages of a mapped file count as memory of the process until they are given back. The kernel maps up to 16 pages
# around each one that is touched, so this many bytes read are at most 256 MiB held, and about twice as many in order.
_BYTES_UNTIL_RELEASE = 16 << 20
_CAN_ADVISE = hasattr(mmap.mmap, "madvise")  # not on Windows
_FLOAT = np.dtype("<f4")
_MARK = "#"  # between the folder of a store and the id of an item
# Opened once in a process, or before it was forked: the ids of a large store take seconds to read.
_STORES: dict[str, "FeatureStore"] = {}


class FeatureStore:
    """Frame features in one memory-mapped file.

    Args:
        folder: holds `feature.bin`, `shape.txt`, `id.txt` and perhaps `video2frames.txt`; without the last, each row
            is an item of one frame.

    Attributes:
        ids: items with at least one frame, in the order of `video2frames.txt` (or `id.txt`).
        dim: width of a feature.
        missing: videos with "no features" at all, and videos that `video2frames.txt` gives frames which `id.txt` lacks.

    Raises:
        ValueError: a file is absent, the sizes of the files do not fit each other, an id is too long or occurs twice,
            or `video2frames.txt` is no dict of lists of strings.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.num_rows, self.dim = _read_shape(self.folder)
        names = _read_names(self.folder / "id.txt", self.num_rows)
        self.missing = MissingReport()
        self.ids: list[str] = []
        table = self.folder / "video2frames.txt"
        if table.is_file():
            self._rows, self._ends = self._match_frames(table, names)
        else:
            self.ids = [name.decode() for name in names.tolist()]
            self._rows, self._ends = np.arange(self.num_rows), np.arange(1, self.num_rows + 1)
        self._positions = {item: position for position, item in enumerate(self.ids)}
        if len(self._positions) != len(self.ids):
            raise ValueError(f"{self.folder / 'id.txt'}: {_first_double(names)!r} occurs twice; ids name one row each.")
        self._map: mmap.mmap | None = None
        self._touched = 0

    def _match_frames(self, table: Path, names: NDArray[np.bytes_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows of all frames, video after video, and where the rows of each video end."""
        order = np.argsort(names)
        names = names[order]
        if (names[1:] == names[:-1]).any():
            raise ValueError(f"{self.folder / 'id.txt'}: {_first_double(names)!r} occurs twice; ids name one row each.")
        rows, ends, total = [], [], 0
        for video, frames in read_frame_table(table):
            wanted = [frame.encode(errors="surrogatepass") for frame in frames]
            places = np.searchsorted(names, np.array(wanted, dtype=names.dtype)).clip(max=len(names) - 1)
            found = order[places[names[places] == wanted]] if wanted else order[:0]
            if len(found) < len(frames) or not len(found):
                self.missing.add(NO_FRAME if len(found) else NO_FEATURES, self.folder.name, video)
            if len(found):
                total += len(found)
                self.ids.append(video)
                rows.append(found)
                ends.append(total)
        return np.concatenate(rows) if rows else order[:0], np.array(ends, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._positions

    def frames_of(self, item_id: str) -> NDArray[np.float32]:
        """Features of the frames of an item, in their order, as a copy of its own.

        Returns:
            (num_frames, dim).

        Raises:
            ValueError: the item is not in the store.
        """
        if item_id not in self._positions:
            raise _unknown(item_id, self.folder)
        position = self._positions[item_id]
        start = int(self._ends[position - 1]) if position else 0
        rows, matrix = self._rows[start : int(self._ends[position])], self._matrix()
        self._announce(rows)
        features = matrix[rows].astype(np.float32, copy=False)
        self._touched += max(features.nbytes, len(features) * mmap.PAGESIZE)
        if self._touched > _BYTES_UNTIL_RELEASE and self._map is not None and _CAN_ADVISE:
            self._map.madvise(mmap.MADV_DONTNEED)
            self._touched = 0
        return features

    def name_of(self, item_id: str) -> str:
        """The text by which `read_features` finds the item."""
        return f"{self.folder}{_MARK}{item_id}"

    def _matrix(self) -> NDArray[Any]:
        # Mapped at the first read, so that a worker of a data loader maps the file itself.
        if self._map is None:
            with (self.folder / "feature.bin").open("rb") as stream:
                self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            if _CAN_ADVISE:
                # Items come in random order; on a disk that reads ahead, megabytes would be read for each.
                self._map.madvise(mmap.MADV_RANDOM)
        return np.frombuffer(self._map, _FLOAT, self.num_rows * self.dim).reshape(self.num_rows, self.dim)

    def _announce(self, rows: NDArray[np.int64]) -> None:
        """Ask for the pages of neighbouring rows at once; each would else be waited for on its own."""
        first, last = int(rows.min()), int(rows.max()) + 1
        if self._map is not None and _CAN_ADVISE and last - first == len(rows):
            row_bytes = self.dim * _FLOAT.itemsize
            start = first * row_bytes // mmap.PAGESIZE * mmap.PAGESIZE
            self._map.madvise(mmap.MADV_WILLNEED, start, last * row_bytes - start)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None, "_touched": 0}


class NumpyStore:
    """Frame features in a folder with one `.npy` file an item, in it or below; the file name without suffix is the id.

    Names that begin with a dot are passed over, links to folders are followed.

    Args:
        folder: where the files lie. A file holds (num_frames, dim), or (1, num_frames, dim) as VATEX ships them, or
            (dim,) for one frame; any float type.

    Attributes:
        ids: sorted.
        dim: width of a feature.
        missing: empty, for there is no list that a file could be missing from.

    Raises:
        ValueError: no such folder, no `.npy` file in it, or two with one name.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.missing = MissingReport()
        paths = sorted(walk(self.folder, frozenset({".npy"}))) if self.folder.is_dir() else []
        self._paths = {path.stem: path for path in paths}
        if not paths:
            raise ValueError(f"{folder} holds neither feature.bin nor a .npy file; give the folder of the features.")
        if len(self._paths) != len(paths):
            double = next(path for path in paths if self._paths[path.stem] != path)
            raise ValueError(f"{double} and {self._paths[double.stem]} have one name, which must name one item.")
        self.ids = sorted(self._paths)
        self.dim = _read_numpy(self._paths[self.ids[0]]).shape[1]

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._paths

    def frames_of(self, item_id: str) -> NDArray[np.float32]:
        """Features of the frames of an item, in their order, as a copy of its own.

        Returns:
            (num_frames, dim).

        Raises:
            ValueError: the item has no file, or its file is damaged or of another form or width.
        """
        if item_id not in self._paths:
            raise _unknown(item_id, self.folder)
        features = _read_numpy(self._paths[item_id])
        if features.shape[1] != self.dim:
            raise ValueError(
                f"{self._paths[item_id]} holds features of width {features.shape[1]}, and {self._paths[self.ids[0]]} "
                f"of {self.dim}; keep features of different models in different folders."
            )
        return features.astype(np.float32)

    def name_of(self, item_id: str) -> str:
        """The text by which `read_features` finds the item."""
        return str(self._paths[item_id])


def open_features(folder: str | Path) -> FeatureStore | NumpyStore:
    """The features of a folder, whichever of the two layouts it has.

    Raises:
        ValueError: as `FeatureStore` or `NumpyStore`.
    """
    if not (Path(folder) / "feature.bin").is_file():
        return NumpyStore(folder)
    store = FeatureStore(folder)
    _STORES[str(store.folder)] = store  # for `read_features`, in place of what lay in this folder before
    return store


def attach_features(rows: Rows, folder: str | Path) -> tuple[Rows, MissingReport]:
    """Join rows with features of frames by id; rows without are left out and reported.

    Args:
        rows: a split or all splits, with `video_id` (or `image_id`).
        folder: a store of either layout. It is not read here, only looked through.

    Returns:
        The rows that have features, with their place in the column `features`; and the report: "no features", and "a
        frame without features" for items that stay in spite of it.

    Raises:
        ValueError: the store is malformed, or has features of not one row.
    """
    store = open_features(folder)
    splits = rows if isinstance(rows, Mapping) else {str(rows.split or "unnamed"): rows}
    id_column = find_id_column(next(iter(splits.values())).column_names)
    source = _NamedFeatures(store)
    joined, missing = attach_found(rows, lambda split: source, id_column, NO_FEATURES, name_column=id_column)
    partial = {item for found in store.missing.ids.get(NO_FRAME, {}).values() for item in found}
    for name, split in splits.items() if partial else ():
        for item in split[id_column]:
            if item in partial:
                missing.add(NO_FRAME, name, item)
    return joined, missing


def warn_of_missing(missing: MissingReport) -> None:
    """Log what a join with pictures, clips or features did not find, and whether such items stay."""
    for line in missing.lines():
        logger.warning("%s; %s", line, "they stay" if NO_FRAME in line else "they are left out")


class _NamedFeatures:
    """A store as `attach_found` looks things up."""

    def __init__(self, store: FeatureStore | NumpyStore) -> None:
        self._store = store

    def find(self, item_id: str) -> str | None:
        return self._store.name_of(item_id) if item_id in self._store else None

    def column(self, found: list[str]) -> datasets.Dataset:
        return datasets.Dataset.from_dict({FEATURES_COLUMN: found}, features=schema_features([FEATURES_COLUMN]))


def read_features(cell: Any) -> NDArray[np.float32]:
    """The features of a row.

    Args:
        cell: of the column `features`: a text as `attach_features` makes it, or the numbers.

    Returns:
        (num_frames, dim).

    Raises:
        ValueError: there is no such store, item or file, or the numbers have another form or are not finite.
    """
    if isinstance(cell, str) and not cell.endswith(".npy"):
        folder, item_id = _split_name(cell)
        if folder not in _STORES:
            _STORES[folder] = FeatureStore(folder)
        cell = _STORES[folder].frames_of(item_id)
    return frame_features(cell, "features").numpy()


def _split_name(name: str) -> tuple[str, str]:
    """The folder and the id of `FOLDER#ID`; either may hold the mark, so that it is parted where there is a store."""
    places = [place for place, letter in enumerate(name) if letter == _MARK]
    folder = next((name[:place] for place in places if name[:place] in _STORES), None) or next(
        (name[:place] for place in places if Path(name[:place], "feature.bin").is_file()), None
    )
    if folder is None:
        raise ValueError(f"features must be FOLDER{_MARK}ID of a store or the path of a .npy file, got {name!r}.")
    return folder, name[len(folder) + 1 :]


def _unknown(item_id: str, folder: Path) -> ValueError:
    return ValueError(f"{folder} has no features of {item_id!r}; ask `item_id in store` first, or extract them.")


def _read_shape(folder: Path) -> tuple[int, int]:
    for name in ("feature.bin", "shape.txt", "id.txt"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} lacks {name}; a store has feature.bin, shape.txt and id.txt.")
    path, size = folder / "shape.txt", (folder / "feature.bin").stat().st_size
    words = " ".join(read_lines(path)).split()
    if len(words) != 2 or not all(word.isascii() and word.isdigit() and 0 < len(word) < 16 for word in words):
        raise ValueError(f"{path}, line 1: expected two numbers, 'rows dim', got {' '.join(words)[:80]!r}.")
    num_rows, dim = int(words[0]), int(words[1])
    if not num_rows or not dim or num_rows * dim * _FLOAT.itemsize != size:
        raise ValueError(
            f"{folder / 'feature.bin'} has {size:,} bytes, and {num_rows:,} rows of {dim:,} float32 numbers "
            f"({path.name}) are {num_rows * dim * _FLOAT.itemsize:,}; a file is cut or of another store."
        )
    return num_rows, dim


def _read_names(path: Path, num_rows: int) -> NDArray[np.bytes_]:
    """Ids as bytes of one width: for millions of frames a third of the memory that Python strings take."""
    names: list[bytes] = []
    for number, line in enumerate(read_lines(path), start=1):
        words = line.encode().split()
        if any(len(word) > MAX_ID_BYTES for word in words):
            raise ValueError(f"{path}, line {number}: an id has more than {MAX_ID_BYTES} bytes; is it a list of ids?")
        names += words
    if len(names) != num_rows:
        raise ValueError(f"{path} has {len(names):,} ids, and shape.txt names {num_rows:,} rows; one id a row.")
    return np.array(names, dtype=np.bytes_)


def _first_double(names: NDArray[np.bytes_]) -> str:
    values, counts = np.unique(names, return_counts=True)
    return values[counts > 1][0].decode()


def _read_numpy(path: Path) -> NDArray[Any]:
    check_name(path.stem, source=str(path))
    return read_numpy(path)
