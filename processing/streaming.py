"""Training pairs from the parquet shards of a split that is never loaded as a whole."""

import itertools
import logging
import random
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import datasets
from torch.utils.data import Dataset, Sampler

from processing.augmentation import draw_of
from processing.pairs import check_corrupt_images, check_items, check_languages, pair_columns
from processing.records import DESCRIPTION_COLUMN, SOURCE_LANGUAGE, caption_column, check_columns, find_id_column
from processing.sources import check_finished, explained_absence
from processing.video_frames_leccr import FrameSampling
from processing.visual_rows import VisualReader, rows_of

logger = logging.getLogger(__name__)

# What is read of a stream before training: for a tokenizer that is trained here, and to find what cannot be trained on.
SAMPLE_ITEMS = 10_000
# Passes over its rows in which a reader may find no pair. One can happen: few shards are dealt to many readers anew in
# each pass, and the smallest may have fewer rows than readers.
_EMPTY_PASSES = 20
_ROWS_AT_ONCE = 32

Row = TypeVar("Row")


@dataclass(frozen=True)
class ParquetSplit:
    """A split as the list of its parquet files, in a folder or on the Hub; a row is read when it is asked for.

    Args:
        location: the folder or the name on the Hub, for messages.
        split: its name.
        files: its shards.
        column_names: what the first of them holds.
    """

    location: str
    split: str
    files: tuple[str, ...]
    column_names: tuple[str, ...]

    @property
    def num_shards(self) -> int:
        """Number of its files."""
        return len(self.files)

    def stream(self, columns: Sequence[str]) -> datasets.IterableDataset:
        """Some columns of all rows; of the others not a byte is read. Pictures and clips come as they are stored.

        Raises:
            ValueError: there is no such column.
        """
        check_columns(self.column_names, columns, split=self.split)
        rows = datasets.load_dataset(
            "parquet",
            data_files={self.split: list(self.files)},
            split=self.split,
            streaming=True,
            columns=list(columns),
            batch_size=_ROWS_AT_ONCE,
        )
        # As tables: rows would be decoded, and inside a data loader's worker be shared out without being asked.
        return rows.with_format("arrow")

    def sample(self, columns: Sequence[str]) -> list[dict[str, Any]]:
        """Some columns of the first `SAMPLE_ITEMS` rows."""
        return list(itertools.islice(_rows(self.stream(columns)), SAMPLE_ITEMS))

    def load(self) -> datasets.Dataset:
        """The split as a whole, as it is evaluated; the other splits of the data set are not read."""
        return datasets.load_dataset("parquet", data_files={self.split: list(self.files)}, split=self.split)


def find_parquet_split(location: str | Path, split: str, *, config_name: str | None = None) -> ParquetSplit:
    """The files of a split; of them only the first is opened, for its columns.

    Args:
        location: a folder of parquet files (also `data/train-*.parquet`), or a name on the Hub.
        split: its name there.
        config_name: which configuration of a data set with several.

    Raises:
        ValueError: there is no such split, the folder is not finished, or its files are not parquet.
        NoDataSetError: there is no such folder, and on the Hub no such data set.
    """
    check_finished(location)
    with nullcontext() if Path(location).is_dir() else explained_absence(location):
        builder = datasets.load_dataset_builder(str(location), config_name)
    if builder.name != "parquet":
        raise ValueError(
            f"streaming reads parquet files, and {location} holds {builder.name} files; write it as parquet, as "
            f"`leccr read_dataset` does, or leave streaming out."
        )
    files = {str(name): tuple(map(str, found)) for name, found in builder.config.data_files.items()}
    if split not in files:
        raise ValueError(f"{location} has the splits {sorted(files)}, not {split!r}.")
    head = datasets.load_dataset("parquet", data_files={split: [files[split][0]]}, split=split, streaming=True)
    return ParquetSplit(str(location), split, files[split], tuple(head.column_names))


class StreamedPairs(Dataset[dict[str, Any] | None]):
    """Endless stream of training pairs: pass after pass over the items, each with one of its pairs.

    Every process has some readers, which take turns to give a batch. In each pass the shards are dealt anew between
    the readers of all processes, and each goes on with its next pass when its own shards end: uneven shards cannot
    make a process wait for another. Where there are fewer shards than readers, several read the same shard and each
    keeps its share of the rows. What a reader gives depends on the seed, its number and how many they are, and on
    nothing else; a run that was stopped goes on with the same rows. It reads those before them again, but decodes none
    of their pictures or clips.

    Unlike `CaptionPairs`, a pass gives an item once: which caption, in which language, is drawn from (seed, pass, id).

    Args:
        split: the files.
        target_languages: see `CaptionPairs`.
        seed: of the order and of the pairs.
        shuffle_buffer: items in each process, undecoded, among which the next is drawn; its readers share them. They
            are held in memory, with the clips or features that lie in the rows.
        num_readers: readers of a process: as many as its data loader has workers, so that each has one to itself.
        process_index: which process this is.
        num_processes: how many there are.
        corrupt_images: see `CaptionPairs`, as the following.
        read_images: False leaves pictures alone.
        read_descriptions: False leaves descriptions out.
        vision_input: what is read of an item, see `VisualReader`.
        sampling: see there.

    Raises:
        ValueError: an argument is not allowed, or a column is missing. While reading: an item that cannot be trained
            on, or a share of the rows that holds no pair at all.
    """

    def __init__(
        self,
        split: ParquetSplit,
        target_languages: Sequence[str],
        *,
        seed: int,
        shuffle_buffer: int = 2000,
        num_readers: int = 1,
        process_index: int = 0,
        num_processes: int = 1,
        corrupt_images: str = "error",
        read_images: bool = True,
        read_descriptions: bool = True,
        vision_input: str = "image",
        sampling: FrameSampling | None = None,
    ) -> None:
        translated = check_languages(target_languages)
        check_corrupt_images(corrupt_images)
        if shuffle_buffer < 1:
            raise ValueError(
                f"shuffle_buffer must be at least 1 item (1: the order of the files), got {shuffle_buffer}."
            )
        self.target_languages = list(target_languages)
        self.seed = seed
        self.num_readers = num_readers
        self.num_shards = split.num_shards
        self.corrupt_images = corrupt_images
        self._process_index = process_index
        self._num_processes = num_processes
        self._all_readers = num_readers * num_processes
        self._buffer_size = max(1, shuffle_buffer // num_readers)
        columns = pair_columns(split.column_names, translated, read_descriptions=read_descriptions)
        self._visuals = VisualReader(vision_input, sampling) if read_images else None
        seen = [] if self._visuals is None else self._visuals.columns(split.column_names)
        self._stream = split.stream([*seen, *columns])
        self._positions: dict[int, _Position] = {}
        if self.num_shards < self._all_readers and process_index == 0:
            logger.warning(
                "%d shards for %d readers (processes x workers): several read the same shard and keep a share of its "
                "rows; write more shards (`rows_per_shard`) to read each once",
                self.num_shards,
                self._all_readers,
            )

    def batches(self, batch_size: int) -> "StreamBatches":
        """The batches of this process, without end, for a data loader."""
        return StreamBatches(batch_size, self.num_readers)

    def __getitems__(self, places: Sequence["StreamPlace"]) -> list[dict[str, Any] | None]:
        """The rows of a batch: those of `CaptionPairs`, with `draw`.

        Args:
            places: one place. Places that come in order are read in one go.
        """
        (place,) = places
        position = self._positions.get(place.reader)
        if position is None or position.next_row > place.first:
            position = self._positions[place.reader] = _Position(self._items_without_end(place.reader))
        position.skip_to(place.first)
        return [self._pair(item, number) for item, number in position.take(place.num_rows)]

    def __getstate__(self) -> dict[str, Any]:
        """Without the open files: a worker opens its own."""
        return self.__dict__ | {"_positions": {}}

    def items_of_pass(self, number: int, reader: int) -> Iterator[dict[str, Any]]:
        """The items that one reader of this process gives in a pass, in their order and as they are stored.

        Args:
            number: of the pass, from 0.
            reader: which of them, from 0.
        """
        reader = self._process_index + reader * self._num_processes
        order = random.Random(f"{self.seed} {number} shards").sample(range(self.num_shards), self.num_shards)
        generator = random.Random(f"{self.seed} {number} {reader}/{self._all_readers}")
        return shuffled(self._items_of(order, reader), self._buffer_size, generator)

    def _items_without_end(self, reader: int) -> Iterator[tuple[dict[str, Any], int]]:
        """Items with the number of their pass."""
        empty_passes = 0
        for number in itertools.count():
            empty_passes += 1
            for item in self.items_of_pass(number, reader):
                empty_passes = 0
                yield item, number
            if empty_passes == _EMPTY_PASSES:
                raise ValueError(
                    f"a reader found no pair in {_EMPTY_PASSES} passes over its share of {self.num_shards} shards: "
                    f"there are more readers (processes x dataloader_num_workers) than rows, or no item has a "
                    f"caption_en with a translation into {self.target_languages}; look at the data."
                )

    def _items_of(self, order: list[int], reader: int) -> Iterator[dict[str, Any]]:
        """Items of one of all readers that make a pair, in the order of the files."""
        num_readers = self._all_readers
        shards, turn, turns = order[reader::num_readers], 0, 1
        if self.num_shards < num_readers:
            first = reader % self.num_shards
            shards, turn, turns = (
                [order[first]],
                reader // self.num_shards,
                len(range(first, num_readers, self.num_shards)),
            )
        for shard in shards:
            rows = _rows(self._stream.shard(num_shards=self.num_shards, index=shard))
            for item in itertools.islice(rows, turn, None, turns):
                check_items({name: [value] for name, value in item.items()}, self.target_languages)
                if self._choices(item):
                    yield item

    def _choices(self, item: dict[str, Any]) -> list[tuple[int, str]]:
        """The pairs of an item: position of the caption, and a language into which it was translated."""
        return [
            (position, language)
            for language in self.target_languages
            for position, text in enumerate(item[caption_column(language, translated=True)])
            if text is not None
        ]

    def _pair(self, item: dict[str, Any], number: int) -> dict[str, Any] | None:
        image_id = item[find_id_column(item)]
        choices = self._choices(item)
        position, language = choices[draw_of(self.seed, number, image_id, "pair") % len(choices)]
        row: dict[str, Any] = {
            "image_id": image_id,
            "item_index": draw_of(image_id),
            "source_caption": item[caption_column(SOURCE_LANGUAGE)][position],
            "target_caption": item[caption_column(language, translated=True)][position],
            "target_language": language,
            "draw": draw_of(self.seed, number, image_id),
        }
        if DESCRIPTION_COLUMN in item:
            row["description"] = item[DESCRIPTION_COLUMN]
        if self._visuals is None:
            return row
        try:
            return row | self._visuals.read(item, item=f"item {image_id!r}", draw=row["draw"])
        except ValueError:
            if self.corrupt_images == "skip":
                return None
            raise


@dataclass(frozen=True)
class StreamPlace:
    """Where a batch comes from: rows of one reader, counted from the start of the stream."""

    reader: int
    first: int
    num_rows: int


class StreamBatches(Sampler[list[StreamPlace]]):
    """The batches of one process, from its readers in turn; it never ends.

    A data loader hands its batches to its workers in turn too, so that with as many workers as readers each worker
    has one reader, also where it skips the batches that a stopped run has trained on.

    Args:
        batch_size: rows of a batch.
        num_readers: readers of the process.
    """

    def __init__(self, batch_size: int, num_readers: int) -> None:
        self.batch_size = batch_size
        self.num_readers = num_readers

    def __iter__(self) -> Iterator[list[StreamPlace]]:
        """One place a batch."""
        for turn in itertools.count():
            for reader in range(self.num_readers):
                yield [StreamPlace(reader, turn * self.batch_size, self.batch_size)]


class _Position:
    """How far a reader has come."""

    def __init__(self, items: Iterator[tuple[dict[str, Any], int]]) -> None:
        self._items = items
        self.next_row = 0

    def skip_to(self, row: int) -> None:
        """Leave out what comes before a row."""
        for _ in self.take(row - self.next_row):
            pass

    def take(self, num_rows: int) -> Iterator[tuple[dict[str, Any], int]]:
        """The next items."""
        self.next_row += num_rows
        return itertools.islice(self._items, num_rows)


def shuffled(rows: Iterator[Row], size: int, generator: random.Random) -> Iterator[Row]:
    """All rows, each drawn from among the next `size`, of which no more are held at a time."""
    buffer: list[Row] = list(itertools.islice(rows, size))
    for row in rows:
        position = generator.randrange(size)
        drawn, buffer[position] = buffer[position], row
        yield drawn
    generator.shuffle(buffer)
    while buffer:
        yield buffer.pop()


def _rows(stream: datasets.IterableDataset) -> Iterator[dict[str, Any]]:
    """The rows of a stream of tables, one at a time."""
    for table in stream.iter(_ROWS_AT_ONCE):
        yield from rows_of(table)
