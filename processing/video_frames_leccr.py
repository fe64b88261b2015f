"""Frames of a video as pictures, taken at even distances in time."""

import math
import random
import re
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from .video_file_leccr import VideoTimes, decode_frames, naming_errors, read_times

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
# What Pillow answers a damaged file with.
PICTURE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, TypeError, struct.error, Image.DecompressionBombError)
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class FrameSampling:
    """Which frames of a video a model sees.

    Args:
        num_frames: at most so many, at even distances in time; a frame that is shown for several of these counts once.
        frame_rate: so many a second, at even distances again where these are more than `num_frames`. Frames without
            times, such as those of a folder, are taken for sampled already.

    Raises:
        ValueError: a number is out of range.
    """

    num_frames: int = 12
    frame_rate: float | None = None

    def __post_init__(self) -> None:
        if self.num_frames < 1:
            raise ValueError(f"num_frames must be at least 1, got {self.num_frames}.")
        if self.frame_rate is not None and not 0 < self.frame_rate < float("inf"):
            raise ValueError(f"frame_rate must be a number of frames a second above 0 or None, got {self.frame_rate}.")


def sample_positions(count: int, num_frames: int, draw: int | None = None) -> list[int]:
    """Positions of at most `num_frames` of `count` frames: the middle of equal parts, in order, each once.

    Args:
        count: how many there are; all of them are taken if they are not more than `num_frames`.
        num_frames: at least 1.
        draw: decides a random place inside each part instead of its middle, for training.

    Raises:
        ValueError: a number is out of range.
    """
    if count < 0 or num_frames < 1:
        raise ValueError(f"count must be at least 0 and num_frames at least 1, got {count} and {num_frames}.")
    if count <= num_frames:
        return list(range(count))
    if draw is None:
        return [(2 * part + 1) * count // (2 * num_frames) for part in range(num_frames)]
    generator = random.Random(draw)
    return [
        generator.randrange(part * count // num_frames, (part + 1) * count // num_frames) for part in range(num_frames)
    ]


def sample_frames(
    video: Any,
    sampling: FrameSampling,
    *,
    start: float | None = None,
    end: float | None = None,
    draw: int | None = None,
) -> list[Image.Image]:
    """Frames of a video, in order of time.

    A file is read twice: its time stamps first, without decoding, then the wanted frames, from the key frames before
    them where these are far apart. Only the wanted ones are kept. No file and no thread stays open.

    Args:
        video: path of a file that ffmpeg reads, its bytes, or `{"bytes": ..., "path": ...}` with either; path of a
            folder of pictures, in the natural order of their names; PIL pictures; or an array (num_frames, height,
            width, 3) of uint8.
        sampling: which frames.
        start: second at which the sampled part begins, the beginning by default; for files alone.
        end: second at which it ends; a time behind the end of the video is the end.
        draw: for training, see `sample_positions`.

    Returns:
        RGB pictures, upright as the file says: at least one.

    Raises:
        ValueError: the file is no video, has no picture stream or is cut off, no frame is shown between `start` and
            `end`, a picture cannot be read, or a number is out of range.
        TypeError: `video` is none of these.
        ImportError: PyAV is not installed.
    """
    if not 0 <= (start or 0) < (math.inf if end is None else end):
        raise ValueError(f"start and end must be seconds with 0 <= start < end, got {start} and {end}.")
    name = "a video given as bytes"
    if isinstance(video, Mapping):
        path, content = video.get("path"), video.get("bytes")
        name, video = path or name, path if content is None else content
    if isinstance(video, str | Path) and not Path(video).is_dir():
        if not Path(video).is_file():
            raise ValueError(f"{video} is not a file; give a video.")
        return _sample_file(str(video), str(video), sampling, start, end, draw)
    if isinstance(video, bytes):
        return _sample_file(name, video, sampling, start, end, draw)
    if start is not None or end is not None:
        raise ValueError(f"start and end need a video file, for pictures have no times; got {start} and {end}.")
    frames = _pictures_of(Path(video)) if isinstance(video, str | Path) else _checked(video)
    return [_as_picture(frames[position]) for position in sample_positions(len(frames), sampling.num_frames, draw)]


def _pictures_of(folder: Path) -> list[Path]:
    """The pictures of a folder in natural order: "2.png" before "10.png"."""
    found = [path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES and path.name[0] != "."]
    if not found:
        raise ValueError(f"{folder} holds no picture with a suffix of {sorted(PICTURE_SUFFIXES)}.")
    return sorted(found, key=lambda path: (_NUMBER.sub(lambda number: number[0].zfill(20), path.name), path.name))


def _checked(frames: Any) -> Any:
    """Frames in memory: PIL pictures, or one array."""
    shape = getattr(frames, "shape", None)
    if shape is None and not (isinstance(frames, Sequence) and all(isinstance(frame, Image.Image) for frame in frames)):
        raise TypeError(
            f"a video must be a path, bytes, a dict with either, PIL pictures or an array, got {type(frames).__name__}."
        )
    if shape is not None and (len(shape) != 4 or shape[3] != 3 or 0 in shape or str(frames.dtype) != "uint8"):
        raise ValueError(
            f"a video given as an array must be (num_frames, height, width, 3) of uint8, got {tuple(shape)} of "
            f"{frames.dtype}."
        )
    if len(frames) == 0:
        raise ValueError("a video must have at least one frame, got an empty list of pictures.")
    return frames


def _as_picture(frame: Any) -> Image.Image:
    """A frame given as a file, as a picture or as numbers, in RGB and upright."""
    if isinstance(frame, Path):
        try:
            with Image.open(frame) as picture:
                return ImageOps.exif_transpose(picture).convert("RGB")
        except PICTURE_ERRORS as error:
            raise ValueError(f"{frame} must be a readable picture: {error}.") from error
    return ImageOps.exif_transpose(frame if isinstance(frame, Image.Image) else Image.fromarray(frame)).convert("RGB")


def _sample_file(
    name: str, data: str | bytes, sampling: FrameSampling, start: float | None, end: float | None, draw: int | None
) -> list[Image.Image]:
    with naming_errors(name):
        times = read_times(data)
        wanted = [times.stamps[position] for position in _choose(times, sampling, start, end, draw)]
        if not wanted:
            raise ValueError(f"it has no frame between {start or 0} s and {'its end' if end is None else f'{end} s'}")
        return decode_frames(data, times, wanted)


def _choose(
    times: VideoTimes, sampling: FrameSampling, start: float | None, end: float | None, draw: int | None
) -> list[int]:
    """Positions of the wanted frames."""
    begin, until = start or 0.0, times.length if end is None else min(end, times.length)
    if begin >= times.length:
        return []
    first = max(0, bisect_right(times.seconds, begin) - 1)  # what is on the screen when the part begins
    last = len(times.seconds) if end is None else bisect_left(times.seconds, end)
    shown, rate = times.seconds[first:last], sampling.frame_rate
    positions = list(range(len(shown)))
    if rate is None and len(shown) > sampling.num_frames and _are_uneven(shown):
        rate = sampling.num_frames / (until - begin)
    if rate is not None:
        positions = _at_rate(shown, begin, until, rate, draw) or sample_positions(len(shown), 1, draw)
    return [first + positions[index] for index in sample_positions(len(positions), sampling.num_frames, draw)]


def _are_uneven(seconds: Sequence[float]) -> bool:
    """Whether some frame is shown for clearly longer than others, as where a recorder leaves out what is the same."""
    gaps = [after - before for before, after in pairwise(seconds)]
    return bool(gaps) and max(gaps) > 1.5 * sum(gaps) / len(gaps)


def _at_rate(seconds: Sequence[float], begin: float, until: float, frame_rate: float, draw: int | None) -> list[int]:
    """Positions of the frames that are shown in the middle of parts of 1 / frame_rate seconds, each once."""
    phase = 0.5 if draw is None else random.Random(draw).random()
    # How many of these moments lie before a frame; the times of a damaged file may hold any number of them.
    ends = (*seconds, max(until, seconds[-1]))
    passed = [max(0, math.ceil((second - begin) * frame_rate - phase)) for second in ends]
    return [position for position, (before, after) in enumerate(pairwise(passed)) if after > before]
