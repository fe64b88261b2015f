"""A folder that is ready for the Hub: weights, configuration, processor, the code that they need, a card."""

import json
import os
import shutil
from pathlib import Path

from modeling_leccr import check_embeddings
from modeling_leccr.configuration_leccr import LeccrConfig
from modeling_leccr.golden import GOLDEN_FOLDER, write_golden
from modeling_leccr.modeling_leccr import LeccrModel
from modeling_leccr.sentence_files import sentence_files
from processing.files import replace_folder, write_json_atomic, write_text_atomic
from processing.hub_upload import CARD_FILE
from processing.processing_leccr import LeccrProcessor
from processing.traces import without_local_origins
from reporting.model_record import ModelRecord

CARD = """---
library_name: transformers
pipeline_tag: zero-shot-image-classification
license: {license_id}
language: {languages}
tags: [image-text-retrieval, cross-lingual-retrieval]
---
# LECCR

Cross-lingual image retrieval: images, their English descriptions and captions in {language_names} in one space.

```python
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("{name}", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("{name}", trust_remote_code=True)
inputs = processor(images=[image], text=["a caption"], descriptions=["An English description of the image."])
print(model(**inputs).logits_per_image)
```

`metrics.json` holds what this checkpoint scored and how it was measured.
"""
DEFAULT_SHARD_SIZE = "50GB"  # as in transformers
CONFIG_FILE = "config.json"


def save_for_hub(
    model: LeccrModel,
    processor: LeccrProcessor,
    folder: str | Path,
    *,
    record: ModelRecord | None = None,
    repo_id: str | None = None,
    license_id: str | None = None,
    max_shard_size: str | int = DEFAULT_SHARD_SIZE,
) -> Path:
    """Write everything that a stranger needs to load the model, with and without this package.

    The folder is complete or absent: it is written beside its place and renamed, and an older one is replaced.

    Args:
        model: to be saved; it stays as it is.
        processor: its processor.
        folder: absent, or a saved model.
        record: what is known about it, for `metrics.json` and the card; there is no such file without it.
        repo_id: its name on the Hub, for the card; the name of the folder by default.
        license_id: licence of the weights by its name on the Hub.
        max_shard_size: bytes of one file of weights, or a text such as "5GB".

    Returns:
        `folder`.

    Raises:
        ValueError: `folder` exists and holds something else than a saved model.
    """
    target = Path(folder)
    if target.exists() and not (target / CONFIG_FILE).is_file():
        raise ValueError(f"{target} exists and is not a saved model; choose another folder to save the model in.")
    fresh = target.with_name(f".{target.name}.{os.getpid()}.new")
    LeccrConfig.register_for_auto_class()
    LeccrModel.register_for_auto_class("AutoModel")
    LeccrProcessor.register_for_auto_class("AutoProcessor")
    try:
        fresh.mkdir(parents=True)
        model.save_pretrained(fresh, max_shard_size=max_shard_size)
        config = json.loads((fresh / CONFIG_FILE).read_text(encoding="utf-8"))
        # What the zero-shot pipeline asks for; `register_for_auto_class` keeps one name alone.
        config["auto_map"]["AutoModelForZeroShotImageClassification"] = config["auto_map"]["AutoModel"]
        write_json_atomic(fresh / CONFIG_FILE, without_local_origins(config))
        processor.save_pretrained(fresh)
        settings = json.loads((fresh / "processor_config.json").read_text(encoding="utf-8"))
        for name, content in sentence_files(config, settings).items():
            write_text_atomic(fresh / name, content)
        if record is not None:
            record.write(fresh)
        write_golden(model, processor, fresh / GOLDEN_FOLDER, () if record is None else record.languages)
        shutil.copyfile(check_embeddings.__file__, fresh / Path(check_embeddings.__file__).name)
        write_text_atomic(fresh / CARD_FILE, _card(record or ModelRecord(), repo_id or target.name, license_id))
        replace_folder(target, fresh)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return target


def _card(record: ModelRecord, name: str, license_id: str | None) -> str:
    languages = ["en", *record.languages]
    return CARD.format(
        license_id=license_id or "unknown", languages=languages, language_names=", ".join(languages), name=name
    )
