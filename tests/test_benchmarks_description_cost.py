"""The benchmark of descriptions runs at toy sizes, and takes no time of forms that differ."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import commands, description_cost
from processing.description_states import DescriptionStates

ARGUMENTS = ["--tiny", "--repeats", "1"]


def test_the_benchmark_compares_and_times_all_forms(tmp_path: Path):
    """A benchmark that nobody runs breaks with the first change of the model."""
    output, copy = tmp_path / "report.json", tmp_path / "SCALING.md"
    copy.write_text("<!-- description_cost --><!-- end of description_cost -->", encoding="utf-8")
    assert description_cost.main([*ARGUMENTS, "--output", str(output), "--write", str(copy)]) == 0
    assert "| stored int8 |" in copy.read_text(encoding="utf-8")
    report = json.loads(output.read_text(encoding="utf-8"))
    assert [row["name"] for row in report["rows"]] == ["shared", "frozen", "stored float16", "stored int8"]
    shared, frozen, half, quarter = report["rows"]
    assert all(row["step_seconds"] > 0 and row["speed_up"] > 0 for row in report["rows"])
    assert frozen["gradient_difference"] <= 1e-5 < half["gradient_difference"] < quarter["gradient_difference"]
    assert shared["mib_per_item"] == 0 < quarter["mib_per_item"] < half["mib_per_item"]
    assert half["descriptions"] == 0 < frozen["descriptions"]


def test_the_benchmark_fails_where_a_store_gives_other_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """A step on wrong states is fast too."""
    right = DescriptionStates.batch

    def shifted(self: DescriptionStates, *args: list[str]) -> dict[str, torch.Tensor]:
        return {name: value.roll(1, dims=0) for name, value in right(self, *args).items()}

    monkeypatch.setattr(DescriptionStates, "batch", shifted)
    assert description_cost.main([*ARGUMENTS, "--output", str(tmp_path / "report.json")]) == 1
    assert "the forms differ" in capsys.readouterr().err


def test_recall_trains_each_way_from_scratch_and_on_a_trained_tower(tmp_path: Path):
    """The speed of a frozen encoder says nothing without what it costs in recall."""
    parser = commands.arguments("description_cost", None)
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args(["--tiny", "--max-steps", "2"])
    rows = description_cost.recall_rows(options, tmp_path)
    assert [row["name"] for row in rows] == [
        f"{start}, {encoder}" for start in ("from scratch", "trained tower") for encoder in ("shared", "frozen")
    ]
    assert all(0 <= row["test_sum_r"] <= 600 and row["train_seconds"] > 0 for row in rows)
    # The tower that was trained is not the random one, and each start has a store of its own.
    encoders = [json.loads((tmp_path / f"states {start}" / "store.json").read_text(encoding="utf-8"))["encoder"]
                for start in ("from scratch", "trained tower")]  # fmt: skip
    assert encoders[0]["weights"] != encoders[1]["weights"]
    assert encoders[0]["tokenizer"] == encoders[1]["tokenizer"]
