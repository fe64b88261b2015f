"""Tiny video files for tests: frame number `i` is one grey level, `grey_of(i)`, or shows its number in 16 blocks."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

STEP = 10
CODECS = {".mp4": "libx264", ".mkv": "libx264", ".avi": "mpeg4", ".webm": "libvpx-vp9", ".mov": "mpeg4"}


def grey_of(index: int) -> int:
    """Grey level of a frame."""
    return index * STEP


def read_numbers(pictures: Sequence[Image.Image]) -> list[int]:
    """The numbers of frames, by their grey levels."""
    return [round(float(np.asarray(picture).mean()) / STEP) for picture in pictures]


def coded_picture(index: int) -> np.ndarray:
    """A frame of 48 x 32 pixels that shows its number, up to 65,535, as 4 x 4 blocks that are black or white."""
    bits = np.array([(index >> bit) & 1 for bit in range(16)], np.uint8).reshape(4, 4)
    return np.kron(bits, np.ones((8, 12), np.uint8))[..., None].repeat(3, axis=2) * 255


def read_codes(pictures: Sequence[Image.Image]) -> list[int]:
    """The numbers of frames by `coded_picture`."""
    blocks = [np.asarray(picture, float).mean(axis=2).reshape(4, 8, 4, 12).mean(axis=(1, 3)) for picture in pictures]
    return [sum(1 << bit for bit, grey in enumerate(block.ravel()) if grey > 127) for block in blocks]


def make_clip(
    path: Path,
    num_frames: int = 20,
    *,
    frames_per_second: int = 10,
    picture: np.ndarray | None = None,
    coded: bool = False,
    times: Sequence[float] | None = None,
    codec: str | None = None,
    pixel_format: str = "yuv420p",
    file_format: str | None = None,
    container_options: dict[str, str] | None = None,
    codec_options: dict[str, str] | None = None,
) -> Path:
    """Write a video, of 48 x 32 pixels if `picture` does not say otherwise.

    Args:
        path: of the file; its suffix chooses format and codec.
        num_frames: in the file.
        frames_per_second: of them.
        picture: (height, width, 3), shown in each frame instead of a grey level.
        coded: show `coded_picture` instead.
        times: of the frames, in seconds, if they do not come at even distances.
        codec: another one.
        pixel_format: of ffmpeg.
        file_format: another one.
        container_options: of the writer.
        codec_options: of the encoder.
    """
    with av.open(str(path), "w", format=file_format, options=container_options or {}) as container:
        name = codec or CODECS[path.suffix]
        stream: Any = container.add_stream(name, rate=frames_per_second, options=codec_options or {})
        height, width = (32, 48) if picture is None else picture.shape[:2]
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        stream.codec_context.thread_count = 1
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for index in range(num_frames):
            grey = np.full((32, 48, 3), 0 if coded else grey_of(index), np.uint8) if picture is None else picture
            frame = av.VideoFrame.from_ndarray(coded_picture(index) if coded else grey, "rgb24")
            if times is not None:
                frame.pts, frame.time_base = round(1000 * times[index]), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def make_sound(path: Path) -> Path:
    """Write a file with half a second of silence and no pictures."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mp3" if path.suffix == ".mp3" else "aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def copy_part(source: Path, path: Path, *, keep_from: float, show_from: float) -> Path:
    """Cut the start of a clip without encoding it again: packets before `show_from` are there for decoding alone."""
    with av.open(str(source)) as clip, av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as container:
        read: Any = clip.streams.video[0]
        written = container.add_stream_from_template(read)
        shift = round(show_from / read.time_base)
        for packet in clip.demux(read):
            if packet.dts is not None and float(packet.pts * read.time_base) >= keep_from:
                packet.pts -= shift
                packet.dts -= shift
                packet.stream = written
                container.mux(packet)
    return path
