import datasets
import numpy as np
import pytest
from PIL import Image
from processing_parts import items, picture, png_bytes

from processing.pairs import CaptionPairs


def test_an_epoch_sees_each_pair_once_and_aligned():
    """A wrong index map repeats some pairs, drops others, or pairs a caption with another one's translation."""
    pairs = CaptionPairs(items(num_items=3, captions_per_item=2), ["de", "zh"])
    assert len(pairs) == 3 * 2 * 2
    seen = [(row["image_id"], row["source_caption"], row["target_language"]) for row in (pairs[i] for i in range(12))]
    assert len(set(seen)) == 12
    for row in (pairs[i] for i in range(12)):
        word = {"de": "Hund", "zh": "狗"}[row["target_language"]]
        assert row["target_caption"] == row["source_caption"].replace("dog", word)
        assert row["image_id"] == f"item-{row['item_index']}" == f"item-{row['source_caption'].split()[1]}"
        assert row["description"] == f"a picture of number {row['item_index']}"


def test_items_may_differ_in_their_number_of_captions():
    """Multiplying items by the captions of the first one reads past the end of another."""
    captions = [["a"], ["b", "c", "d"], ["e", "f"]]
    split = items(
        3, caption_en=captions, caption_de_mt=[[c.upper() for c in row] for row in captions], caption_zh_mt=[[]] * 3
    )
    pairs = CaptionPairs(split, ["de"])
    rows = [pairs[i] for i in range(len(pairs))]
    assert [row["source_caption"] for row in rows] == list("abcdef")
    assert [row["target_caption"] for row in rows] == list("ABCDEF")
    assert [row["item_index"] for row in rows] == [0, 1, 1, 1, 2, 2]


def test_the_picture_is_that_of_the_item_in_rgb():
    """A grey or transparent picture gives another channel count, and the batch does not stack."""
    grey = {"bytes": png_bytes(picture(7).convert("L")), "path": None}
    alpha = {"bytes": png_bytes(picture(8).convert("RGBA")), "path": None}
    good = {"bytes": png_bytes(picture(9)), "path": None}
    pairs = CaptionPairs(items(3, 1, image=[grey, alpha, good]), ["de"])
    assert [pairs[i]["image"].mode for i in range(3)] == ["RGB"] * 3
    assert np.array_equal(np.asarray(pairs[2]["image"]), np.asarray(picture(9)))


def test_shuffled_and_filtered_splits_are_read_in_their_own_order():
    """Reading the underlying table instead of the split mixes texts of one item with the picture of another."""
    split = items(4, 1).select([3, 1])
    pairs = CaptionPairs(split, ["de"])
    assert [pairs[i]["image_id"] for i in range(2)] == ["item-3", "item-1"]
    assert np.array_equal(np.asarray(pairs[0]["image"]), np.asarray(picture(3)))


def test_a_missing_description_is_none():
    """An item without description must reach the model as missing, not as the text `None`."""
    pairs = CaptionPairs(items(2, 1, description=["text", None]), ["de"])
    assert [pairs[i]["description"] for i in range(2)] == ["text", None]


def test_an_index_out_of_range_is_an_index_error():
    """Iteration over a map-style data set ends at IndexError; wrapping around would never end."""
    pairs = CaptionPairs(items(2, 1), ["de"])
    assert pairs[-1] is not None and pairs[-1]["image_id"] == "item-1"
    assert len(list(pairs)) == 2
    for index in (2, -3):
        with pytest.raises(IndexError):
            pairs[index]


def _with_broken_image() -> datasets.Dataset:
    whole = png_bytes(picture(1, 64, 64))
    broken = [whole[: len(whole) // 2], b"not a picture", b""]
    images = [{"bytes": png_bytes(picture(0)), "path": None}] + [{"bytes": data, "path": None} for data in broken]
    return items(5, 1, image=[*images, None])


def test_a_corrupt_image_is_an_error_that_names_the_item():
    """Hours into a run, a decoder's message alone does not say which of the files is broken."""
    pairs = CaptionPairs(_with_broken_image(), ["de"])
    assert isinstance(pairs[0]["image"], Image.Image)
    for item in (1, 2, 3, 4):
        with pytest.raises(ValueError, match=f"item 'item-{item}' .*must be readable.*corrupt_images: skip"):
            pairs[item]


def test_a_corrupt_image_is_skipped_if_asked_for():
    """One broken file of a large crawl must not end the training."""
    pairs = CaptionPairs(_with_broken_image(), ["de"], corrupt_images="skip")
    assert [pairs[i] is None for i in range(5)] == [False, True, True, True, True]


def test_ragged_captions_are_refused_before_training():
    """Misaligned translations train on wrong pairs without any error."""
    with pytest.raises(ValueError, match=r"'item-1': caption_de_mt has 1 captions and caption_en has 2"):
        CaptionPairs(items(2, caption_de_mt=[["x", "y"], ["x"]]), ["de"])
    CaptionPairs(items(2, caption_de_mt=[["x", "y"], ["x"]]), ["zh"])


def test_an_item_without_captions_makes_no_pair_and_is_told(caplog: pytest.LogCaptureFixture):
    """A folder of pictures has some that nobody captioned; they must neither stop the training nor shift a pair."""
    split = items(3, caption_en=[["a"], [], ["c"]], caption_de_mt=[["A"], [], ["C"]])
    pairs = CaptionPairs(split, ["de"])
    found = [(pair["image_id"], pair["source_caption"], pair["target_caption"]) for pair in (pairs[0], pairs[1])]
    assert found == [("item-0", "a", "A"), ("item-2", "c", "C")] and len(pairs) == 2
    assert "1 items have no caption_en and make no pair (first: ['item-1'])" in caplog.text
    with pytest.raises(ValueError, match="makes no pair: no item has a caption_en"):
        CaptionPairs(items(1, caption_en=[[]], caption_de_mt=[[]]), ["de"])
    with pytest.raises(ValueError, match="'item-0': caption_en must be a list of captions"):
        CaptionPairs(items(1, caption_en=[None]), ["de"])


def test_an_empty_caption_is_refused():
    """An empty translation is what a failed translator leaves behind."""
    for nothing in ("", "  "):
        with pytest.raises(ValueError, match="'item-0': caption_de_mt must not hold empty captions"):
            CaptionPairs(items(1, caption_de_mt=[["x", nothing]]), ["de"])


def test_a_translation_that_was_refused_makes_no_pair_and_shifts_no_other():
    """A filtered translation is null; a pair with the next caption's translation would teach a wrong meaning."""
    split = items(2, caption_de_mt=[["a0", None], [None, "b1"]])
    pairs = CaptionPairs(split, ["de", "zh"])
    found = [(p["image_id"], p["source_caption"], p["target_caption"]) for p in (pairs[i] for i in range(len(pairs)))]
    assert found == [
        ("item-0", "dog 0 0", "a0"),
        ("item-0", "dog 0 0", "狗 0 0"),
        ("item-0", "dog 0 1", "狗 0 1"),
        ("item-1", "dog 1 0", "狗 1 0"),
        ("item-1", "dog 1 1", "b1"),
        ("item-1", "dog 1 1", "狗 1 1"),
    ]
    assert pairs[-1]["target_caption"] == "狗 1 1"
    with pytest.raises(ValueError, match=r"all of \['caption_de_mt'\] are null"):
        CaptionPairs(items(1, caption_de_mt=[[None, None]]), ["de"])
    with pytest.raises(ValueError, match="caption_en must not hold empty captions"):
        CaptionPairs(items(1, caption_en=[["x", None]]), ["de"])


def test_an_empty_split_is_refused():
    """A data loader over nothing trains for zero steps and reports success."""
    with pytest.raises(ValueError, match="at least one item"):
        CaptionPairs(items(2).select([]), ["de"])


def test_a_missing_column_is_refused_with_its_name():
    """The message must say which column to make."""
    with pytest.raises(ValueError, match=r"lacks the columns \['caption_fr_mt'\]"):
        CaptionPairs(items(2), ["fr"])
    with pytest.raises(ValueError, match=r"lacks the columns \['description'\]"):
        CaptionPairs(items(2).remove_columns("description"), ["de"])


def test_an_id_that_occurs_twice_is_refused():
    """Two items under one id make wrong positives and hide files that were read twice."""
    with pytest.raises(ValueError, match="'same' twice"):
        CaptionPairs(items(2, image_id=["same", "same"]), ["de"])


@pytest.mark.parametrize(
    ("languages", "message"),
    [(["xx"], "got 'xx'"), (["en"], "translated from 'en'"), ([], "list such as"), ("de", "list such as")],
)
def test_impossible_languages_are_refused(languages: list[str] | str, message: str):
    """A string is a sequence too: 'de' would be read as the languages 'd' and 'e'."""
    with pytest.raises(ValueError, match=message):
        CaptionPairs(items(2), languages)


def test_settings_are_checked():
    """A language named twice doubles its weight; a typo in the mode would mean either."""
    with pytest.raises(ValueError, match="twice"):
        CaptionPairs(items(2), ["de", "de"])
    with pytest.raises(ValueError, match="'error' or 'skip'"):
        CaptionPairs(items(2), ["de"], corrupt_images="ignore")
