"""Loads models in a process of its own, as the tests ask for it: see tests/test_hub_loading.py.

    python -I tests/loading_worker.py PLAN.json

The plan says whether this project's packages can be imported, and what to load one after the other. What came of it is
printed as JSON. Imports what a stranger has; the tests import `embed`, `run` and the list of packages from here.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PACKAGES = ("modeling_leccr", "processing", "retrieval", "reporting", "hub_scripts")
ROOT = Path(__file__).resolve().parents[1]
# The first lines of a process that shall be a stranger's: an import of our packages fails there.
HIDE_PACKAGES = f"import sys\nsys.modules.update(dict.fromkeys({PACKAGES}))\n"
TEXTS = ["ein roter ball", "a white dog", "zwei grüne bäume"]
DESCRIPTIONS = ["a red ball lies on the grass in the sun", "a blue boat on a calm lake"]


def main(plan_file: str) -> None:
    """Carry out the plan."""
    plan = json.loads(Path(plan_file).read_text(encoding="utf-8"))
    if plan["package"]:
        sys.path.insert(0, str(ROOT))
        __import__("modeling_leccr")
    else:
        exec(HIDE_PACKAGES)
    outcomes = [attempt(**step) for step in plan["steps"]]
    remote_code = sorted(name for name in sys.modules if name.startswith("transformers_modules."))
    json.dump({"outcomes": outcomes, "remote_code": remote_code}, sys.stdout)


def attempt(name: str, *, loader: str = "AutoModel", **settings: Any) -> dict[str, Any]:
    """Load one thing; an error is an outcome too."""
    try:
        if loader == "load_dataset":
            return _load_rows(name, settings)
        if loader == "SentenceTransformer":
            from sentence_transformers import SentenceTransformer

            return {"class": type(SentenceTransformer(name, **settings)).__name__}
        return _load_model(name, loader, settings)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def _load_model(name: str, loader: str, settings: dict[str, Any]) -> dict[str, Any]:
    import transformers

    loaded = getattr(transformers, loader).from_pretrained(name, **settings)
    if not loader.startswith("AutoModel"):
        return {"class": type(loaded).__name__}
    source = {key: settings[key] for key in ("trust_remote_code", "revision", "token") if key in settings}
    processor = transformers.AutoProcessor.from_pretrained(name, **source)
    return {
        "class": type(loaded).__name__,
        "mark": getattr(sys.modules[type(loaded).__module__], "MARK", None),
        "dtype": str(loaded.dtype),
        "devices": sorted({parameter.device.type for parameter in loaded.parameters()}),
        "attention": sorted({part.config._attn_implementation for part in loaded.modules() if hasattr(part, "config")}),
        "embeds": {kind: value.tolist() for kind, value in embed(loaded, processor).items()},
    }


def _load_rows(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    import datasets

    loaded = datasets.load_dataset(name, settings.pop("config"), **settings)
    return {"class": type(loaded).__name__, "rows": list(loaded)}


def embed(model: Any, processor: Any) -> dict[str, Any]:
    """Text, image and slot embeddings of the same inputs in every process."""
    import torch
    from PIL import Image

    images = [Image.linear_gradient("L").rotate(90 * turns).resize((40, 40)) for turns in range(len(DESCRIPTIONS))]
    items = processor(images=images, descriptions=DESCRIPTIONS).to(model.dtype)
    with torch.no_grad():
        features = model.eval().get_image_features(**items)
        texts = model.get_text_features(**processor(text=TEXTS)).pooler_output
    return {"text": texts, "image": features.pooler_output, "slots": features.slot_embeds}


def run(
    folder: Path, steps: Sequence[Mapping[str, Any]], variables: Mapping[str, str], *, package: bool = False
) -> dict[str, Any]:
    """Start a process that carries out a plan.

    Args:
        folder: where the plan is written and the process runs.
        steps: arguments of `attempt`.
        variables: set in its environment, such as those of `tests.hub_server.environment`.
        package: whether it imports `modeling_leccr` first; without, it cannot.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plan = folder / "plan.json"
    plan.write_text(json.dumps({"package": package, "steps": list(steps)}), encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "-I", str(Path(__file__).resolve()), str(plan)],
        cwd=folder, env={**os.environ, **variables}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    # Before refusing custom code transformers asks on the standard output, though nobody is there to answer.
    found: dict[str, Any] = json.loads(result.stdout[result.stdout.index('{"outcomes"') :])
    return {**found, "asked": "Do you wish to run the custom code" in result.stdout}


if __name__ == "__main__":
    main(sys.argv[1])
