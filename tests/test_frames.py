"""Tests of processing/video_frames_leccr.py, on clips whose frames tell their number."""

import random
import re
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from benchmarks.video_files import show_turned, turn_clockwise
from processing.video_file_leccr import read_times
from processing.video_frames_leccr import FrameSampling, sample_frames, sample_positions
from tests.clips import CODECS, copy_part, make_clip, make_sound, read_codes, read_numbers


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
        (0.45, 0.55, [4, 5]),
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
    assert _brightest_quarter(sample_frames(clip, FrameSampling(1))[0], 0) == (0, 0)
    picture = sample_frames(turn_clockwise(clip), FrameSampling(1))[0]
    assert picture.size == (32, 48)
    assert _brightest_quarter(picture, 0) == (0, 1)  # top right


@pytest.mark.parametrize(
    "matrix", [(p, 0, 0, q) for p in (1, -1) for q in (1, -1)] + [(0, p, q, 0) for p in (1, -1) for q in (1, -1)]
)
def test_each_turn_and_mirror_of_a_file_is_undone(tmp_path: Path, matrix: tuple[int, int, int, int]):
    """The front cameras of some phones mirror: a mirrored clip that is only turned stands on its head."""
    corners = np.zeros((32, 48, 3), np.uint8)
    corners[:16, :24, 0] = 255  # red, top left
    corners[:16, 24:, 2] = 255  # blue, top right
    clip = show_turned(make_clip(tmp_path / "clip.mp4", 2, picture=corners), matrix)
    picture = sample_frames(clip, FrameSampling(1))[0]
    a, b, c, d = matrix
    assert picture.size == ((48, 32) if a else (32, 48))
    for channel, (x, y) in ((0, (-1, -1)), (2, (1, -1))):
        assert _brightest_quarter(picture, channel) == (int(b * x + d * y > 0), int(a * x + c * y > 0))


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


@pytest.mark.parametrize("count", [0, 1, 4, 5, 11, 12, 13, 47, 1000])
def test_positions_are_the_middle_of_equal_parts(count: int):
    """A list that is shorter than asked for, twice the same, or behind the end."""
    for num_frames in (1, 4, 5, 12):
        length = count / num_frames
        middles = [int((part + 0.5) * length) for part in range(num_frames)]
        assert sample_positions(count, num_frames) == (middles if count > num_frames else list(range(count)))


@pytest.mark.parametrize(("count", "num_frames"), [(5, 4), (13, 12), (47, 5), (1000, 12)])
def test_a_draw_gives_a_place_inside_each_part(count: int, num_frames: int):
    """Training would see the same frames in every epoch, or frames out of order."""
    drawn = [sample_positions(count, num_frames, draw) for draw in range(200)]
    bounds = [part * count // num_frames for part in range(num_frames + 1)]
    for part in range(num_frames):
        found = {positions[part] for positions in drawn}
        possible = set(range(bounds[part], bounds[part + 1]))
        assert found <= possible and len(found) >= min(len(possible), 40)
    assert drawn == [sample_positions(count, num_frames, draw) for draw in range(200)]
    assert sample_positions(num_frames, num_frames, 7) == list(range(num_frames))


@pytest.mark.parametrize("numbers", [(-1, 1), (5, 0), (5, -2)])
def test_numbers_out_of_range_are_refused(numbers: tuple[int, int]):
    """Half a list would be the answer."""
    with pytest.raises(ValueError, match="at least"):
        sample_positions(*numbers)


@pytest.mark.parametrize("frame_rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(frame_rate: float):
    """It would give no frame of any video."""
    with pytest.raises(ValueError, match="frame_rate must be"):
        FrameSampling(8, frame_rate)


def test_frames_of_a_file_follow_the_draw(tmp_path: Path):
    """A draw that only features follow leaves the training on clips without it."""
    clip = make_clip(tmp_path / "clip.mp4")
    for draw in (1, 2):
        expected = sample_positions(20, 4, draw)
        assert read_numbers(sample_frames(clip, FrameSampling(4), draw=draw)) == expected
    part = [10 + position for position in sample_positions(10, 3, 5)]
    assert read_numbers(sample_frames(clip, FrameSampling(3), start=1.0, draw=5)) == part


@pytest.mark.parametrize(
    ("sampling", "start", "end", "expected"),
    [
        (FrameSampling(50, 5.0), None, None, list(range(1, 20, 2))),
        (FrameSampling(50, 10.0), None, None, list(range(20))),
        (FrameSampling(50, 1000.0), None, None, list(range(20))),
        (FrameSampling(50, 2.0), 0.5, 1.5, [7, 12]),
        (FrameSampling(50, 0.1), None, None, [10]),
        (FrameSampling(4, 5.0), None, None, [3, 7, 13, 17]),
    ],
)
def test_a_rate_gives_so_many_frames_a_second(
    tmp_path: Path, sampling: FrameSampling, start: float | None, end: float | None, expected: list[int]
):
    """Long clips would be seen as short ones, or frames be repeated where the file has fewer."""
    clip = make_clip(tmp_path / "clip.mp4")
    assert read_numbers(sample_frames(clip, sampling, start=start, end=end)) == expected


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_rate_matches_a_loop_over_the_moments_of_uneven_frames(tmp_path: Path, suffix: str):
    """Recordings of screens have frames only where something changes."""
    choice = random.Random(0)
    times = sorted(choice.sample(range(0, 4000), 20))
    times = [(time - times[0]) / 1000 for time in times]
    clip = make_clip(tmp_path / f"clip{suffix}", times=times)
    for frame_rate in (1.0, 3.0, 7.0):
        moments = [(number + 0.5) / frame_rate for number in range(100)]
        expected = sorted({max(i for i in range(20) if times[i] <= moment) for moment in moments if moment < times[-1]})
        found = read_numbers(sample_frames(clip, FrameSampling(50, frame_rate)))
        assert found in (expected, [*expected, 19])  # how long the last frame is shown is up to the file
    assert read_numbers(sample_frames(clip, FrameSampling(50), start=times[4] + 1e-4, end=times[9])) == [4, 5, 6, 7, 8]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_frames_at_uneven_times_are_taken_at_even_distances_in_time(tmp_path: Path, suffix: str):
    """Of a lecture that begins with a film, all frames would be of the film, for its slides hardly change."""
    times = [index / 10 for index in range(40)] + [4.0 + 2 * index for index in range(6)]
    clip = make_clip(tmp_path / f"clip{suffix}", len(times), times=times, coded=True)
    length = read_times(str(clip)).length
    moments = [(part + 0.5) * length / 8 for part in range(8)]
    expected = sorted({max(i for i, time in enumerate(times) if time <= moment) for moment in moments})
    assert read_codes(sample_frames(clip, FrameSampling(8))) == expected and len(expected) > 5
    assert read_codes(sample_frames(clip, FrameSampling(2), start=5.0, end=7.0)) == [40, 41]
    assert read_codes(sample_frames(clip, FrameSampling(46))) == list(range(46))
    drawn = [read_codes(sample_frames(clip, FrameSampling(8), draw=draw)) for draw in range(6)]
    assert all(len(set(numbers)) == len(numbers) <= 8 and max(numbers) > 43 for numbers in drawn)
    assert len(set(map(tuple, drawn))) > 1


def test_what_is_on_the_screen_when_a_part_begins_belongs_to_it(tmp_path: Path):
    """Of ten seconds between two slides, the first would be missing, although it is shown for half of them."""
    clip = make_clip(tmp_path / "clip.mp4", 6, times=[10.0 * index for index in range(6)])
    assert read_numbers(sample_frames(clip, FrameSampling(12, 1.0), start=5, end=15)) == [0, 1]
    assert read_numbers(sample_frames(clip, FrameSampling(12), start=5, end=15)) == [0, 1]
    assert read_numbers(sample_frames(clip, FrameSampling(12, 1.0), start=9.8, end=15)) == [1]


def test_a_rate_with_a_draw_moves_the_moments(tmp_path: Path):
    """Epochs would see the same frames."""
    clip = make_clip(tmp_path / "clip.mp4")
    drawn = [read_numbers(sample_frames(clip, FrameSampling(50, 2.0), draw=draw)) for draw in range(12)]
    assert len({tuple(numbers) for numbers in drawn}) > 2
    assert all(set(np.diff(numbers)) == {5} and len(numbers) == 4 for numbers in drawn)


def test_frames_come_from_bytes_folders_lists_and_arrays(tmp_path: Path):
    """Data sets hold clips in each of these forms, and a form that is read otherwise gives other frames."""
    clip = make_clip(tmp_path / "clip.mp4")
    pictures = sample_frames(clip, FrameSampling(20))
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, picture in enumerate(pictures):
        picture.save(folder / f"frame{number}.png")
    (folder / "notes.txt").touch()
    (folder / ".hidden.png").touch()
    forms: list[Any] = [
        clip,
        str(clip),
        clip.read_bytes(),
        {"bytes": clip.read_bytes(), "path": "elsewhere.mp4"},
        {"bytes": None, "path": str(clip)},
        folder,
        {"bytes": None, "path": str(folder)},
        pictures,
        np.stack([np.asarray(picture) for picture in pictures]),
    ]
    for form in forms:
        assert read_numbers(sample_frames(form, FrameSampling(5))) == [2, 6, 10, 14, 18]
        drawn = read_numbers(sample_frames(form, FrameSampling(5), draw=3))
        assert drawn == sample_positions(20, 5, 3)
    with pytest.raises(ValueError, match="pictures have no times"):
        sample_frames(folder, FrameSampling(5), start=1.0)


def test_pictures_are_turned_into_upright_rgb(tmp_path: Path):
    """A grey or turned picture in a folder of frames would have another shape than the rest."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("L", (6, 4), 200).save(tmp_path / "1.jpg", exif=exif)
    Image.new("RGBA", (4, 6), (255, 0, 0, 0)).save(tmp_path / "2.png")
    for form in (tmp_path, [Image.open(tmp_path / "1.jpg"), Image.open(tmp_path / "2.png")]):
        frames = sample_frames(form, FrameSampling(4))
        assert [(frame.mode, frame.size) for frame in frames] == [("RGB", (4, 6))] * 2
        assert np.asarray(frames[1])[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("video", "error", "message"),
    [
        ([], ValueError, "at least one frame"),
        (np.zeros((0, 4, 4, 3), np.uint8), ValueError, r"got \(0, 4, 4, 3\)"),
        (np.zeros((4, 4, 3), np.uint8), ValueError, r"must be \(num_frames, height, width, 3\)"),
        (np.zeros((2, 3, 4, 4), np.uint8), ValueError, r"must be \(num_frames, height, width, 3\)"),
        (np.zeros((2, 4, 4, 3), np.float32), ValueError, "of float32"),
        (["a", "b"], TypeError, "got list"),
        (None, TypeError, "got NoneType"),
        ({"bytes": None, "path": None}, TypeError, "got NoneType"),
        ({"bytes": None}, TypeError, "got NoneType"),
        (b"", ValueError, "a video given as bytes must be a readable video"),
        ({"bytes": b"", "path": "clip.mp4"}, ValueError, "clip.mp4 must be a readable video"),
    ],
)
def test_what_is_no_video_in_memory_is_refused(video: Any, error: type[Exception], message: str):
    """An array with its axes in another order would be read as very small pictures."""
    with pytest.raises(error, match=message):
        sample_frames(video, FrameSampling(2))


def test_a_folder_without_pictures_or_with_a_broken_one_is_refused(tmp_path: Path):
    """The name of the file is what its owner needs."""
    with pytest.raises(ValueError, match=f"{tmp_path.name} holds no picture"):
        sample_frames(tmp_path, FrameSampling(2))
    (tmp_path / "1.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"1\.png must be a readable picture"):
        sample_frames(tmp_path, FrameSampling(2))


def test_without_pyav_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A bare "No module named av" does not name the extra."""
    clip = make_clip(tmp_path / "clip.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"pip install 'av>=17\.1'"):
        sample_frames(clip, FrameSampling(2))
    assert len(sample_frames([Image.new("RGB", (4, 4))], FrameSampling(2))) == 1


@pytest.mark.parametrize(
    ("version", "is_enough"), [("16.1.0", False), ("17.0.1", False), ("17.1.0", True), ("100", True)]
)
def test_a_pyav_that_is_too_old_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, is_enough: bool
):
    """It fails on the first frame with an error that tells nobody why, or crashes."""
    clip = make_clip(tmp_path / "clip.mp4")
    monkeypatch.setattr(av, "__version__", version)
    if is_enough:
        assert len(sample_frames(clip, FrameSampling(2))) == 2
        return
    with pytest.raises(ImportError, match=rf"PyAV {re.escape(version)} is too old"):
        sample_frames(clip, FrameSampling(2))


def _brightest_quarter(picture: Image.Image, channel: int) -> tuple[int, int]:
    """(row, column) of the quarter with the most of a colour."""
    levels = np.asarray(picture, dtype=float)[..., channel]
    rows, columns = levels.shape
    quarters = levels.reshape(2, rows // 2, 2, columns // 2).mean(axis=(1, 3))
    row, column = np.unravel_index(quarters.argmax(), quarters.shape)
    return int(row), int(column)
