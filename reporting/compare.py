"""Pictures that set systems side by side, language by language."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

from matplotlib.axes import Axes

from processing.files import atomic_write
from processing.records import query_title
from reporting.style import INK, MUTED, colour, new_figure, tidy

BAR_GROUP_WIDTH = 0.8
CHANCE_COLOUR = "#d55e00"
CONTROL_COLOURS = ("#9aa5b1", "#cbd2d9", "#7b8794")
_DIRECTIONS = {"t2i": "text to {item}", "i2t": "{item} to text"}
_INCHES_A_LETTER = 0.08  # of a label below bars


def draw_recalls(
    metrics_by_system: Mapping[str, Mapping[str, float]],
    languages: Sequence[str],
    path: str | Path,
    *,
    title: str,
    metric: str = "t2i_R@1",
    num_items: int | None = None,
    item: str = "image",
) -> Path:
    """Draw one group of bars a language and one bar a system.

    Args:
        metrics_by_system: name of the system → metrics with keys such as `de/t2i_R@1` in percent; the first system
            is drawn in the strongest colour. A language that a system was not evaluated in says `n/a`.
        languages: codes, in the order in which they are drawn.
        path: the picture; its suffix chooses the format.
        title: the line above the bars.
        metric: what to draw, `<direction>_R@<k>`.
        num_items: number of candidates; draws the line that chance reaches.
        item: what texts find.

    Raises:
        ValueError: no system has the metric in any of the languages, or a value is not a percentage.
    """
    values = {system: _values(metrics, languages, metric) for system, metrics in metrics_by_system.items()}
    if not any(value is not None for row in values.values() for value in row):
        raise ValueError(
            f"metrics_by_system must hold '<language>/{metric}' for one of the languages {list(languages)}, "
            f"got the systems {sorted(metrics_by_system)}; evaluate a system before drawing it."
        )
    figure = new_figure(max(6.0, 1.1 + 0.48 * len(languages) * (len(values) + 0.8)), 4.4)
    axes = figure.subplots()
    for position, (system, row) in enumerate(values.items()):
        _draw_bars(axes, row, label=system, position=position, num_systems=len(values))
    axes.set_xticks(range(len(languages)), [query_title(code) for code in languages])
    highest = max(value for row in values.values() for value in row if value is not None)
    axes.set_ylim(0, min(112.0, highest * 1.15 + 2))
    tidy(axes, title=title, y_label=f"{_direction(metric, item)}, percent")
    axes.tick_params(axis="x", labelsize=10, labelcolor=INK)
    if num_items is not None:
        _draw_chance(axes, 100 * _cutoff(metric) / num_items, num_items=num_items)
    handles, labels = axes.get_legend_handles_labels()
    # Lines come before bars; the reader looks for the systems first.
    order = sorted(range(len(labels)), key=lambda index: labels[index].startswith("chance"))
    handles, labels = [handles[index] for index in order], [labels[index] for index in order]
    axes.legend(
        handles,
        labels,
        fontsize=9,
        frameon=False,
        ncols=4,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.1),
        labelcolor=INK,
    )
    with atomic_write(path) as temporary:
        figure.savefig(temporary)
    return Path(path)


def draw_seeds(
    values: Mapping[str, Mapping[str, Sequence[float]]],
    groups: Mapping[str, str],
    path: str | Path,
    *,
    title: str,
    y_label: str,
) -> Path:
    """Draw one group of bars for each column of a table and one bar for each system, with what the seeds say.

    A bar is the mean over seeds, its line the standard deviation (n - 1 in its denominator), and each dot a seed.

    Args:
        values: name of the system -> group -> a value, 0 or more, for each seed; the first system is drawn in the
            strongest colour. Without any value, `n/a` is written.
        groups: in the order in which they are drawn -> what stands below them.
        path: the picture; its suffix chooses the format.
        title: the line above the bars.
        y_label: what is drawn, with its unit.

    Raises:
        ValueError: no system has a value.
    """
    found = [value for row in values.values() for group in groups for value in row.get(group, ())]
    if not found:
        raise ValueError(f"values must hold one for a group of {list(groups)}, got none of {sorted(values)}.")
    # Wider pictures are shrunk on a page, and their numbers with them.
    width = min(12.0, max(6.0, 1.1 + 0.48 * len(groups) * (len(values) + 0.8)))
    figure = new_figure(width, 4.4)
    axes = figure.subplots()
    for position, (system, row) in enumerate(values.items()):
        seeds = [list(row.get(group, ())) for group in groups]
        means = [fmean(of_group) if of_group else None for of_group in seeds]
        places = _draw_bars(
            axes,
            means,
            label=system,
            position=position,
            num_systems=len(values),
            deviations=[stdev(of_group) if len(of_group) > 1 else 0.0 for of_group in seeds],
        )
        for place, of_group in zip(places, seeds, strict=True):
            axes.scatter([place] * len(of_group), of_group, s=7, color=INK, zorder=4)
    num_letters = min(18, int(0.9 * width / len(groups) / _INCHES_A_LETTER))
    labels = [textwrap.fill(text, num_letters, break_long_words=False) for text in groups.values()]
    axes.set_xticks(range(len(groups)), labels)
    axes.set_ylim(0, 1.12 * max(found) + 1)
    tidy(axes, title=title, y_label=y_label)
    axes.tick_params(axis="x", labelsize=10 if num_letters == 18 else 9, labelcolor=INK)
    figure.legend(fontsize=9, frameon=False, ncols=4, loc="outside lower center", labelcolor=INK)
    with atomic_write(path) as temporary:
        figure.savefig(temporary)
    return Path(path)


def _values(metrics: Mapping[str, float], languages: Sequence[str], metric: str) -> list[float | None]:
    found = [metrics.get(f"{language}/{metric}") for language in languages]
    for language, value in zip(languages, found, strict=True):
        if value is not None and not 0 <= value <= 100:
            raise ValueError(f"{language}/{metric} must be a percentage in [0, 100], got {value}.")
    return found


def _draw_bars(
    axes: Axes,
    row: Sequence[float | None],
    *,
    label: str,
    position: int,
    num_systems: int,
    deviations: Sequence[float] | None = None,
) -> list[float]:
    """The bars of one system, with error bars where deviations are given; returns where they stand."""
    width = BAR_GROUP_WIDTH / num_systems
    offset = (position - (num_systems - 1) / 2) * width
    places = [group + offset for group in range(len(row))]
    ink = colour(0) if position == 0 else CONTROL_COLOURS[(position - 1) % len(CONTROL_COLOURS)]
    heights = [value or 0.0 for value in row]
    bars = axes.bar(
        places, heights, width=0.92 * width, color=ink, label=label, yerr=deviations, ecolor=INK, capsize=2.5
    )
    texts = ["n/a" if value is None else f"{value:.1f}" for value in row]
    weight = "bold" if position == 0 else "normal"
    axes.bar_label(bars, texts, padding=2, fontsize=8, color=INK if position == 0 else MUTED, fontweight=weight)
    return places


def _draw_chance(axes: Axes, chance: float, *, num_items: int) -> None:
    label = f"chance {chance:.2g} ({num_items} candidates)"
    axes.axhline(chance, color=CHANCE_COLOUR, linewidth=1.2, linestyle="--", label=label, zorder=3)


def _direction(metric: str, item: str = "image") -> str:
    direction, _, recall = metric.partition("_")
    return f"{_DIRECTIONS.get(direction, direction).format(item=item)} {recall}"


def _cutoff(metric: str) -> int:
    _, _, cutoff = metric.partition("@")
    if not cutoff.isdigit():
        raise ValueError(f"metric must end in '@<k>' for a chance line, got {metric!r}; leave num_items out.")
    return int(cutoff)
