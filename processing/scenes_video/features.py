"""Frame features by a fixed rule: what a frozen network would give, without a network.

A frame becomes `FEATURE_DIM` numbers in [0, 1]. First the colours of an 8 x 8 grid, row by row. Then for each of the
eight paints of the objects, the part of the frame that has this paint: how much of it there is, the centre (row,
column) and extent (rows, columns) of its box, and how much it covers of each cell of a 6 x 6 grid over the square
around the box, which tells shape and texture wherever the object is. A paint that is absent has zeros.
"""

import functools

import numpy as np
from PIL import Image

from processing.scenes.drawing import PAINT

GRID = 8
BOX_GRID = 6
NUMBERS_PER_PAINT = 5 + BOX_GRID**2
FEATURE_DIM = 3 * GRID**2 + NUMBERS_PER_PAINT * len(PAINT)
# A pixel has a paint in full up to the first distance in RGB and not at all from the second one on.
SAME_PAINT, OTHER_PAINT = 50.0, 90.0
# Fewer pixels than this share of the frame are the seam of two other colours.
LEAST_SHARE = 0.004
# Levels of a colour channel that are told apart, and the width of one.
LEVELS, STEP = 32, 8


def frame_features(frame: Image.Image) -> np.ndarray:
    """The features of one frame, float32 (FEATURE_DIM,) in [0, 1]; they depend on this frame only.

    Args:
        frame: a picture in the paints of `processing/scenes/drawing.py`, of any size from 8 x 8.
    """
    picture = frame.convert("RGB")
    grid = np.asarray(picture.resize((GRID, GRID), Image.Resampling.BOX), dtype=np.float32) / 255
    red, green, blue = np.asarray(picture).transpose(2, 0, 1).astype(np.int32) // STEP
    place = (red * LEVELS + green) * LEVELS + blue
    nearest, cover = (table[place] for table in _paint_tables())
    painted = np.zeros((len(PAINT), NUMBERS_PER_PAINT), dtype=np.float32)
    shares = np.bincount(nearest.ravel(), weights=cover.ravel(), minlength=len(PAINT)) / cover.size
    for paint in np.flatnonzero(shares >= LEAST_SHARE):
        painted[paint] = shares[paint], *_box_features(np.where(nearest == paint, cover, np.float32(0)))
    return np.concatenate([grid.ravel(), painted.ravel()])


@functools.cache
def _paint_tables() -> tuple[np.ndarray, np.ndarray]:
    """For each colour, in steps of eight a channel: its nearest paint, and how much it is this paint, in [0, 1]."""
    levels = np.arange(LEVELS, dtype=np.float32) * STEP + (STEP - 1) / 2
    colours = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 1, 3)
    distances = np.linalg.norm(colours - np.array(list(PAINT.values()), dtype=np.float32), axis=-1)
    cover = np.clip((OTHER_PAINT - distances.min(axis=-1)) / (OTHER_PAINT - SAME_PAINT), 0, 1)
    return distances.argmin(axis=-1), cover.astype(np.float32)


def _box_features(cover: np.ndarray) -> np.ndarray:
    """Where a paint is and what it covers there, from the share of it in each pixel (height, width)."""
    (top, bottom), (left, right) = (_span(cover.sum(axis=axis)) for axis in (1, 0))
    height, width, side = *cover.shape, max(bottom - top, right - left)
    square = np.zeros((side, side), dtype=np.float32)
    down, across = (side - bottom + top) // 2, (side - right + left) // 2
    square[down : down + bottom - top, across : across + right - left] = cover[top:bottom, left:right]
    cells = np.asarray(Image.fromarray(square).resize((BOX_GRID, BOX_GRID), Image.Resampling.BOX))
    place = [(top + bottom) / 2 / height, (left + right) / 2 / width, (bottom - top) / height, (right - left) / width]
    return np.concatenate([place, cells.ravel()])


def _span(amounts: np.ndarray) -> tuple[int, int]:
    """First and one past the last row (or column) that has at least half a pixel of the paint."""
    filled = np.flatnonzero(amounts >= 0.5)
    return (int(filled[0]), int(filled[-1]) + 1) if len(filled) else (0, len(amounts))
