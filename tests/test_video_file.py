"""Tests of processing/video_file_leccr.py: formats, damage, limits, and what is left open."""

import io
import os
import re
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from benchmarks.video_files import SOURCES, write_source
from processing import video_file_leccr
from processing.video_frames_leccr import FrameSampling, sample_frames, sample_positions
from tests.clips import coded_picture, make_clip, make_sound, read_codes, read_numbers

GROUPS = {"g": "30", "keyint_min": "30"}
SHORT_GROUPS = {"g": "10", "keyint_min": "10", "sc_threshold": "0"}


def count_decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Stamps of all frames that are decoded from here on."""
    decoded: list[int] = []
    stamped = video_file_leccr._stamped_frames

    def counted(*arguments: Any) -> Any:
        for stamp, frame in stamped(*arguments):
            decoded.append(stamp)
            yield stamp, frame

    monkeypatch.setattr(video_file_leccr, "_stamped_frames", counted)
    return decoded


@pytest.mark.parametrize(
    ("name", "codec", "options", "searched"),
    [
        ("clip.mp4", "libx264", {"bf": "3"}, True),
        ("open.mp4", "libx264", {"x264-params": "open-gop=1:bframes=3:b-adapt=0"}, True),
        ("refresh.mp4", "libx264", {"x264-params": "intra-refresh=1"}, None),
        ("clip.mkv", "libx264", {"bf": "3"}, True),
        ("clip.mov", "mpeg4", {"bf": "2"}, True),
        ("clip.webm", "libvpx-vp9", {}, True),
        ("clip.flv", "libx264", {"bf": "3"}, True),
        ("clip.ts", "libx264", {"bf": "3"}, False),
        ("clip.mpg", "mpeg2video", {"bf": "2"}, False),
        ("reordered.avi", "libx264", {"x264-params": "bframes=3:b-adapt=0"}, False),
        ("clip.wmv", "wmv2", {}, False),
    ],
)
def test_a_search_finds_the_frames_that_decoding_in_order_finds(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    codec: str,
    options: dict[str, str],
    searched: bool | None,
):
    """A wrong frame with the right time would never be noticed in training."""
    clip = make_clip(tmp_path / name, 120, coded=True, codec=codec, codec_options={**GROUPS, **options})
    with av.open(str(clip)) as container:
        pictures = [frame.to_image(threads=1) for frame in container.decode(video=0)]
    assert read_codes(pictures) == list(range(120))
    decoded = count_decoded(monkeypatch)
    for num_frames, draw in ((1, None), (2, 1), (3, 2), (4, 5)):
        found = sample_frames(clip, FrameSampling(num_frames), draw=draw)
        expected = [pictures[position] for position in sample_positions(120, num_frames, draw)]
        assert [picture.tobytes() for picture in found] == [picture.tobytes() for picture in expected]
    # Whether a picture that is refreshed in parts can be searched depends on what it shows.
    assert searched is None or (len(decoded) < 250) == searched


def test_few_frames_of_a_long_clip_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Eight frames of an hour would cost the decoding of the hour, in each epoch."""
    options = {"g": "100", "keyint_min": "100", "preset": "ultrafast"}
    clip = make_clip(tmp_path / "clip.mp4", 3000, coded=True, codec_options=options)
    decoded = count_decoded(monkeypatch)
    for draw in (None, 3):
        assert read_codes(sample_frames(clip, FrameSampling(4), draw=draw)) == sample_positions(3000, 4, draw)
    assert len(decoded) <= 2 * 4 * 100
    assert read_codes(sample_frames(clip, FrameSampling(2), start=250.0, end=251.0)) == [2502, 2507]


def test_an_index_that_leads_elsewhere_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Some tools write an index that is off by a few frames."""
    clip = make_clip(tmp_path / "clip.mp4", 120, coded=True, codec_options=GROUPS)
    found = video_file_leccr._frames_from

    def later(container: Any, stream: Any, times: Any, key: int) -> Any:
        return found(container, stream, times, times.keys[min(times.keys.index(key) + 1, len(times.keys) - 1)])

    monkeypatch.setattr(video_file_leccr, "_frames_from", later)
    assert read_codes(sample_frames(clip, FrameSampling(3))) == [20, 60, 100]


def test_a_search_that_ends_behind_the_key_frame_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Some decoders show what they make of a frame without the ones before it, at the right time."""
    clip = make_clip(tmp_path / "clip.mp4", 120, coded=True, codec_options=GROUPS)
    stamped, calls = video_file_leccr._stamped_frames, []

    def without_the_first(*arguments: Any) -> Any:
        calls.append(len(calls))
        return islice(stamped(*arguments), 1 if calls == [0, 1] else 0, None)

    monkeypatch.setattr(video_file_leccr, "_stamped_frames", without_the_first)
    assert read_codes(sample_frames(clip, FrameSampling(1))) == [60]
    assert len(calls) == 2 + 1  # from the start, after the search, and from the start again


@pytest.mark.parametrize(
    ("name", "codec", "file_format"),
    [("clip.h264", "libx264", "h264"), ("clip.m4v", "mpeg4", "m4v"), ("clip.avi", "mpeg4", None)],
)
def test_frames_without_times_are_counted(tmp_path: Path, name: str, codec: str, file_format: str | None):
    """The stream of a camera has none."""
    options = {"bf": "2", "g": "12"}
    clip = make_clip(tmp_path / name, 40, coded=True, codec=codec, file_format=file_format, codec_options=options)
    assert read_codes(sample_frames(clip, FrameSampling(4))) == [5, 15, 25, 35]


def test_frames_that_are_only_referred_to_do_not_count(tmp_path: Path):
    """Encoders of VP8 add frames that nobody sees: times would shift, and the clip seem to be cut off."""
    whole = make_clip(tmp_path / "whole.webm", 40, coded=True, codec="libvpx", codec_options={"g": "12"})
    hidden = (5, 6, 15, 31)
    clip = _hide_frames(whole, tmp_path / "clip.webm", hidden)
    shown = [number for number in range(40) if number not in hidden]
    assert len(video_file_leccr.read_times(str(clip)).stamps) == 36
    assert read_codes(sample_frames(clip, FrameSampling(50))) == shown
    assert read_codes(sample_frames(clip, FrameSampling(50), start=1.2, end=2.0)) == [12, 13, 14, 16, 17, 18, 19]


def _hide_frames(source: Path, path: Path, numbers: tuple[int, ...]) -> Path:
    with av.open(str(source)) as clip, av.open(str(path), "w") as container:
        read: Any = clip.streams.video[0]
        written = container.add_stream_from_template(read)
        for number, packet in enumerate(packet for packet in clip.demux(read) if packet.size):
            data = bytearray(bytes(packet))
            data[0] &= 0xFF - 0x10 * (number in numbers)
            copy = av.Packet(bytes(data))
            copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
            copy.is_keyframe, copy.stream = packet.is_keyframe, written
            container.mux(copy)
    return path


def test_a_frame_that_stands_in_for_a_missing_one_is_not_used_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each missing frame would shift all that follow by one more, behind the end of the part at last."""
    clip = make_clip(tmp_path / "clip.ts", codec="libx264")
    stamped = video_file_leccr._stamped_frames

    def without_the_fourth(*arguments: Any) -> Any:
        return (found for number, found in enumerate(stamped(*arguments)) if number != 3)

    monkeypatch.setattr(video_file_leccr, "_stamped_frames", without_the_fourth)
    assert read_numbers(sample_frames(clip, FrameSampling(7), end=0.7)) == [0, 1, 2, 4, 4, 5, 6]


@pytest.mark.parametrize(("suffix", "codec"), [(".mpg", "mpeg2video"), (".ts", "libx264")])
def test_files_that_were_put_one_behind_the_other_are_read_as_one(tmp_path: Path, suffix: str, codec: str):
    """The parts of a recording are often joined so; times begin anew, and only the first part would be seen."""
    part = make_clip(tmp_path / f"part{suffix}", 20, coded=True, codec=codec, frames_per_second=25)
    joined = tmp_path / f"joined{suffix}"
    joined.write_bytes(2 * part.read_bytes())
    assert read_codes(sample_frames(joined, FrameSampling(100))) == 2 * list(range(20))
    assert read_codes(sample_frames(joined, FrameSampling(4))) == [5, 15, 5, 15]
    assert read_codes(sample_frames(joined, FrameSampling(5), start=1.0, end=1.2)) == [5, 6, 7, 8, 9]


@pytest.mark.parametrize("shift", [-1.0, 3.0])
def test_times_count_from_the_first_frame(tmp_path: Path, shift: float):
    """Cut clips begin before zero, and recordings of a broadcast at any time."""
    clip = make_clip(tmp_path / "clip.mkv", times=[shift + index / 10 for index in range(20)], codec="libx264")
    assert read_numbers(sample_frames(clip, FrameSampling(4))) == [2, 7, 12, 17]
    assert read_numbers(sample_frames(clip, FrameSampling(4), start=1.5, end=1.7)) == [15, 16]


@pytest.mark.parametrize(
    "source", [source for source in SOURCES if source.num_frames < 1000], ids=lambda source: source.name
)
def test_a_whole_file_of_each_kind_is_read(tmp_path: Path, source: Any):
    """One frame, a single pixel, odd sides, alpha, ten bits, wide pixels, turned ones."""
    path = write_source(source, tmp_path)
    if not source.num_frames:
        with pytest.raises(ValueError, match=f"{re.escape(source.name)} must be a readable video: it has no pictures"):
            sample_frames(path, FrameSampling(3))
        return
    frames = sample_frames(path, FrameSampling(3))
    assert len(frames) == min(3, source.num_frames)
    assert {(frame.mode, frame.size) for frame in frames} == {("RGB", source.shown_size)}
    if len(frames) > 1 and source.size != (1, 1):
        assert frames[0].tobytes() != frames[1].tobytes()


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.webm", "clip.avi", "clip.flv", "fragments.mp4"])
def test_a_file_that_ends_early_is_refused_in_each_format(tmp_path: Path, name: str):
    """The first half of a clip would be trained on as if it were the whole."""
    whole = tmp_path / name
    options = {"movflags": {"clip.mp4": "faststart", "fragments.mp4": "frag_keyframe+empty_moov"}.get(name, "")}
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    codec = "mpeg4" if name == "clip.avi" else "libvpx-vp9" if name == "clip.webm" else "libx264"
    make_clip(whole, 40, picture=noise, codec=codec, container_options=options, codec_options=SHORT_GROUPS)
    assert len(sample_frames(whole, FrameSampling(4))) == 4
    cut = tmp_path / f"cut{whole.suffix}"
    for share in (0.3, 0.55, 0.8):
        cut.write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
        with pytest.raises(ValueError, match=rf"cut\{whole.suffix} must be a readable video"):
            sample_frames(cut, FrameSampling(4))


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.avi", "clip.flv"])
def test_a_file_that_ends_between_two_frames_is_refused(tmp_path: Path, name: str):
    """Nothing that can be decoded is damaged in it, and half of the clip is gone."""
    options = {"movflags": "faststart"} if name == "clip.mp4" else {}
    codec = "mpeg4" if name == "clip.avi" else "libx264"
    whole = make_clip(tmp_path / name, 40, coded=True, codec=codec, container_options=options)
    with av.open(str(whole)) as container:
        ends = [packet.pos + packet.size for packet in container.demux(video=0) if packet.size]
    cut = tmp_path / f"cut{whole.suffix}"
    for place in (8, 20, 30):
        cut.write_bytes(whole.read_bytes()[: ends[place]])
        with pytest.raises(ValueError, match=rf"cut\{whole.suffix} must be a readable video"):
            sample_frames(cut, FrameSampling(4))


def test_frames_that_do_not_come_are_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A decoder that gives up at the end in silence would make all items of a batch shorter."""
    clip = make_clip(tmp_path / "clip.mp4")
    stamped = video_file_leccr._stamped_frames
    monkeypatch.setattr(video_file_leccr, "_stamped_frames", lambda *arguments: islice(stamped(*arguments), 12))
    with pytest.raises(ValueError, match=r"clip\.mp4 must be .*: it is cut off: 2 of 4 frames cannot be read"):
        sample_frames(clip, FrameSampling(4))


def test_the_cover_of_a_piece_of_music_is_no_video(tmp_path: Path):
    """Every song would show its one picture for minutes."""
    picture = io.BytesIO()
    Image.new("RGB", (16, 16), (200, 0, 0)).save(picture, format="PNG")
    content = b"\0image/png\0\x03\0" + picture.getvalue()
    frame = b"APIC" + len(content).to_bytes(4, "big") + b"\0\0" + content
    # The size of the tag has seven bits a byte, by ID3v2.3.
    size = bytes((len(frame) >> shift) & 127 for shift in (21, 14, 7, 0))
    song = tmp_path / "song.mp3"
    song.write_bytes(b"ID3\3\0\0" + size + frame + make_sound(tmp_path / "sound.mp3").read_bytes())
    with av.open(str(song)) as container:
        assert len(container.streams.video) == 1
    with pytest.raises(ValueError, match=r"song\.mp3 must be a readable video: it has no pictures"):
        sample_frames(song, FrameSampling(2))


def test_sound_that_lasts_longer_than_the_pictures_is_no_fault(tmp_path: Path):
    """Whole files would be refused as cut off."""
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        pictures: Any = container.add_stream("libx264", rate=10)
        pictures.width, pictures.height, pictures.pix_fmt = 48, 32, "yuv420p"
        sound: Any = container.add_stream("aac", rate=16000)
        for index in range(10):
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(coded_picture(index), "rgb24")))
        container.mux(pictures.encode())
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 48_000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    assert read_codes(sample_frames(path, FrameSampling(2))) == [2, 7]


def test_a_video_is_known_by_its_content(tmp_path: Path):
    """Half of the clips of some collections are named after another format."""
    clip = make_clip(tmp_path / "clip.mp4")
    for name in ("clip.avi", "clip.jpg", "clip", "Ünïcode 名.mp4"):
        other = tmp_path / name
        other.write_bytes(clip.read_bytes())
        assert read_numbers(sample_frames(other, FrameSampling(2))) == [5, 15]
    picture = tmp_path / "picture.mp4"
    Image.new("RGB", (8, 8)).save(picture, format="PNG")
    with pytest.raises(ValueError, match=r"picture\.mp4 must be a readable video: it is in none of the formats"):
        sample_frames(picture, FrameSampling(2))


def test_a_name_is_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """ffmpeg takes what stands before a colon for a protocol; some of them join files or open connections."""
    clip = make_clip(tmp_path / "clip.mp4")
    monkeypatch.chdir(tmp_path)
    for name in ("concat:clip.mp4", "http:clip.mp4"):
        Path(name).write_bytes(clip.read_bytes())
        assert read_numbers(sample_frames(name, FrameSampling(2))) == [5, 15]
    Path("concat:clip.mp4").unlink()
    with pytest.raises(ValueError, match="is not a file"):
        sample_frames("concat:clip.mp4", FrameSampling(2))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("clip.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nother.ts\n#EXT-X-ENDLIST\n"),
        ("clip.mp4", "ffconcat version 1.0\nfile other.ts\n"),
    ],
)
def test_a_file_that_names_other_files_is_refused(tmp_path: Path, name: str, text: str):
    """A data set of a stranger could have files or addresses opened on the machine that trains."""
    make_clip(tmp_path / "other.ts", codec="libx264", file_format="mpegts")
    playlist = tmp_path / name
    playlist.write_text(text, encoding="utf-8")
    with av.open(str(playlist)) as container:
        assert next(container.decode(video=0)).width == 48
    with pytest.raises(ValueError, match=rf"{re.escape(name)} must be a readable video: it is in none of the formats"):
        sample_frames(playlist, FrameSampling(2))


def test_frames_above_the_limit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A few bytes can declare a picture that fills the memory."""
    clip = make_clip(tmp_path / "clip.mp4")
    monkeypatch.setattr(video_file_leccr, "MAX_FRAME_PIXELS", 48 * 32)
    assert len(sample_frames(clip, FrameSampling(2))) == 2
    monkeypatch.setattr(video_file_leccr, "MAX_FRAME_PIXELS", 48 * 32 - 1)
    with pytest.raises(ValueError, match=r"clip\.mp4 must be a readable video: its frames have 48 x 32 pixels, more"):
        sample_frames(clip, FrameSampling(2))


def test_a_frame_that_is_larger_than_the_head_says_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The head of a file is not what its decoder believes."""
    small = make_clip(tmp_path / "small.avi", 2, codec="mjpeg", pixel_format="yuvj420p")
    large = make_clip(
        tmp_path / "large.avi", 2, codec="mjpeg", pixel_format="yuvj420p", picture=np.zeros((320, 480, 3), np.uint8)
    )
    mixed = tmp_path / "mixed.avi"
    with av.open(str(small)) as head, av.open(str(large)) as tail, av.open(str(mixed), "w") as container:
        written = container.add_stream_from_template(head.streams.video[0])
        packets = [packet for source in (head, tail) for packet in source.demux(video=0) if packet.size]
        for number, packet in enumerate(packets):
            packet.pts = packet.dts = number
            packet.stream = written
            container.mux(packet)
    monkeypatch.setattr(video_file_leccr, "MAX_FRAME_PIXELS", 48 * 32)
    with pytest.raises(ValueError, match=r"mixed\.avi must be a readable video"):
        sample_frames(mixed, FrameSampling(4))
    monkeypatch.setattr(video_file_leccr, "MAX_FRAME_PIXELS", 480 * 320)
    assert [frame.size for frame in sample_frames(mixed, FrameSampling(4))] == [(48, 32)] * 2 + [(480, 320)] * 2


def test_text_in_another_encoding_is_no_fault(tmp_path: Path):
    """The title of an old clip is in Latin-1; its pictures are as good as any."""
    clip = tmp_path / "clip.mp4"
    with av.open(str(clip), "w") as container:
        container.metadata["title"] = "TITLE"
        stream: Any = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(coded_picture(7), "rgb24")))
        container.mux(stream.encode())
    assert clip.read_bytes().count(b"TITLE") == 1
    clip.write_bytes(clip.read_bytes().replace(b"TITLE", b"\xe9\xe8\xff\xfe\xe9"))
    assert read_codes(sample_frames(clip, FrameSampling(1))) == [7]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the system does not list threads and open files")
def test_nothing_stays_open_after_frames_or_an_error(tmp_path: Path):
    """Workers of a loader read millions of clips; a thread or a file for each is the end of a run."""
    clip = make_clip(tmp_path / "clip.mp4", container_options={"movflags": "faststart"})
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    sound = make_sound(tmp_path / "sound.mp4")
    before = _open_files(), _threads()
    errors = []
    kept = [sample_frames(form, FrameSampling(4)) for form in (clip, clip.read_bytes())]
    for form in (broken, sound, broken.read_bytes()):
        with pytest.raises(ValueError) as error:
            sample_frames(form, FrameSampling(4))
        errors.append(error)
    assert (_open_files(), _threads()) == before
    assert len(kept) == 2 and len(errors) == 3


def test_decoding_starts_no_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Eight workers of as many threads as there are cores stand in one another's way."""
    clip = make_clip(tmp_path / "clip.mp4")
    before, found = _threads(), []
    shown = video_file_leccr._shown

    def watched(*arguments: Any) -> Image.Image:
        picture = shown(*arguments)
        found.append(_threads())
        return picture

    monkeypatch.setattr(video_file_leccr, "_shown", watched)
    sample_frames(clip, FrameSampling(4))
    assert found == [before] * 4


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def _threads() -> int:
    folder = Path("/proc/self/task")
    return len(list(folder.iterdir())) if folder.is_dir() else 0
