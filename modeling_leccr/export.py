"""A folder that is ready for the Hub: weights, configuration, processor, the code that they need, a card."""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

from modeling_leccr import check_embeddings
from modeling_leccr.configuration_leccr import LeccrConfig
from modeling_leccr.golden import GOLDEN_FOLDER, write_golden
from modeling_leccr.modeling_leccr import LeccrModel
from modeling_leccr.sentence_files import sentence_files
from processing.files import replace_folder, write_json_atomic, write_text_atomic
from processing.hub_upload import CARD_FILE
from processing.processing_leccr import LeccrProcessor
from processing.traces import without_local_origins, without_traces
from reporting.model_card import eval_result_files, model_card, read_facts
from reporting.model_record import ModelRecord

DEFAULT_SHARD_SIZE = "50GB"  # as in transformers
CONFIG_FILE, PROCESSOR_FILE, TOKENIZER_FILE = "config.json", "processor_config.json", "tokenizer_config.json"
# How somebody loaded the tokenizer, which transformers saves with it.
_LOADING_SETTINGS = frozenset({"is_local", "local_files_only", "name_or_path"})


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
        ValueError: `folder` exists and holds something else than a saved model, the model has an adapter, or the
            metadata of its card are not what the Hub takes.
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
        if (fresh / "adapter_config.json").is_file():
            raise ValueError(
                "the model has an adapter, beside which its own weights are not saved; merge it into them with "
                "`PeftModel.merge_and_unload()`, or push the adapter with `push_to_hub`."
            )
        for path in fresh.glob("*.safetensors"):
            shutil.copymode(fresh / CONFIG_FILE, path)  # safetensors makes files that only their owner can read
        config = _read_json(fresh / CONFIG_FILE)
        # What the zero-shot pipeline asks for; `register_for_auto_class` keeps one name alone.
        config["auto_map"]["AutoModelForZeroShotImageClassification"] = config["auto_map"]["AutoModel"]
        write_json_atomic(fresh / CONFIG_FILE, without_local_origins(_canonical(config)))
        processor.save_pretrained(fresh)
        tokenizer = _read_json(fresh / TOKENIZER_FILE)
        left = {name: value for name, value in tokenizer.items() if name not in _LOADING_SETTINGS}
        write_json_atomic(fresh / TOKENIZER_FILE, left)
        for name, content in sentence_files(config, _read_json(fresh / PROCESSOR_FILE)).items():
            write_text_atomic(fresh / name, content)
        if record is not None:
            _public(record).write(fresh)
        write_golden(model, processor, fresh / GOLDEN_FOLDER, () if record is None else record.languages)
        shutil.copyfile(check_embeddings.__file__, fresh / Path(check_embeddings.__file__).name)
        facts = read_facts(fresh, repo_id or target.name, license_id=license_id)
        for name, content in {CARD_FILE: model_card(facts), **eval_result_files(facts)}.items():
            write_text_atomic(fresh / name, content)
        replace_folder(target, fresh)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return target


def _public(record: ModelRecord) -> ModelRecord:
    texts = ("protocol", "checkpoint_choice", "settings", "environment")
    return dataclasses.replace(record, **{name: without_traces(getattr(record, name)) for name in texts})


def _canonical(config: dict[str, Any]) -> dict[str, Any]:
    """The same for a trained model (the trainer adds `use_cache`) and a loaded one (where each part has a type)."""
    parts = {name: value for name, value in config.items() if name != "use_cache"}
    for name, value in parts.items():
        if isinstance(value, dict):
            parts[name] = {key: entry for key, entry in value.items() if key != "dtype"}
    return parts


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
