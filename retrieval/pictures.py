"""Search results as one picture: a row for each query, its hits beside it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from PIL import Image, ImageDraw

from processing.extras import install_hint
from processing.records import query_title
from retrieval.fonts import font_for, plain_font
from retrieval.results import Hit, QueryResult

PAPER, INK, FAINT, RULE = "#ffffff", "#1b1f24", "#6a737d", "#e3e6ea"
CORRECT = "#1a9850"
MARGIN, GAP, FRAME = 24, 14, 4
QUERY_WIDTH, CAPTION_HEIGHT, CAPTION_WIDTH = 300, 36, 130
QUERY_SIZE, LABEL_SIZE, TITLE_SIZE, CARD_SIZE = 19, 13, 24, 14
# The frames of a clip beside each other, and the space between two.
STRIP_WIDTH, STRIP_MIN_WIDTH, STRIP_HEIGHT, FRAME_GAP = 640, 360, 90, 3

_CLOSING_MARKS = frozenset("。，、！？：；）」』】》”")

# What is shown of an item: its picture, frames of its clip in order, or words where there is neither.
View = Image.Image | Sequence[Image.Image] | str


def contact_sheet(
    results: Sequence[QueryResult],
    picture_of: Callable[[int], View],
    *,
    title: str | None = None,
    thumbnail_size: int = 150,
) -> Image.Image:
    """Draw search results: the query in its own script, then the hits with rank, score and id.

    Pictures lie beside each other. Where an item is a clip, the hits lie below each other, each a strip of frames.

    The item that a query was written for, where `correct_id` names it, has a green frame. A query whose script no
    installed font can draw is shown by its language and a hint instead of empty boxes.

    Args:
        results: one row each; the number of columns is that of the longest.
        picture_of: gives what is shown of the item at a position of the index, such as `views.ItemViews`.
        title: a line above.
        thumbnail_size: side of a picture in pixels.

    Returns:
        One RGB picture.

    Raises:
        ValueError: no results, or none with a hit.
    """
    num_columns = max((len(result.hits) for result in results), default=0)
    if num_columns == 0:
        raise ValueError(f"a contact sheet needs at least one query with a hit, got {len(results)} queries.")
    positions = dict.fromkeys(hit.position for result in results for hit in result.hits)
    tiles = {position: _tile(picture_of(position), thumbnail_size) for position in positions}
    strips = [tile for tile in tiles.values() if isinstance(tile, _Strip)]
    layout = _Layout(thumbnail_size, widest_strip=max((strip.width for strip in strips), default=0))
    header = _header(title, results, tiles, layout)
    header_height = sum(line.size + GAP for line in header)
    width = 2 * MARGIN + QUERY_WIDTH + layout.width(num_columns)
    heights = [layout.height(len(result.hits)) for result in results]
    sheet = Image.new("RGB", (width, 2 * MARGIN + header_height + sum(heights)), PAPER)
    draw = ImageDraw.Draw(sheet)
    _draw_header(draw, header)
    top = MARGIN + header_height
    for result, height in zip(results, heights, strict=True):
        draw.line((MARGIN, top, width - MARGIN, top), fill=RULE)
        _draw_query(draw, result, (MARGIN, top + GAP), height - 2 * GAP)
        _draw_hits(sheet, result, tiles, layout, (MARGIN + QUERY_WIDTH, top + GAP))
        top += height
    return sheet


class _Strip(list[Image.Image]):
    """Small frames of a clip, in order."""

    @property
    def width(self) -> int:
        return sum(frame.width + FRAME_GAP for frame in self) - FRAME_GAP


_Tile = Image.Image | _Strip | str


@dataclass(frozen=True)
class _Layout:
    """Where hits lie: pictures beside each other, strips of frames below each other."""

    thumbnail_size: int
    widest_strip: int  # 0 without strips

    @property
    def has_strips(self) -> bool:
        return self.widest_strip > 0

    @property
    def tile_size(self) -> tuple[int, int]:
        if self.has_strips:
            return max(self.widest_strip, STRIP_MIN_WIDTH), STRIP_HEIGHT
        return self.thumbnail_size, self.thumbnail_size

    def width(self, num_hits: int) -> int:
        return CAPTION_WIDTH + self.tile_size[0] if self.has_strips else num_hits * (self.thumbnail_size + GAP)

    def height(self, num_hits: int) -> int:
        """Of a query with its hits."""
        if self.has_strips:
            return max(num_hits, 1) * (STRIP_HEIGHT + GAP) + GAP
        return self.thumbnail_size + CAPTION_HEIGHT + 2 * GAP

    def corner(self, place: int) -> tuple[int, int]:
        """Of the tile of a hit, from that of its query's hits."""
        if self.has_strips:
            return CAPTION_WIDTH, place * (STRIP_HEIGHT + GAP)
        return place * (self.thumbnail_size + GAP), 0


def _tile(view: View, thumbnail_size: int) -> _Tile:
    """A view in the size that it is drawn in, because all frames of all hits are too many to hold."""
    if isinstance(view, str):
        return view
    if isinstance(view, Image.Image):
        return thumbnail(view, thumbnail_size)
    widest = sum(frame.width * STRIP_HEIGHT / frame.height for frame in view)
    height = STRIP_HEIGHT * min(1.0, (STRIP_WIDTH - FRAME_GAP * (len(view) - 1)) / widest)
    return _Strip(_resized(frame, height / frame.height) for frame in view)


class _HeaderLine(NamedTuple):
    text: str
    size: int
    is_title: bool = False
    has_frame: bool = False


def _header(
    title: str | None, results: Sequence[QueryResult], tiles: Mapping[int, _Tile], layout: _Layout
) -> list[_HeaderLine]:
    """Lines above the hits, which say what is shown."""
    lines = [_HeaderLine(title, TITLE_SIZE, is_title=True)] if title else []
    if layout.has_strips:
        lines.append(_HeaderLine("frames of each clip from left to right, in order of time", LABEL_SIZE))
    if any(isinstance(tile, str) for tile in tiles.values()):
        lines.append(_HeaderLine("a text about an item stands where there is nothing of it to see", LABEL_SIZE))
    if any(hit.item_id == result.correct_id for result in results for hit in result.hits):
        has_pictures = any(isinstance(tile, Image.Image) for tile in tiles.values())
        kind = "clip" if layout.has_strips else "picture" if has_pictures else "item"
        lines.append(_HeaderLine(f"the {kind} that the query was written for", LABEL_SIZE, has_frame=True))
    return lines


def _draw_header(draw: ImageDraw.ImageDraw, lines: Sequence[_HeaderLine]) -> None:
    top = MARGIN
    for text, size, is_title, has_frame in lines:
        font = font_for(text, size, bold=is_title) or plain_font(size, bold=is_title)
        if has_frame:
            draw.rectangle((MARGIN, top, MARGIN + size, top + size), outline=CORRECT, width=3)
            draw.text((MARGIN + size + 8, top - 1), text, font=font, fill=FAINT)
        else:
            draw.text((MARGIN, top), text, font=font, fill=INK if is_title else FAINT)
        top += size + GAP


def _draw_query(draw: ImageDraw.ImageDraw, result: QueryResult, corner: tuple[int, int], height: int) -> None:
    left, top = corner
    language = query_title(result.language or "query")
    draw.text((left, top), language, font=plain_font(LABEL_SIZE), fill=FAINT)
    size = (QUERY_WIDTH - 2 * GAP, height - LABEL_SIZE - 8)
    _draw_words(draw, result.query, result.language or "query", (left, top + LABEL_SIZE + 8), size, QUERY_SIZE)


def _draw_words(
    draw: ImageDraw.ImageDraw, text: str, name: str, corner: tuple[int, int], size: tuple[int, int], font_size: int
) -> None:
    """Lines of text in a box; `name` is what is told of a text that no font can draw."""
    font = font_for(text, font_size)
    if font is None:
        text = f"[{name}: no installed font has this script; {install_hint('demo')}]"
        font = plain_font(font_size)
    line_height = int(font_size * 1.4)
    max_lines = max(1, size[1] // line_height)
    measure = lambda line: draw.textlength(line, font=font)  # noqa: E731
    for number, line in enumerate(wrap(text, size[0], measure, max_lines)):
        draw.text((corner[0], corner[1] + number * line_height), line, font=font, fill=INK)


def _draw_hits(
    sheet: Image.Image, result: QueryResult, tiles: Mapping[int, _Tile], layout: _Layout, corner: tuple[int, int]
) -> None:
    draw = ImageDraw.Draw(sheet)
    for place, hit in enumerate(result.hits):
        shift = layout.corner(place)
        left, top = corner[0] + shift[0], corner[1] + shift[1]
        size = _draw_tile(sheet, tiles[hit.position], hit, (left, top), layout.tile_size)
        is_correct = hit.item_id == result.correct_id
        if is_correct:
            box = (left - FRAME, top - FRAME, left + size[0] + FRAME - 1, top + size[1] + FRAME - 1)
            draw.rectangle(box, outline=CORRECT, width=FRAME)
        # Beside a strip, below a picture.
        start = (corner[0], top) if layout.has_strips else (left, top + layout.thumbnail_size + 6)
        width = CAPTION_WIDTH - 2 * GAP if layout.has_strips else layout.thumbnail_size
        _draw_label(draw, hit, start, width, rank=place + 1, is_correct=is_correct)


def _draw_tile(
    sheet: Image.Image, tile: _Tile, hit: Hit, corner: tuple[int, int], size: tuple[int, int]
) -> tuple[int, int]:
    """Draw what is shown of a hit into a box of this size; the size that it took."""
    left, top = corner
    if isinstance(tile, str):
        _draw_card(sheet, tile, hit.item_id, corner, size)
        return size
    frames = tile if isinstance(tile, _Strip) else [tile]
    for frame in frames:
        shown = frame if frame.height <= size[1] else _resized(frame, size[1] / frame.height)
        sheet.paste(shown, (left, top))
        left += shown.width + FRAME_GAP
    return left - FRAME_GAP - corner[0], shown.height


def _draw_card(sheet: Image.Image, text: str, name: str, corner: tuple[int, int], size: tuple[int, int]) -> None:
    draw = ImageDraw.Draw(sheet)
    left, top = corner
    draw.rectangle((left, top, left + size[0] - 1, top + size[1] - 1), outline=RULE)
    _draw_words(draw, text, name, (left + GAP // 2, top + GAP // 2), (size[0] - GAP, size[1] - GAP), CARD_SIZE)


def _draw_label(
    draw: ImageDraw.ImageDraw, hit: Hit, corner: tuple[int, int], width: int, *, rank: int, is_correct: bool
) -> None:
    left, top = corner
    colour = CORRECT if is_correct else INK
    draw.text((left, top), f"{rank}", font=plain_font(LABEL_SIZE, bold=True), fill=colour)
    draw.text((left + width, top), f"{hit.score:.3f}", font=plain_font(LABEL_SIZE), fill=colour, anchor="ra")
    font = font_for(hit.item_id, LABEL_SIZE - 2) or plain_font(LABEL_SIZE - 2)
    name = shorten(hit.item_id, width, lambda line: draw.textlength(line, font=font))
    draw.text((left, top + LABEL_SIZE + 4), name, font=font, fill=FAINT)


def still(view: View, size: int) -> Image.Image:
    """A view as one square picture: of a clip its middle frame, of a text the text."""
    if isinstance(view, Image.Image):
        return thumbnail(view, size)
    if not isinstance(view, str):
        return thumbnail(view[len(view) // 2], size)
    card = Image.new("RGB", (size, size), PAPER)
    _draw_card(card, view, "a text", (0, 0), (size, size))
    return card


def thumbnail(picture: Image.Image, size: int) -> Image.Image:
    """The whole picture in a square, centred on pale grey: cropping could cut off what the query asks for."""
    square = Image.new("RGB", (size, size), RULE)
    scale = size / max(picture.size)
    fitted = _resized(picture, scale)
    square.paste(fitted, ((size - fitted.width) // 2, (size - fitted.height) // 2))
    return square


def _resized(picture: Image.Image, scale: float) -> Image.Image:
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)


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
    """Where a line may break: after a space, and around each character of a script without spaces.

    No line begins with a mark that closes a sentence or a part of one.
    """
    pieces = [""]
    for character in text:
        if character in _CLOSING_MARKS:
            pieces[-1] += character
            continue
        without_spaces = "\u3000" <= character <= "\u9fff" or "\uff00" <= character <= "\uffef"
        if without_spaces or (pieces[-1] and pieces[-1][-1].isspace() and not character.isspace()):
            pieces.append(character)
        else:
            pieces[-1] += character
    return pieces
