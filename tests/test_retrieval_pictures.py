"""The picture of search results: layout, scripts and the frame of the correct hit."""

import numpy as np
import pytest
from PIL import Image, ImageColor

from retrieval import fonts
from retrieval.fonts import font_for, font_paths, plain_font
from retrieval.pictures import CORRECT, contact_sheet, shorten, wrap
from retrieval.results import Hit, QueryResult
from tests.tiny import tiny_image


def make_results(query="roter ball", language="de", correct_id=None, num_hits=3):
    hits = [Hit(f"picture-{i}", i, 0.9 - i / 10) for i in range(num_hits)]
    return [QueryResult(query, hits, language, correct_id)]


def count_colour(sheet, colour):
    return int((np.asarray(sheet) == ImageColor.getrgb(colour)).all(axis=-1).sum())


def test_the_sheet_has_a_row_for_each_query_and_a_column_for_each_hit():
    """The size follows the results, also where a query has fewer hits."""
    few, many = make_results(num_hits=2), make_results(num_hits=5)
    one = contact_sheet(many, tiny_image, thumbnail_size=60)
    two = contact_sheet(few + many, tiny_image, thumbnail_size=60)
    assert one.mode == "RGB"
    assert one.width == two.width > 5 * 60
    assert two.height - one.height > 60


def test_only_the_correct_hit_has_a_frame():
    """The reader must see at once whether the right picture came first."""
    plain = contact_sheet(make_results(), tiny_image)
    absent = contact_sheet(make_results(correct_id="picture-99"), tiny_image)
    framed = contact_sheet(make_results(correct_id="picture-1"), tiny_image)
    assert count_colour(plain, CORRECT) == 0
    assert count_colour(framed, CORRECT) > count_colour(absent, CORRECT) + 4 * 150


def test_a_picture_is_shown_whole():
    """A cropped thumbnail can hide what the query asked for: the red left and the blue right edge must be there."""
    wide = Image.new("RGB", (400, 100), "white")
    wide.paste("red", (0, 0, 40, 100))
    wide.paste("blue", (360, 0, 400, 100))
    sheet = contact_sheet(make_results(num_hits=1), lambda position: wide)
    assert count_colour(sheet, "red") > 50
    assert count_colour(sheet, "blue") > 50


def test_no_results_are_an_error():
    """An empty picture would look like a search without hits."""
    with pytest.raises(ValueError, match="at least one query with a hit"):
        contact_sheet([], tiny_image)
    with pytest.raises(ValueError, match="at least one query with a hit"):
        contact_sheet(make_results(num_hits=0), tiny_image)


@pytest.mark.parametrize("text", ["größer, œuvre, élève", "žluťoučký kůň úpěl ďábelské ódy"])
def test_european_scripts_have_a_font(text):
    """German, French and Czech must be drawn in full."""
    pytest.importorskip("matplotlib", reason="DejaVu Sans comes with matplotlib")
    assert font_for(text, 20) is not None


@pytest.mark.parametrize(
    "text", ["一个红色的小方块在蓝色的大圆形左边，背景是绿色的。", "赤い小さな四角が青い大きな丸の左側にあります。"]
)
def test_chinese_and_japanese_have_a_font(text):
    """The package of the extra `demo` must cover simplified Chinese too, though it is made for Japanese."""
    pytest.importorskip("notojp_matplotlib", reason="the font package of the extra `demo` is not installed")
    assert font_for(text, 20) is not None


def test_a_font_without_a_character_is_not_chosen():
    """Empty boxes in a picture look broken; a private-use character is in no font."""
    assert font_for("roter \ue9f3 ball", 20) is None
    assert font_for("赤い", 20) is None or "DejaVu" not in font_for("赤い", 20).getname()[0]


def test_a_script_without_a_font_is_shown_by_its_language(monkeypatch):
    """On a machine without fonts for Chinese the sheet still says what the row is, in letters it has."""
    monkeypatch.setattr("retrieval.fonts.font_paths", lambda *, bold=False: font_paths(bold=bold)[:1])
    drawn = []
    original = fonts.ImageFont.FreeTypeFont.getmask2
    monkeypatch.setattr(
        fonts.ImageFont.FreeTypeFont,
        "getmask2",
        lambda self, text, *args, **kwargs: drawn.append(text) or original(self, text, *args, **kwargs),
    )
    contact_sheet(make_results("赤いボール", "ja"), tiny_image)
    assert any("[ja:" in text for text in drawn)
    assert not any("赤い" in text for text in drawn if len(text) > 1)


def test_latin_text_always_has_a_font(monkeypatch):
    """Without matplotlib and without system fonts Pillow's own font remains."""
    monkeypatch.setattr("retrieval.fonts.font_paths", lambda *, bold=False: ())
    assert plain_font(14) is not None
    assert contact_sheet(make_results(), tiny_image).width > 300


def test_lines_break_between_words_and_between_chinese_characters():
    """A long query must stay in its column, in scripts with and without spaces."""
    assert wrap("ein roter ball im gras", 10, len, 9) == ["ein roter", "ball im", "gras"]
    assert wrap("红色的小方块在左边", 4, len, 9) == ["红色的小", "方块在左", "边"]
    assert wrap("红色的小方块。在左", 6, len, 9) == ["红色的小方", "块。在左"]
    assert wrap("ein roter ball im gras", 10, len, 2) == ["ein roter", "ball im…"]
    assert wrap("Donaudampfschifffahrt", 10, len, 3) == ["Donaudamp…"]


def test_shortening_keeps_what_fits():
    """Ids under a thumbnail must not run into the next one."""
    assert shorten("abc", 3, len) == "abc"
    assert shorten("abcdef", 4, len) == "abc…"
