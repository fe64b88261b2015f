"""The picture of systems over seeds."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reporting.compare import draw_seeds

GROUPS = {"de": "German", "mean": "mean of 2"}
WORDS = {"title": "test", "y_label": "SumR"}


def pixels_of(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_bars_are_the_means_of_their_group(tmp_path: Path):
    """Bars of the wrong system or group look as good as the right ones."""
    values = {"LECCR": {"de": [400.0, 400.0], "mean": [150.0, 250.0]}, "two streams": {"de": [400.0]}}
    pixels = pixels_of(draw_seeds(values, GROUPS, tmp_path / "a.png", **WORDS))
    blue = (np.abs(pixels - np.array([0, 114, 178])).sum(axis=-1) < 30).astype(int)
    # The legend's patch is blue too, and the lines and dots stand in the middle of the bars.
    heights = sorted(height for height in set(blue.sum(axis=0).tolist()) if height > 60)
    assert heights[-1] == pytest.approx(2 * max(height for height in heights if height < 0.75 * heights[-1]), rel=0.06)


def test_seeds_that_differ_are_seen_to(tmp_path: Path):
    """Two systems with one mean would be drawn alike, however sure each is."""
    narrow = draw_seeds({"LECCR": {"de": [200.0, 200.0], "mean": [400.0]}}, GROUPS, tmp_path / "a.png", **WORDS)
    wide = draw_seeds({"LECCR": {"de": [100.0, 300.0], "mean": [400.0]}}, GROUPS, tmp_path / "b.png", **WORDS)
    dark = [(pixels_of(path).sum(axis=-1) < 150).sum() for path in (narrow, wide)]
    assert dark[1] > dark[0] + 50


def test_a_picture_of_nothing_is_refused(tmp_path: Path):
    """A misspelt group would give axes without bars."""
    with pytest.raises(ValueError, match=r"for a group of \['de', 'mean'\], got none of \['LECCR'\]"):
        draw_seeds({"LECCR": {"fr": [1.0]}}, GROUPS, tmp_path / "a.png", **WORDS)
