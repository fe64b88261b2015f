"""A feature store of any size with random numbers, and captions and descriptions of its videos; written in pieces."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
from tqdm import tqdm

from processing.files import atomic_write, write_json_atomic
from processing.readers.base import read_json
from processing.records import DESCRIPTION_COLUMN, VIDEO_ID_COLUMN, caption_column, schema_features
from processing.sources import write_splits

LANGUAGE = "de"
CAPTIONS = 5
# So that a tokenizer makes 12 to 20 tokens of a caption and 60 to 120 of a description, as `sizes` has them.
CAPTION_WORDS, DESCRIPTION_WORDS = (10, 18), (58, 118)
_SYLLABLES = tuple(f"{consonant}{vowel}" for consonant in "bdfgklmnprst" for vowel in "aeiou")
# Every word is two syllables, of which a tokenizer has one token.
WORDS = tuple(first + second for first in _SYLLABLES for second in _SYLLABLES)
_SHAPE_FILE = "written.json"
_ITEMS_AT_ONCE = 1000


class SyntheticStore:
    """Where a synthetic store and the texts of its videos lie, and how large they are.

    Args:
        folder: holds both.
        num_items: videos.
        num_frames: of each video.
        dim: numbers of a frame.
        seed: of all numbers.
    """

    def __init__(self, folder: Path, num_items: int, num_frames: int, dim: int, seed: int) -> None:
        self.folder, self.features, self.texts = folder, folder / "features", folder / "texts"
        self.num_items, self.num_frames, self.dim, self.seed = num_items, num_frames, dim, seed

    @property
    def num_bytes(self) -> int:
        """Of the features."""
        return self.num_items * self.num_frames * self.dim * 4

    def write(self) -> None:
        """Write what is not there yet; after a kill, it goes on with the piece that was not whole.

        Raises:
            ValueError: the folder holds another store, or the disk has no place for this one.
        """
        self.features.mkdir(parents=True, exist_ok=True)
        shape = {"items": self.num_items, "frames": self.num_frames, "dim": self.dim, "seed": self.seed}
        path = self.folder / _SHAPE_FILE
        if not path.is_file():
            write_json_atomic(path, shape)
        elif (found := read_json(path)) != shape:
            raise ValueError(f"{self.folder} holds a store of {found}, wanted is {shape}; remove it with --clean.")
        if not (self.features / "feature.bin").is_file():
            self._write_features()
        for name, words in (("id.txt", self._frame_ids()), ("video2frames.txt", self._frame_table())):
            if not (self.features / name).is_file():
                with atomic_write(self.features / name) as temporary, temporary.open("w", encoding="utf-8") as stream:
                    stream.writelines(words)
        (self.features / "shape.txt").write_text(f"{self.num_items * self.num_frames} {self.dim}\n", encoding="utf-8")
        if not self.texts.is_dir():
            write_splits({"train": self._rows()}, self.texts)

    def remove(self) -> None:
        """Delete the folder.

        Raises:
            ValueError: it holds no synthetic store.
        """
        if not (self.folder / _SHAPE_FILE).is_file():
            raise ValueError(f"{self.folder} holds no synthetic store; nothing was removed.")
        shutil.rmtree(self.folder)

    def forget_pages(self) -> None:
        """Let the system drop the pages of the features, so that the first reads come from the disk."""
        descriptor = os.open(self.features / "feature.bin", os.O_RDONLY)
        try:
            os.fsync(descriptor)  # pages that are not on the disk yet would stay
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)

    def _write_features(self) -> None:
        partial = self.features / "feature.bin.partial"
        written = partial.stat().st_size if partial.is_file() else 0
        free = shutil.disk_usage(self.features).free
        if self.num_bytes - written > free:
            raise ValueError(f"the store takes {self.num_bytes:,} bytes, and {free:,} are free in {self.features}.")
        piece_bytes = _ITEMS_AT_ONCE * self.num_frames * self.dim * 4
        whole = written // piece_bytes
        pieces = range(whole, -(-self.num_items // _ITEMS_AT_ONCE))
        with partial.open("ab") as stream:
            stream.truncate(whole * piece_bytes)
            for piece in tqdm(pieces, desc="features", unit="piece", disable=None):
                num_items = min(_ITEMS_AT_ONCE, self.num_items - piece * _ITEMS_AT_ONCE)
                draw = np.random.default_rng((self.seed, piece))
                draw.random((num_items * self.num_frames, self.dim), np.float32).tofile(stream)
        partial.replace(self.features / "feature.bin")

    def _frame_ids(self) -> Iterator[str]:
        for item in range(self.num_items):
            yield " ".join(self._frames_of(item)) + "\n"

    def _frame_table(self) -> Iterator[str]:
        # As released: one dict, written by Python.
        yield "{"
        for item in range(self.num_items):
            yield f"{', ' if item else ''}{video_id(item)!r}: {self._frames_of(item)!r}"
        yield "}"

    def _frames_of(self, item: int) -> list[str]:
        return [f"{video_id(item)}_{frame}" for frame in range(self.num_frames)]

    def _rows(self) -> datasets.Dataset:
        draw = np.random.default_rng((self.seed, self.num_items))

        def texts(count: int, lengths: tuple[int, int]) -> list[str]:
            sizes = draw.integers(*lengths, size=count)
            return [" ".join(WORDS[word] for word in draw.integers(len(WORDS), size=size)) for size in sizes]

        english, target = caption_column("en"), caption_column(LANGUAGE, translated=True)
        items = tqdm(range(self.num_items), desc="texts", unit="item", disable=None)
        captions = [texts(2 * CAPTIONS, CAPTION_WORDS) for _ in items]
        rows = {
            VIDEO_ID_COLUMN: [video_id(item) for item in range(self.num_items)],
            english: [found[:CAPTIONS] for found in captions],
            target: [found[CAPTIONS:] for found in captions],
            DESCRIPTION_COLUMN: texts(self.num_items, DESCRIPTION_WORDS),
        }
        return datasets.Dataset.from_dict(rows, features=schema_features(rows))


def video_id(item: int) -> str:
    """Name of an item."""
    return f"video{item}"
