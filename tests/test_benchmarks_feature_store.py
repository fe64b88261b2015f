"""The benchmark of feature stores: a store that is what it says, memory of all processes, and a table."""

import json
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import commands, feature_store, synthetic_store
from benchmarks.feature_store import MemoryMeter, proportional_mib
from benchmarks.synthetic_store import SyntheticStore
from processing.readers.feature_store import FeatureStore
from processing.sources import open_splits

TOY = ["--items", "12", "--frames", "3", "--dim", "8", "--batch-size", "4", "--batches", "2", "--steps", "1"]


def test_a_store_that_was_not_finished_is_finished_with_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Twelve gigabytes are not written twice; a piece that is half there must not shift all later rows."""
    monkeypatch.setattr(synthetic_store, "_ITEMS_AT_ONCE", 5)
    whole, resumed = (SyntheticStore(tmp_path / name, 12, 3, 8, seed=1) for name in ("whole", "resumed"))
    whole.write()
    data = (whole.features / "feature.bin").read_bytes()
    assert len(data) == whole.num_bytes == 12 * 3 * 8 * 4
    resumed.features.mkdir(parents=True)
    (resumed.features / "feature.bin.partial").write_bytes(data[: 5 * 3 * 8 * 4 + 40])
    resumed.write()
    assert (resumed.features / "feature.bin").read_bytes() == data
    assert sorted(path.name for path in resumed.features.iterdir()) == [
        "feature.bin",
        "id.txt",
        "shape.txt",
        "video2frames.txt",
    ]
    store, numbers = FeatureStore(whole.features), np.frombuffer(data, "<f4").reshape(12, 3, 8)
    rows = open_splits(whole.texts)["train"]
    assert rows["video_id"][:] == store.ids and len(store) == 12
    for position, item in enumerate(store.ids):
        np.testing.assert_array_equal(store.frames_of(item), numbers[position])
    assert len(np.unique(numbers)) > 200
    assert {len(row["caption_en"]) for row in rows} == {len(row["caption_de_mt"]) for row in rows} == {5}
    with pytest.raises(ValueError, match=r"holds a store of .* remove it with --clean"):
        SyntheticStore(tmp_path / "whole", 13, 3, 8, seed=1).write()


def test_the_memory_of_workers_counts(tmp_path: Path):
    """A loader whose workers hold everything would look as if it held nothing."""
    context = multiprocessing.get_context("fork")
    holds, may_end = context.Event(), context.Event()
    meter = MemoryMeter()
    worker = context.Process(target=_hold, args=(64, holds, may_end))
    worker.start()
    try:
        assert holds.wait(timeout=60)
        meter.start()
        meter.stop()
    finally:
        may_end.set()
        worker.join()
    # Pages of code are left out: their share falls and rises with other processes of the machine that use the same.
    assert 60 <= meter.peak_mib - meter.mapped_mib < 100
    assert proportional_mib(2**22 + 1).keys() == {"Pss", "Pss_File"}  # no such process


def _hold(mebibytes: int, holds: Any, may_end: Any) -> None:
    kept = np.ones(mebibytes * 2**17)
    holds.set()
    may_end.wait(timeout=60)
    assert kept.all()


@pytest.mark.parametrize("part", ["loader", "steps"])
def test_it_measures_a_small_store(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """What a child prints last is what its parent reads."""
    monkeypatch.setattr(feature_store, "SAMPLE_SECONDS", 0.01)
    SyntheticStore(tmp_path / "store", 12, 3, 8, seed=0).write()
    words = [*TOY, "--folder", str(tmp_path / "store"), "--size", "tiny", "--workers", "0", "--measure", part]
    threads = torch.get_num_threads()
    assert feature_store.main(words) == 0
    assert torch.get_num_threads() == threads
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(found) <= set(feature_store.COLUMNS) and all(value >= 0 for value in found.values())
    if part == "loader":
        assert found["pairs_per_second"] == pytest.approx(4000 / found["batch_milliseconds"])
    else:
        assert 0 < found["waited_percent"] < 100


def test_it_writes_the_table_and_removes_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Each row is measured on a disk that is asked, not on what the row before left in memory."""
    events: list[Any] = []

    def in_child(name: str, options: Any, **changes: Any) -> str:
        events.append(changes)
        column = "loader_mib" if changes["measure"] == "loader" else "waited_percent"
        return json.dumps({column: 7.5 + changes["workers"][0]})

    monkeypatch.setattr(commands, "in_child", in_child)
    monkeypatch.setattr(SyntheticStore, "forget_pages", lambda self: events.append("forgotten"))
    monkeypatch.setenv("HF_DATASETS_CACHE", "unchanged")
    folder, output, copy = tmp_path / "store", tmp_path / "report.json", tmp_path / "SCALING.md"
    copy.write_text("<!-- feature_store --><!-- end of feature_store -->", encoding="utf-8")
    words = [*TOY, "--folder", str(folder), "--output", str(output), "--write", str(copy)]
    assert feature_store.main(words) == 0
    assert events == [
        event
        for workers in ([0], [4])
        for part in ("loader", "steps")
        for event in ("forgotten", {"workers": workers, "measure": part})
    ]
    report = json.loads(output.read_text(encoding="utf-8"))
    assert [(row["workers"], row["loader_mib"], row["waited_percent"]) for row in report["rows"]] == [
        (0, 7.5, 7.5),
        (4, 11.5, 11.5),
    ]
    assert report["items"] == 12 and "machine" in report
    assert "| 4 |  | 11.5 |" in copy.read_text(encoding="utf-8") and "12 videos of 3 frames" in capsys.readouterr().out
    assert feature_store.main([*TOY, "--folder", str(folder), "--clean"]) == 0
    assert not folder.exists()
    folder.mkdir()
    with pytest.raises(ValueError, match="holds no synthetic store; nothing was removed"):
        feature_store.main(["--folder", str(folder), "--clean"])


def test_pages_are_forgotten_where_the_system_can(tmp_path: Path):
    """A file that is still being written out keeps its pages, and the benchmark would read memory."""
    store = SyntheticStore(tmp_path, 12, 3, 8, seed=0)
    store.write()
    store.forget_pages()
    assert len(FeatureStore(store.features).frames_of("video3")) == 3


def test_the_model_of_the_steps_reads_features():
    """At real geometry the widths are the published ones."""
    config = feature_store.make_model(16, tiny=True).config
    assert (config.vision_input, config.feature_dim, config.num_slots) == ("features", 16, 2)
