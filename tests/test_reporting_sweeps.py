"""The pictures of experiments: lines over a setting, and bars of differences."""

from pathlib import Path

import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from reporting import differences, sweeps
from reporting.style import new_figure


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are drawn, to be looked into."""
    figures: list[Figure] = []

    def kept(width: float, height: float) -> Figure:
        figures.append(new_figure(width, height))
        return figures[-1]

    for module in (differences, sweeps):
        monkeypatch.setattr(module, "new_figure", kept)
    return figures


def test_a_line_has_its_colour_in_every_panel(drawn: list[Figure], tmp_path: Path):
    """The panels share a legend: a line that one panel lacks would hand its colour to another one there."""
    hard, soft = [(0.0, 1.0, 0.5), (1.0, 2.0, 0.5)], [(0.0, 3.0, 0.5), (1.0, 4.0, 0.5)]
    panels = {"first": {"hard": hard, "soft": soft}, "second": {"soft": soft}}
    sweeps.draw_sweeps(panels, tmp_path / "a.png", title="T", x_label="x")
    first, second = drawn[0].axes
    colours = [to_hex(line[0].get_color()) for axes in (first, second) for line in axes.containers]
    assert colours[1] == colours[2] != colours[0]


def test_what_the_bars_at_the_points_are_is_said(drawn: list[Figure], tmp_path: Path):
    """A reader takes them for an interval; and of one seed there are none."""
    for deviation, said in ((0.5, True), (0.0, False)):
        sweeps.draw_sweeps({"": {"line": [(0.0, 1.0, deviation)]}}, tmp_path / "a.png", title="T", x_label="x")
        assert ("± standard deviation over seeds" in drawn[-1].axes[0].get_ylabel()) == said


def test_a_long_title_of_a_panel_is_broken_and_not_cut(drawn: list[Figure], tmp_path: Path):
    """A title that names data, languages and items would run out of the picture."""
    words = "photos of a real data set, with human captions in place of descriptions, in one language"
    for names in ([words], [words, "short"]):
        panels = {name: {"line": [(0.0, 1.0, 0.0)]} for name in names}
        sweeps.draw_sweeps(panels, tmp_path / "a.png", title="T", x_label="x")
    for figure in drawn:
        assert figure.axes[0].get_title(loc="left").replace("\n", " ") == words
        title = next(text for text in figure.findobj(Text) if text.get_text() == figure.axes[0].get_title(loc="left"))
        assert title.get_window_extent().x1 <= figure.bbox.x1 / len(figure.axes)


def test_a_variant_without_effect_is_no_reference(drawn: list[Figure], tmp_path: Path):
    """A setting that is never reached changes nothing in any seed, which is a result."""
    values = {"ours": (0.0, 0.0), "no bound": (0.0, 0.0), "worse": (-3.0, 1.0), "broken": None}
    words = {"title": "T", "x_label": "SumR against ours"}
    differences.draw_differences(values, tmp_path / "a.png", reference="ours", **words)
    assert [text.get_text() for text in drawn[0].axes[0].texts] == ["reference", "+0.0", "-3.0", "no result"]
    assert drawn[0].axes[0].get_xlabel() == "SumR against ours\n± standard deviation over seeds"
    differences.draw_differences({"short": (-3.0, 0.0)}, tmp_path / "a.png", **words)
    assert drawn[1].axes[0].get_xlabel() == "SumR against ours"
    with pytest.raises(ValueError, match="at least one result"):
        differences.draw_differences({"a": None}, tmp_path / "b.png", **words)
    assert not (tmp_path / "b.png").exists()
