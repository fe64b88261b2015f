"""Check a saved model in a process of its own, as somebody without this package would load it.

    python -I hub_scripts/verify_export.py MODEL_FOLDER PROBE_FOLDER

Loads with `trust_remote_code=True` while this project's packages cannot be imported, embeds the inputs of the probe
(see `modeling_leccr.export.save_probe`), and compares. Prints the largest difference as JSON; exits with 1 above 1e-6.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

PACKAGES = ("modeling_leccr", "processing", "retrieval", "reporting", "hub_scripts")
TOLERANCE = 1e-6


def main(model_folder: str, probe_folder: str) -> None:
    """Load without the package, embed, compare."""
    model_path, probe = Path(model_folder).resolve(), Path(probe_folder).resolve()
    for package in PACKAGES:
        sys.modules[package] = None  # type: ignore[assignment]  # an import of it now fails
    with tempfile.TemporaryDirectory() as elsewhere:
        os.chdir(elsewhere)
        os.environ["HF_MODULES_CACHE"] = elsewhere
        difference = largest_difference(model_path, probe)
        os.chdir("/")
    print(json.dumps({"max_difference": difference, "tolerance": TOLERANCE}))
    if not difference <= TOLERANCE:
        sys.exit(1)


def largest_difference(model_path: Path, probe: Path) -> float:
    """Largest absolute difference between the embeddings of the probe and those of the loaded model."""
    import torch
    from PIL import Image
    from safetensors.torch import load_file
    from transformers import AutoModel, AutoProcessor

    model = AutoModel.from_pretrained(model_path, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(model_path, trust_remote_code=True)
    inputs = json.loads((probe / "inputs.json").read_text(encoding="utf-8"))
    expected = load_file(probe / "embeds.safetensors")
    images = [Image.open(probe / f"{position}.png") for position in range(len(inputs["descriptions"]))]
    items = processor(images=images, descriptions=inputs["descriptions"])
    with torch.no_grad():
        features = model.get_image_features(**items)
        found = {
            "text_embeds": model.get_text_features(**processor(text=inputs["texts"])).pooler_output,
            "image_embeds": features.pooler_output,
            "slot_embeds": features.slot_embeds,
        }
        if "image_embeds_without_description" in expected:
            alone = model.get_image_features(pixel_values=items["pixel_values"])
            found["image_embeds_without_description"] = alone.pooler_output
    return max(float((found[name] - value).abs().max()) for name, value in expected.items())


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
