"""One look for all pictures: colours that colour-blind readers tell apart, few lines, no display needed."""

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

INK = "#1f2933"
MUTED = "#7b8794"
GRID = "#e4e7eb"
# Okabe and Ito's palette without its yellow, which is too light on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6b4c9a", "#8c6d31")


def colour(position: int) -> str:
    """Colour of the n-th series; they repeat after the eighth."""
    return COLOURS[position % len(COLOURS)]


def new_figure(width: float, height: float) -> Figure:
    """A figure in inches with its own canvas: pyplot would keep every figure of the process alive."""
    layout = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.1)
    figure = Figure(figsize=(width, height), dpi=130, facecolor="white", layout=layout)
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: Axes, *, title: str, x_label: str = "", y_label: str = "") -> None:
    """Title at the left, horizontal grid behind the data, no frame at the top and the right."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK, pad=10)
    axes.set_xlabel(x_label, color=MUTED, fontsize=9)
    axes.set_ylabel(y_label, color=MUTED, fontsize=9)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, labelsize=8.5, length=0, which="both")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
