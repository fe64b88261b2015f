"""Frames of a video as pictures, taken at even distances in time."""

import io
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import dropwhile
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

# What counts as a frame in a folder.
FRAME_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
_DIGITS = re.compile(r"(\d+)")


@dataclass(frozen=True)
class FrameSampling:
    """Which frames of a video a model sees.

    Args:
        num_frames: at most so many, at even distances.
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

    A file is read twice: its time stamps first, without decoding, then the frames up to the last one wanted. Only
    the wanted ones are kept. Nothing stays open.

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
        ValueError: the file is no video, has no picture stream or is cut off, no frame lies between `start` and `end`,
            or a number is out of range.
        ImportError: PyAV is not installed.
    """
    if (start or 0) < 0 or (end is not None and end <= (start or 0)):
        raise ValueError(f"start and end must be seconds with 0 <= start < end, got {start} and {end}.")
    if isinstance(video, Mapping):
        video = video["bytes"] if video.get("bytes") is not None else video.get("path")
    if isinstance(video, str | Path) and not Path(video).is_dir():
        if not Path(video).is_file():
            raise ValueError(f"{video} is not a file; give a video.")
        return _sample_file(str(video), str(video), sampling, start, end, draw)
    if isinstance(video, bytes | bytearray | memoryview):
        return _sample_file("a video given as bytes", video, sampling, start, end, draw)
    if start is not None or end is not None:
        raise ValueError(f"start and end need a video file, for pictures have no times; got {start} and {end}.")
    frames = _pictures_of(Path(video)) if isinstance(video, str | Path) else video
    return [_open_frame(frames[position]) for position in sample_positions(len(frames), sampling.num_frames, draw)]


def _pictures_of(folder: Path) -> list[Path]:
    """The pictures of a folder in natural order: "2.png" before "10.png"."""
    found = [path for path in folder.iterdir() if path.suffix.lower() in FRAME_SUFFIXES and path.name[0] != "."]
    if not found:
        raise ValueError(f"{folder} holds no picture with a suffix of {sorted(FRAME_SUFFIXES)}.")
    parts = {path: _DIGITS.split(path.name) for path in found}
    return sorted(found, key=lambda path: ([int(part) if part.isdigit() else part for part in parts[path]], path.name))


def _open_frame(frame: Any) -> Image.Image:
    """A frame given as a picture, as its path or as numbers."""
    if isinstance(frame, Path):
        try:
            with Image.open(frame) as picture:
                return ImageOps.exif_transpose(picture).convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(f"{frame} must be a readable picture: {error}.") from error
    if not isinstance(frame, Image.Image):
        frame = Image.fromarray(frame)
    return ImageOps.exif_transpose(frame).convert("RGB")


def _sample_file(
    name: str, data: Any, sampling: FrameSampling, start: float | None, end: float | None, draw: int | None
) -> list[Image.Image]:
    try:
        import av
    except ImportError as error:
        raise ImportError("reading videos needs PyAV: run `pip install av`.") from error
    try:
        times = _choose(_read_times(av, data), sampling, start, end, draw)
        if not times:
            raise ValueError(f"it has no frame between {start or 0} s and {'its end' if end is None else f'{end} s'}")
        frames = list(_decode(av, data, times))
        if len(frames) < len(times):
            raise ValueError(f"it is cut off: {len(times) - len(frames)} of {len(times)} frames cannot be read")
    except (av.error.FFmpegError, ValueError) as error:
        raise ValueError(f"{name} must be a readable video: {error}.") from error
    return frames


def _open(av: Any, data: Any) -> Any:
    return av.open(data if isinstance(data, str) else io.BytesIO(data))


def _read_times(av: Any, data: Any) -> list[float]:
    """Seconds of all frames from the first one, in order, from the packets alone."""
    with _open(av, data) as container:
        stream = _video_stream(container)
        # A clip that was cut without encoding it again begins with frames that are there for decoding alone.
        packets = dropwhile(lambda packet: not packet.is_keyframe, container.demux(stream))
        stamps = sorted(packet.pts for packet in packets if packet.pts is not None and not packet.is_discard)
        if not stamps:
            raise ValueError("it holds no frames")
        return [float((stamp - stamps[0]) * stream.time_base) for stamp in stamps]


def _choose(
    times: Sequence[float], sampling: FrameSampling, start: float | None, end: float | None, draw: int | None
) -> list[float]:
    part = [time for time in times if time >= (start or 0) and (end is None or time < end)]
    num_frames = sampling.num_frames
    if sampling.frame_rate is not None and len(part) > 1:
        seconds = (part[-1] - part[0]) * len(part) / (len(part) - 1)
        num_frames = min(num_frames, max(1, round(seconds * sampling.frame_rate)))
    return [part[position] for position in sample_positions(len(part), num_frames, draw)]


def _decode(av: Any, data: Any, times: Sequence[float]) -> Iterator[Image.Image]:
    """For each time the first frame that is not earlier."""
    with _open(av, data) as container:
        stream = _video_stream(container)
        stream.codec_context.thread_count = 1
        first = None
        wanted = iter(times)
        time = next(wanted)
        for frame in container.decode(stream):
            if frame.time is None:
                continue
            first = frame.time if first is None else first
            # Times went through a float and may be off by its rounding.
            if frame.time - first < time - 1e-6:
                continue
            yield _upright(frame)
            following = next(wanted, None)
            if following is None:
                return
            time = following


def _video_stream(container: Any) -> Any:
    if not container.streams.video:
        raise ValueError("it has no pictures, only sound or subtitles")
    return container.streams.video[0]


def _upright(frame: Any) -> Image.Image:
    picture = frame.to_image()
    # PIL and the file both turn counterclockwise.
    return picture.rotate(frame.rotation, expand=True) if frame.rotation else picture
