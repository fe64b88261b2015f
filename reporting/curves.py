"""A picture of a training run, drawn from the log that transformers' trainer keeps."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from processing.files import atomic_write
from processing.records import query_title
from reporting.style import INK, MUTED, colour, new_figure, tidy

LogHistory = Sequence[Mapping[str, Any]]
Series = tuple[list[float], list[float]]
Panel = Callable[[Axes, LogHistory], None]

TOTAL_LOSS = "loss"
TERM_PREFIX = "loss/"
LEARNING_RATE = "learning_rate"
SPEED = "pairs_per_second"
WAIT_SHARE = "data_wait_share"
SELECTION_METRIC = "eval_sum_r"
_RECALL_KEY = re.compile(r"eval_(?P<language>[^/]+)/t2i_R@1$")


def series(log_history: LogHistory, key: str) -> Series:
    """Steps and values of one logged quantity; entries without it, and values that are not finite, are left out."""
    points = [(float(entry["step"]), float(entry[key])) for entry in log_history if "step" in entry and key in entry]
    points = [(step, value) for step, value in points if math.isfinite(value)]
    return [step for step, _ in points], [value for _, value in points]


def smooth(values: Sequence[float], *, window: int) -> list[float]:
    """Centred moving average that shrinks its window at both ends, so that it neither lags nor pads.

    Raises:
        ValueError: `window` is not a positive odd number.
    """
    if window < 1 or window % 2 == 0:
        raise ValueError(f"window must be a positive odd number, got {window}.")
    half = window // 2
    averages = []
    for position in range(len(values)):
        reach = min(half, position, len(values) - 1 - position)
        part = values[position - reach : position + reach + 1]
        averages.append(sum(part) / len(part))
    return averages


def best_step(log_history: LogHistory) -> tuple[float, float] | None:
    """Step and value of the highest validation SumR, the first one on a tie; None if it was never logged."""
    steps, values = series(log_history, SELECTION_METRIC)
    if not values:
        return None
    position = max(range(len(values)), key=lambda index: (values[index], -index))
    return steps[position], values[position]


def draw_training_curves(log_history: LogHistory, path: str | Path, *, title: str) -> Path:
    """Draw loss terms, the validation recall of each language, learning rate and speed over the steps.

    Args:
        log_history: `trainer.state.log_history`; keys `step`, `loss`, `loss/<term>`, `learning_rate`,
            `pairs_per_second`, `data_wait_share` (0 to 1), `eval_<language>/t2i_R@1` (percent) and `eval_sum_r`.
        path: the picture; its suffix chooses the format.
        title: the line above the panels.

    Raises:
        ValueError: nothing that can be drawn was logged.
    """
    panels = [draw for draw, has_data in _panels(log_history) if has_data]
    if not panels:
        keys = sorted({key for entry in log_history for key in entry})
        raise ValueError(
            f"log_history must hold {TOTAL_LOSS!r}, {LEARNING_RATE!r} or recalls beside 'step', got the keys {keys}; "
            f"set logging_steps or eval_steps below the number of steps."
        )
    widths = [_WIDTHS[draw] for draw in panels]
    figure = new_figure(sum(widths), 4.8)
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold", color=INK)
    grid = figure.subplots(1, len(panels), squeeze=False, gridspec_kw={"width_ratios": widths})
    # The panels are read across: a step stands at the same place in each, and there are no halves of one.
    last = max(float(entry["step"]) for entry in log_history if "step" in entry)
    for draw, axes in zip(panels, grid[0], strict=True):
        axes.set_xlim(0, 1.03 * max(last, 1.0))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        draw(axes, log_history)
    with atomic_write(path) as temporary:
        figure.savefig(temporary)
    return Path(path)


def _panels(log_history: LogHistory) -> list[tuple[Panel, bool]]:
    keys = {key for entry in log_history if "step" in entry for key in entry}
    has_loss = any(key == TOTAL_LOSS or key.startswith(TERM_PREFIX) for key in keys)
    has_recall = any(_RECALL_KEY.match(key) for key in keys)
    return [
        (_draw_losses, has_loss),
        (_draw_recalls, has_recall),
        (_draw_learning_rate, LEARNING_RATE in keys),
        (_draw_speed, SPEED in keys),
    ]


def _draw_losses(axes: Axes, log_history: LogHistory) -> None:
    terms = sorted({key for entry in log_history for key in entry if key.startswith(TERM_PREFIX)})
    smallest = math.inf
    for position, key in enumerate([TOTAL_LOSS, *terms]):
        steps, values = series(log_history, key)
        if not values:
            continue
        ink, width = (INK, 2.2) if key == TOTAL_LOSS else (colour(position - 1), 1.4)
        name = "total" if key == TOTAL_LOSS else key.removeprefix(TERM_PREFIX).replace("_", " ")
        axes.plot(steps, values, color=ink, linewidth=0.7, alpha=0.25)
        window = 2 * (len(values) // 40) + 1
        axes.plot(steps, smooth(values, window=window), color=ink, linewidth=width, label=f"{name}  {values[-1]:.3g}")
        smallest = min(smallest, *values)
    # Terms differ by orders of magnitude; a term that may be negative or zero keeps the linear axis.
    if smallest > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(_plain_number))
        axes.yaxis.set_minor_formatter("")
    tidy(axes, title="Loss and its terms", x_label="step", y_label="loss")
    axes.legend(fontsize=8, frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.16), labelcolor=INK)


def _draw_recalls(axes: Axes, log_history: LogHistory) -> None:
    found = {match["language"]: key for entry in log_history for key in entry if (match := _RECALL_KEY.match(key))}
    for position, (language, key) in enumerate(sorted(found.items())):
        steps, values = series(log_history, key)
        if values:
            label = f"{query_title(language)}  {values[-1]:.1f}"
            axes.plot(steps, values, color=colour(position), linewidth=1.8, marker="o", markersize=3.5, label=label)
    chosen = best_step(log_history)
    if chosen is not None:
        axes.axvline(chosen[0], color=MUTED, linewidth=1, linestyle=":")
        # The words go to the side that has room.
        left, right = axes.get_xlim()
        side = "right" if chosen[0] > (left + right) / 2 else "left"
        text = f" highest SumR {chosen[1]:.0f} "
        axes.text(chosen[0], 0.02, text, transform=axes.get_xaxis_transform(), ha=side, fontsize=8, color=MUTED)
    axes.set_ylim(bottom=0)
    tidy(axes, title="Validation: R@1 of texts", x_label="step", y_label="percent")
    axes.legend(fontsize=8, frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.16), labelcolor=INK)


def _draw_learning_rate(axes: Axes, log_history: LogHistory) -> None:
    steps, values = series(log_history, LEARNING_RATE)
    axes.plot(steps, values, color=colour(0), linewidth=1.8)
    axes.fill_between(steps, values, color=colour(0), alpha=0.1, linewidth=0)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(_plain_number))
    tidy(axes, title="Learning rate", x_label="step")


def _draw_speed(axes: Axes, log_history: LogHistory) -> None:
    steps, speeds = series(log_history, SPEED)
    axes.plot(steps, speeds, color=colour(0), linewidth=1.8, label=f"pairs a second  {speeds[-1]:.3g}")
    axes.set_ylim(bottom=0)
    tidy(axes, title="Speed", x_label="step", y_label="pairs a second")
    # A share without unit on an axis of its own, which the left one could not show.
    shares = axes.twinx()
    steps, values = series(log_history, WAIT_SHARE)
    percent = [100 * value for value in values]
    shares.fill_between(steps, percent, color=colour(1), alpha=0.25, linewidth=0)
    shares.set_ylim(0, 100)
    shares.yaxis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:g} %"))
    shares.set_ylabel("time waiting for data", color=MUTED, fontsize=9)
    shares.tick_params(labelsize=8, labelcolor=MUTED, length=0)
    shares.spines[:].set_visible(False)
    label = f"waiting for data  {percent[-1]:.0f} %" if percent else None
    axes.fill_between([], [], color=colour(1), alpha=0.25, linewidth=0, label=label)
    axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), labelcolor=INK)


def _plain_number(value: float, _position: int | None = None) -> str:
    return f"{value:g}"


# Panels and their widths in inches.
_WIDTHS: dict[Panel, float] = {_draw_losses: 5.4, _draw_recalls: 5.4, _draw_learning_rate: 3.6, _draw_speed: 4.2}
