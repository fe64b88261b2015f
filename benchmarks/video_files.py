"""Small video files of many kinds, and seeded damage to them, for the benchmark of mutated files."""

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from processing.files import atomic_write

EXTREMES = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
# Beginnings that tell a reader what follows, of which nothing does.
MAGIC = (
    b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00isomiso2avc1mp41",
    b"\x1a\x45\xdf\xa3\x01\x00\x00\x00\x00\x00\x00\x1f\x42\x86\x81\x01",
    b"RIFF\xff\xff\xff\x7fAVI LIST\xff\xff\xff\x7fhdrl",
    b"FLV\x01\x05\x00\x00\x00\x09",
    b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nother.ts\n",
    b"ffconcat version 1.0\nfile other.mp4\n",
)


@dataclass(frozen=True)
class Source:
    """A file as an encoder writes it.

    Attributes:
        name: of the file, with its suffix.
        codec: of PyAV.
        num_frames: in the file; 0 where it holds sound alone.
        size: (width, height) of the stored frames.
        pixel_format: of ffmpeg.
        codec_options: for the encoder.
        container_options: for the writer of the file.
        pixel_ratio: width / height of a pixel.
        quarters: by how many quarters of a circle a player turns the picture clockwise.
    """

    name: str
    codec: str
    num_frames: int = 40
    size: tuple[int, int] = (64, 48)
    pixel_format: str = "yuv420p"
    codec_options: tuple[tuple[str, str], ...] = (("g", "12"),)
    container_options: tuple[tuple[str, str], ...] = ()
    pixel_ratio: Fraction = Fraction(1)
    quarters: int = 0

    @property
    def shown_size(self) -> tuple[int, int]:
        """(width, height) as a player shows it."""
        width, height = round(self.size[0] * self.pixel_ratio), self.size[1]
        return (height, width) if self.quarters % 2 else (width, height)


FAST = (("preset", "ultrafast"), ("g", "250"))
SOURCES = (
    Source("plain.mp4", "libx264"),
    Source("streamed.mp4", "libx264", container_options=(("movflags", "faststart"),)),
    Source("fragments.mp4", "libx264", container_options=(("movflags", "frag_keyframe+empty_moov"),)),
    Source("turned.mp4", "libx264", quarters=1),
    Source("wide_pixels.mp4", "libx264", pixel_ratio=Fraction(16, 11)),
    Source("one_frame.mp4", "libx264", num_frames=1),
    Source("long.mp4", "libx264", num_frames=10_000, size=(16, 16), codec_options=FAST),
    Source("long.mkv", "libx264", num_frames=10_000, size=(16, 16), codec_options=FAST),
    Source("odd.mp4", "libx264", size=(17, 33), pixel_format="yuv444p"),
    Source("dot.mov", "png", size=(1, 1), pixel_format="rgb24"),
    Source("deep.mkv", "libx264", pixel_format="yuv420p10le"),
    Source("matroska.mkv", "libx264"),
    Source("web.webm", "libvpx-vp9"),
    Source("older.webm", "libvpx"),
    Source("mpeg4.avi", "mpeg4", codec_options=(("g", "12"), ("bf", "2"))),
    Source("pictures.avi", "mjpeg", pixel_format="yuvj420p"),
    Source("quick.mov", "mpeg4"),
    Source("alpha.mov", "qtrle", pixel_format="argb"),
    Source("broadcast.ts", "libx264"),
    Source("flash.flv", "libx264"),
    Source("disc.mpg", "mpeg2video"),
    Source("windows.wmv", "wmv2"),
    Source("sound.mp4", "aac", num_frames=0),
    Source("sound.mp3", "mp3", num_frames=0),
)


def write_source(source: Source, folder: Path) -> Path:
    """Encode it; a file that is there already stays."""
    path = folder / source.name
    if path.exists():
        return path
    with atomic_write(path) as temporary:
        with av.open(str(temporary), "w", options=dict(source.container_options)) as container:
            if source.num_frames:
                _write_pictures(container, source)
            else:
                _write_sound(container, source)
        if source.quarters:
            turn_clockwise(temporary)
    return path


def _write_pictures(container: Any, source: Source) -> None:
    stream = container.add_stream(source.codec, rate=25, options=dict(source.codec_options))
    stream.width, stream.height = source.size
    stream.pix_fmt = source.pixel_format
    if source.pixel_ratio != 1:
        stream.codec_context.sample_aspect_ratio = source.pixel_ratio
    # An encoder may start as many threads as there are cores for a picture of 16 x 16.
    stream.codec_context.thread_count = 1
    rows, columns = np.mgrid[: source.size[1], : source.size[0]]
    for number in range(source.num_frames):
        pixels = np.stack([rows * 5 + number, columns * 3 - number, rows + columns + 7 * number], axis=-1) % 256
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels.astype(np.uint8), "rgb24")))
    container.mux(stream.encode())


def _write_sound(container: Any, source: Source) -> None:
    stream = container.add_stream(source.codec, rate=16000)
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
    frame.sample_rate = 16000
    container.mux(stream.encode(frame))
    container.mux(stream.encode())


def turn_clockwise(path: Path) -> Path:
    """Mark an MP4 as filmed upright: its player turns it by 90 degrees clockwise."""
    return show_turned(path, (0, 1, -1, 0))


def show_turned(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Let the player of an MP4 turn and mirror it.

    Args:
        path: of the file.
        matrix: a, b, c, d of 0, 1 and -1. The track header maps (x, y), y downwards, to (a x + c y + tx, b x + d y +
            ty), by the QuickTime file format.
    """
    a, b, c, d = matrix
    data = bytearray(path.read_bytes())
    header = data.index(b"tkhd") + 4
    width, height = struct.unpack(">2i", data[header + 76 : header + 84])
    shifts = (-(min(a, 0) * width + min(c, 0) * height), -(min(b, 0) * width + min(d, 0) * height))
    rows = (a << 16, b << 16, 0, c << 16, d << 16, 0, *shifts, 1 << 30)
    data[header + 40 : header + 76] = struct.pack(">9i", *rows)
    path.write_bytes(data)
    return path


def _cut(data: bytes, choice: random.Random) -> bytes:
    return data[: choice.randrange(1, max(2, len(data)))]


def _flip(data: bytes, choice: random.Random, places: range, count: int) -> bytes:
    changed = bytearray(data)
    for _ in range(count):
        changed[choice.choice(places)] ^= 1 << choice.randrange(8)
    return bytes(changed)


def _flip_few(data: bytes, choice: random.Random) -> bytes:
    return _flip(data, choice, range(len(data)), choice.randint(1, 8))


def _flip_many(data: bytes, choice: random.Random) -> bytes:
    return _flip(data, choice, range(len(data)), max(1, len(data) // 100))


def _flip_head(data: bytes, choice: random.Random) -> bytes:
    return _flip(data, choice, range(min(len(data), 1024)), choice.randint(1, 16))


def _flip_tail(data: bytes, choice: random.Random) -> bytes:
    """Where MP4 and AVI keep their index."""
    return _flip(data, choice, range(max(0, len(data) - 2048), len(data)), choice.randint(1, 16))


def _set_number(data: bytes, choice: random.Random) -> bytes:
    """A size, a count or a time that no file has."""
    places = range(min(len(data), 600)) if choice.random() < 0.5 else range(max(0, len(data) - 2048), len(data))
    place = choice.choice(places)
    number = choice.choice(EXTREMES).to_bytes(4, choice.choice(("big", "little")))
    return data[:place] + number + data[place + 4 :]


def _part(data: bytes, choice: random.Random) -> tuple[int, int]:
    start = choice.randrange(len(data))
    return start, min(len(data), start + choice.randint(1, max(2, len(data) // 4)))


def _zero(data: bytes, choice: random.Random) -> bytes:
    start, end = _part(data, choice)
    return data[:start] + bytes(end - start) + data[end:]


def _delete(data: bytes, choice: random.Random) -> bytes:
    start, end = _part(data, choice)
    return data[:start] + data[end:]


def _double(data: bytes, choice: random.Random) -> bytes:
    start, end = _part(data, choice)
    return data[:end] + data[start:end] + data[end:]


def _overwrite(data: bytes, choice: random.Random) -> bytes:
    start, end = _part(data, choice)
    return data[:start] + choice.randbytes(end - start) + data[end:]


def _invent(data: bytes, choice: random.Random) -> bytes:
    return choice.choice(MAGIC) + choice.randbytes(choice.randint(0, 4096))


# What is done to the bytes of a file; the first two leave it as it is.
DAMAGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "none": lambda data, choice: data,
    "wrong extension": lambda data, choice: data,
    "empty": lambda data, choice: b"",
    "cut": _cut,
    "few bits flipped": _flip_few,
    "1 % of the bytes flipped": _flip_many,
    "bits flipped in the head": _flip_head,
    "bits flipped in the tail": _flip_tail,
    "extreme number": _set_number,
    "part zeroed": _zero,
    "part deleted": _delete,
    "part doubled": _double,
    "part overwritten": _overwrite,
    "only a beginning": _invent,
}
WHOLE = ("none", "wrong extension")
