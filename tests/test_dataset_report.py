"""The report and the contact sheet of a data set: they say what was measured, and nothing else."""

import json
import re

import numpy as np
import pytest
from PIL import Image, ImageColor

from reporting.dataset_pictures import worst_items_sheet
from reporting.dataset_report import quality_sections, write_dataset_report
from retrieval.agreement import WorstItem
from tests.tiny import tiny_image


def make_quality():
    """One of each part, with numbers that cannot be mistaken for one another."""
    spread = {"mean": 9.26, "median": 9, "p5": 4, "p95": 17}
    return {
        "rows": {"train": 6000, "validation": 1000},
        "columns": {
            "caption_zh_mt": {
                "language": "zh", "kind": "translation", "items": 7000, "items_without_text": 3,
                "texts": 20990, "empty": 10, "empty_rate": 0.0123,
                "duplicates": {"text_rate": 0.0456, "item_rate": 0.2},
                "characters": spread,
                "vocabulary": {"unit": "character", "tokens": 10000, "types": 963, "type_token_ratio": 0.0963},
                "flags": {"ok": 900, "script": 75, "empty": 25},
                "similarity": {"mean": 61.0, "median": 60, "p5": 31, "p95": 92},
                "language_id": {"texts": 1000, "expected_rate": 0.987, "found": {"zh": 987, "ja": 13}},
            },
            "description": {
                "language": "en", "kind": "description", "items": 7000, "items_without_text": 7000,
                "texts": 0, "empty": 7000, "empty_rate": 1.0,
            },
        },
        "descriptions": {
            "texts": 6000, "refusals": 12, "refusal_rate": 0.002,
            "against_captions": {
                "items": 5980, "captions_per_item": 3.0,
                "content_words": {"description": 21.3, "caption": 5.2, "captions": 12.9},
                "new_words": 11.4, "novelty": 0.535, "coverage": 0.613,
            },
            "against_a_further_caption": {
                "items": 5980,
                "new_words": {"description": 12.6, "caption": 2.1},
                "novelty": {"description": 0.592, "caption": 0.401},
            },
        },
        "agreement": {
            "encoder": {"name": "tiny-clip", "model_type": "clip", "max_length": 77},
            "sample": {"items": 500, "eligible": 6990, "seed": 7},
            "columns": {
                name: {
                    "language": "en", "kind": kind, "items": 500, "texts": texts, "own": 0.312, "other": 0.123,
                    "own_beats_other": 0.98, "t2i_R@1": recall, "t2i_R@5": 66.2, "cut_rate": 0.25,
                    "tokens_lost_rate": 0.044,
                }
                for name, kind, texts, recall in (
                    ("description", "description", 500, 41.7), ("caption_en", "human", 1500, 38.6),
                )
            },
            "worst": [
                {"id": "b|1", "column": "description", "text": "two\nlines", "score": 0.051, "caption": "a cat",
                 "caption_score": 0.2},
            ],
        },
        "notes": ["the moon was not measured"],
    }  # fmt: skip


def make_worst(num_items=3, caption="a cat on a chair"):
    text = "A red ball lies on the grass in the sun, beside a tree, and nobody is there."
    return [WorstItem(i, f"item-{i}", "description", text, 0.1 * i, caption, 0.2) for i in range(num_items)]


def headings(text):
    return re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)


def test_the_report_says_each_number_that_was_measured(tmp_path):
    """A number in the JSON alone is read by nobody."""
    path = write_dataset_report(tmp_path / "new", make_quality(), title="Quality of mine", picture="worst.png")
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# Quality of mine\n")
    for part in (
        "train 6,000, validation 1,000",
        "| `caption_zh_mt` | Chinese | machine translations | 7,000 | 3 | 20,990 | 1.2 % | 4.6 % |",
        "9.3 (9; 4 to 17)", "963 in 10,000 characters", "98.7 %", "Japanese 13", "| 90.0 % | script 75, empty 25 |",
        "61.0 (60; 31 to 92)", "12 are refusals (0.2 %)", "tiny-clip (clip), which reads 77 tokens",
        "500 items drawn from 6,990 with seed 7", "| 0.312 | 0.123 | 98.0 % | 41.7 | 66.2 | 25.0 % | 4.4 % |",
        "![The items whose text fits least](worst.png)", "| b\\|1 | 0.051 | two lines | a cat |",
        "- the moon was not measured",
    ):  # fmt: skip
        assert part in text, part
    assert json.loads((tmp_path / "new" / "quality.json").read_text(encoding="utf-8")) == make_quality()


def test_the_question_is_answered_with_its_control():
    """New words alone prove nothing: any further sentence has some, and they may be wrong."""
    text = quality_sections(make_quality())
    assert "**Yes.**" in text
    assert "12.6 new content words (59.2 % of its own) and a further human caption 2.1 (40.1 %)" in text
    assert "41.7 % of the descriptions and 38.6 % of the English captions find their picture among 500" in text


@pytest.mark.parametrize(
    ("words", "share", "answer"), [(12.6, 0.3, "By their length only"), (2.0, 0.9, "No"), (2.1, 0.9, "No")]
)
def test_the_answer_follows_the_numbers(words, share, answer):
    """A report that always says yes is an advertisement."""
    quality = make_quality()
    further = quality["descriptions"]["against_a_further_caption"]
    further["new_words"]["description"], further["novelty"]["description"] = words, share
    assert f"**{answer}.**" in quality_sections(quality)


def test_without_a_further_caption_or_pictures_the_answer_says_so():
    """One caption an item gives no control; no encoder gives no truth."""
    quality = make_quality()
    del quality["descriptions"]["against_a_further_caption"], quality["agreement"]
    text = quality_sections(quality)
    assert (
        "A description brings 11.4 content words that no caption of its item has. Whether the new words are true"
        in text
    )
    assert "**" not in text
    del quality["descriptions"]["against_captions"]
    assert "12 are refusals" in quality_sections(quality)
    assert "Not compared: no item has both" in quality_sections(quality)


def test_sections_without_data_are_left_out():
    """An empty table looks like a fault of the data."""
    assert quality_sections({}).strip() == ""
    column = make_quality()["columns"]["description"]
    text = quality_sections({"rows": {"train": 7000}, "columns": {"description": column}, "notes": []})
    assert headings(text) == ["Texts"]
    assert "| 7,000 | 7,000 | 0 | 100.0 % | – |" in text


def test_a_card_embeds_the_sections_under_its_own_headings():
    """A second title of first rank would break the outline of a card."""
    text = quality_sections(make_quality(), heading="###", picture="quality/worst.png")
    assert len(headings(text)) == 9
    assert all(line.startswith("### ") for line in text.splitlines() if line.startswith("#"))
    assert "(quality/worst.png)" in text


def test_a_long_text_is_shortened_in_the_table_only():
    """Twelve descriptions of 200 words bury the report."""
    quality = make_quality()
    quality["agreement"]["worst"][0]["text"] = "word " * 200
    row = next(line for line in quality_sections(quality).splitlines() if line.startswith("| b\\|1"))
    assert 200 < len(row) < 250
    assert "…" in row


def test_the_sheet_shows_each_item_and_keeps_its_shape():
    """An item drawn over its neighbour is an item that nobody sees."""
    colours = ["red", "blue", "lime"]
    pictures = [Image.new("RGB", (60, 40), colour) for colour in colours]
    sheet = worst_items_sheet(make_worst(3), lambda position: pictures[position], title="Worst", thumbnail_size=90)
    pixels = np.asarray(sheet)
    for colour in colours:
        assert (pixels == ImageColor.getrgb(colour)).all(axis=-1).sum() == 90 * 60
    one = worst_items_sheet(make_worst(1), lambda position: pictures[position], thumbnail_size=90)
    assert sheet.width > one.width
    assert sheet.height > one.height


def test_the_sheet_draws_texts_that_no_font_has_and_items_without_a_caption():
    """One emoji in a description must not cost the whole picture."""
    plain = WorstItem(0, "a", "caption_en", "A dog \U0010fffd runs.", 0.1)
    sheet = worst_items_sheet([plain], tiny_image)
    long = WorstItem(0, "id" * 200, "description", "word " * 500, 0.1, "word " * 100, 0.2)
    assert worst_items_sheet([long], tiny_image).size == sheet.size


def test_a_sheet_of_nothing_is_refused():
    """An empty picture would look like a data set without faults."""
    with pytest.raises(ValueError, match="at least one item"):
        worst_items_sheet([], tiny_image)
