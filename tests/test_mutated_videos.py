"""The benchmark of mutated videos: it finds nothing amiss in a few files, and finds what is amiss."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from benchmarks import mutated_videos
from benchmarks.mutated_videos import ELSE, READ, REFUSED
from benchmarks.video_files import DAMAGES, SOURCES
from processing.video_frames_leccr import FrameSampling

PLAIN = SOURCES[0]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Processes are forked here, and a fork could stall with threads of torch."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run(folder: Path, count: int) -> tuple[int, dict[str, Any]]:
    output = folder / "report.json"
    code = mutated_videos.main(["--count", str(count), "--folder", str(folder), "--output", str(output)])
    return code, json.loads(output.read_text(encoding="utf-8"))


def test_damaged_files_are_read_or_refused_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A run over a million clips of the web would end with the first that crashes its worker."""
    code, report = run(tmp_path, 20)
    assert code == 0 and report["others"] == [] and sum(report["totals"].values()) == 20
    assert report["totals"][READ] >= 3 and report["totals"][REFUSED] >= 3
    assert {outcome["damage"] for outcome in report["outcomes"]} == set(DAMAGES)
    assert "| all | 20 |" in capsys.readouterr().out
    # The files can be made again from their numbers; those of the encoders stay.
    assert [path.name for path in (tmp_path / "seed-0").iterdir() if path.is_file()] == ["outcomes.jsonl"]


def observed(folder: Path, damage: str = "none", source: Any = PLAIN, seconds: float = 30) -> tuple[str, str]:
    path, _, _ = mutated_videos.make_file(0, 0, folder)
    return mutated_videos.observe(path, source, damage, 0, seconds=seconds, memory_gib=2)


def _crash(*_: Any, **__: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def _hang(*_: Any, **__: Any) -> Any:
    time.sleep(3600)


def _fill_the_memory(*_: Any, **__: Any) -> Any:
    return bytearray(8 * 2**30)


def _refuse_without_a_name(*_: Any, **__: Any) -> Any:
    raise ValueError("invalid data")


def _fail_otherwise(*_: Any, **__: Any) -> Any:
    raise KeyError("streams")


@pytest.mark.parametrize(
    ("reader", "detail"),
    [
        (_crash, "ended with -9"),
        (_hang, "no end after"),
        (_fill_the_memory, "MemoryError"),
        (_refuse_without_a_name, "invalid data"),
        (_fail_otherwise, "KeyError"),
    ],
)
def test_each_way_to_fail_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: Any, detail: str):
    """A benchmark that takes a crash for a refusal counts nothing."""
    monkeypatch.setattr(mutated_videos, "sample_frames", reader)
    state, found = observed(tmp_path, seconds=2 if reader is _hang else 30)
    assert state == ELSE and detail in found


@pytest.mark.parametrize(
    ("frames", "detail"),
    [
        ([], "0 frames"),
        ([Image.new("RGB", (64, 48))] * 9, "9 frames"),
        ([Image.new("RGB", (64, 48))] * 7, "8 expected"),
        ([Image.new("L", (64, 48))] * 8, "not RGB"),
        ([Image.new("RGB", (48, 64))] * 8, "expected"),
    ],
)
def test_wrong_frames_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frames: list[Any], detail: str):
    """What is read is held against what the encoder was given."""
    monkeypatch.setattr(mutated_videos, "sample_frames", lambda *_, **__: frames)
    state, found = observed(tmp_path)
    assert state == ELSE and detail in found


def test_what_stays_open_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One file for each clip is the end of a worker."""
    kept = []
    read = mutated_videos.sample_frames

    def leave_open(video: Any, sampling: FrameSampling, **options: Any) -> list[Image.Image]:
        kept.append(open(os.devnull, "rb"))  # noqa: SIM115
        return read(video, sampling, **options)

    monkeypatch.setattr(mutated_videos, "sample_frames", leave_open)
    state, detail = observed(tmp_path)
    assert state == ELSE and "before and after" in detail


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        (lambda batch: batch | {"pixel_values": batch["pixel_values"][:, 1:]}, "shapes"),
        (lambda batch: batch | {"frame_mask": batch["frame_mask"].float()}, "types"),
        (lambda batch: batch | {"pixel_values": batch["pixel_values"] * torch.nan}, "values"),
        (lambda batch: batch | {"pixel_values": batch["pixel_values"] + 255}, "values"),
        (lambda batch: batch | {"frame_mask": batch["frame_mask"] * 0}, "mask"),
    ],
)
def test_wrong_tensors_are_seen(change: Any, detail: str):
    """NaN in one clip makes all weights NaN."""
    batch = dict(mutated_videos._processor()(videos=[[Image.new("RGB", (64, 48))] * 3]))
    mutated_videos.check_tensors(batch, 3)
    with pytest.raises(mutated_videos.WrongFramesError, match=detail):
        mutated_videos.check_tensors(change(batch), 3)


@pytest.mark.parametrize(
    ("damage", "source", "expected"),
    [("none", PLAIN, READ), ("cut", PLAIN, READ), ("empty", PLAIN, ELSE), ("only a beginning", PLAIN, ELSE)],
)
def test_frames_of_what_holds_none_are_seen(tmp_path: Path, damage: str, source: Any, expected: str):
    """A reader that makes frames up would pass all other checks."""
    assert observed(tmp_path, damage, source)[0] == expected


def test_a_whole_file_that_is_refused_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A reader that refuses everything would pass."""

    def refuse(video: Any, *_: Any, **__: Any) -> Any:
        raise ValueError(f"{video} is refused")

    monkeypatch.setattr(mutated_videos, "sample_frames", refuse)
    assert observed(tmp_path) == (ELSE, f"a whole file was refused: {tmp_path / '00000.mp4'} is refused")
    assert observed(tmp_path, "cut")[0] == REFUSED


def test_a_run_that_was_stopped_goes_on_and_names_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """500 files take minutes; a last line that was half written must not end the next run."""
    asked = []

    def record(path: Path, source: Any, damage: str, number: int, **_: Any) -> tuple[str, str]:
        asked.append(number)
        return (ELSE, "a crash") if number == 2 else (READ, "")

    monkeypatch.setattr(mutated_videos, "observe", record)
    assert run(tmp_path, 2)[0] == 0
    with (tmp_path / "seed-0" / "outcomes.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"number": 2, "fi')
    for _ in range(2):
        code, report = run(tmp_path, 4)
        assert code == 1 and [other["detail"] for other in report["others"]] == ["a crash"]
    assert asked == [0, 1, 2, 3]
    assert "a crash" in capsys.readouterr().err
    assert (tmp_path / "seed-0" / report["others"][0]["file"]).is_file()
