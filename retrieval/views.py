"""What people are shown of items: pictures, frames of clips, or words."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from processing.media import VIDEO_SUFFIXES, MediaFolder
from processing.records import (
    DESCRIPTION_COLUMN,
    END_COLUMN,
    FILE_COLUMN,
    SOURCE_LANGUAGE,
    START_COLUMN,
    caption_column,
    text_columns,
    texts_of,
)
from processing.video_frames_leccr import FrameSampling, sample_frames
from processing.visual_rows import COLUMN_OF, VisualRows
from retrieval.items import read_column, read_ids
from retrieval.pictures import View

SHOWN_FRAMES = FrameSampling(5)


class ItemViews:
    """Shows an item by its picture, else by frames of its clip, else by a text about it.

    Args:
        rows: rows of the schema.
        videos: folder of the clips of items that are features alone, found by id; an item without one is a text.

    Raises:
        ValueError: there is no such folder, or no clip in it.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]], *, videos: str | Path | None = None) -> None:
        self._rows = rows
        columns = getattr(rows, "column_names", None) or list(rows[0])
        self._kind = next((kind for kind in ("image", "frames") if COLUMN_OF[kind] in columns), None)
        self._seen = VisualRows(rows, self._kind, SHOWN_FRAMES) if self._kind else None
        self._texts = {name: read_column(rows, name) for name in _by_use(columns)} if self._seen is None else {}
        self._clips = MediaFolder(videos, VIDEO_SUFFIXES) if videos and self._seen is None else None
        self._ids = read_ids(rows)

    def __call__(self, position: int) -> View:
        """What is shown of the item at a position.

        Raises:
            ValueError: its picture or clip cannot be read; the message names the item.
        """
        if self._seen is not None and self._kind is not None:
            return self._seen.read(position)[self._kind]
        clip = self._find_clip(position)
        if clip is None:
            found = (text for name, cells in self._texts.items() for text in texts_of(name, cells[position]) if text)
            return next(found, self._ids[position])
        start, end = (read_column(self._rows, name)[position] for name in (START_COLUMN, END_COLUMN))
        return sample_frames(clip, SHOWN_FRAMES, start=start, end=end)

    def _find_clip(self, position: int) -> Path | None:
        if self._clips is None:
            return None
        return self._clips.find(read_column(self._rows, FILE_COLUMN)[position] or self._ids[position])


def _by_use(column_names: Sequence[str]) -> list[str]:
    """The columns of texts, those first that most readers understand."""
    first = [caption_column(SOURCE_LANGUAGE), DESCRIPTION_COLUMN]
    found = text_columns(column_names)
    return [name for name in first if name in found] + [name for name in found if name not in first]
