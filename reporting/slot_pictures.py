"""Slots as pictures: the words that each attends to, how alike they are, and which one wins."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from PIL import Image, ImageColor, ImageDraw
from torch import Tensor

from processing.files import atomic_write
from reporting.style import INK, MUTED, colour, new_figure, tidy
from retrieval.fonts import Font, font_for, plain_font
from retrieval.pictures import GAP, LABEL_SIZE, MARGIN, PAPER, RULE, TITLE_SIZE, View, still
from retrieval.slot_readings import SlotReading

THUMBNAIL_SIZE, COLUMN_WIDTH, TEXT_SIZE, LINE_HEIGHT = 180, 310, 14, 22
COLUMNS = 2  # of panels in a figure
_DEEPEST = 0.75  # share of the slot's colour behind the word that it attends to most


def slot_attention_sheet(
    readings: Sequence[SlotReading],
    picture_of: Callable[[int], View],
    *,
    title: str | None = None,
) -> Image.Image:
    """Draw items row by row: the picture, then its description once for each slot, the words shaded by attention.

    The shade of a word is relative to the word of the same slot and item that has most.

    Args:
        readings: of the items, with equally many slots.
        picture_of: gives what is shown of the item at a position of `readings`; of a clip, its middle frame.
        title: a line above.

    Returns:
        One RGB picture.

    Raises:
        ValueError: no items.
    """
    if not readings:
        raise ValueError("a sheet of slots needs at least one item, got none.")
    texts = [_lines(reading.words) for reading in readings]
    heights = [max(THUMBNAIL_SIZE, LABEL_SIZE + 8 + len(lines) * LINE_HEIGHT) + 2 * GAP for lines in texts]
    top = MARGIN + (TITLE_SIZE + GAP if title else 0)
    num_slots = len(readings[0].weights)
    width = 2 * MARGIN + THUMBNAIL_SIZE + num_slots * (COLUMN_WIDTH + GAP)
    sheet = Image.new("RGB", (width, top + sum(heights) + MARGIN - GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((MARGIN, MARGIN), title, INK, plain_font(TITLE_SIZE, bold=True))
    for position, (reading, lines, height) in enumerate(zip(readings, texts, heights, strict=True)):
        draw.line((MARGIN, top, width - MARGIN, top), fill=RULE)
        sheet.paste(still(picture_of(position), THUMBNAIL_SIZE), (MARGIN, top + GAP))
        for slot in range(num_slots):
            left = MARGIN + THUMBNAIL_SIZE + GAP + slot * (COLUMN_WIDTH + GAP)
            draw_slot(draw, reading, slot, lines, (left, top + GAP))
        top += height
    return sheet


def draw_slot(
    draw: ImageDraw.ImageDraw,
    reading: SlotReading,
    slot: int,
    lines: Sequence[Sequence[tuple[int, str, int, int]]],
    corner: tuple[int, int],
) -> None:
    """Draw the description as one slot reads it; `lines` as of `_lines`."""
    left, top = corner
    ink = colour(slot)
    label = plain_font(LABEL_SIZE, bold=True)
    draw.text((left, top), f"slot {slot + 1}", ink, label)
    special = f"no word: {100 * float(reading.special_weights[slot]):.0f} %"
    draw.text((left + COLUMN_WIDTH, top), special, MUTED, plain_font(LABEL_SIZE), anchor="ra")
    weights = reading.weights[slot]
    # A slot that reads special tokens alone has no word to be relative to.
    shades = (weights / weights.max().clamp_min(1e-9)).tolist()
    for number, line in enumerate(lines):
        y = top + LABEL_SIZE + 8 + number * LINE_HEIGHT
        for position, word, start, end in line:
            box = (left + start - 2, y, left + end + 2, y + LINE_HEIGHT - 3)
            draw.rectangle(box, fill=blended(ink, _DEEPEST * shades[position]))
            draw.text((left + start, y + 1), word, INK, _font(word))


def blended(ink: str, share: float) -> tuple[int, int, int]:
    """A colour on paper: 0 is the paper, 1 the colour."""
    front, back = ImageColor.getrgb(ink), ImageColor.getrgb(PAPER)
    red, green, blue = (round(share * a + (1 - share) * b) for a, b in zip(front[:3], back[:3], strict=True))
    return red, green, blue


def _lines(words: Sequence[str]) -> list[list[tuple[int, str, int, int]]]:
    """Lines of (position, word, left, right) in pixels."""
    lines: list[list[tuple[int, str, int, int]]] = [[]]
    space = plain_font(TEXT_SIZE).getlength("n")
    x = 0.0
    for position, word in enumerate(words):
        width = _font(word).getlength(word)
        if lines[-1] and x + width > COLUMN_WIDTH:
            lines.append([])
            x = 0.0
        lines[-1].append((position, word, round(x), round(x + width)))
        x += width + space
    return lines


def _font(word: str) -> Font:
    return font_for(word, TEXT_SIZE) or plain_font(TEXT_SIZE)


def draw_slot_similarity(panels: Mapping[str, Tensor], path: str | Path, *, title: str) -> Path:
    """Draw matrices of mean cosines between slots side by side.

    Args:
        panels: title -> (num_slots, num_slots) cosines.
        path: the picture; its suffix chooses the format.
        title: the line above.

    Raises:
        ValueError: there is no matrix.
    """
    if not panels:
        raise ValueError("panels must hold at least one matrix of cosines, got none.")
    rows = -(-len(panels) // COLUMNS)
    figure = new_figure(0.8 + 2.9 * COLUMNS, 0.6 + 2.9 * rows)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    grid = figure.subplots(rows, COLUMNS, squeeze=False)
    for axes, (name, cosines) in zip(grid.flat, panels.items(), strict=False):
        shown = axes.imshow(cosines.tolist(), cmap="RdBu_r", vmin=-1, vmax=1)
        for row, values in enumerate(cosines.tolist()):
            for column, value in enumerate(values):
                ink = "white" if abs(value) > 0.65 else INK
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8.5, color=ink)
        tidy(axes, title=name)
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        names = [str(slot + 1) for slot in range(len(cosines))]
        axes.set_xticks(range(len(names)), names)
        axes.set_yticks(range(len(names)), names)
        figure.colorbar(shown, ax=axes, shrink=0.75, ticks=[-1, 0, 1]).outline.set_visible(False)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    with atomic_write(path) as temporary:
        figure.savefig(temporary)
    return Path(path)


def draw_slot_shares(
    groups: Mapping[str, Mapping[str, Sequence[float]]], path: str | Path, *, title: str, x_label: str
) -> Path:
    """Draw how things are shared out over the slots, a bar each, group by group.

    Args:
        groups: title -> name of a bar -> a number for each slot; a bar is drawn in percent of its sum.
        path: the picture; its suffix chooses the format.
        title: the line above.
        x_label: what is shared out.

    Raises:
        ValueError: there is no group, or a bar without any share.
    """
    if not groups:
        raise ValueError("groups must hold at least one group of bars, got none.")
    rows = -(-len(groups) // COLUMNS)
    tallest = [max(len(bars) for bars in list(groups.values())[row * COLUMNS :][:COLUMNS]) for row in range(rows)]
    figure = new_figure(5.2 * COLUMNS, 1.0 + sum(0.28 * count + 0.75 for count in tallest))
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    grid = figure.subplots(rows, COLUMNS, squeeze=False, gridspec_kw={"height_ratios": [n + 2 for n in tallest]})
    for position, (axes, (name, bars)) in enumerate(zip(grid.flat, groups.items(), strict=False)):
        _draw_shares(axes, name, bars)
        axes.set_ylim(tallest[position // COLUMNS] - 0.5, -0.5)  # from above, and all bars of one height
    for axes in grid.flat[len(groups) :]:
        axes.set_axis_off()
    num_slots = max(len(shares) for bars in groups.values() for shares in bars.values())
    handles = [grid.flat[0].barh([0], [0], color=colour(slot)) for slot in range(num_slots)]
    labels = [f"slot {slot + 1}" for slot in range(num_slots)]
    figure.legend(
        handles, labels, loc="outside lower center", ncols=num_slots, frameon=False, fontsize=9, title=x_label
    )
    with atomic_write(path) as temporary:
        figure.savefig(temporary)
    return Path(path)


def _draw_shares(axes: Axes, title: str, bars: Mapping[str, Sequence[float]]) -> None:
    for position, (name, numbers) in enumerate(bars.items()):
        total = sum(numbers)
        if not total > 0:
            raise ValueError(f"{title!r}: the bar {name!r} must have a share above 0 for one of the slots.")
        start = 0.0
        for slot, number in enumerate(numbers):
            width = 100 * number / total
            axes.barh(position, width, left=start, color=colour(slot), height=0.78)
            if width >= 9:
                middle = start + width / 2
                axes.text(middle, position, f"{width:.0f}", ha="center", va="center", fontsize=8, color="white")
            start += width
    tidy(axes, title=title)
    axes.grid(visible=False)
    axes.set_yticks(range(len(bars)), list(bars))
    axes.set_xlim(0, 100)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
