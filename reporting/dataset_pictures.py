"""The items of a data set whose text fits their picture or clip least, as one picture to look at."""

from collections.abc import Callable, Sequence

from PIL import Image, ImageDraw

from retrieval.agreement import WorstItem
from retrieval.fonts import Font, font_for, plain_font
from retrieval.pictures import (
    FAINT,
    GAP,
    INK,
    LABEL_SIZE,
    MARGIN,
    PAPER,
    RULE,
    TITLE_SIZE,
    View,
    shorten,
    still,
    wrap,
)

TEXT_WIDTH, TEXT_SIZE = 420, 14
_LINE_HEIGHT = int(TEXT_SIZE * 1.35)
_CAPTION_LINES = 2


def worst_items_sheet(
    worst: Sequence[WorstItem],
    picture_of: Callable[[int], View],
    *,
    title: str | None = None,
    num_columns: int = 2,
    thumbnail_size: int = 220,
) -> Image.Image:
    """Draw items row by row, the worst first: picture, id, the text with its score, and the best caption with its own.

    Args:
        worst: the items.
        picture_of: gives the picture at a position of the data set; of a clip its frames, and a text where there is
            nothing to see.
        title: a line above.
        num_columns: items side by side.
        thumbnail_size: side of a picture in pixels.

    Returns:
        One RGB picture.

    Raises:
        ValueError: no items.
    """
    if not worst:
        raise ValueError("a contact sheet needs at least one item, got none.")
    cell_width, cell_height = thumbnail_size + TEXT_WIDTH + 2 * GAP, thumbnail_size + 2 * GAP
    num_columns = min(num_columns, len(worst))
    num_rows = -(-len(worst) // num_columns)
    top = MARGIN + (TITLE_SIZE + GAP if title else 0)
    sheet = Image.new("RGB", (2 * MARGIN + num_columns * cell_width, top + num_rows * cell_height + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        text, font = _drawable(title, TITLE_SIZE, bold=True)
        width = sheet.width - 2 * MARGIN
        draw.text((MARGIN, MARGIN), shorten(text, width, lambda line: draw.textlength(line, font=font)), INK, font)
    for number, item in enumerate(worst):
        row, column = divmod(number, num_columns)
        corner = (MARGIN + column * cell_width, top + row * cell_height)
        draw.line((corner[0], corner[1], corner[0] + cell_width - GAP, corner[1]), fill=RULE)
        sheet.paste(still(picture_of(item.position), thumbnail_size), (corner[0], corner[1] + GAP))
        _draw_texts(draw, item, (corner[0] + thumbnail_size + GAP, corner[1] + GAP), thumbnail_size)
    return sheet


def _draw_texts(draw: ImageDraw.ImageDraw, item: WorstItem, corner: tuple[int, int], height: int) -> None:
    """Id and score in small print, the text, and at the foot the caption."""
    left, top = corner
    caption_height = 0 if item.caption is None else LABEL_SIZE + 6 + _CAPTION_LINES * _LINE_HEIGHT
    name, font = _drawable(item.item_id, LABEL_SIZE)
    draw.text((left, top), shorten(name, TEXT_WIDTH, lambda line: draw.textlength(line, font=font)), FAINT, font)
    label = f"{item.column}, score {item.score:.3f}"
    draw.text((left, top + LABEL_SIZE + 4), label, INK, plain_font(LABEL_SIZE, bold=True))
    used = 2 * LABEL_SIZE + 10
    _draw_lines(draw, item.text, (left, top + used), (height - used - caption_height) // _LINE_HEIGHT, INK)
    if item.caption is not None:
        foot = top + height - caption_height
        label = f"best English caption, score {item.caption_score:.3f}"
        draw.text((left, foot), label, FAINT, plain_font(LABEL_SIZE, bold=True))
        _draw_lines(draw, item.caption, (left, foot + LABEL_SIZE + 6), _CAPTION_LINES, FAINT)


def _draw_lines(draw: ImageDraw.ImageDraw, text: str, corner: tuple[int, int], max_lines: int, colour: str) -> None:
    text, font = _drawable(" ".join(text.split()), TEXT_SIZE)
    lines = wrap(text, TEXT_WIDTH, lambda line: draw.textlength(line, font=font), max(1, max_lines))
    for number, line in enumerate(lines):
        draw.text((corner[0], corner[1] + number * _LINE_HEIGHT), line, colour, font)


def _drawable(text: str, size: int, *, bold: bool = False) -> tuple[str, Font]:
    """A text with a font that has its characters; without such a font, what is not ASCII becomes question marks."""
    font = font_for(text, size, bold=bold)
    if font is None:
        return text.encode("ascii", "replace").decode(), plain_font(size, bold=bold)
    return text, font
