"""Check that the model beside this file embeds here as it did where it was saved.

    hf download ORG/NAME --local-dir NAME && python NAME/check_embeddings.py

Needs torch, transformers and Pillow. Embeds the captions of golden/, and the pictures, clips or features of frames that
are there, with the code in this folder, in float32 on the CPU, and prints the largest difference as JSON, null where it
is not a number; exits with 1 unless it is within the tolerance.
"""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor

# Processors and versions of torch round differently; a wrong weight moves an embedding by far more.
TOLERANCE = 1e-4


@torch.no_grad()
def largest_difference(folder: Path) -> float:
    """Largest absolute difference between the embeddings in golden/ and those of the loaded model; NaN if one is.

    Raises:
        ValueError: the model gives other embeddings, or other shapes of them, than golden/ holds.
    """
    model = AutoModel.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    golden = folder / "golden"
    inputs = json.loads((golden / "inputs.json").read_text(encoding="utf-8"))
    found = {"text_embeds": model.get_text_features(**processor(text=inputs["texts"])).pooler_output}
    if seen := seen_items(golden, inputs):
        items = processor(**seen, descriptions=inputs.get("descriptions"))
        features = model.get_image_features(**items)
        found |= {"image_embeds": features.pooler_output, "slot_embeds": features.slot_embeds}
        if model.config.reads_description and not model.config.needs_description:
            alone = {name: value for name, value in items.items() if not name.startswith("description")}
            found["image_embeds_without_description"] = model.get_image_features(**alone).pooler_output
    found = {name: value for name, value in found.items() if value is not None}
    expected = load_file(golden / "embeds.safetensors")
    shapes, saved = ({name: tuple(embeds[name].shape) for name in sorted(embeds)} for embeds in (found, expected))
    if shapes != saved:
        raise ValueError(f"golden/ holds embeddings of the shapes {saved}, and the model gives {shapes}.")
    # Unlike max() of Python, that of torch keeps NaN.
    return float(torch.stack([(found[name] - value).abs().max() for name, value in expected.items()]).max())


def seen_items(golden: Path, inputs: dict[str, Any]) -> dict[str, list[Any]]:
    """The pictures, clips or features of frames in golden/, as an argument of the processor; none of a model of texts.

    Args:
        inputs: what `inputs.json` holds.
    """
    if "features" in inputs:
        features = load_file(golden / inputs["features"])
        return {"features": [features[str(number)] for number in range(len(features))]}
    if "videos" in inputs:
        return {"videos": [[Image.open(golden / name) for name in names] for names in inputs["videos"]]}
    if "images" in inputs:
        return {"images": [Image.open(golden / name) for name in inputs["images"]]}
    return {}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="(default: %(default)s)")
    tolerance = parser.parse_args().tolerance
    # Not resolved: in the cache of the Hub this file is a link to another folder.
    difference = largest_difference(Path(__file__).absolute().parent)
    told = difference if math.isfinite(difference) else None
    sys.stdout.write(json.dumps({"max_difference": told, "tolerance": tolerance}) + "\n")
    sys.exit(0 if difference <= tolerance else 1)
