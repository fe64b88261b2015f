"""Tiny video files for tests: frame number `i` is one grey level, `grey_of(i)`."""

from collections.abc import Sequence
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


def make_clip(
    path: Path,
    num_frames: int = 20,
    *,
    frames_per_second: int = 10,
    picture: np.ndarray | None = None,
    container_options: dict[str, str] | None = None,
    codec_options: dict[str, str] | None = None,
) -> Path:
    """Write a video of 48 x 32 pixels; `picture` (height, width, 3) is shown in each frame instead of a grey level."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream: Any = container.add_stream(CODECS[path.suffix], rate=frames_per_second, options=codec_options or {})
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for index in range(num_frames):
            pixels = np.full((32, 48, 3), grey_of(index), np.uint8) if picture is None else picture
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode())
    return path


def make_sound(path: Path) -> Path:
    """Write a file with half a second of silence and no pictures."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("aac", rate=16000)
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


def turn_clockwise(path: Path) -> Path:
    """Mark an MP4 as filmed upright: its player turns it by 90 degrees clockwise.

    The matrix of the track header maps (x, y) to (a x + c y + tx, b x + d y + ty), by the QuickTime file format.
    """
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    one, minus_one, depth = (1 << 16).to_bytes(4, "big"), (0xFFFF0000).to_bytes(4, "big"), (1 << 30).to_bytes(4, "big")
    zero, height = bytes(4), (32 << 16).to_bytes(4, "big")
    data[matrix : matrix + 36] = zero + one + zero + minus_one + zero + zero + height + zero + depth
    path.write_bytes(data)
    return path
