"""Files are whole or absent, pictures show what was logged, reports say what was measured and nothing else."""

import json
import math
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from processing.files import atomic_write, write_json_atomic, write_text_atomic
from reporting.compare import draw_recalls
from reporting.curves import best_step, draw_training_curves, series, smooth
from reporting.report import write_report
from reporting.run_record import PeakMemory, environment, git_revision

LANGUAGES = ("de", "zh")


def log_of_a_run(num_steps: int = 40) -> list[dict[str, Any]]:
    """A log in the form that the trainer keeps: training entries, evaluations, a summary at the end."""
    log: list[dict[str, Any]] = []
    for step in range(1, num_steps + 1):
        falling = math.exp(-3 * step / num_steps)
        terms = {"loss/target_contrastive": 4 * falling, "loss/slot_diversity": 0.3 * falling}
        log.append({"step": step, "loss": sum(terms.values()), "learning_rate": 1e-3 * falling, **terms})
        if step % 10 == 0:
            recalls = {f"eval_{code}/t2i_R@1": 80 * (1 - falling) for code in LANGUAGES}
            log.append({"step": step, "eval_sum_r": 900 * (1 - falling), **recalls})
    return [*log, {"step": num_steps, "train_runtime": 12.0, "train_loss": 1.0}]


def metrics_of_a_system(recall: float, languages: tuple[str, ...] = LANGUAGES) -> dict[str, float]:
    keys = [f"{direction}_R@{cutoff}" for direction in ("t2i", "i2t") for cutoff in (1, 5, 10)]
    return {f"{code}/{key}": recall for code in languages for key in keys} | {
        f"{code}/sum_r": 6 * recall for code in languages
    }


def ink_share(path: Path) -> float:
    """Share of the pixels that are not the white of the paper."""
    pixels = np.asarray(Image.open(path).convert("L"))
    return float((pixels < 250).mean())


# Files


def test_atomic_write_replaces_the_file_and_leaves_nothing_beside_it(tmp_path: Path):
    """Temporary files that pile up beside the results would be pushed to the Hub with them."""
    target = tmp_path / "new" / "metrics.json"
    write_json_atomic(target, {"a": 1})
    write_json_atomic(target, {"a": 2, "language": "čeština"})
    assert json.loads(target.read_text(encoding="utf-8")) == {"a": 2, "language": "čeština"}
    assert [path.name for path in target.parent.iterdir()] == ["metrics.json"]


def test_an_error_while_writing_keeps_the_old_file(tmp_path: Path):
    """A run that dies while it writes would leave half a file over the good one."""
    target = write_text_atomic(tmp_path / "report.md", "old")
    with pytest.raises(RuntimeError, match="disk"), atomic_write(target) as temporary:
        temporary.write_text("half of the n", encoding="utf-8")
        raise RuntimeError("disk full")
    assert target.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path: Path):
    """A dashboard that reads while the run writes would parse an empty file."""
    target = write_text_atomic(tmp_path / "metrics.json", "old")
    with atomic_write(target) as temporary:
        temporary.write_text("new", encoding="utf-8")
        assert target.read_text(encoding="utf-8") == "old"
        assert temporary.parent == target.parent and temporary.suffix == target.suffix
    assert target.read_text(encoding="utf-8") == "new"


@pytest.mark.skipif(os.name != "posix", reason="permission bits are those of POSIX")
def test_atomic_files_follow_the_umask(tmp_path: Path):
    """Files of `mkstemp` are readable by their owner alone, and a shared results folder would be of no use."""
    plain = tmp_path / "plain.txt"
    plain.write_text("", encoding="utf-8")
    assert write_text_atomic(tmp_path / "atomic.txt", "").stat().st_mode == plain.stat().st_mode


def test_writers_of_one_file_do_not_meet_in_one_temporary_name(tmp_path: Path):
    """Two processes that write the same file at once would mix their halves."""
    target = tmp_path / "metrics.json"
    data = [{"writer": number, "values": [number] * 2000} for number in range(8)]
    threads = [threading.Thread(target=write_json_atomic, args=(target, part)) for part in data]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert json.loads(target.read_text(encoding="utf-8")) in data
    assert list(tmp_path.iterdir()) == [target]


def test_atomic_write_refuses_a_folder_and_a_block_that_wrote_nothing(tmp_path: Path):
    """A writer that saved elsewhere would look as if it had succeeded."""
    with pytest.raises(IsADirectoryError, match="must name a file"), atomic_write(tmp_path):
        pass
    with pytest.raises(FileNotFoundError, match="nothing was written"), atomic_write(tmp_path / "picture.png"):
        pass


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_with_a_number_that_is_not_finite_is_refused(tmp_path: Path, value: float):
    """`NaN` is no JSON: the Hub and browsers refuse the whole metrics file."""
    with pytest.raises(ValueError):
        write_json_atomic(tmp_path / "metrics.json", {"de/t2i_R@1": value})
    assert list(tmp_path.iterdir()) == []


# Training curves


def test_series_takes_the_entries_that_have_the_key_and_are_finite():
    """One NaN in the log makes matplotlib choose axes without end, and the picture is empty."""
    log = [{"step": 1, "loss": 2.0}, {"step": 2, "eval_sum_r": 3.0}, {"step": 3, "loss": float("nan")}, {"loss": 1.0}]
    assert series(log, "loss") == ([1.0], [2.0])


def test_smooth_matches_a_hand_computed_average_and_keeps_the_ends():
    """A trailing average lags: the curve would show the loss of earlier steps at its end."""
    assert smooth([1.0, 2.0, 6.0, 4.0], window=3) == [1.0, 3.0, 4.0, 4.0]
    line = [float(step) for step in range(20)]
    assert smooth(line, window=7) == pytest.approx(line)
    assert smooth([], window=3) == []


@pytest.mark.parametrize("window", [0, 2, -1])
def test_smooth_refuses_a_window_that_has_no_centre(window: int):
    """An even window shifts the curve by half a step."""
    with pytest.raises(ValueError, match="positive odd"):
        smooth([1.0], window=window)


def test_best_step_is_the_first_of_the_highest():
    """The picture would mark another checkpoint than the one that the trainer keeps."""
    log = [{"step": step, "eval_sum_r": value} for step, value in [(10, 5.0), (20, 9.0), (30, 9.0), (40, 7.0)]]
    assert best_step(log) == (20.0, 9.0)
    assert best_step([{"step": 1, "loss": 1.0}]) is None


def test_training_curves_draw_each_panel_that_has_data(tmp_path: Path):
    """A picture that is blank, or that lost a panel, still exits 0."""
    full = draw_training_curves(log_of_a_run(), tmp_path / "training.png", title="run")
    only_loss: list[dict[str, Any]] = [
        {key: entry[key] for key in ("step", "loss") if key in entry} for entry in log_of_a_run()
    ]
    small = draw_training_curves(only_loss, tmp_path / "loss.png", title="run")
    assert Image.open(full).width > 2 * Image.open(small).width
    assert ink_share(full) > 0.01 and ink_share(small) > 0.01


def test_training_curves_take_a_negative_term_and_a_run_without_evaluation(tmp_path: Path):
    """A logarithmic axis drops values at or below zero in silence."""
    log = [{"step": step, "loss": 1.0 - step, "loss/softened": 0.0} for step in range(3)]
    assert ink_share(draw_training_curves(log, tmp_path / "training.png", title="run")) > 0.005


def test_the_same_log_gives_the_same_picture(tmp_path: Path):
    """A picture with the time in it changes in each commit of a model repository."""
    first = draw_training_curves(log_of_a_run(), tmp_path / "a.png", title="run")
    second = draw_training_curves(log_of_a_run(), tmp_path / "b.png", title="run")
    assert first.read_bytes() == second.read_bytes()


def test_a_log_with_nothing_to_draw_is_an_error_that_names_its_keys(tmp_path: Path):
    """An empty picture would be published as the training curve."""
    with pytest.raises(ValueError, match=r"train_runtime.*logging_steps"):
        draw_training_curves([{"step": 5, "train_runtime": 1.0}], tmp_path / "training.png", title="run")
    assert list(tmp_path.iterdir()) == []


# Comparison of systems


def test_recall_bars_are_as_high_as_the_recalls(tmp_path: Path):
    """Bars drawn from the wrong system or language look as good as the right ones."""
    systems = {"LECCR": {"de/t2i_R@1": 80.0, "zh/t2i_R@1": 40.0}, "two streams": {"de/t2i_R@1": 80.0}}
    path = draw_recalls(systems, LANGUAGES, tmp_path / "recalls.png", title="test")
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    blue = (np.abs(pixels - np.array([0, 114, 178])).sum(axis=-1) < 30).astype(int)
    # The legend's patch is blue too: only columns with a tall run of blue are bars.
    heights = sorted(height for height in set(blue.sum(axis=0).tolist()) if height > 60)
    assert heights[-1] == pytest.approx(2 * heights[0], rel=0.06)


def test_the_chance_line_is_drawn_at_cutoff_over_candidates(tmp_path: Path):
    """Without it 10 % of 10 candidates looks like a result."""
    systems = {"LECCR": {"de/t2i_R@10": 50.0}}
    arguments: dict[str, Any] = {"title": "test", "metric": "t2i_R@10"}
    without = draw_recalls(systems, ["de"], tmp_path / "a.png", **arguments)
    with_line = draw_recalls(systems, ["de"], tmp_path / "b.png", num_items=40, **arguments)
    assert without.read_bytes() != with_line.read_bytes()
    with pytest.raises(ValueError, match="chance line"):
        draw_recalls({"LECCR": {"de/sum": 5.0}}, ["de"], tmp_path / "c.png", title="t", metric="sum", num_items=9)


@pytest.mark.parametrize("value", [-1.0, 480.9, float("nan")])
def test_a_recall_that_is_no_percentage_is_refused(tmp_path: Path, value: float):
    """A fraction or a SumR handed in by mistake would be drawn on the percent axis; NaN would draw no bar."""
    with pytest.raises(ValueError, match=r"de/t2i_R@1 must be a percentage"):
        draw_recalls({"LECCR": {"de/t2i_R@1": value}}, ["de"], tmp_path / "recalls.png", title="test")


def test_systems_without_the_metric_are_an_error_that_names_it(tmp_path: Path):
    """A misspelt language would give a picture without bars."""
    with pytest.raises(ValueError, match=r"t2i_R@1.*\['xx'\].*LECCR"):
        draw_recalls({"LECCR": metrics_of_a_system(50.0)}, ["xx"], tmp_path / "recalls.png", title="test")


# Report


def test_a_report_holds_each_number_in_the_table_of_its_language(tmp_path: Path):
    """Columns that slipped by one would give the recall of the other direction."""
    metrics = metrics_of_a_system(0.0) | {
        "de/t2i_R@1": 11.1,
        "de/t2i_R@5": 22.2,
        "de/t2i_R@10": 33.3,
        "de/i2t_R@1": 44.4,
        "de/i2t_R@5": 55.5,
        "de/i2t_R@10": 66.6,
        "de/sum_r": 233.1,
    }
    path = write_report(
        tmp_path / "report.md", title="Run", metrics_by_system={"LECCR": metrics}, languages=["zh", "de"]
    )
    text = path.read_text(encoding="utf-8")
    german = text.partition("### German")[2]
    assert "| system | t2i R@1 | t2i R@5 | t2i R@10 | i2t R@1 | i2t R@5 | i2t R@10 | SumR |" in german
    assert "| LECCR | 11.1 | 22.2 | 33.3 | 44.4 | 55.5 | 66.6 | 233.1 |" in german
    assert text.index("### Chinese") < text.index("### German")
    assert "| LECCR | 0.0 | 233.1 | 116.5 |" in text


def test_a_system_without_a_language_has_no_mean(tmp_path: Path):
    """A mean over the easy languages would be set beside the mean over all."""
    systems = {"LECCR": metrics_of_a_system(50.0), "control": metrics_of_a_system(40.0, ("de",))}
    path = write_report(tmp_path / "report.md", title="Run", metrics_by_system=systems, languages=LANGUAGES)
    text = path.read_text(encoding="utf-8")
    assert "| LECCR | 300.0 | 300.0 | 300.0 |" in text
    assert "| control | 240.0 | – | – |" in text
    assert "control" not in text.partition("### Chinese")[2]


def test_sections_without_data_are_left_out(tmp_path: Path):
    """Empty headings read as if something had been measured and lost."""
    path = write_report(tmp_path / "report.md", title="Run", settings={"seed": 3})
    assert re.findall(r"^## (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE) == ["Settings"]


def test_a_report_shows_protocol_settings_times_machine_files_and_searches(tmp_path: Path):
    """Recall without split, captions per item and tie rule cannot be compared with anybody's."""
    hit = {"image_id": "t1", "score": 0.8, "correct": True}
    path = write_report(
        tmp_path / "report.md",
        title="Run",
        settings={"seed": 0, "model": {"num_slots": 4, "official": False}, "languages": ["de", "zh"], "limit": None},
        protocol={"split": "test", "ties": "a tied wrong candidate comes first"},
        timings={"training": 255.2, "evaluation": 4.31, "rounding": 59.96},
        environment={"libraries": {"torch": "2.13.0"}},
        files={"training.png": "Curves", "model/": "The model"},
        searches=[{"language": "de", "query": "rot | blau", "hits": [hit]}],
    )
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    assert "- ties: a tied wrong candidate comes first" in lines
    for row in (
        "| `seed` | 0 |",
        "| `model.num_slots` | 4 |",
        "| `model.official` | no |",
        "| `languages` | de, zh |",
        "| `limit` | – |",
        "| training | 4 min 15 s |",
        "| evaluation | 4.3 s |",
        "| rounding | 1 min 00 s |",
        "| `libraries.torch` | 2.13.0 |",
        "| [model/](model/) | The model |",
        "| German | rot \\| blau | **t1 (0.80)** |",
    ):
        assert row in lines
    assert "![Curves](training.png)" in text and "![The model]" not in text


def test_a_report_refuses_metrics_without_languages_and_a_search_without_hits(tmp_path: Path):
    """The tables would be missing from the report of a run that was evaluated."""
    with pytest.raises(ValueError, match="languages must name"):
        write_report(tmp_path / "report.md", title="Run", metrics_by_system={"LECCR": metrics_of_a_system(1.0)})
    with pytest.raises(ValueError, match=r"\['hits'\] missing"):
        write_report(tmp_path / "report.md", title="Run", searches=[{"language": "de", "query": "rot"}])
    assert list(tmp_path.iterdir()) == []


# Record of the run


def test_the_environment_names_versions_and_neither_host_nor_user_nor_path(root_dir: Path):
    """A published report would tell the host name and the home folder of whoever ran it."""
    record = environment()
    assert record["libraries"]["torch"].startswith("2.") and record["torch_threads"] == 1
    assert record["cpu_count"] >= 1 and record["python"].count(".") == 2
    text = json.dumps(record)
    private = [os.uname().nodename if hasattr(os, "uname") else "", str(Path.home()), str(root_dir)]
    assert not [word for word in private if len(word) > 3 and word in text]
    assert str(Path(sys.prefix)) not in text


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=Tester", "-c", "user.email=tester@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_the_revision_says_when_tracked_files_differ_from_it(tmp_path: Path):
    """A number would be traced to a commit that never gave it."""
    file = tmp_path / "code.py"
    file.write_text("a = 1\n", encoding="utf-8")
    assert git_revision(file) is None
    git(tmp_path, "init", "--quiet")
    assert git_revision(file) is None
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    assert re.fullmatch(r"[0-9a-f]{12}", git_revision(file) or "")
    file.write_text("a = 2\n", encoding="utf-8")
    assert re.fullmatch(r"[0-9a-f]{12}\+changes", git_revision(file) or "")


def test_an_installed_package_does_not_take_the_revision_of_the_project_around_it(tmp_path: Path):
    """An environment inside somebody's checkout would report that project's commit as ours."""
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "-m", "theirs")
    installed = tmp_path / ".venv" / "package.py"
    installed.parent.mkdir()
    installed.write_text("", encoding="utf-8")
    assert git_revision(installed) is None


SPIKE = """
import numpy
from reporting.run_record import PeakMemory
with PeakMemory(interval=60) as memory:
    before = memory.peak_bytes
    block = numpy.ones(300_000_000, dtype=numpy.uint8)
    del block
print(memory.peak_bytes - before)
"""


def test_peak_memory_sees_a_spike_between_two_samples(root_dir: Path):
    """Memory read at intervals, or at the end, misses the peak that kills a run."""
    # A fresh process: in this one an earlier test may have reached a higher mark.
    result = subprocess.run([sys.executable, "-c", SPIKE], cwd=root_dir, check=True, capture_output=True, text=True)
    assert 250_000_000 < int(result.stdout) < 400_000_000


def test_peak_memory_counts_the_children(tmp_path: Path):
    """Data workers hold most of the memory of a run, and the parent's number alone would pass the limit."""
    flag = tmp_path / "filled"
    code = f"import pathlib, time; block = b'1' * 150_000_000; pathlib.Path({str(flag)!r}).touch(); time.sleep(30)"
    with PeakMemory(interval=0.05) as memory:
        before = memory.peak_bytes
        child = subprocess.Popen([sys.executable, "-c", code])
        try:
            wait = threading.Event()
            while not flag.exists() and child.poll() is None:
                wait.wait(0.05)
            wait.wait(0.3)
        finally:
            child.kill()
            child.wait()
    assert memory.peak_bytes - before > 130_000_000


def test_peak_memory_refuses_an_interval_that_would_never_wait():
    """A zero interval samples without pause and slows the run that it measures."""
    with pytest.raises(ValueError, match="positive number of seconds"):
        PeakMemory(interval=0)
