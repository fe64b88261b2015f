"""Lines with error bars: what a metric does while one setting moves, several settings side by side."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from processing.files import atomic_write
from reporting.style import INK, MUTED, colour, new_figure, tidy

# (value of the setting, mean, standard deviation over seeds)
Point = tuple[float, float, float]

# Of a panel's title, which is broken where it would run past the panel.
INCHES_A_LETTER = 0.11


def draw_sweeps(
    panels: Mapping[str, Mapping[str, Sequence[Point]]],
    path: str | Path,
    *,
    title: str,
    x_label: str | Sequence[str],
    floors: Mapping[str, tuple[float, float]] | None = None,
    logarithmic: bool = False,
) -> Path:
    """Draw SumR: one panel a sweep and one line a variant; panels share the vertical axis and the colours of lines.

    Args:
        panels: title -> name of a line -> its points, means over languages.
        path: the picture; its suffix chooses the format.
        title: the line above.
        x_label: the setting that moves, one for all panels or one each.
        floors: name -> mean and standard deviation of what the setting does not change, drawn as a level line.
        logarithmic: the setting moves by factors; each of its values is a tick.

    Raises:
        ValueError: there is no point at all, or the labels are not one a panel.
    """
    if not any(points for lines in panels.values() for points in lines.values()):
        raise ValueError("panels must hold at least one point, got none; run the experiments first.")
    labels = [x_label] * len(panels) if isinstance(x_label, str) else list(x_label)
    if len(labels) != len(panels):
        raise ValueError(f"x_label must be one for all panels or one each, got {len(labels)} for {len(panels)}.")
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    width = max(6.6, 1.4 + 3.8 * columns)
    figure = new_figure(width, 1.0 + 2.7 * rows)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    names = dict.fromkeys(name for lines in panels.values() for name in lines)
    colours = {name: colour(position) for position, name in enumerate(names)}
    deviations = [point[2] for lines in panels.values() for points in lines.values() for point in points]
    y_label = "SumR, mean over languages" + ("\n± standard deviation over seeds" if any(deviations) else "")
    for axes, (name, lines), label in zip(grid.flat, panels.items(), labels, strict=False):
        _draw_panel(axes, lines, colours, floors or {})
        if logarithmic:
            _spread_by_factors(axes, lines)
        tidy(axes, title=textwrap.fill(name, int(width / columns / INCHES_A_LETTER)), x_label=label, y_label=y_label)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    # One legend for all panels: the same line has the same colour in each. The floors come last.
    found = {text: handle for axes in grid.flat for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    shown = sorted(found, key=lambda name: name in (floors or {}))
    fit = int(width / (0.6 + 0.075 * max(len(name) for name in shown)))  # inches that a name takes
    handles = [found[name] for name in shown]
    figure.legend(handles, shown, loc="outside lower center", ncols=max(1, fit), frameon=False, fontsize=9)
    with atomic_write(path) as temporary:
        figure.savefig(temporary)
    return Path(path)


def _draw_panel(
    axes: Axes,
    lines: Mapping[str, Sequence[Point]],
    colours: Mapping[str, str],
    floors: Mapping[str, tuple[float, float]],
) -> None:
    for name, points in lines.items():
        xs, means, deviations = zip(*sorted(points), strict=True)
        style: dict[str, Any] = {
            "color": colours[name],
            "linewidth": 1.8,
            "marker": "o",
            "markersize": 4,
            "capsize": 3,
        }
        axes.errorbar(xs, means, yerr=deviations, label=name, **style)
    for name, (mean, deviation) in floors.items():
        axes.axhline(mean, color=MUTED, linewidth=1.4, linestyle="--", label=name)
        axes.axhspan(mean - deviation, mean + deviation, color=MUTED, alpha=0.15, linewidth=0)


def _spread_by_factors(axes: Axes, lines: Mapping[str, Sequence[Point]]) -> None:
    places = sorted({point[0] for points in lines.values() for point in points})
    axes.set_xscale("log")
    axes.set_xticks(places, [f"{place:g}" for place in places])
    axes.set_xticks([], minor=True)
