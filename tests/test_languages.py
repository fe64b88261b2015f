"""The table of languages."""

import unicodedata

import pytest

from processing.languages import LANGUAGES, find_language
from processing.records import caption_columns, find_id_column, query_column, query_title, schema_features


def test_codes_are_unique_in_every_column():
    """A copied line would translate into the wrong language without a word."""
    for column in ("name", "flores", "mbart", "m2m100"):
        values = [getattr(language, column) for language in LANGUAGES.values() if getattr(language, column)]
        assert len(values) == len(set(values)), column


def test_scripts_are_names_that_unicode_knows():
    """A misspelt script would flag every caption of its language."""
    points = (*range(0x41, 0x2000), 0x3042, 0x30A2, 0xAC00)
    known = {unicodedata.name(chr(point), "-").split()[0] for point in points}
    for language in LANGUAGES.values():
        for script in language.scripts:
            assert script == "Han" or script.upper() in known, (language.code, script)


def test_an_unknown_language_lists_the_known_ones():
    """People try names before codes."""
    with pytest.raises(ValueError, match=r"one of \['ar', .*got 'german'; add a line to processing/languages.py"):
        find_language("german")


def test_caption_columns_are_told_from_others():
    """m30k_de, caption_zh_mt2 and a flag are columns of a data set but no captions of the schema."""
    names = ["image_id", "caption_en", "caption_de_mt", "caption_de_mt_flag", "caption_zh_mt2", "caption_xx", "m30k_de"]
    assert caption_columns(names) == {"caption_en": ("en", False), "caption_de_mt": ("de", True)}


def test_the_id_column_is_found():
    """Pictures and videos have ids of other names; a data set with both would be joined by the wrong one."""
    assert find_id_column(["video_id", "caption_en"]) == "video_id"
    for names in (["caption_en"], ["image_id", "video_id"]):
        with pytest.raises(ValueError, match="must have one column 'image_id' or 'video_id'"):
            find_id_column(names)


def test_evaluation_asks_with_human_captions_unless_told_otherwise():
    """Recalls of machine translations must not pass for recalls of human captions."""
    assert query_column("de") == "caption_de"
    assert query_column("de_mt") == "caption_de_mt"
    for name in ("en_mt", "xx", "xx_mt"):
        with pytest.raises(ValueError):
            query_column(name)


def test_titles_say_what_was_asked_with():
    """A table headed `German` over recalls of translations would mislead."""
    assert query_title("de") == "German"
    assert query_title("de_mt") == "German (machine translation)"
    assert query_title("xx") == "xx"


def test_columns_have_the_types_of_the_schema():
    """A list where a string belongs is found when training reads it, hours later."""
    features = schema_features(["image_id", "description_flag", "caption_de_mt_flag", "caption_de_mt_similarity"])
    assert [str(feature) for feature in features.values()] == [
        "Value('string')",
        "Value('string')",
        "List(Value('string'))",
        "List(Value('float32'))",
    ]
    with pytest.raises(ValueError, match="column 'caption_xx' is not in the schema"):
        schema_features(["caption_xx"])
