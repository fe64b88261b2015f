"""Clips are read in the workers of several training processes without standing still."""

import json
from pathlib import Path

import pytest

from processing.video_frames_leccr import sample_positions
from tests.clips import make_clip
from tests.launch_parts import run_processes
from tests.video_worker import read_clips

NUM_CLIPS = 48


@pytest.mark.parametrize(("world_size", "num_workers", "method", "epochs"), [(2, 4, "fork", 2), (1, 2, "spawn", 1)])
def test_clips_are_read_in_workers(tmp_path: Path, world_size: int, num_workers: int, method: str, epochs: int):
    """A lock or a thread that a fork copies from a parent that has decoded makes its workers wait for ever."""
    files = [make_clip(tmp_path / name, codec="libx264") for name in ("one.mp4", "two.mkv", "three.flv")]
    paths = [str(files[index % 3]) for index in range(NUM_CLIPS)]
    # Killed after this time, with the lines at which they wait.
    run_processes(read_clips, tmp_path, paths, num_workers, method, epochs, world_size=world_size, seconds=120)
    expected = [sample_positions(20, 4, index) for index in range(NUM_CLIPS)]
    for rank in range(world_size):
        found = json.loads((tmp_path / f"seen-{rank}.json").read_text(encoding="utf-8"))
        assert found["seen"] == [expected] * epochs
        assert found["own"] == expected[:3] + [expected[3]] * epochs
