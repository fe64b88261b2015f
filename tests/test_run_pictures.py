"""What the pictures and the report of a run say beside the numbers: axes, captions, legends."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import ImageColor

from modeling_leccr.training.outputs import write_pictures_and_report
from reporting import curves
from reporting.report import write_report
from reporting.style import new_figure
from retrieval.pictures import CORRECT, contact_sheet
from retrieval.results import Hit, QueryResult
from tests.test_reporting import log_of_a_run, metrics_of_a_system
from tests.tiny import tiny_image


def figure_of(log: list[dict[str, Any]], path: Path, monkeypatch: pytest.MonkeyPatch) -> Figure:
    figure = new_figure(12.0, 4.8)
    monkeypatch.setattr(curves, "new_figure", lambda *_: figure)
    curves.draw_training_curves(log, path, title="run")
    return figure


@pytest.mark.parametrize("num_steps", [4, 8, 30])
def test_a_step_stands_at_the_same_place_in_each_panel(num_steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Ticks at 5.0 and 7.5 beside ticks at 6 and 8 cannot be read across, and there is no step 7.5."""
    log = log_of_a_run(num_steps)
    log += [{"step": num_steps // 2, "eval_sum_r": 9.0, "eval_de/t2i_R@1": 1.0}]
    log += [{"step": num_steps // 2, "pairs_per_second": 9.0, "data_wait_share": 0.1}]
    panels = [axes for axes in figure_of(log, tmp_path / "training.png", monkeypatch).axes if axes.get_xlabel()]
    ticks = [axes.get_xticks().tolist() for axes in panels]
    assert len(ticks) == 4 and all(other == ticks[0] for other in ticks)
    assert all(tick == int(tick) for tick in ticks[0]) and len({axes.get_xlim() for axes in panels}) == 1
    assert panels[0].get_xlim()[1] >= num_steps


def test_both_axes_of_the_speed_panel_say_what_they_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Two axes without label leave a reader to guess which line belongs to which."""
    log = [{"step": step, "pairs_per_second": 9.0, "data_wait_share": 0.1} for step in (1, 2)]
    speed, shares = figure_of(log, tmp_path / "training.png", monkeypatch).axes
    assert (speed.get_ylabel(), shares.get_ylabel()) == ("pairs a second", "time waiting for data")


@pytest.mark.parametrize("controls", [(), ("two streams",)])
def test_the_comparison_is_called_one_where_there_are_controls(controls: tuple[str, ...], tmp_path: Path):
    """Without controls, a caption that promises them makes a reader look for bars that are not there."""
    write_run(tmp_path, ("LECCR", *controls))
    caption = "the system beside its controls" if controls else "text to image R@1 in each language"
    assert f"![{caption}](comparison.png)" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_pictures_of_a_network_of_texts_do_not_speak_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its recalls are of English captions, and far higher: taken for those of images, they mislead."""
    figures: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: figures.append(figure) or save(figure, path))
    write_run(tmp_path, ("cross-lingual network",), item_source="source_captions")
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert report.startswith("# Cross-lingual network on")
    assert "![text to English captions R@1 in each language](comparison.png)" in report
    words = [text.get_text() for figure in figures for text in figure.findobj(Text)]
    assert any("text to English captions R@1" in text for text in words)
    assert not [text for text in words if "image" in text]


def test_pictures_of_a_run_with_videos_speak_of_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Text to image recalls of clips would be set beside those of pictures."""
    figures: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: figures.append(figure) or save(figure, path))
    write_run(tmp_path, ("LECCR",), item_source="image_and_description", vision_input="frames")
    words = [text.get_text() for figure in figures for text in figure.findobj(Text)]
    assert any("ext to video R@1" in text for text in words)
    assert not [text for text in words if "image" in text]
    assert "vision_input: frames" in (tmp_path / "report.md").read_text(encoding="utf-8")


def write_run(folder: Path, names: tuple[str, ...], **protocol: str) -> None:
    """The pictures and the report of a run with these systems."""
    systems = {name: {"test": {**metrics_of_a_system(50.0), "de/num_items": 9.0}} for name in names}
    record: dict[str, Any] = {
        "systems": systems,
        "protocol": {"test": {"split": "test", **protocol}},
        "parameters": {name: {"trained": 1, "all": 2} for name in systems},
        "checkpoint_choice": "best",
        "truncation_rate": 0.0,
        "settings": {},
        "seconds": {},
        "launch": {},
        "environment": {},
        "peak_memory_gib": 1.0,
    }
    runs: Any = {names[0]: SimpleNamespace(log_history=log_of_a_run())}
    write_pictures_and_report(folder, runs, record, split_name="test", languages=["de", "zh"], searches=[])


@pytest.mark.parametrize(
    ("correct", "words"),
    [
        ({"correct": True}, "Bold: the item that the query was written for."),
        ({"correct": False}, "No query has the item that it was written for among these hits."),
        ({}, None),
    ],
)
def test_a_report_explains_bold_hits_where_one_is_bold(correct: dict[str, bool], words: str | None, tmp_path: Path):
    """A legend for what does not occur makes a reader doubt the table."""
    search = {"language": "de", "query": "rot", "hits": [{"image_id": "t1", "score": 0.8, **correct}]}
    lines = (
        write_report(tmp_path / "report.md", title="Run", searches=[search]).read_text(encoding="utf-8").splitlines()
    )
    assert [line for line in lines if line.startswith(("Bold", "No query"))] == ([words] if words else [])


def test_a_sheet_has_no_legend_for_a_frame_that_it_does_not_have():
    """A green square above a sheet without green frames, and an empty strip where there is no title."""
    hits = [Hit("a", 0, 0.9)]
    plain, absent, found = (
        contact_sheet([QueryResult("rot", hits, "de", correct_id)], tiny_image) for correct_id in (None, "b", "a")
    )
    assert absent.size == plain.size and (np.asarray(absent) == np.asarray(plain)).all()
    green = (np.asarray(found) == ImageColor.getrgb(CORRECT)).all(axis=-1)
    (first, *_) = np.flatnonzero(green.any(axis=1))
    # The legend is the first thing on the sheet.
    assert found.height > plain.height and first < 30
    titled = contact_sheet([QueryResult("rot", hits, "de", "a")], tiny_image, title="Searches")
    assert titled.height > found.height
