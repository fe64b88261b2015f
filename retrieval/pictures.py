"""Search results as one picture: a row for each query, its hits beside it."""

from collections.abc import Callable, Sequence

from PIL import Image, ImageDraw

from processing.extras import install_hint
from processing.records import query_title
from retrieval.fonts import font_for, plain_font
from retrieval.results import Hit, QueryResult

PAPER, INK, FAINT, RULE = "#ffffff", "#1b1f24", "#6a737d", "#e3e6ea"
CORRECT = "#1a9850"
MARGIN, GAP, FRAME = 24, 14, 4
QUERY_WIDTH, CAPTION_HEIGHT = 300, 36
QUERY_SIZE, LABEL_SIZE, TITLE_SIZE = 19, 13, 24


def contact_sheet(
    results: Sequence[QueryResult],
    picture_of: Callable[[int], Image.Image],
    *,
    title: str | None = None,
    thumbnail_size: int = 150,
) -> Image.Image:
    """Draw search results: the query in its own script, then the hits with rank, score and id.

    The item that a query was written for, where `correct_id` names it, has a green frame. A query whose script no
    installed font can draw is shown by its language and a hint instead of empty boxes.

    Args:
        results: one row each; the number of columns is that of the longest.
        picture_of: gives the picture at a position of the index, such as a reader of the rows.
        title: a line above.
        thumbnail_size: side of a hit in pixels.

    Returns:
        One RGB picture.

    Raises:
        ValueError: no results, or none with a hit.
    """
    num_columns = max((len(result.hits) for result in results), default=0)
    if num_columns == 0:
        raise ValueError(f"a contact sheet needs at least one query with a hit, got {len(results)} queries.")
    row_height = thumbnail_size + CAPTION_HEIGHT + 2 * GAP
    has_correct = any(hit.item_id == result.correct_id for result in results for hit in result.hits)
    header_height = (TITLE_SIZE + GAP if title else 0) + (LABEL_SIZE + GAP if has_correct else 0)
    width = 2 * MARGIN + QUERY_WIDTH + num_columns * (thumbnail_size + GAP)
    sheet = Image.new("RGB", (width, 2 * MARGIN + header_height + len(results) * row_height), PAPER)
    draw = ImageDraw.Draw(sheet)
    _draw_header(draw, title, has_correct=has_correct)
    for row, result in enumerate(results):
        top = MARGIN + header_height + row * row_height
        draw.line((MARGIN, top, width - MARGIN, top), fill=RULE)
        _draw_query(draw, result, (MARGIN, top + GAP), thumbnail_size + CAPTION_HEIGHT)
        for column, hit in enumerate(result.hits):
            left = MARGIN + QUERY_WIDTH + column * (thumbnail_size + GAP)
            picture = thumbnail(picture_of(hit.position), thumbnail_size)
            is_correct = hit.item_id == result.correct_id
            _draw_hit(sheet, picture, hit, (left, top + GAP), rank=column + 1, is_correct=is_correct)
    return sheet


def _draw_header(draw: ImageDraw.ImageDraw, title: str | None, *, has_correct: bool) -> None:
    if title:
        font = font_for(title, TITLE_SIZE, bold=True) or plain_font(TITLE_SIZE, bold=True)
        draw.text((MARGIN, MARGIN), title, font=font, fill=INK)
    if has_correct:
        top = MARGIN + (TITLE_SIZE + GAP if title else 0)
        draw.rectangle((MARGIN, top, MARGIN + LABEL_SIZE, top + LABEL_SIZE), outline=CORRECT, width=3)
        legend = "the picture that the query was written for"
        draw.text((MARGIN + LABEL_SIZE + 8, top - 1), legend, font=plain_font(LABEL_SIZE), fill=FAINT)


def _draw_query(draw: ImageDraw.ImageDraw, result: QueryResult, corner: tuple[int, int], height: int) -> None:
    left, top = corner
    language = query_title(result.language or "query")
    draw.text((left, top), language, font=plain_font(LABEL_SIZE), fill=FAINT)
    text = result.query
    font = font_for(text, QUERY_SIZE)
    if font is None:
        text = f"[{result.language or 'query'}: no installed font has this script; {install_hint('demo')}]"
        font = plain_font(QUERY_SIZE)
    line_height = int(QUERY_SIZE * 1.4)
    max_lines = max(1, (height - LABEL_SIZE - 8) // line_height)
    measure = lambda line: draw.textlength(line, font=font)  # noqa: E731
    for number, line in enumerate(wrap(text, QUERY_WIDTH - 2 * GAP, measure, max_lines)):
        draw.text((left, top + LABEL_SIZE + 8 + number * line_height), line, font=font, fill=INK)


def _draw_hit(
    sheet: Image.Image, picture: Image.Image, hit: Hit, corner: tuple[int, int], *, rank: int, is_correct: bool
) -> None:
    left, top = corner
    size = picture.width
    draw = ImageDraw.Draw(sheet)
    sheet.paste(picture, (left, top))
    if is_correct:
        box = (left - FRAME, top - FRAME, left + size + FRAME - 1, top + size + FRAME - 1)
        draw.rectangle(box, outline=CORRECT, width=FRAME)
    colour = CORRECT if is_correct else INK
    label = plain_font(LABEL_SIZE, bold=True)
    draw.text((left, top + size + 6), f"{rank}", font=label, fill=colour)
    draw.text((left + size, top + size + 6), f"{hit.score:.3f}", font=plain_font(LABEL_SIZE), fill=colour, anchor="ra")
    font = font_for(hit.item_id, LABEL_SIZE - 2) or plain_font(LABEL_SIZE - 2)
    name = shorten(hit.item_id, size, lambda line: draw.textlength(line, font=font))
    draw.text((left, top + size + 6 + LABEL_SIZE + 4), name, font=font, fill=FAINT)


def thumbnail(picture: Image.Image, size: int) -> Image.Image:
    """The whole picture in a square, centred on pale grey: cropping could cut off what the query asks for."""
    square = Image.new("RGB", (size, size), RULE)
    scale = size / max(picture.size)
    fitted = picture.convert("RGB").resize(
        (max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), Image.Resampling.LANCZOS
    )
    square.paste(fitted, ((size - fitted.width) // 2, (size - fitted.height) // 2))
    return square


def wrap(text: str, width: float, measure: Callable[[str], float], max_lines: int) -> list[str]:
    """Break a text into lines of at most `width`, between words or, in scripts without spaces, between characters.

    What does not fit into `max_lines` is replaced by an ellipsis.
    """
    lines = [""]
    for piece in _pieces(text):
        if lines[-1] and measure((lines[-1] + piece).rstrip()) > width:
            lines[-1] = lines[-1].rstrip()
            lines.append("")
        lines[-1] += piece if lines[-1] else piece.lstrip()
    lines = [line.rstrip() for line in lines]
    if len(lines) > max_lines:
        lines = [*lines[: max_lines - 1], lines[max_lines - 1] + "…"]
    return [shorten(line, width, measure) for line in lines]


def shorten(text: str, width: float, measure: Callable[[str], float]) -> str:
    """Cut the end off a text that is wider than `width`, with an ellipsis."""
    if measure(text) <= width:
        return text
    while text and measure(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _pieces(text: str) -> list[str]:
    """Where a line may break: after a space, and around each character of a script without spaces."""
    pieces = [""]
    for character in text:
        without_spaces = "\u3000" <= character <= "\u9fff" or "\uff00" <= character <= "\uffef"
        if without_spaces or (pieces[-1] and pieces[-1][-1].isspace() and not character.isspace()):
            pieces.append(character)
        else:
            pieces[-1] += character
    return pieces
