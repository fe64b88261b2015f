"""The benchmark of adapters runs at toy sizes, and measures nothing of an adapter that is not the trained one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import adapters, commands, measuring


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with a base, and its row."""
    folder = tmp_path_factory.mktemp("adapters")
    return folder, adapters.train_base(options_of(folder, "base"))


def options_of(folder: Path, way: str) -> Any:
    words = ["--tiny", "--steps", "2", "--base-steps", "2", "--way", way, "--folder", str(folder)]
    return adapters.build_parser().parse_args(words)


def test_the_table_and_the_json_tell_of_every_way(
    base: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """A benchmark that nobody runs breaks with the first change of the trainer."""
    folder, base_row = base

    def in_this_process(_: str, __: Any, *, way: str, **___: Any) -> str:
        return json.dumps(base_row if way == "base" else adapters.train_way(options_of(folder, way)))

    monkeypatch.setattr(commands, "in_child", in_this_process)
    assert adapters.main(["--tiny", "--output", str(folder / "report.json")]) == 0
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    rows = {row["way"]: row for row in report["rows"]}
    assert set(rows) == {"base", "text full", "text lora", "text frozen"} and {"machine", "seed"} <= set(report)
    assert rows["base"]["trained_percent"] == rows["text frozen"]["file_percent_of_full"] == 100
    assert rows["text frozen"]["trained"] < rows["text lora"]["trained"] < rows["text full"]["trained"]
    assert rows["text lora"]["file_percent_of_full"] < 10
    # An adapter at the learning rate of a whole tower learns next to nothing in as many steps.
    assert rows["text lora"]["text_learning_rate"] > rows["text full"]["text_learning_rate"]
    assert rows["text frozen"]["text_learning_rate"] is None
    printed = capsys.readouterr().out
    assert all(f"| {name} |" in printed for name in rows)


def test_an_adapter_that_reloads_to_other_embeddings_is_not_reported(
    base: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
):
    """A small file is worth nothing if it lacks a part of what was trained."""
    folder, _ = base
    merge = adapters.merge_adapter

    def without_a_head(model: Any) -> Any:
        merged = merge(model)
        with torch.no_grad():
            merged.text_projection.weight += torch.randn_like(merged.text_projection.weight)
        return merged

    monkeypatch.setattr(adapters, "merge_adapter", without_a_head)
    with pytest.raises(measuring.FormsDifferError, match="merged"):
        adapters.train_way(options_of(folder, "text lora"))
