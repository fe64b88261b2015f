"""The card of a model on the Hub, written from the files of its folder alone; a section without data is left out."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from processing.hub_card import UNKNOWN_LICENSE
from processing.records import LANGUAGE_NAMES, SOURCE_LANGUAGE, query_title
from reporting.markdown import as_code, one_line, plain
from reporting.methods import CL2CM, LECCR
from reporting.model_example import example
from reporting.model_facts import ModelFacts, is_hub_name, read_facts
from reporting.model_results import (
    eval_result_files,
    mean_sum_r,
    metric_title,
    protocol_lines,
    reported_numbers,
    results_table,
)
from reporting.report import markdown_table

__all__ = ["ModelFacts", "eval_result_files", "model_card", "read_facts"]

TEMPLATE = Path(__file__).parent / "templates" / "model_card.md.jinja"
PIPELINE_TAG, PIPELINE_CLASS = "zero-shot-image-classification", "AutoModelForZeroShotImageClassification"
TASK = ("image-text-retrieval", "Cross-lingual image-text retrieval")
# Of a model of clips, for which transformers has no pipeline; and of a text encoder.
VIDEO_PIPELINE_TAG, VIDEO_TASK = "feature-extraction", ("video-text-retrieval", "Cross-lingual video-text retrieval")
TEXT_PIPELINE_TAG, TEXT_TASK = "sentence-similarity", ("text-retrieval", "Cross-lingual text retrieval")
CHECK_SCRIPT = "check_embeddings.py"
SENTENCE_FILE = "modules.json"

# What the embedded data sets show.
_DRAWN = {"scenes": "pictures of one to three objects", "scenes_video": "clips of one or two objects"}
# Another model, a place on a machine, a secret.
_UNTOLD_SETTINGS = re.compile(r"controls|output_dir|.*_token")


def model_card(facts: ModelFacts) -> str:
    """The README of a repository.

    Raises:
        ValueError: the metadata are not what the Hub takes.
    """
    license_id = facts.license_id or UNKNOWN_LICENSE
    title = facts.repo_id.rpartition("/")[2]
    is_folder = "/" not in facts.repo_id
    card = ModelCard.from_template(
        _metadata(facts, license_id, title),
        template_path=str(TEMPLATE),
        title=plain(title),
        summary=_summary(facts),
        # "./" keeps a folder that is not there from being looked for on the Hub, code and all.
        name=json.dumps(f"./{title}" if is_folder else facts.repo_id),
        is_folder=is_folder,
        reads_description=facts.reads_description,
        has_slots=facts.has_slots,
        is_text_encoder=facts.is_text_encoder,
        medium=facts.medium,
        seen="features" if facts.vision_input == "features" else f"{facts.medium}s",
        has_pipeline=not facts.needs_description and PIPELINE_CLASS in facts.config.get("auto_map", {}),
        has_sentence_transformers=facts.item_source != "description" and SENTENCE_FILE in facts.files,
        has_check=CHECK_SCRIPT in facts.files,
        label_limit=(facts.config.get("text_config") or {}).get("max_position_embeddings"),
        **example(facts),
        results=results_table(facts, facts.metrics),
        results_without_descriptions=(
            results_table(facts, facts.metrics_without_descriptions) if facts.metrics_without_descriptions else ""
        ),
        protocol=protocol_lines(facts),
        architecture=_architecture(facts),
        training=_training(facts),
        settings=_settings(facts.record.settings),
        versions=_versions(facts.record.environment),
        limits=_limits(facts),
        license_id=license_id,
        base_models=", ".join(f"`{name}`" for name in facts.base_models),
        method=facts.method,
    )
    # Jinja leaves empty lines where a section is left out.
    return re.sub(r"\n{3,}", "\n\n", card.content).strip() + "\n"


def _metadata(facts: ModelFacts, license_id: str, title: str) -> ModelCardData:
    dataset = facts.hub_dataset
    languages = [code for code in facts.record.languages if code in LANGUAGE_NAMES]
    tag, (task, task_name) = _task(facts)
    return ModelCardData(
        language=list(dict.fromkeys([SOURCE_LANGUAGE, *languages])),
        license=one_line(license_id),
        library_name="transformers",
        pipeline_tag=tag,
        tags=[task, "cross-lingual-retrieval", facts.method.name.lower()],
        base_model=facts.base_models or None,
        # The Hub would take a list of two for a merge of their weights.
        base_model_relation="finetune" if facts.base_models else None,
        datasets=[dataset] if dataset else None,
        model_name=one_line(title),
        eval_results=[
            EvalResult(
                task_type=task,
                task_name=task_name,
                dataset_type=dataset or "unknown",
                dataset_name=facts.dataset or "unknown",
                dataset_config=one_line(facts.record.settings.get("dataset_config")) or None,
                dataset_split=one_line(facts.protocol.get("split", facts.split)),
                metric_type=one_line(f"{language}_{key}"),
                metric_name=one_line(f"{query_title(language)}, {metric_title(facts, key)}"),
                metric_value=value,
            )
            for language, key, value in reported_numbers(facts)
        ]
        or None,
    )


def _task(facts: ModelFacts) -> tuple[str, tuple[str, str]]:
    """Tag of the pipeline, and the task with its name."""
    if facts.is_text_encoder:
        return TEXT_PIPELINE_TAG, TEXT_TASK
    return (PIPELINE_TAG, TASK) if facts.vision_input == "image" else (VIDEO_PIPELINE_TAG, VIDEO_TASK)


def _summary(facts: ModelFacts) -> str:
    """What the model is and where it is from, in two or three sentences."""
    trained = ""
    if facts.record.settings.get("target_languages"):
        teachers = "machine translations of English captions"
        if facts.is_drawn:
            teachers = "captions that rules wrote about drawn scenes"
        trained = f"; it learned other languages from {teachers}"
    languages, method = _language_names(facts.record.languages), facts.method.name
    origin = f" Its weights were {plain(facts.record.origin)}." if facts.record.origin else ""
    if facts.is_text_encoder:
        return (
            f"A text encoder that puts captions in {languages} into one space, in which their cosine says how alike "
            f"they are{trained}. It is the cross-lingual network of {method}, from which a model of pictures or "
            f"videos learns.{origin}"
        )
    medium = facts.medium
    item = {
        "image": f"A {medium} and a caption become",
        "description": f"The English description of a {medium} and a caption become",
    }.get(facts.item_source, f"A {medium}, with its English description, and a caption become")
    is_baseline = method == LECCR.name and not facts.has_slots
    return (
        f"A {'' if is_baseline else f'{method} '}model that finds {medium}s by captions in {languages}, and captions "
        f"by {medium}s{trained}. {item} vectors of one space, in which their cosine says how well they fit.{origin}"
    )


def _language_names(codes: Sequence[str]) -> str:
    if not codes:
        return "several languages"
    names = [plain(LANGUAGE_NAMES.get(code, code)) for code in dict.fromkeys((SOURCE_LANGUAGE, *codes))]
    return _joined(names)


def _architecture(facts: ModelFacts) -> str:
    config = facts.config
    has_pixels, has_frames = facts.reads_image and facts.vision_input != "features", facts.vision_input != "image"
    rows: list[tuple[str, Any]] = [
        ("vision tower", _tower(facts, "vision") if has_pixels else None),
        ("text tower", _tower(facts, "text")),
        ("an item is embedded from", None if facts.is_text_encoder else _seen(facts)),
        ("semantic slots an item", config.get("num_slots") if facts.has_slots else None),
        ("width of slots and visual tokens", config.get("slot_dim") if facts.has_slots else None),
        ("width of visual tokens", None if facts.has_slots else _visual_width(facts)),
        ("interaction of slots and visual tokens", config.get("interaction") if facts.has_slots else None),
        ("width of an embedding", config.get("embed_dim")),
        (
            "pooling of frames" if has_frames else "pooling of pictures",
            config.get("image_pooling") if has_pixels else None,
        ),
        ("pooling of texts", config.get("text_pooling")),
        ("share of the global score", config.get("global_weight") if facts.has_slots else None),
        ("frame, pixels" if has_frames else "picture, pixels", _image_size(facts.processor) if has_pixels else None),
        ("width of the features of a frame", config.get("feature_dim") if has_frames else None),
        ("frames of a clip, at most", facts.processor.get("num_frames") if has_frames else None),
        ("frames of a second, at most", facts.processor.get("frame_rate") if has_frames else None),
        ("attention blocks over frames", config.get("num_frame_layers") if has_frames else None),
        ("positions of frames", config.get("frame_positions") if has_frames else None),
        ("longest text, tokens", facts.processor.get("max_length")),
        ("parameters", f"{facts.num_parameters:,}"),
        ("type of the weights", facts.dtype),
    ]
    return markdown_table(["part", "value"], [[name, plain(value)] for name, value in rows if value not in (None, "")])


def _seen(facts: ModelFacts) -> str:
    seen = "features of frames" if facts.vision_input == "features" else facts.vision_input
    return facts.item_source.replace("_", " ").replace("image", seen)


def _visual_width(facts: ModelFacts) -> int | None:
    return facts.config.get("visual_dim", facts.config.get("slot_dim")) if facts.reads_image else None


def _tower(facts: ModelFacts, kind: str) -> str:
    config: Mapping[str, Any] = facts.config.get(f"{kind}_config") or {}
    parts = [str(config.get("model_type", "unknown"))]
    parts += [f"width {config['hidden_size']}"] if "hidden_size" in config else []
    parts += [f"from {facts.towers[kind]}"] if kind in facts.towers else []
    return ", ".join(parts)


def _image_size(processor: Mapping[str, Any]) -> str:
    size = (processor.get("image_processor") or {}).get("size") or {}
    return f"{size['height']} x {size['width']}" if {"height", "width"} <= set(size) else ""


def _training(facts: ModelFacts) -> list[str]:
    settings, lines = facts.record.settings, []
    if dataset := facts.dataset:
        shown = f"[{dataset}](https://huggingface.co/datasets/{dataset})" if facts.hub_dataset else as_code(dataset)
        drawn = f", {_DRAWN[dataset]} that a program draws" if facts.is_drawn else ""
        texts_alone = "; this network read the captions alone" if facts.is_text_encoder else ""
        lines.append(f"Data: {shown}{drawn}{texts_alone}.")
    if isinstance(train := facts.record.data.get("train"), Mapping):
        lines.append(_training_split(train))
    if languages := settings.get("target_languages"):
        names = _joined([plain(LANGUAGE_NAMES.get(code, code)) for code in map(str, languages)])
        lines.append(
            f"English captions with captions in {names}, all written by rules; in place of the faults of a translator, "
            f"words of the latter are dropped, swapped or replaced at random (`translation_noise`)."
            if facts.is_drawn
            else f"English captions with their machine translations into {names}."
        )
    if facts.method is CL2CM and settings:
        lines.append(_stages(facts))
    if facts.record.launch:
        lines.append(_batch(facts.record.launch))
    if facts.record.seconds is not None:
        lines.append(f"Training took {facts.record.seconds / 60:.1f} minutes, evaluations included.")
    return lines


def _stages(facts: ModelFacts) -> str:
    """What the two networks of CL2CM have to do with each other."""
    if facts.is_text_encoder:
        return "It is the first stage of CL2CM; in the second, frozen, it teaches a model of pictures or videos."
    teacher = facts.record.settings.get("teacher")
    name = f" ([{teacher}](https://huggingface.co/{teacher}))" if is_hub_name(teacher) else ""
    return (
        f"In two stages: a cross-lingual network{name} learned from the captions alone, and was frozen; from how alike "
        f"it finds them, this model learned as well. It is no part of this model."
    )


def _training_split(train: Mapping[str, Any]) -> str:
    """How much it saw, and the hash by which others know that they have the same data."""
    captions = train.get("num_captions")
    parts = [f"{plain(train['num_items'])} items"] if "num_items" in train else []
    parts += [f"{plain(captions['caption_en'])} English captions"] if captions and "caption_en" in captions else []
    if "num_files" in train:
        parts.append(f"{plain(train['num_files'])} parquet file{'' if train['num_files'] == 1 else 's'}")
    parts += [f"fingerprint {as_code(str(train['sha256'])[:16])}"] if "sha256" in train else []
    return f"Training split: {', '.join(parts) or 'not recorded'}."


def _batch(launch: Mapping[str, Any]) -> str:
    """What the losses are computed over, which a recipe for one process does not tell."""
    processes, pairs = launch["num_processes"], launch["pairs_per_process"]
    share = f"{processes} processes of {pairs}" if processes > 1 else "1 process"
    steps = launch["gradient_accumulation_steps"]
    accumulated = f", {steps} of them an update" if steps > 1 else ""
    return (
        f"Global batch: {processes * pairs} pairs ({share}){accumulated}; "
        f"mixed precision: {plain(launch['mixed_precision'])}."
    )


def _settings(settings: Mapping[str, Any]) -> str:
    """The recipe as YAML, one line for each setting whatever its values hold; so none can end the block."""
    told = {name: value for name, value in settings.items() if not _UNTOLD_SETTINGS.fullmatch(name)}
    if not told:
        return ""
    style: dict[str, Any] = {"sort_keys": False, "default_flow_style": None, "width": math.inf, "allow_unicode": True}
    return yaml.dump(told, Dumper=_OneLineDumper, **style).strip()


class _OneLineDumper(yaml.SafeDumper):
    """YAML in which a line break in a text is written `\\n`."""


def _one_line(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if text.splitlines() in ([], [text]) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_OneLineDumper.add_representer(str, _one_line)


def _versions(environment: Mapping[str, Any]) -> str:
    told = dict(environment)
    rows = list(dict(told.pop("libraries", None) or {}).items())
    rows = [*((name, value) for name, value in told.items() if value is not None), *rows]
    cells = [[plain(str(name).replace("_", " ")), plain(value)] for name, value in rows]
    return markdown_table(["name", "value"], cells)


def _limits(facts: ModelFacts) -> list[str]:
    lines, medium = [], facts.medium
    if facts.vision_input == "features":
        lines.append(
            "It sees no frames but features of them, and knows those of one network alone: the one behind the features "
            "that it was trained on."
        )
    if facts.needs_description:
        lines.append(f"Every {medium} needs an English description; a {medium} without one is refused.")
    elif facts.reads_description:
        lines.append(f"A {medium} without a description is taken, with a learned stand-in for it, {_cost(facts)}.")
    if facts.reads_description:
        lines.append(f"What a description says wrongly about a {medium}, the model believes.")
    if facts.is_drawn and facts.is_text_encoder:
        lines.append("It was trained on captions that rules wrote; it knows nothing of how people write.")
    elif facts.is_drawn:
        lines.append(
            f"It was trained on drawn scenes of a few objects and on captions written by rules; it knows nothing of "
            f"{'photos' if medium == 'picture' else 'films'}, nor of how people write."
        )
    elif facts.record.settings.get("target_languages"):
        lines.append(
            "The captions that it learned other languages from are machine translations, with the faults of the model "
            "that wrote them."
        )
    if not facts.record.settings:
        lines.append("What it was trained on, and how, was not recorded.")
    if max_length := facts.processor.get("max_length"):
        cut = "Captions and descriptions" if facts.reads_description else "Captions"
        lines.append(f"{cut} are cut after {plain(max_length)} tokens.")
    measured, found = (
        ("Languages", "translations") if facts.is_text_encoder else (f"Languages, {medium}s", f"{medium}s")
    )
    lines.append(
        f"{measured} and uses other than those in Results were not measured, and neither was bias."
        if facts.evaluated_languages
        else f"How well it finds {found} was not recorded, and bias was not measured."
    )
    return lines


def _cost(facts: ModelFacts) -> str:
    """Of going without a description."""
    alone = facts.metrics_without_descriptions
    if not alone:
        return "and is found less well; how much was not measured"
    return f"and the mean SumR is then {mean_sum_r(facts, alone):.1f} instead of {mean_sum_r(facts, facts.metrics):.1f}"


def _joined(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
