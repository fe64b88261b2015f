import pytest

import processing
from processing import media
from processing.records import LANGUAGE_NAMES, caption_column, check_aligned, check_columns


def test_column_names_are_those_of_the_schema():
    """A wrong suffix would train on human captions, or evaluate on machine translations."""
    assert caption_column("de") == "caption_de"
    assert caption_column("de", translated=True) == "caption_de_mt"
    assert len({caption_column(language) for language in LANGUAGE_NAMES}) == len(LANGUAGE_NAMES)


def test_an_unknown_language_is_refused_with_the_known_ones():
    """A typo such as `cz` would surface much later as a missing column."""
    with pytest.raises(ValueError, match=r"'cs'.*got 'cz'"):
        caption_column("cz")


def test_the_source_language_has_no_translation():
    """`caption_en_mt` does not exist; asking for it is a mix-up of source and target."""
    with pytest.raises(ValueError, match="translated from 'en'"):
        caption_column("en", translated=True)


def test_a_missing_column_is_named_with_the_columns_found():
    """A KeyError deep in a data loader does not say which data set lacks what."""
    with pytest.raises(ValueError, match=r"'train' lacks the columns \['caption_zh_mt'\]; it has \['image'\]"):
        check_columns(["image"], ["image", "caption_zh_mt"], split="train")
    check_columns(["image", "more"], ["image"], split="train")


def test_ragged_captions_are_refused_with_the_item():
    """Captions paired with the wrong translation train without any error."""
    row = {"image_id": "dog-1", "caption_en": ["a", "b"], "caption_de_mt": ["x", "y"], "caption_zh_mt": ["x"]}
    check_aligned(row, ["de"])
    with pytest.raises(ValueError, match=r"'dog-1': caption_zh_mt has 1 captions and caption_en has 2"):
        check_aligned(row, ["de", "zh"])


def test_the_join_with_pictures_is_found_in_the_package():
    """It is the one call that users of a downloaded data set need; the package itself must stay light."""
    assert processing.attach_images is media.attach_images
    assert processing.attach_videos is media.attach_videos
    with pytest.raises(AttributeError, match="has no attribute 'attach_image'"):
        _ = processing.attach_image
