"""Tests of processing/prompts.py."""

import hashlib
from pathlib import Path

import pytest

from processing.prompts import PROMPTS, Prompt, read_prompt

# A changed text needs a new id here and in PROMPTS; the old line stays as long as the old prompt can be asked for.
HASHES = {
    "image-v1": "2960eb7a035c84cf",
    "video-v1": "cee1270cc2f7dedb",
    "captions-v1": "6122e99d2c1ff3f6",
    "translate-v1": "2ac3c1fb21fa443d",
}


def test_the_text_of_an_id_never_changes():
    """Two data sets with the same prompt id in their cards would have been asked different things."""
    assert {name: hashlib.sha256(prompt.text.encode()).hexdigest()[:16] for name, prompt in PROMPTS.items()} == HASHES


def test_each_prompt_is_found_by_its_own_id():
    """A row in the wrong place of the table would give one prompt under the name of another."""
    for name, prompt in PROMPTS.items():
        assert prompt.id == name
        assert read_prompt(name) is prompt


def test_translate_v1_is_filled_in():
    """A field that stays in braces would be sent to the server as it is."""
    prompt = PROMPTS["translate-v1"]
    filled = prompt.fill(source_language="English", target_language="German", caption="A dog.")
    assert filled.startswith("Translate this caption of a picture from English to German. ")
    assert filled.endswith("\n\nA dog.")
    assert "{" not in filled


def test_braces_and_field_names_in_a_caption_stay():
    """`str.format` fails on a stray brace; replacing one field after another fills in fields of the caption."""
    prompt = Prompt("x", "{source_language}: {caption} {other}")
    assert prompt.fill(caption=r"a {source_language} \1 } sign", source_language="en") == (
        r"en: a {source_language} \1 } sign {other}"
    )
    assert prompt.fill() == prompt.text


def test_a_value_without_its_field_is_refused():
    """A prompt file without `{caption}` would send the same request for every caption."""
    with pytest.raises(ValueError, match=r"'x' must hold the fields \['caption'\]"):
        Prompt("x", "Translate.").fill(caption="a dog")


def test_a_file_is_a_prompt_named_by_its_text(tmp_path: Path):
    """A file that was edited between two runs must not resume the first run."""
    path = tmp_path / "mine.txt"
    path.write_text("\n  Say what is there. \n", encoding="utf-8")
    first = read_prompt(path)
    assert first.text == "Say what is there."
    assert first.id == "custom-" + hashlib.sha256(b"Say what is there.").hexdigest()[:12]
    path.write_text("Say what is there!", encoding="utf-8")
    assert read_prompt(str(path)).id != first.id


@pytest.mark.parametrize(
    ("content", "message"), [(None, "must be one of"), (b" \n", "an empty file"), (b"\xff\xfe\xff", "must be UTF-8")]
)
def test_a_prompt_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes | None, message: str):
    """A misspelt id would otherwise be taken for an instruction."""
    path = tmp_path / "mine.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_prompt(path)
