"""A folder that is ready for the Hub: weights, configuration, processor, the code that they need, a card."""

import json
import shutil
from pathlib import Path
from typing import Any

from modeling_leccr import check_embeddings
from modeling_leccr.golden import GOLDEN_FOLDER, write_golden
from modeling_leccr.model_files import ADAPTER_FILE, CONFIG_FILE, PROCESSOR_FILE, TOKENIZER_FILE, foreign_files
from modeling_leccr.sentence_files import sentence_files
from modeling_leccr.streams_leccr import TextStreamModel, TwoStreamModel
from processing.files import atomic_folder, write_json_atomic, write_text_atomic
from processing.hub_upload import CARD_FILE
from processing.processing_leccr import LeccrProcessor
from processing.traces import without_local_origins
from reporting.model_card import eval_result_files, model_card, read_facts
from reporting.model_record import ModelRecord

DEFAULT_SHARD_SIZE = "50GB"  # as in transformers
# How somebody loaded the tokenizer, which transformers saves with it.
_LOADING_SETTINGS = frozenset({"is_local", "local_files_only", "name_or_path"})


def save_for_hub(
    model: TextStreamModel,
    processor: LeccrProcessor,
    folder: str | Path,
    *,
    record: ModelRecord | None = None,
    repo_id: str | None = None,
    license_id: str | None = None,
    max_shard_size: str | int = DEFAULT_SHARD_SIZE,
) -> Path:
    """Write everything that a stranger needs to load the model, with and without this package.

    The folder is complete or absent: it is written beside its place and renamed, and an older one is replaced. What a
    kill leaves beside it is told in `processing.files.atomic_folder`: `.NAME-*`, in the worst moment the older model.

    Args:
        model: to be saved; it stays as it is.
        processor: its processor.
        folder: absent or empty, or what an earlier call wrote there and nothing else.
        record: what is known about it, for `metrics.json` and the card; there is no such file without it.
        repo_id: its name on the Hub, for the card; the name of the folder by default.
        license_id: licence of the weights by its name on the Hub.
        max_shard_size: bytes of one file of weights, or a text such as "5GB".

    Returns:
        `folder`.

    Raises:
        ValueError: `folder` holds something else or is the current folder, the model has an adapter, or the metadata
            of its card are not what the Hub takes.
    """
    target = Path(folder)
    check_replaceable(target)
    with atomic_folder(target) as fresh:
        _write_model(model, fresh, max_shard_size)
        _write_processor(processor, fresh)
        config: Any = model.config
        for name, content in sentence_files(config, _read_json(fresh / PROCESSOR_FILE)).items():
            write_text_atomic(fresh / name, content)
        if record is not None:
            record.public().write(fresh)
        write_golden(model, processor, fresh / GOLDEN_FOLDER, () if record is None else record.languages)
        shutil.copyfile(check_embeddings.__file__, fresh / Path(check_embeddings.__file__).name)
        _write_card(fresh, repo_id or target.name, license_id)
        for path in fresh.rglob("*.safetensors"):
            shutil.copymode(fresh / CONFIG_FILE, path)  # safetensors makes files that only their owner can read
    return target


def check_replaceable(folder: Path) -> None:
    """Refuse a place where `save_for_hub` would refuse to save; before training rather than after it.

    Raises:
        ValueError: it is a file, or a folder that holds something else than a saved model.
    """
    if folder.is_file():
        raise ValueError(f"a model is saved in a folder, got the file {folder}.")
    if foreign := foreign_files(folder):
        raise ValueError(
            f"{folder} would be replaced, and holds {len(foreign)} files that `save_for_hub` did not write there "
            f"(first: {foreign[:3]}); choose another folder to save the model in."
        )


def _write_model(model: TextStreamModel, folder: Path, max_shard_size: str | int) -> None:
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    if (folder / ADAPTER_FILE).is_file():
        raise ValueError(
            "the model has an adapter, beside which its own weights are not saved; merge it into them with "
            "`PeftModel.merge_and_unload()` or `training.adapters.merge_adapter(model)`, or push the adapter with "
            "`push_to_hub`."
        )
    config = _read_json(folder / CONFIG_FILE)
    if isinstance(model, TwoStreamModel) and model.config.vision_input == "image":
        # What the zero-shot pipeline asks for; `register_for_auto_class` keeps one name alone.
        config["auto_map"]["AutoModelForZeroShotImageClassification"] = config["auto_map"]["AutoModel"]
    write_json_atomic(folder / CONFIG_FILE, without_local_origins(_canonical(config)))


def _write_processor(processor: LeccrProcessor, folder: Path) -> None:
    processor.save_pretrained(folder)
    tokenizer = _read_json(folder / TOKENIZER_FILE)
    left = {name: value for name, value in tokenizer.items() if name not in _LOADING_SETTINGS}
    write_json_atomic(folder / TOKENIZER_FILE, left)


def _write_card(folder: Path, repo_id: str, license_id: str | None) -> None:
    facts = read_facts(folder, repo_id, license_id=license_id)
    for name, content in {CARD_FILE: model_card(facts), **eval_result_files(facts)}.items():
        write_text_atomic(folder / name, content)


def _canonical(config: dict[str, Any]) -> dict[str, Any]:
    """The same for a trained model (the trainer adds `use_cache`) and a loaded one (where each part has a type)."""
    parts = {name: value for name, value in config.items() if name != "use_cache"}
    for name, value in parts.items():
        if isinstance(value, dict):
            parts[name] = {key: entry for key, entry in value.items() if key != "dtype"}
    return parts


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
