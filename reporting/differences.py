"""Bars of what changes against a reference: small effects on a large sum would not be seen in bars from zero."""

from collections.abc import Mapping
from pathlib import Path

from processing.files import atomic_write
from reporting.style import GRID, INK, MUTED, colour, new_figure, tidy


def draw_differences(
    differences: Mapping[str, tuple[float, float] | None],
    path: str | Path,
    *,
    title: str,
    x_label: str,
    reference: str | None = None,
) -> Path:
    """Draw a horizontal bar a variant, from the zero that is the reference.

    Args:
        differences: name -> mean and standard deviation over seeds, in the order of the rows from above; None for a
            variant without result, which says so.
        path: the picture; its suffix chooses the format.
        title: the line above.
        x_label: the metric, and what zero is.
        reference: which of them is the reference, so that its bar of no length says so.

    Raises:
        ValueError: no variant has a result.
    """
    known = [value for value in differences.values() if value is not None]
    if not known:
        raise ValueError("differences must hold at least one result, got none; run the experiments first.")
    figure = new_figure(8.0, 1.3 + 0.36 * len(differences))
    axes = figure.subplots()
    reach = max(max(abs(mean) + deviation for mean, deviation in known), 1.0)
    for position, (name, value) in enumerate(differences.items()):
        mean, deviation = value or (0.0, 0.0)
        axes.barh(position, mean, color=colour(0 if mean >= 0 else 1), height=0.6)
        if deviation:
            axes.errorbar(mean, position, xerr=deviation, ecolor=INK, elinewidth=1, capsize=3)
        text = "no result" if value is None else "reference" if name == reference else f"{round(mean, 1) + 0.0:+.1f}"
        side = 1 if mean >= 0 else -1
        place = mean + side * (deviation + 0.02 * reach)
        axes.text(place, position, text, va="center", ha="left" if side > 0 else "right", fontsize=8.5, color=INK)
    axes.axvline(0, color=MUTED, linewidth=1)
    axes.set_yticks(range(len(differences)), list(differences))
    axes.invert_yaxis()
    lowest = min(min(mean - deviation for mean, deviation in known), 0.0)
    highest = max(max(mean + deviation for mean, deviation in known), 0.0)
    axes.set_xlim(lowest - 0.25 * reach, highest + 0.25 * reach)  # room for the numbers
    scattered = any(deviation for _, deviation in known)
    tidy(axes, title=title, x_label=x_label + ("\n± standard deviation over seeds" if scattered else ""))
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="y", labelsize=9.5, labelcolor=INK)
    with atomic_write(path) as temporary:
        figure.savefig(temporary)
    return Path(path)
