"""The alignment of words as a picture: a heat map for each pair of sentences."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text

from processing.extras import install_hint
from processing.files import atomic_write
from reporting.style import INK, MUTED, new_figure
from retrieval.alignments import Alignment
from retrieval.fonts import font_for

MAX_PANELS = 24
TOKEN_SIZE = 10
CELL_WIDTH, CELL_HEIGHT = 0.62, 0.36
LEAST_SHARE = 0.05  # with a number in its cell


def draw_alignments(alignments: Sequence[Alignment], path: str | Path, *, title: str) -> Path:
    """Draw pairs one below the other: source tokens downwards, target tokens to the right, the share of each row.

    A token whose script no installed font can draw is a question mark.

    Args:
        alignments: from `align_pairs`, `MAX_PANELS` at most.
        path: the picture; its suffix chooses the format.
        title: the line above.

    Raises:
        ValueError: there is no alignment, or more than fit.
    """
    if not 0 < len(alignments) <= MAX_PANELS:
        raise ValueError(f"a picture holds 1 to {MAX_PANELS} alignments, got {len(alignments)}.")
    heights = [CELL_HEIGHT * len(alignment.source_tokens) + 1.5 for alignment in alignments]
    widest = max(len(alignment.target_tokens) for alignment in alignments)
    figure = new_figure(max(5.0, 2.2 + CELL_WIDTH * widest), 0.6 + sum(heights))
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    grid = figure.subplots(len(alignments), 1, squeeze=False, gridspec_kw={"height_ratios": heights})
    drawn = [_draw_panel(axes, alignment) for axes, alignment in zip(grid.flat, alignments, strict=True)]
    if not all(drawn):
        figure.supxlabel(f"?: no installed font has this script; {install_hint('demo')}", fontsize=8.5, color=MUTED)
    with atomic_write(path) as temporary:
        figure.savefig(temporary)
    return Path(path)


def _draw_panel(axes: Axes, alignment: Alignment) -> bool:
    """Draw one pair; False where a token could not be drawn."""
    shares = alignment.shares.tolist()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, values in enumerate(shares):
        for column, share in enumerate(values):
            if share >= LEAST_SHARE:
                ink = "white" if share > 0.6 else INK
                axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=8, color=ink)
    axes.set_xticks(range(len(alignment.target_tokens)))
    axes.set_yticks(range(len(alignment.source_tokens)))
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelcolor=INK)
    axes.set_xlabel(f"percent of a row; cost {alignment.cost:.3f}", fontsize=8.5, color=MUTED, loc="left")
    for spine in axes.spines.values():
        spine.set_visible(False)
    columns = _label(axes.set_xticklabels, alignment.target_tokens, rotation=45, ha="left", rotation_mode="anchor")
    return _label(axes.set_yticklabels, alignment.source_tokens) and columns


def _label(set_labels: Callable[..., list[Text]], tokens: Sequence[str], **position: Any) -> bool:
    """Write tokens at an axis, each in a font that has it; False where there is none for one of them."""
    paths = [getattr(font_for(token, TOKEN_SIZE), "path", None) for token in tokens]
    names = ["?" if path is None else token for token, path in zip(tokens, paths, strict=True)]
    for label, path in zip(set_labels(names, **position), paths, strict=True):
        if path is not None:
            label.set_fontproperties(FontProperties(fname=str(path), size=TOKEN_SIZE))
    return None not in paths
