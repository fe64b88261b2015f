"""The benchmark of runs that are killed reports what it found; its runs are those of tests/test_resume.py."""

import os
import runpy
import sys
from pathlib import Path

import pytest

from benchmarks import resume


@pytest.mark.parametrize("difference", [[], ["weights"]])
def test_the_benchmark_prints_its_table_and_fails_where_runs_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], difference: list[str]
):
    """A benchmark that ends well whatever it finds proves nothing; its runs are those of tests/test_resume.py."""
    report = {"kills": 3, "during_saves": 1, "runs": 2, "weights": ["a" * 64] * 3, "differences": difference}
    monkeypatch.setattr(resume, "kill_at_random", lambda *_: report)
    monkeypatch.setattr(resume, "Laboratory", lambda **_: None)
    output, copy = tmp_path / "resume.json", tmp_path / "SCALING.md"
    copy.write_text("<!-- resume --><!-- end of resume -->", encoding="utf-8")
    words = ["--kills", "3", "--processes", "1", "--output", str(output), "--write", str(copy)]
    assert resume.main(words) == len(difference)
    printed = capsys.readouterr()
    row = f"| 1 | 3 | 1 | 2 | `{'a' * 16}` | {'no' if difference else 'yes'} |"
    assert row in printed.out and row in copy.read_text(encoding="utf-8")
    assert ("error: runs that were killed differ" in printed.err) == bool(difference)
    assert output.is_file()


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_the_command_starts_itself_again_with_one_thread(monkeypatch: pytest.MonkeyPatch):
    """Forks with more threads lock each other out; set at import instead, the variables would reach all later tests."""
    started = []
    monkeypatch.setattr(sys, "argv", ["resume", "--help"])
    monkeypatch.setattr(os, "execve", lambda *call: started.append(call) or sys.exit(7))
    for name in resume.ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit, match="7"):
        runpy.run_module("benchmarks.resume", run_name="__main__")
    ((_, words, variables),) = started
    assert words[1:] == ["-m", "benchmarks.resume", "--help"] and resume.ENVIRONMENT.items() <= variables.items()
    for name, value in resume.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match="0"):
        runpy.run_module("benchmarks.resume", run_name="__main__")
    assert len(started) == 1
