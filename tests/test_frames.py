"""Tests of processing/video_frames_leccr.py, on clips whose frames tell their number."""

import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from processing.video_frames_leccr import FrameSampling, sample_frames
from tests.clips import CODECS, copy_part, make_clip, make_sound, read_numbers, turn_clockwise


@pytest.mark.parametrize("suffix", sorted(CODECS))
def test_frames_lie_in_the_middle_of_equal_parts(tmp_path: Path, suffix: str):
    """Frames from the start alone miss what happens; some containers give their times in another way."""
    clip = make_clip(tmp_path / f"clip{suffix}")
    pictures = sample_frames(clip, FrameSampling(5))
    assert read_numbers(pictures) == [2, 6, 10, 14, 18]
    assert {(picture.mode, picture.size) for picture in pictures} == {("RGB", (48, 32))}


@pytest.mark.parametrize("num_frames", range(1, 9))
def test_any_number_of_frames_matches_a_loop(tmp_path: Path, num_frames: int):
    """A rounding error gives a frame twice, or one behind the end."""
    clip = make_clip(tmp_path / "clip.mp4", 7)
    parts = [7 / num_frames * (index + 0.5) for index in range(num_frames)]
    expected = sorted({int(part) for part in parts})
    assert read_numbers(sample_frames(clip, FrameSampling(num_frames))) == expected


def test_a_short_video_gives_each_frame_once(tmp_path: Path):
    """Frames that are repeated cost tokens and tell nothing."""
    assert read_numbers(sample_frames(make_clip(tmp_path / "clip.mp4", 3), FrameSampling(8))) == [0, 1, 2]
    assert read_numbers(sample_frames(make_clip(tmp_path / "one.mp4", 1), FrameSampling(8))) == [0]


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (1.0, None, [11, 13, 16, 18]),
        (None, 0.8, [1, 3, 5, 7]),
        (0.5, 0.9, [5, 6, 7, 8]),
        (1.7, 100.0, [17, 18, 19]),
        (0.45, 0.55, [5]),
        (0.41, 0.49, [4]),
        (1.95, 1.99, [19]),
    ],
)
def test_a_part_of_a_video_is_sampled(tmp_path: Path, start: float | None, end: float | None, expected: list[int]):
    """Captions of untrimmed videos belong to a part; a part that ends behind the video is clamped."""
    clip = make_clip(tmp_path / "clip.mp4")
    assert read_numbers(sample_frames(clip, FrameSampling(4), start=start, end=end)) == expected


def test_reordered_frames_come_in_order_of_time(tmp_path: Path):
    """B-frames lie in the file behind frames that are shown later."""
    clip = make_clip(tmp_path / "clip.mov", codec_options={"bf": "2", "qmax": "2"})
    with av.open(str(clip)) as container:
        stored = [packet.pts for packet in container.demux(video=0) if packet.size]
    assert stored != sorted(stored)
    assert read_numbers(sample_frames(clip, FrameSampling(20))) == list(range(20))


@pytest.mark.parametrize(("suffix", "keep_from", "show_from"), [(".mp4", 1.0, 1.4), (".mkv", 0.6, 0.6)])
def test_hidden_frames_of_a_cut_clip_do_not_count(tmp_path: Path, suffix: str, keep_from: float, show_from: float):
    """Clips cut by copying begin with frames that no player shows; they would shift all times."""
    source = make_clip(tmp_path / "source.mp4", codec_options={"g": "10", "keyint_min": "10", "sc_threshold": "0"})
    cut = copy_part(source, tmp_path / f"cut{suffix}", keep_from=keep_from, show_from=show_from)
    with av.open(str(cut)) as container:
        shown = read_numbers([frame.to_image() for frame in container.decode(video=0)])
    assert 5 <= len(shown) < 20 * (1 - keep_from / 2)
    assert read_numbers(sample_frames(cut, FrameSampling(50))) == shown
    assert read_numbers(sample_frames(cut, FrameSampling(2))) == [shown[len(shown) // 4], shown[3 * len(shown) // 4]]


def test_pictures_are_turned_as_the_file_says(tmp_path: Path):
    """Phones film upright clips lying down; a model would describe people lying on walls."""
    corner = np.zeros((32, 48, 3), np.uint8)
    corner[:16, :24, 0] = 255  # red, top left
    clip = make_clip(tmp_path / "clip.mp4", 2, picture=corner)
    assert _red_corner(sample_frames(clip, FrameSampling(1))[0]) == (0, 0)
    picture = sample_frames(turn_clockwise(clip), FrameSampling(1))[0]
    assert picture.size == (32, 48)
    assert _red_corner(picture) == (0, 1)  # top right


def test_a_file_that_is_cut_off_is_refused(tmp_path: Path):
    """The first half of a clip would be described as if it were the whole."""
    whole = make_clip(tmp_path / "clip.mp4", container_options={"movflags": "faststart"})
    cut = tmp_path / "cut.mp4"
    for share in (0.2, 0.5, 0.7, 0.9):
        cut.write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
        with pytest.raises(ValueError, match=r"cut\.mp4 must be a readable video"):
            sample_frames(cut, FrameSampling(5))


def test_what_is_no_video_is_refused_by_name(tmp_path: Path):
    """In a folder of 100,000 clips, "invalid data" tells nobody which one it is."""
    text = tmp_path / "text.mp4"
    text.write_text("not a video", encoding="utf-8")
    with pytest.raises(ValueError, match=r"text\.mp4 must be a readable video"):
        sample_frames(text, FrameSampling(2))
    with pytest.raises(ValueError, match=r"sound\.mp4 must be a readable video: it has no pictures"):
        sample_frames(make_sound(tmp_path / "sound.mp4"), FrameSampling(2))
    empty = tmp_path / "empty.mp4"
    empty.touch()
    with pytest.raises(ValueError, match=r"empty\.mp4 must be a readable video"):
        sample_frames(empty, FrameSampling(2))
    with pytest.raises(ValueError, match="is not a file"):
        sample_frames(tmp_path / "absent.mp4", FrameSampling(2))


@pytest.mark.parametrize(
    ("num_frames", "start", "end", "message"),
    [
        (0, None, None, "num_frames must be at least 1"),
        (1, -1.0, None, "0 <= start < end"),
        (1, 1.0, 1.0, "0 <= start < end"),
        (1, None, 0.0, "0 <= start < end"),
        (1, 5.0, None, "no frame between 5.0 s and its end"),
        (1, float("nan"), None, "0 <= start < end"),
        (1, None, float("nan"), "0 <= start < end"),
    ],
)
def test_a_part_without_frames_is_refused(
    tmp_path: Path, num_frames: int, start: float | None, end: float | None, message: str
):
    """An empty list of frames would be described as a picture of nothing."""
    clip = make_clip(tmp_path / "clip.mp4")
    with pytest.raises(ValueError, match=message):
        sample_frames(clip, FrameSampling(num_frames), start=start, end=end)


def test_without_pyav_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A bare "No module named av" does not name the extra."""
    clip = make_clip(tmp_path / "clip.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match="pip install 'av>=17'"):
        sample_frames(clip, FrameSampling(2))


def _red_corner(picture: Image.Image) -> tuple[int, int]:
    """(row, column) of the reddest quarter."""
    red = np.asarray(picture, dtype=float)[..., 0]
    rows, columns = red.shape
    quarters = red.reshape(2, rows // 2, 2, columns // 2).mean(axis=(1, 3))
    row, column = np.unravel_index(quarters.argmax(), quarters.shape)
    return int(row), int(column)
