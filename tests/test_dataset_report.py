"""The report and the contact sheet of a data set: they say what was measured, and nothing else."""

import json
import re

import datasets
import numpy as np
import pytest
import torch
from PIL import Image, ImageColor

from processing.quality import inspect_texts
from processing.records import schema_features
from reporting.dataset_pictures import worst_items_sheet
from reporting.dataset_report import quality_sections, write_dataset_report
from retrieval.agreement import WorstItem, measure_agreement
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
        "61.0 (60; 31 to 92)", "12 are refusals (0.2 %)", "`tiny-clip` (clip), which reads 77 tokens",
        "on 500 of the 6,990 items that have a picture and texts (drawn with seed 7)",
        "| 0.312 | 0.123 | 98.0 % | 41.7 | 66.2 | 25.0 % | 4.4 % |",
        "![The items whose text fits least](worst.png)", "| b\\|1 | 0.051 | two lines | a cat |",
        "- the moon was not measured",
    ):  # fmt: skip
        assert part in text, part
    assert json.loads((tmp_path / "new" / "quality.json").read_text(encoding="utf-8")) == make_quality()


def test_the_question_is_answered_with_its_control():
    """New words alone prove nothing: any further sentence has some, and they may be wrong."""
    text = quality_sections(make_quality())
    assert "**Yes.**" in text
    assert "12.6 new content words (59.2 % of its own); a further human caption brings 2.1 (40.1 %)" in text
    assert "98.0 % of the descriptions score higher with their own picture than with another" in text
    assert "41.7 % find their own among 500; of the English captions 98.0 % and 38.6 %" in text


@pytest.mark.parametrize(
    ("words", "share", "answer"), [(12.6, 0.3, "By their length only"), (2.0, 0.9, "No"), (2.1, 0.9, "No")]
)
def test_the_answer_follows_the_numbers(words, share, answer):
    """A report that always says yes is an advertisement."""
    quality = make_quality()
    further = quality["descriptions"]["against_a_further_caption"]
    further["new_words"]["description"], further["novelty"]["description"] = words, share
    assert f"**{answer}.**" in quality_sections(quality)


@pytest.mark.parametrize(
    ("description", "caption", "answer"),
    [
        # own_beats_other and R@1, both on 500 items: two standard errors there are 4.5 points at 50 %.
        ((0.98, 36.0), (0.98, 38.6), "Yes"),
        ((0.98, 30.0), (0.98, 38.6), "Not confirmed"),
        ((0.80, 38.6), (0.98, 38.6), "Not confirmed"),
        ((0.52, 0.0), (0.98, 38.6), "Not confirmed"),
        ((0.52, 0.0), (0.60, 0.4), "Not confirmed"),
        ((0.52, 0.2), (0.56, 0.4), "Not confirmed"),
        ((0.97, 38.6), (0.995, 38.6), "Yes"),
        ((0.78, 1.6), (0.80, 1.9), "Yes"),
        ((0.70, 0.8), (0.54, 0.2), "Undecided"),
        ((0.45, 0.2), (0.40, 0.2), "Undecided"),
    ],
)
def test_the_pictures_confirm_or_refute_the_descriptions(description, caption, answer):
    """A false description brings more new words than a true one."""
    quality = make_quality()
    for name, (beats, recall) in (("description", description), ("caption_en", caption)):
        quality["agreement"]["columns"][name] |= {"own_beats_other": beats, "t2i_R@1": recall}
    assert f"**{answer}.**" in quality_sections(quality)


def test_a_few_items_decide_nothing():
    """Two texts that find the better of two pictures do so by chance once in four times."""
    quality = make_quality()
    for column in quality["agreement"]["columns"].values():
        column |= {"items": 4, "own_beats_other": 1.0}
    assert "**Undecided.**" in quality_sections(quality)


def test_descriptions_of_other_pictures_are_not_confirmed():
    """The whole way from texts to the verdict: shuffled descriptions had more new words, and a bold yes."""
    objects = [f"object{i}" for i in range(40)]
    true = [f"a {name} with colour{i} and shape{i}" for i, name in enumerate(objects)]
    answers = []
    for descriptions in (true, true[1:] + true[:1]):
        rows = [
            {"image": tiny_image(i), "image_id": str(i), "description": descriptions[i],
             "caption_en": [f"one {name}", f"{name} here"]}
            for i, name in enumerate(objects)
        ]  # fmt: skip
        split = datasets.Dataset.from_list(rows, features=schema_features(rows[0]))
        quality = inspect_texts({"train": split}, progress=False)
        assert "**" not in quality_sections(quality)
        quality["agreement"] = measure_agreement(NumberEncoder(), split, progress=False).to_dict()
        text = quality_sections(quality)
        answers.append((re.search(r"\*\*(.*)\.\*\*", text)[1], re.search(r"brings ([\d.]+) new", text)[1]))
    assert answers == [("Yes", "2.0"), ("Not confirmed", "3.0")]


class NumberEncoder:
    """Knows the picture of item 7 from its id and a text about item 7 from its number."""

    name, model_type, max_length = "numbers", "numbers", 77

    def encode_images(self, rows, batch_size, *, progress):
        return torch.eye(40)[[int(item) for item in rows["image_id"]]].unsqueeze(1)

    def encode_texts(self, texts, batch_size, *, progress):
        return torch.eye(40)[[int(re.search(r"\d+", text)[0]) for text in texts]]

    def token_counts(self, texts):
        return [(len(text.split()),) * 2 for text in texts]


def test_without_a_further_caption_or_pictures_the_answer_says_so():
    """One caption an item gives no control; no encoder gives no truth."""
    quality = make_quality()
    del quality["agreement"]
    text = quality_sections(quality)
    assert "12.6 new content words" in text
    assert "Whether the new words are true of the items was not measured" in text
    assert "**" not in text
    quality = make_quality()
    del quality["descriptions"]["against_a_further_caption"]
    text = quality_sections(quality)
    assert "A description brings 11.4 content words that no caption of its item has. With `tiny-clip`," in text
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


def test_a_sample_of_all_items_says_so():
    """ "1,000 items drawn from 1,000" looks like a slip."""
    quality = make_quality()
    quality["agreement"]["sample"] = {"items": 500, "eligible": 500, "seed": 7}
    assert "on all 500 items that have a picture and texts." in quality_sections(quality)


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
