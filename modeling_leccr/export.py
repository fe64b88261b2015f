"""A folder that is ready for the Hub: weights, configuration, processor, the code that they need, a card."""

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file

from modeling_leccr.configuration_leccr import LeccrConfig
from modeling_leccr.modeling_leccr import LeccrModel
from processing.files import replace_folder, write_json_atomic, write_text_atomic
from processing.processing_leccr import LeccrProcessor

CARD = """---
library_name: transformers
pipeline_tag: zero-shot-image-classification
language: {languages}
tags: [image-text-retrieval, cross-lingual-retrieval]
---
# LECCR

Cross-lingual image retrieval: images, their English descriptions and captions in {language_names} in one space.

```python
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("{name}", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("{name}", trust_remote_code=True)
inputs = processor(images=[image], text=["{query}"], descriptions=["An English description of the image."])
print(model(**inputs).logits_per_image)
```

`metrics.json` holds what this checkpoint scored and how it was measured.
"""


_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def save_for_hub(
    model: LeccrModel,
    processor: LeccrProcessor,
    folder: str | Path,
    *,
    languages: Sequence[str] = (),
    metrics: Mapping[str, Any] | None = None,
    query: str = "a caption in any of its languages",
) -> Path:
    """Write everything that a stranger needs to load the model, with and without this package.

    The folder is complete or absent: it is written beside its place and renamed, and an older one is replaced.

    Args:
        languages: codes of the languages that captions may have.
        metrics: what it scored, for `metrics.json`.
        query: an example for the card.

    Raises:
        ValueError: `folder` exists and holds something else than a saved model.
    """
    target = Path(folder)
    if target.exists() and not (target / "config.json").is_file():
        raise ValueError(f"{target} exists and is not a saved model; choose another folder to save the model in.")
    fresh = target.with_name(f".{target.name}.{os.getpid()}.new")
    LeccrConfig.register_for_auto_class()
    LeccrModel.register_for_auto_class("AutoModel")
    LeccrProcessor.register_for_auto_class("AutoProcessor")
    try:
        fresh.mkdir(parents=True)
        model.save_pretrained(fresh)
        config = json.loads((fresh / "config.json").read_text(encoding="utf-8"))
        write_json_atomic(fresh / "config.json", _without_local_paths(config))
        processor.save_pretrained(fresh)
        if metrics is not None:
            write_json_atomic(fresh / "metrics.json", dict(metrics))
        card = CARD.format(
            languages=["en", *languages],
            language_names=", ".join(["en", *languages]),
            name=target.name,
            query=query.replace('"', "'"),
        )
        write_text_atomic(fresh / "README.md", card)
        replace_folder(target, fresh)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return target


def _without_local_paths(config: Any) -> Any:
    """A configuration without the folders that its towers were loaded from; names on the Hub stay."""
    if not isinstance(config, dict):
        return config
    origin = config.get("_name_or_path")
    is_hub_id = isinstance(origin, str) and _HUB_ID.fullmatch(origin) and not Path(origin).exists()
    return {name: _without_local_paths(value) for name, value in config.items() if name != "_name_or_path" or is_hub_id}


@torch.no_grad()
def save_probe(
    model: LeccrModel, processor: LeccrProcessor, rows: Sequence[Mapping[str, Any]], texts: Sequence[str], folder: Path
) -> None:
    """Keep a few inputs with their embeddings, by which `hub_scripts/verify_export.py` checks a reloaded model.

    Args:
        rows: items with `image` and, where the model reads it, `description`.
        texts: captions in any language.
    """
    folder.mkdir(parents=True, exist_ok=True)
    images: list[Image.Image] = [row["image"].convert("RGB") for row in rows]
    descriptions = [row.get("description") for row in rows]
    for position, image in enumerate(images):
        image.save(folder / f"{position}.png")
    write_json_atomic(folder / "inputs.json", {"texts": list(texts), "descriptions": descriptions})
    was_training, device = model.training, model.device
    # Whoever checks it may have no GPU, whose rounding differs by more than the tolerance.
    model.eval()
    model.to("cpu")  # type: ignore[arg-type]  # torch types the parent's decorated method wrongly
    texts_in = processor(text=list(texts))
    items_in = processor(images=images, descriptions=descriptions)
    items = model.get_image_features(**items_in)
    embeds: dict[str, Any] = {
        "text_embeds": model.get_text_features(**texts_in).pooler_output,
        "image_embeds": items.pooler_output,
    }
    if items.slot_embeds is not None:
        embeds["slot_embeds"] = items.slot_embeds
    if model.config.description_dropout > 0:
        alone = model.get_image_features(pixel_values=items_in["pixel_values"])
        embeds["image_embeds_without_description"] = alone.pooler_output
    model.to(device)  # type: ignore[arg-type]
    model.train(was_training)
    save_file({name: value.float().contiguous() for name, value in embeds.items()}, folder / "embeds.safetensors")
