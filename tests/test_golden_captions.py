import json
from pathlib import Path

import pytest

from processing.processing_leccr import clean_caption


def test_golden_caption_cleaning_equals_the_official_one(golden_dir: Path):
    """A token more or less in a caption moves every number of a reproduction."""
    cases = json.loads((golden_dir / "pre_caption.json").read_text(encoding="utf-8"))
    assert cases
    for case in cases:
        if case["out"] is None:
            with pytest.raises(ValueError, match="punctuation"):
                clean_caption(case["text"], case["max_words"])
        else:
            assert clean_caption(case["text"], case["max_words"]) == case["out"], case


def test_a_caption_of_punctuation_alone_is_refused():
    """An empty caption is a row whose embedding says nothing, and a positive for its image."""
    for text in ("", " ... ", "?!\n"):
        with pytest.raises(ValueError, match="more than punctuation"):
            clean_caption(text)


def test_no_word_limit_keeps_the_whole_caption():
    """None is how a recipe turns the limit off; a slice of [:0] or a TypeError would be the slip."""
    text = " ".join(["word"] * 50)
    assert clean_caption(text, None) == text
    assert clean_caption(text) == " ".join(["word"] * 30)
