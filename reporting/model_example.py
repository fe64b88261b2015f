"""What the first block of Python in a card is written from: lines and literals of the example."""

import json
from typing import Any

from reporting.model_facts import ModelFacts

GOLDEN_PICTURE = "golden/0.png"

_DEFAULT_QUERIES = ("a red picture", "a dog on a beach")
_DEFAULT_DESCRIPTION = "The picture is red all over."
_SHOWN_QUERIES = 6
# What is seen of an item -> what the example calls it, and the argument of the processor.
_NAMES = {"image": ("image", "images"), "frames": ("frames", "videos"), "features": ("features", "features")}


def example(facts: ModelFacts) -> dict[str, Any]:
    """What the template of the card fills in: captions of the first golden item, then of the others.

    Returns:
        `imports` and `item_lines`, lines of code; `inputs`, arguments of the processor; `queries` and `description`,
        literals; `item`, what sentence-transformers is given, empty where it takes no items of this model.
    """
    texts = list(facts.golden.get("texts", ()))
    num_items = len(facts.golden.get("images") or facts.golden.get("videos") or ()) or 1
    chosen = texts[::num_items][:_SHOWN_QUERIES] + texts[1:num_items]
    descriptions = list(facts.golden.get("descriptions", ())) or [_DEFAULT_DESCRIPTION]
    if facts.is_text_encoder:
        caption, *chosen = chosen or [_DEFAULT_DESCRIPTION]
        descriptions = [caption]
    return {
        "imports": _imports(facts),
        "item_lines": _item_lines(facts) if facts.reads_image else [],
        "inputs": _inputs(facts),
        "item": _item(facts),
        "queries": [literal(text) for text in chosen or _DEFAULT_QUERIES],
        "description": literal(descriptions[0]),
    }


def literal(text: Any) -> str:
    """A text as a literal of Python, in one line."""
    return json.dumps(str(text), ensure_ascii=False)


def _shows_golden(facts: ModelFacts) -> bool:
    """Whether the example opens a picture of golden/; features there are random, and tell a reader nothing."""
    return facts.reads_image and facts.vision_input != "features" and GOLDEN_PICTURE in facts.files


def _imports(facts: ModelFacts) -> list[str]:
    lines = ["import torch"]
    lines += ["from PIL import Image"] if facts.reads_image and facts.vision_input != "features" else []
    lines += ["from transformers import AutoModel, AutoProcessor"]
    return [*lines, *(["from transformers.utils import cached_file"] if _shows_golden(facts) else [])]


def _item_lines(facts: ModelFacts) -> list[str]:
    if facts.vision_input == "features":
        width = int(facts.config["feature_dim"])
        return [
            "# A row a frame, here random: give yours, by the network behind those that the model was trained on.",
            f"features = torch.randn(8, {width})  # or the path of a .npy file",
        ]
    has_golden = _shows_golden(facts)
    if facts.vision_input == "frames":
        count = len((facts.golden.get("videos") or [()])[0]) or 1
        opened = f'Image.open(cached_file(NAME, f"golden/{{number}}.png")) for number in range({count})'
        what = "Pictures in place of the frames of a clip" if has_golden else "The frames of a clip"
        made = 'Image.new("RGB", (224, 224), colour) for colour in ("red", "blue")'
        return [
            f"# {what}, in order. The path of a video file does as well, after `pip install av`.",
            f"frames = [{opened if has_golden else made}]",
        ]
    if has_golden:
        return [f'image = Image.open(cached_file(NAME, "{GOLDEN_PICTURE}"))  # or a picture of yours']
    return ['image = Image.new("RGB", (224, 224), "red")  # open a picture of yours here']


def _inputs(facts: ModelFacts) -> str:
    name, argument = _NAMES[facts.vision_input]
    parts = [f"{argument}=[{name}]"] if facts.reads_image else []
    parts += ["descriptions=[description]"] if facts.reads_description else []
    return ", ".join(parts)


def _item(facts: ModelFacts) -> str:
    if facts.is_text_encoder:
        return "caption"
    kind = {"image": "image", "frames": "video"}.get(facts.vision_input)
    if kind is None:
        return ""
    name = _NAMES[facts.vision_input][0]
    if facts.reads_description:
        return f'{{"{kind}": {name}, "text": description}}'
    # Two frames in a list would be taken for a pair.
    return name if kind == "image" else f'{{"{kind}": {name}}}'
