"""The benchmark of the gradient cache runs at toy size, and refuses to measure a cache whose gradients differ."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gradient_cache

TOY = ["--batch-size", "6", "--chunks", "2", "--repeats", "1"]


def test_it_writes_table_and_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """A benchmark that nobody runs breaks with the first change of the step."""
    commands, run = [], subprocess.run

    def measured(command: list[str], **settings: Any) -> subprocess.CompletedProcess:
        if "--peak-of" not in command:
            return run(command, **settings)
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, stdout=f"{8.0 / len(commands)}\n", stderr="")

    monkeypatch.setattr(subprocess, "run", measured)
    output, copy = tmp_path / "report.json", tmp_path / "SCALING.md"
    copy.write_text("<!-- gradient_cache --><!-- end of gradient_cache -->", encoding="utf-8")
    assert gradient_cache.main([*TOY, "--seed", "3", "--output", str(output), "--write", str(copy)]) == 0
    report = json.loads(output.read_text(encoding="utf-8"))
    assert [row["step"] for row in report["rows"]] == ["direct", "chunk 2"]
    assert [row["share_of_memory"] for row in report["rows"]] == [1.0, 0.5]
    assert 0 < report["rows"][1]["max_difference"] < gradient_cache.TOLERANCE
    assert report["seed"] == 3 and "machine" in report
    assert "| 4 | 0.5 |" in capsys.readouterr().out and "| 4 | 0.5 |" in copy.read_text(encoding="utf-8")
    direct, cached = report["rows"]
    assert 0 < cached["activations_mib"] < 0.5 * direct["activations_mib"]
    assert cached["losses_mib"] == direct["losses_mib"] > 0
    # Memory of other sizes than the timed ones would stand in the same row.
    for command, kind in zip(commands, ("0", "2"), strict=True):
        words = " ".join(command)
        sizes = ("--size tiny", "--batch-size 6", "--device cpu", "--seed 3", f"--peak-of {kind}")
        assert all(part in words for part in sizes)


def test_the_memory_of_a_step_is_a_number(capsys: pytest.CaptureFixture[str]):
    """The parent reads the last word that its child prints."""
    assert gradient_cache.main([*TOY, "--peak-of", "2"]) == 0
    assert float(capsys.readouterr().out.split()[-1]) >= 0


def test_other_gradients_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Less memory for another step is no saving."""
    right = gradient_cache.cached_backward

    def wrong(model: torch.nn.Module, *args: object, **kwargs: object) -> torch.Tensor:
        loss = right(model, *args, **kwargs)
        model.logit_scale.value.grad.mul_(1.001)
        return loss

    monkeypatch.setattr(gradient_cache, "cached_backward", wrong)
    output = tmp_path / "report.json"
    assert gradient_cache.main([*TOY, "--output", str(output)]) == 1
    assert "gradient/logit_scale.value" in capsys.readouterr().err
    assert not output.exists()
