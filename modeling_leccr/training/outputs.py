"""What a run leaves behind: its start, the model folder, metrics, pictures, and a search in a process of its own."""

import json
import logging
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub.errors import HTTPError

from modeling_leccr.export import save_for_hub
from modeling_leccr.publishing import push_model
from modeling_leccr.training.adapters import merge_adapter, save_adapter
from modeling_leccr.training.arguments import LeccrTrainingArguments, Recipe
from modeling_leccr.training.run import TEACHER, SystemRun
from modeling_leccr.training.sharding import has_adapter
from processing.files import write_json_atomic
from processing.hub_card import CardError
from processing.processing_leccr import LeccrProcessor
from processing.records import (
    FEATURES_COLUMN,
    MEDIA_COLUMNS,
    VIDEO_COLUMN,
    find_id_column,
    query_column,
    schema_features,
)
from processing.sources import write_shard
from reporting.compare import draw_recalls
from reporting.curves import draw_training_curves
from reporting.fingerprints import data_fingerprints
from reporting.model_record import without_descriptions
from reporting.report import write_report
from reporting.run_record import write_run_start

logger = logging.getLogger(__name__)

_ROOT = Path(__file__).resolve().parents[2]
_VERIFY_SCRIPT = _ROOT / "hub_scripts" / "verify_export.py"


def record_start(folder: Path, recipe: Recipe, splits: Mapping[str, Any]) -> dict[str, Any]:
    """Write `run.json`, so that a run that is stopped has a record too.

    Returns:
        The fingerprints of the splits.
    """
    data, training = recipe.data, recipe.training
    names = {"train": data.train_split, "validation": data.validation_split, "test": str(data.test_split)}
    fingerprints = data_fingerprints(splits, recipe.public_settings().get("dataset", data.dataset), names)
    write_run_start(
        folder,
        recipe.settings,
        data=fingerprints,
        num_processes=training.world_size,
        resumed=bool(training.resume_from_checkpoint),
    )
    return fingerprints


def write_metrics(
    folder: Path,
    runs: Mapping[str, SystemRun],
    *,
    seconds: Mapping[str, float],
    peak_gib: float,
    truncation_rate: float,
) -> dict[str, Any]:
    """Write `metrics.json`: what each system scored, the main one before others, how it was measured, and on what."""
    run = next(iter(runs.values()))
    main, teacher = run.record, run.first_stage
    trained = {f"train {name}": run.record.seconds for name, run in runs.items()}
    trained |= {f"train {name}, first stage": run.first_stage.seconds for name, run in runs.items() if run.first_stage}
    record = {
        "systems": {name: run.record.metrics for name, run in runs.items()},
        # Its items are English captions: no number of a system that finds pictures compares with its own.
        **({} if teacher is None else {TEACHER: {"metrics": teacher.metrics, "protocol": teacher.protocol}}),
        "protocol": main.protocol,
        "checkpoint_choice": main.checkpoint_choice,
        "parameters": {
            name: dict(zip(("trained", "all"), run.num_parameters, strict=True)) for name, run in runs.items()
        },
        "seconds": {**trained, **seconds},
        "peak_memory_gib": peak_gib,
        "truncation_rate": truncation_rate,
        "settings": main.settings,
        "data": main.data,
        "launch": main.launch,
        "environment": main.environment,
    }
    write_json_atomic(folder / "metrics.json", record)
    return record


def save_and_verify(folder: Path, run: SystemRun, processor: LeccrProcessor, license_id: str | None) -> float:
    """Write `model/`, reload it in a fresh process without this package, and compare embeddings.

    An adapter is written to `adapter/` too, and then merged: the model of `run` has none any more.

    Returns:
        The largest difference of an embedding.

    Raises:
        RuntimeError: the reloaded model embeds differently.
    """
    if has_adapter(run.model):
        save_adapter(run.model, folder / "adapter")
        merge_adapter(run.model)
    save_for_hub(run.model, processor, folder / "model", record=run.record, license_id=license_id)
    command = [sys.executable, "-I", str(_VERIFY_SCRIPT), str(folder / "model")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"the saved model does not reload to the same embeddings: {result.stdout}{result.stderr}")
    return json.loads(result.stdout.splitlines()[-1])["max_difference"]


def push_main_system(folder: Path, arguments: LeccrTrainingArguments) -> dict[str, Any]:
    """Push `model/`, which stays on the disk whatever happens here.

    Returns:
        What was sent, see `push_model`.

    Raises:
        RuntimeError: it could not be pushed; the message says why, and which command pushes it again.
    """
    repo_id, revision = str(arguments.hub_model_id), arguments.hub_revision
    settings: dict[str, Any] = {
        "private": bool(arguments.hub_private_repo),
        "revision": revision,
        "token": arguments.hub_token,
    }
    try:
        return push_model(folder / "model", repo_id, license_id=arguments.hub_license, **settings)
    except (OSError, ValueError, RuntimeError, HTTPError) as error:
        reason = str(error).partition("\n")[0]  # the Hub's own errors go on with addresses
        words = ["leccr", "push_model", "--model", str(folder / "model"), "--repo", repo_id]
        # A licence that the Hub refused would be refused again.
        license_id = "LICENSE" if isinstance(error, CardError) else arguments.hub_license
        words += ["--license", license_id] if license_id else []
        words += ["--revision", revision] if revision else []
        words += ["--private"] if arguments.hub_private_repo else []
        raise RuntimeError(
            f"the training is finished and saved in {folder}, but the model was not pushed: {reason.rstrip('.')}. "
            f"Push it with `{shlex.join(words)}`."
        ) from error


def find_query(split: datasets.Dataset, language: str, start: int) -> tuple[str, str]:
    """A caption and the id of its item: of the item at `start`, or of the next one that has any.

    Raises:
        ValueError: no item has a caption, or all are refused translations.
    """
    id_column = find_id_column(split.column_names)
    texts = split.select_columns([id_column, query_column(language)])
    for offset in range(len(split)):
        row = texts[(start + offset) % len(split)]
        captions = [caption for caption in row[query_column(language)] or [] if caption is not None]
        if captions:
            return captions[0], row[id_column]
    raise ValueError(f"no item has a caption in {query_column(language)}; translate or caption the split again.")


def search_in_fresh_process(folder: Path, split: datasets.Dataset, languages: list[str]) -> list[dict[str, Any]]:
    """Search the split with one human caption of each language, by the command that a user would type.

    The captions are those of items at equal distances in the split, so nobody chose the ones that work; where an item
    has only refused translations, the next one is taken. Writes `items/`, `index/`, `searches.json` and, where items
    are seen and not only read, `retrieval.png`.
    """
    items = folder / "items"
    items.mkdir(exist_ok=True)
    # With its captions, so that anybody can score the model again by `leccr evaluate`.
    write_shard(_with_whole_paths(split), items / "test-00000-of-00001.parquet")
    queries = []
    for place, language in enumerate(languages):
        query, image_id = find_query(split, language, place * len(split) // len(languages))
        queries.append({"query": query, "language": language, "image_id": image_id})
    write_json_atomic(folder / "queries.json", queries)
    options = {
        "--model": "model",
        "--items": "items",
        "--query-file": "queries.json",
        "--save-index": "index",
        "--save-results": "searches.json",
    }
    if set(MEDIA_COLUMNS) & set(split.column_names):
        options["--save-picture"] = "retrieval.png"
    command = [sys.executable, "-m", "hub_scripts.search", *(word for pair in options.items() for word in pair)]
    # The script runs in another folder, and a checkout that is not installed is importable from its own root alone.
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment_of_child = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    result = subprocess.run(command, cwd=folder, env=environment_of_child, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"the search failed: {result.stdout}{result.stderr}")
    return json.loads((folder / "searches.json").read_text(encoding="utf-8"))


def _with_whole_paths(split: datasets.Dataset) -> datasets.Dataset:
    """Clips and features that are named by their places can be found from any folder."""
    named = [
        column for column in (VIDEO_COLUMN, FEATURES_COLUMN) if split.features.get(column) == datasets.Value("string")
    ]
    if not named:
        return split
    here = Path.cwd()
    places = {column: [None if place is None else str(here / place) for place in split[column]] for column in named}
    columns = datasets.Dataset.from_dict(places, features=schema_features(named))
    return datasets.concatenate_datasets([split.remove_columns(named), columns], axis=1, split=split.split)


def write_pictures_and_report(
    folder: Path,
    runs: Mapping[str, SystemRun],
    record: Mapping[str, Any],
    *,
    split_name: str,
    languages: list[str],
    searches: list[dict[str, Any]],
) -> None:
    """Write `training.png`, `comparison.png` and `report.md` from the record alone."""
    results = {name: metrics[split_name] for name, metrics in record["systems"].items()}
    title, run = next(iter(runs.items()))
    alone = without_descriptions(split_name)
    beside = {f"{name} without descriptions": m[alone] for name, m in record["systems"].items() if alone in m}
    num_items = int(results[title][f"{languages[0]}/num_items"])
    item = _item_words(record["protocol"][split_name])
    draw_training_curves(run.log_history, folder / "training.png", title=f"{title} training")
    draw_recalls(
        results,
        languages,
        folder / "comparison.png",
        title=f"Text to {item} R@1 on {split_name}, {num_items} items",
        num_items=num_items,
        item=item,
    )
    files = {
        "training.png": "loss terms, validation recall and learning rate",
        "comparison.png": (
            "the system beside its controls" if len(results) > 1 else f"text to {item} R@1 in each language"
        ),
    }
    if searches and (folder / "retrieval.png").is_file():
        files["retrieval.png"] = "the top hits of one query in each language"
    if TEACHER in record:
        files[TEACHER] = "the cross-lingual network of the first stage, ready for the Hub"
    files |= {"metrics.json": "all numbers and settings", "model": "the model, ready for the Hub"}
    if "lora" in (record["settings"].get("vision_training"), record["settings"].get("text_training")):
        files["adapter"] = "the adapter alone, to be loaded over its base"
    write_report(
        folder / "report.md",
        title=f"{title[0].upper()}{title[1:]} on {Path(record['settings'].get('dataset', 'scenes')).name}",
        settings=record["settings"],
        metrics_by_system=results | beside,
        languages=languages,
        protocol={
            "system": f"{title}; others differ from it by what their names or `controls` in metrics.json say",
            **record["protocol"][split_name],
            "checkpoint": record["checkpoint_choice"],
            "truncation_rate": record["truncation_rate"],
            "trained parameters": [_share(name, counts) for name, counts in record["parameters"].items()],
        },
        timings=record["seconds"],
        environment={**record["launch"], **record["environment"], "peak_memory_gib": record["peak_memory_gib"]},
        files=files,
        searches=searches,
    )


def _item_words(protocol: Mapping[str, Any]) -> str:
    """What texts find."""
    if protocol.get("item_source") == "source_captions":
        return "English captions"
    return "video" if "vision_input" in protocol else "image"


def _share(name: str, counts: Mapping[str, int]) -> str:
    return f"{name} {counts['trained']:,} of {counts['all']:,} ({100 * counts['trained'] / counts['all']:.2f} %)"
