"""What people are shown of items: pictures, frames of clips, or words."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from processing.media import open_clips
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
        videos: folder of the clips of items that are features alone, found as by `attach_videos`; an item without one
            is a text.

    Raises:
        ValueError: there is no such folder, or no clip in it.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]], *, videos: str | Path | None = None) -> None:
        columns = getattr(rows, "column_names", None) or list(rows[0])
        self._kind = next((kind for kind in ("image", "frames") if COLUMN_OF[kind] in columns), None)
        self._seen = VisualRows(rows, self._kind, SHOWN_FRAMES) if self._kind else None
        self._clips = open_clips(videos) if videos and self._seen is None else None
        needed = [*_by_use(columns), FILE_COLUMN, START_COLUMN, END_COLUMN] if self._seen is None else []
        self._columns = {name: read_column(rows, name) for name in needed}
        self._ids = read_ids(rows)

    def __call__(self, position: int) -> View:
        """What is shown of the item at a position.

        Raises:
            ValueError: its picture or clip cannot be read; the message names the item or its file.
        """
        if self._seen is not None and self._kind is not None:
            return self._seen.read(position)[self._kind]
        cells = {name: column[position] for name, column in self._columns.items()}
        clip = self._clips.find(cells[FILE_COLUMN] or self._ids[position]) if self._clips else None
        if clip is None:
            texts = (text for name in _by_use(list(cells)) for text in texts_of(name, cells[name]) if text)
            return next(texts, self._ids[position])
        # The frames in a folder have no times, and are those of the part already.
        part = {} if clip.is_dir() else {"start": cells[START_COLUMN], "end": cells[END_COLUMN]}
        return sample_frames(clip, SHOWN_FRAMES, **part)


def _by_use(column_names: Sequence[str]) -> list[str]:
    """The columns of texts, those first that most readers understand."""
    first = [caption_column(SOURCE_LANGUAGE), DESCRIPTION_COLUMN]
    found = text_columns(column_names)
    return [name for name in first if name in found] + [name for name in found if name not in first]
