"""What a video file holds: when its frames are shown, and the frames that are wanted, by PyAV."""

import io
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, dropwhile
from typing import Any, NamedTuple

from PIL import Image

MAX_FRAME_PIXELS = 2**25  # 8K video has 7680 x 4320; a file may declare anything, and its frames would fill the memory
# Its conversion to RGB can be told to start no threads, and 17.0 crashes on options for formats without a head.
_MIN_PYAV = "17.1"
# Files of other formats may name further files or addresses that would be opened (playlists), or are texts and sounds.
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpegts,mpeg,mpegvideo,m4v,asf,ogg,rm,mxf,nut,dv,ivf,gif,apng,"
    "h264,hevc,obu,vc1,yuv4mpegpipe,mp3,wav,flac,aac"
)
# In these, packets have no times of their own or none that survive the reordering of frames.
_UNTIMED_FORMATS = frozenset({"avi", "m4v", "mpegvideo", "h264", "hevc", "vc1"})
# In the other formats, times after a search may not be those from before it.
_SEARCHED_FORMATS = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "flv"})
# Files of these may be put one behind the other, and times begin anew in each.
_JOINED_FORMATS = frozenset({"mpeg", "mpegts"})
# A search costs about as much as decoding a few frames.
_FRAMES_WORTH_A_SEARCH = 16
# Where a player shows what lies to the right of the first pixel, and below it -> what is done to the picture.
_TURNS = {
    ("right", "up"): Image.Transpose.FLIP_TOP_BOTTOM,
    ("left", "down"): Image.Transpose.FLIP_LEFT_RIGHT,
    ("left", "up"): Image.Transpose.ROTATE_180,
    ("down", "left"): Image.Transpose.ROTATE_270,
    ("up", "right"): Image.Transpose.ROTATE_90,
    ("down", "right"): Image.Transpose.TRANSPOSE,
    ("up", "left"): Image.Transpose.TRANSVERSE,
}


@dataclass(frozen=True)
class VideoTimes:
    """When the frames of a file are shown.

    Attributes:
        stamps: what tells the frames that a player shows, in order: their times as the file counts them.
        seconds: from the first frame, for each stamp.
        length: second at which the last frame ends.
        keys: stamps at which decoding can begin; empty where it must begin at the start.
        are_counted: the file gives no times, and stamps are the numbers of frames.
    """

    stamps: Sequence[int]
    seconds: list[float]
    length: float
    keys: list[int]
    are_counted: bool


class _Packet(NamedTuple):
    pts: int | None
    dts: int | None
    duration: int
    is_key: bool
    is_hidden: bool


class _LostError(Exception):
    """A search led to another place."""


@contextmanager
def naming_errors(name: str) -> Iterator[None]:
    """Turn what a block meets in a file into a ValueError with the name of the file."""
    av = _import_av()
    try:
        yield
    except av.error.FFmpegError as error:
        raise ValueError(f"{name} must be a readable video: {error.strerror}.") from error
    except ValueError as error:
        raise ValueError(f"{name} must be a readable video: {error}.") from error


def read_times(data: str | bytes) -> VideoTimes:
    """The times of a file, from its packets alone.

    Args:
        data: path of the file, or its bytes.

    Raises:
        ValueError: it holds no pictures, or less than it announces.
        FFmpegError: ffmpeg cannot read it.
    """
    with _open(data) as container:
        stream = _video_stream(container)
        is_vp8 = stream.codec_context.name in ("vp8", "libvpx")
        packets = []
        reached, ends_whole = 0.0, True
        for packet in container.demux():
            if not packet.size:
                continue
            if packet.pts is not None and packet.time_base:
                reached = max(reached, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream is stream:
                times = (packet.pts, packet.dts, packet.duration or 0)
                is_hidden = packet.is_discard or (is_vp8 and _is_never_shown(packet))
                packets.append(_Packet(*times, packet.is_keyframe, is_hidden))
                ends_whole = not packet.is_corrupt
        if not ends_whole or _announces_more(container, stream, reached):
            raise ValueError("it is cut off")
        # A clip that was cut without encoding it again begins with frames that are there for decoding alone.
        shown = [packet for packet in dropwhile(lambda packet: not packet.is_key, packets) if not packet.is_hidden]
        format_name, unit = container.format.name, stream.time_base or Fraction(1)
        is_untimed = format_name in _UNTIMED_FORMATS or all(packet.pts is None for packet in shown)
        if is_untimed or (format_name in _JOINED_FORMATS and not _times_grow(shown)):
            return _counted_times(shown, unit, stream.guessed_rate or Fraction(25))
    return _given_times(shown, unit, can_search=format_name in _SEARCHED_FORMATS)


def _is_never_shown(packet: Any) -> bool:
    """Whether a frame of VP8 is only there for others to refer to: a bit of its first byte says so, by RFC 6386."""
    return not memoryview(packet)[0] & 0x10


def _times_grow(packets: Sequence[_Packet]) -> bool:
    times = [packet.dts for packet in packets if packet.dts is not None]
    return times == sorted(times)


def _given_times(packets: Sequence[_Packet], unit: Fraction, *, can_search: bool) -> VideoTimes:
    timed = [(packet.pts, packet) for packet in packets if packet.pts is not None]
    stamps = sorted(stamp for stamp, _ in timed)
    if not stamps:
        raise ValueError("it holds no frames")
    return VideoTimes(
        stamps=stamps,
        seconds=[float((stamp - stamps[0]) * unit) for stamp in stamps],
        length=float((max(stamp + packet.duration for stamp, packet in timed) - stamps[0]) * unit),
        keys=sorted(stamp for stamp, packet in timed if packet.is_key) if can_search else [],
        are_counted=False,
    )


def _counted_times(packets: Sequence[_Packet], unit: Fraction, frame_rate: Fraction) -> VideoTimes:
    # Frames are shown at the times at which packets are decoded, a little later, whatever their order.
    times = [packet.dts for packet in packets if packet.dts is not None]
    if len(times) < len(packets) or not _times_grow(packets):
        times, unit = list(range(len(packets))), 1 / frame_rate
    if not times:
        raise ValueError("it holds no frames")
    seconds = [float((time - times[0]) * unit) for time in times]
    length = seconds[-1] + float(1 / frame_rate)
    return VideoTimes(stamps=range(len(packets)), seconds=seconds, length=length, keys=[], are_counted=True)


def _announces_more(container: Any, stream: Any, reached: float) -> bool:
    """Whether the head of a file tells of more than is there, in seconds; what is left of it may well be readable."""
    unit = stream.time_base or 0
    announced = [float(entry.timestamp * unit) for entry in stream.index_entries[-1:]]
    if container.format.name == "avi":
        announced.append(float(stream.frames * unit))
    elif container.format.name == "matroska,webm" and container.duration is not None:
        announced.append(container.duration / 1_000_000)
    # What the head tells may be a little off.
    return max(announced, default=0.0) * 0.9 > reached


def decode_frames(data: str | bytes, times: VideoTimes, wanted: Sequence[int]) -> list[Image.Image]:
    """Frames of a file, as a player shows them, in RGB.

    Args:
        data: path of the file, or its bytes.
        times: of this file.
        wanted: stamps among these, in order. The next frame stands in for one that is missing.

    Raises:
        ValueError: the frames end before the last wanted one.
        FFmpegError: ffmpeg cannot read it.
    """
    try:
        pictures = _decode(data, times, wanted, search=bool(times.keys))
    except (_LostError, _import_av().error.FFmpegError):
        # Not every index is right, and not every key frame stands alone.
        pictures = _decode(data, times, wanted, search=False)
    if len(pictures) < len(wanted):
        raise ValueError(f"it is cut off: {len(wanted) - len(pictures)} of {len(wanted)} frames cannot be read")
    return pictures


def _decode(data: str | bytes, times: VideoTimes, wanted: Sequence[int], *, search: bool) -> list[Image.Image]:
    pictures = []
    with _open(data) as container:
        stream = _video_stream(container)
        frames = _stamped_frames(container, stream, times)
        num_passed = 0
        found = None
        for stamp in wanted:
            num_keys = bisect_right(times.keys, stamp)
            if search and num_keys:
                key = times.keys[num_keys - 1]
                if bisect_left(times.stamps, key) - num_passed >= _FRAMES_WORTH_A_SEARCH:
                    frames = _frames_from(container, stream, times, key)
            # What stood in for a missing frame before may be wanted itself.
            if found is None or found[0] < stamp:
                found = next((later for later in frames if later[0] >= stamp), None)
            if search and (found is None or found[0] != stamp or found[1].is_corrupt):
                raise _LostError
            if found is None:
                break
            pictures.append(_shown(found[1], stream.sample_aspect_ratio))
            num_passed = bisect_right(times.stamps, found[0])
    return pictures


def _frames_from(container: Any, stream: Any, times: VideoTimes, key: int) -> Iterator[tuple[int, Any]]:
    container.seek(key, stream=stream)
    frames = _stamped_frames(container, stream, times)
    first = next(frames, None)
    if first is None or first[0] > key:
        raise _LostError
    return chain([first], frames)


def _stamped_frames(container: Any, stream: Any, times: VideoTimes) -> Iterator[tuple[int, Any]]:
    for number, frame in enumerate(container.decode(stream)):
        stamp = number if times.are_counted else frame.pts
        if stamp is not None:
            yield stamp, frame


def _shown(frame: Any, pixel_ratio: Fraction | None) -> Image.Image:
    """A frame as a player shows it: pixels are made square, and the picture is turned and mirrored."""
    picture = frame.to_image(threads=1)
    # A ratio beyond these is a fault of the file.
    if pixel_ratio is not None and pixel_ratio != 1 and Fraction(1, 4) <= pixel_ratio <= 4:
        picture = picture.resize((max(1, round(picture.width * pixel_ratio)), picture.height), Image.Resampling.BICUBIC)
    matrix = frame.side_data.get("DISPLAYMATRIX")
    turn = None if matrix is None else _turn_of(bytes(matrix))
    return picture if turn is None else picture.transpose(turn)


def _turn_of(matrix: bytes) -> Image.Transpose | None:
    """What comes closest to the matrix of a file, which maps (x, y) to (a x + c y, b x + d y), y downwards."""
    a, b, _, c, d, *_ = struct.unpack("=9i", matrix)
    if abs(a) >= abs(b):
        return _TURNS.get(("left" if a < 0 else "right", "up" if d < 0 else "down"))
    return _TURNS.get(("up" if b < 0 else "down", "left" if c < 0 else "right"))


def _import_av() -> Any:
    try:
        import av
    except ImportError as error:
        raise ImportError(f"reading videos needs PyAV: run `pip install 'av>={_MIN_PYAV}'`.") from error
    if _version(av.__version__) < _version(_MIN_PYAV):
        raise ImportError(f"PyAV {av.__version__} is too old: run `pip install 'av>={_MIN_PYAV}'`.")
    return av


def _version(text: str) -> list[int]:
    return [int(part) for part in text.split(".")[:2]]


def _open(data: str | bytes) -> Any:
    """A container, whose `with` closes the file."""
    av = _import_av()
    options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file", **_decoder_options()}
    # A name such as "concat:a" would be read as an address.
    source = f"file:{data}" if isinstance(data, str) else io.BytesIO(data)
    try:
        return av.open(source, options=options, metadata_errors="replace")
    except av.error.ArgumentError as error:
        raise ValueError("it is in none of the formats of videos that are read here") from error


def _video_stream(container: Any) -> Any:
    """The first stream of pictures, ready to be decoded in this thread alone: loaders have many workers."""
    streams = [stream for stream in container.streams.video if not _is_cover(stream)]
    if not streams:
        raise ValueError("it has no pictures: it is sound alone, or damaged")
    stream = streams[0]
    if stream.codec_context is None:
        raise ValueError("its codec is unknown")
    if stream.width * stream.height > MAX_FRAME_PIXELS:
        raise ValueError(f"its frames have {stream.width} x {stream.height} pixels, more than {MAX_FRAME_PIXELS}")
    stream.codec_context.thread_count = 1
    stream.codec_context.options = _decoder_options()
    return stream


def _decoder_options() -> dict[str, str]:
    # Frames may be larger than the head of the file says; the decoder counts them with their margins.
    return {"max_pixels": str(2 * MAX_FRAME_PIXELS)}


def _is_cover(stream: Any) -> bool:
    """Whether these "pictures" are the cover of a piece of music."""
    return bool(stream.disposition & stream.disposition.attached_pic)
