"""CaptionPairs: a split in the schema of records.py as training pairs, one caption with one translation."""

import logging
from collections.abc import Sequence
from itertools import chain
from typing import Any

import datasets
import numpy as np
from torch.utils.data import Dataset

from processing.packed_texts import PackedTexts
from processing.records import (
    DESCRIPTION_COLUMN,
    SOURCE_LANGUAGE,
    caption_column,
    check_aligned,
    check_columns,
    find_id_column,
)
from processing.video_frames_leccr import FrameSampling
from processing.visual_rows import VisualRows

logger = logging.getLogger(__name__)


class CaptionPairs(Dataset[dict[str, Any] | None]):
    """Map-style data set of (item, caption index, target language); an epoch sees each of them once.

    Texts are read once, and shared by forked workers; a picture, a clip or features when their row is asked for. An
    item without captions makes no pair, nor does a caption whose translation was refused.

    Args:
        split: a split in the schema of records.py.
        target_languages: languages whose machine translations are trained on; each English caption is paired
            with its translation into each of them.
        corrupt_images: "error" refuses an image, a clip or features that cannot be read and names the item; "skip"
            gives None in its place, which the collator drops and counts.
        read_images: False leaves all of these alone, for what learns from texts; the split then needs none.
        read_descriptions: False leaves descriptions out, likewise.
        vision_input: what is read of an item, see `VisualReader`.
        sampling: see there.

    Raises:
        ValueError: the split is empty or lacks a column, a language is unknown or named twice, an id occurs twice,
            an item has an empty caption or translations that do not line up, or there is no pair: no English captions,
            or all translations are null.
    """

    def __init__(
        self,
        split: datasets.Dataset,
        target_languages: Sequence[str],
        *,
        corrupt_images: str = "error",
        read_images: bool = True,
        read_descriptions: bool = True,
        vision_input: str = "image",
        sampling: FrameSampling | None = None,
    ) -> None:
        translated = check_languages(target_languages)
        check_corrupt_images(corrupt_images)
        self.target_languages = list(target_languages)
        self.corrupt_images = corrupt_images
        text_columns = pair_columns(split.column_names, translated, read_descriptions=read_descriptions)
        name = str(split.split) if split.split is not None else "unnamed"
        check_columns(split.column_names, text_columns, split=name)
        if len(split) == 0:
            raise ValueError(f"split {name!r} must hold at least one item, got none; check its files and filters.")
        texts = split.with_format(None).select_columns(text_columns)[:]
        check_items(texts, self.target_languages)
        captions: list[list[str]] = texts[caption_column(SOURCE_LANGUAGE)]
        self.image_ids = PackedTexts(texts[find_id_column(texts)])
        self._descriptions = PackedTexts(texts[DESCRIPTION_COLUMN]) if read_descriptions else None
        # All of one language in a row; `_item_of_caption` says whose they are.
        self._sources = PackedTexts(chain.from_iterable(captions))
        self._targets = [PackedTexts(chain.from_iterable(texts[column])) for column in translated]
        self._visuals = VisualRows(split, vision_input, sampling) if read_images else None
        self._pairs = self._pairs_with_translation(captions)
        if len(self._pairs) == 0:
            raise ValueError(
                f"split {name!r} makes no pair: no item has a caption_en, or all of {translated} are null; caption the "
                f"items, or translate the captions again."
            )
        counts = np.array([len(found) for found in captions])
        self._item_of_caption = np.repeat(np.arange(len(counts)), counts)

    def __len__(self) -> int:
        """Number of pairs: English captions times target languages, less the translations that are null."""
        return len(self._pairs)

    def __getitem__(self, index: int) -> dict[str, Any] | None:
        """One pair, as evaluation reads its item; see `pair`."""
        return self.pair(index)

    def pair(self, index: int, draw: int | None = None) -> dict[str, Any] | None:
        """One pair.

        Args:
            index: below the number of pairs.
            draw: see `VisualReader.read`.

        Returns:
            `image_id`, `item_index` (row of the split), `source_caption`, `target_caption`, `target_language`;
            where they are read, `image` (or `frames`, or `features`, see `VisualReader.read`) and `description` (None
            if missing). Or None for a skipped corrupt image.

        Raises:
            IndexError: the index is out of range.
            ValueError: the image cannot be read and `corrupt_images` is "error".
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"index must be in [0, {len(self)}), got {index}.")
        caption, language = divmod(int(self._pairs[index]), len(self.target_languages))
        item = int(self._item_of_caption[caption])
        row: dict[str, Any] = {
            "image_id": self.image_ids[item],
            "item_index": item,
            "source_caption": self._sources[caption],
            "target_caption": self._targets[language][caption],
            "target_language": self.target_languages[language],
        }
        if self._descriptions is not None:
            row["description"] = self._descriptions[item]
        if self._visuals is None:
            return row
        try:
            return row | self._visuals.read(item, draw)
        except ValueError:
            if self.corrupt_images == "skip":
                return None
            raise

    def groups(self, neighbours: int) -> np.ndarray:
        """A number for each pair: equal ones are the n-th pairs of items that stand together in the split.

        Args:
            neighbours: items that stand together, counted from the first; at least 1.

        Raises:
            ValueError: `neighbours` is below 1.
        """
        if neighbours < 1:
            raise ValueError(f"neighbours must be at least 1, got {neighbours}.")
        items = self._item_of_caption[self._pairs // len(self.target_languages)]
        places = np.arange(len(items)) - np.searchsorted(items, items)
        return (items // neighbours) * (places.max() + 1) + places

    def _pairs_with_translation(self, captions: Sequence[Sequence[str]]) -> np.ndarray:
        """Positions in (caption, language) order; logs what makes no pair."""
        without = [self.image_ids[item] for item, found in enumerate(captions) if not found]
        if without:
            logger.warning("%d items have no caption_en and make no pair (first: %s)", len(without), without[:3])
        kept = [text is not None for translations in zip(*self._targets, strict=True) for text in translations]
        if not all(kept):
            logger.warning("%d of %d translations are null and make no pair", kept.count(False), len(kept))
        return np.flatnonzero(kept)


def pair_columns(column_names: Sequence[str], translated: Sequence[str], *, read_descriptions: bool) -> list[str]:
    """The columns of texts that pairs are made of.

    Args:
        column_names: of the split, for that of the ids.
        translated: those of the translations, from `check_languages`.
        read_descriptions: see `CaptionPairs`.

    Raises:
        ValueError: the split has no column of ids, or two.
    """
    described = [DESCRIPTION_COLUMN] if read_descriptions else []
    return [find_id_column(column_names), *described, caption_column(SOURCE_LANGUAGE), *translated]


def check_corrupt_images(corrupt_images: str) -> None:
    """Refuse a word that means nothing.

    Raises:
        ValueError: it is neither "error" nor "skip".
    """
    if corrupt_images not in ("error", "skip"):
        raise ValueError(f"corrupt_images must be 'error' or 'skip', got {corrupt_images!r}.")


def check_languages(target_languages: Sequence[str]) -> list[str]:
    """The columns with the translations into these languages.

    Raises:
        ValueError: no list of languages, one that is unknown, or one named twice.
    """
    if isinstance(target_languages, str) or not target_languages:
        raise ValueError(f"target_languages must be a list such as ['de', 'fr'], got {target_languages!r}.")
    if len(set(target_languages)) != len(target_languages):
        raise ValueError(f"target_languages must not name a language twice, got {list(target_languages)}.")
    return [caption_column(language, translated=True) for language in target_languages]


def check_items(texts: dict[str, list[Any]], target_languages: Sequence[str]) -> None:
    """Refuse items without captions, with empty or ragged captions, or with an id that was used before.

    Args:
        texts: column -> value of each item.
        target_languages: whose translations are among the columns.

    Raises:
        ValueError: names the item and what is wrong with it.
    """
    columns = [caption_column(SOURCE_LANGUAGE)]
    columns += [caption_column(language, translated=True) for language in target_languages]
    id_column = find_id_column(texts)
    seen: set[str] = set()
    for position, image_id in enumerate(texts[id_column]):
        if image_id in seen:
            raise ValueError(f"{id_column} must be unique in its split, got {image_id!r} twice.")
        seen.add(image_id)
        row = {column: texts[column][position] for column in columns} | {id_column: image_id}
        for column in columns:
            captions = row[column]
            if not isinstance(captions, list):
                raise ValueError(f"item {image_id!r}: {column} must be a list of captions, got {captions!r}.")
            given = captions if column == columns[0] else [caption for caption in captions if caption is not None]
            if not all(isinstance(caption, str) and caption.strip() for caption in given):
                raise ValueError(f"item {image_id!r}: {column} must not hold empty captions, got {captions!r}.")
        check_aligned(row, target_languages)
