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
        ("gsk_abcdefghijklmnop", HIDDEN),
        ("token glpat-abcdefghijklmnop", f"token {HIDDEN}"),
        ("github_pat_" + "a" * 22, HIDDEN),
        ("gho_abcdefghijklmnop", HIDDEN),
        ("Authorization: Bearer abcdefghijk.lmnop-7", f"Authorization: Bearer {HIDDEN}"),
        ("C:/Users/ann/nllb", "nllb"),
        ("from C:/Users/ann/nllb now", "from nllb now"),
        ("C:\\Users\\ann\\my models\\nllb", "nllb"),
        ("\\\\server\\ann\\nllb", "nllb"),
        ("data\\mine\\nllb", "nllb"),
        ("data\\mine\\", "mine"),
        ("bob@10.0.0.1:/x", PRIVATE_SERVER),
        ("copied from bob@gpu7:~/runs/a twice", f"copied from {PRIVATE_SERVER} twice"),
        ("10.0.0.7:8000", PRIVATE_SERVER),
        ("asked localhost:8000/v1/models, then", f"asked {PRIVATE_SERVER} then"),
        ("(GPU7.cluster.local:8000)", f"({PRIVATE_SERVER})"),
        ("xoxb-" + "1" * 12 + "-abc", HIDDEN),
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
        "Q: translate {caption} and/or more",
        "a:1",
        "the bearer of-an-enormous-standard walks",
        "at 10:30, 16:90 or 3.14:2; CUDA 12.8.1.0, ann@example.org: hello",
        "8.8.8.8:53",
        "git@github.com:org/model",
        "\\d+ and \\w",
    ],
)
def test_everything_else_stays_as_it_is(text: str) -> None:
    """A prompt that is changed in the card is another prompt."""
    assert without_traces(text) == text
    assert not is_local_path(text)


@pytest.mark.parametrize(
    "text",
    [
        "/no_think Describe the picture and/or its people.",
        "../left or right/wrong",
        "./run and/or walk",
        "~/ is a home folder and/or a sign",
    ],
)
def test_a_sentence_that_starts_like_a_path_is_no_path(text: str) -> None:
    """Switches of models begin with a slash; the card showed the last words alone."""
    assert without_traces(text) == text


def test_the_text_of_a_prompt_is_never_one_path() -> None:
    """A prompt is published as it was asked; only what is inside it and tells of a machine goes."""
    prompt = {"id": "custom-1", "text": "../left/right and/or the middle."}
    assert without_traces({"prompt": prompt}) == {"prompt": prompt}
    assert without_traces({"path": prompt["text"]}) == {"path": "or the middle."}
    inside = {"id": "custom-2", "text": f"As in {HOME}/style.txt, and/or short."}
    assert without_traces(inside)["text"] == "As in style.txt, and/or short."


@pytest.mark.parametrize("name", ["/1.png", "~/1.png", "../1.png", "C:/1.png", "C:\\1.png", "a/../1.png", "/a b.png"])
def test_places_on_a_machine_are_known(name: str) -> None:
    """These are refused as file names; one that passes would be published."""
    assert is_local_path(name)


def test_settings_are_cleaned_all_the_way_down() -> None:
    """Paths hide in lists and in keys."""
    settings = {"models": [f"{HOME}/a", {f"{HOME}/b": None}], "seed": 3, "on": True, "rate": 0.5}
    assert without_traces(settings) == {"models": ["a", {"b": None}], "seed": 3, "on": True, "rate": 0.5}
