"""Frames of a video file as pictures, taken at even distances in time."""

from collections.abc import Iterator, Sequence
from itertools import dropwhile
from pathlib import Path
from typing import Any

from PIL import Image

from processing.extras import install_hint


def sample_frames(
    path: str | Path, num_frames: int, *, start: float | None = None, end: float | None = None
) -> list[Image.Image]:
    """Frames from the middle of `num_frames` equal parts of a video, in order of time.

    The file is read twice: its time stamps first, without decoding, then the frames up to the last one wanted. Only
    the wanted ones are kept.

    Args:
        path: a video file that ffmpeg reads.
        num_frames: at least 1.
        start: second at which the sampled part begins, the beginning by default.
        end: second at which it ends; a time behind the end of the video is the end.

    Returns:
        RGB pictures, upright as the file says: `num_frames`, or every frame of the part if it has fewer.

    Raises:
        ValueError: the file is no video, has no picture stream or is cut off, no frame lies between `start` and `end`,
            or a number is out of range.
        ImportError: PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError(f"reading videos needs PyAV: {install_hint('data')}.") from error
    if num_frames < 1 or (start or 0) < 0 or (end is not None and end <= (start or 0)):
        raise ValueError(f"num_frames must be at least 1, 0 <= start < end, got {num_frames}, {start}, {end}.")
    if not Path(path).is_file():
        raise ValueError(f"{path} is not a file; give a video.")
    try:
        times = _choose(_read_times(av, path), num_frames, start, end)
        if not times:
            raise ValueError(f"it has no frame between {start or 0} s and {'its end' if end is None else f'{end} s'}")
        frames = list(_decode(av, path, times))
        if len(frames) < len(times):
            raise ValueError(f"it is cut off: {len(times) - len(frames)} of {len(times)} frames cannot be read")
    except (av.error.FFmpegError, ValueError) as error:
        raise ValueError(f"{path} must be a readable video: {error}.") from error
    return frames


def _read_times(av: Any, path: str | Path) -> list[float]:
    """Seconds of all frames from the first one, in order, from the packets alone."""
    with av.open(str(path)) as container:
        stream = _video_stream(container)
        # A clip that was cut without encoding it again begins with frames that are there for decoding alone.
        packets = dropwhile(lambda packet: not packet.is_keyframe, container.demux(stream))
        stamps = sorted(packet.pts for packet in packets if packet.pts is not None and not packet.is_discard)
        if not stamps:
            raise ValueError("it holds no frames")
        return [float((stamp - stamps[0]) * stream.time_base) for stamp in stamps]


def _choose(times: Sequence[float], num_frames: int, start: float | None, end: float | None) -> list[float]:
    part = [time for time in times if time >= (start or 0) and (end is None or time < end)]
    if len(part) <= num_frames:
        return part
    return [part[(2 * index + 1) * len(part) // (2 * num_frames)] for index in range(num_frames)]


def _decode(av: Any, path: str | Path, times: Sequence[float]) -> Iterator[Image.Image]:
    """For each time the first frame that is not earlier."""
    with av.open(str(path)) as container:
        stream = _video_stream(container)
        stream.thread_type = "AUTO"
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
