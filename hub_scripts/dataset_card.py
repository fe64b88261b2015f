"""The card of a data set on the Hub, written from its manifest alone; a section without data is left out."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData

from processing.hub_card import UNKNOWN_LICENSE
from processing.hub_dataset import HubDataset
from processing.manifest import Step
from processing.readers.table import NO_CAPTION
from processing.records import (
    DESCRIPTION_COLUMN,
    END_COLUMN,
    FILE_COLUMN,
    ID_COLUMN,
    IMAGE_COLUMN,
    LANGUAGE_NAMES,
    OK_FLAG,
    SOURCE_LANGUAGE,
    START_COLUMN,
    VIDEO_ID_COLUMN,
    caption_column,
    caption_columns,
    flag_column,
    text_columns,
)
from processing.traces import without_traces
from reporting.dataset_report import QUALITY_FILE, quality_sections
from reporting.report import markdown_table

TEMPLATE = Path(__file__).parent / "templates" / "dataset_card.md.jinja"
TAGS = ("cross-lingual-retrieval", "leccr")
_TITLES = {"read": "Source", "describe": "Descriptions", "translate": "Translations"}
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_LARGEST_SIZE = "10M<n<100M"


def dataset_card(data: HubDataset, *, license_id: str | None = None, quality: Mapping[str, Any] | None = None) -> str:
    """The README of a repository.

    Args:
        data: what the repository holds.
        license_id: identifier of the Hub such as "cc-by-4.0"; by default that of `data`. Without either the card says
            visibly that it was not stated.
        quality: the content of `quality.json`, see `read_quality`.

    Raises:
        ValueError: the metadata are not what the Hub takes.
    """
    license_id = license_id or data.license_id or UNKNOWN_LICENSE
    is_video = data.id_column == VIDEO_ID_COLUMN
    medium = "clip" if is_video else "picture"
    columns = list(dict.fromkeys(name for names in data.columns.values() for name in names))
    title = data.repo_id.rpartition("/")[2]
    card = DatasetCard.from_template(
        _metadata(data, columns, license_id, title),
        template_path=str(TEMPLATE),
        data=data,
        title=title,
        summary=_summary(data, columns, medium),
        language=next(iter(data.columns)),
        medium=medium,
        attach="attach_videos" if is_video else "attach_images",
        folder="clips" if is_video else "pictures",
        key=FILE_COLUMN if FILE_COLUMN in columns else data.id_column,
        tables=_tables(data, columns, medium),
        steps=[_describe(step) for step in data.steps],
        missing=_missing(data),
        quality=quality_sections(without_traces(quality), heading="###") if quality else "",
        generated=_generated(columns),
        license_id=license_id,
    )
    # Jinja leaves empty lines where a section is left out.
    return re.sub(r"\n{3,}", "\n\n", card.content).strip() + "\n"


def read_quality(folder: str | Path, *, required: bool = False) -> dict[str, Any] | None:
    """The `quality.json` that inspect_dataset wrote into a folder; None where there is none.

    Args:
        required: refuse a folder without the file.

    Raises:
        ValueError: the file is damaged, or absent although `required`.
    """
    path = Path(folder) / QUALITY_FILE
    if not path.is_file():
        if required:
            raise ValueError(f"{folder} holds no {QUALITY_FILE}; give the folder that inspect_dataset wrote (--out).")
        return None
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is no quality report ({error}); run inspect_dataset again.") from error


def _metadata(data: HubDataset, columns: Sequence[str], license_id: str, title: str) -> DatasetCardData:
    languages = {SOURCE_LANGUAGE} if DESCRIPTION_COLUMN in columns else set()
    captions = caption_columns(columns).values()
    languages |= {language for language, _ in captions}
    tasks = ["image-to-text"] if data.id_column == ID_COLUMN else ["video-text-to-text"]
    if any(translated for _, translated in captions):
        tasks.append("translation")
    total = sum(data.rows.values())
    return DatasetCardData(
        language=sorted(languages),
        license=license_id,
        task_categories=tasks,
        size_categories=[next((name for limit, name in _SIZES if total < limit), _LARGEST_SIZE)],
        tags=[f"{'image' if data.id_column == ID_COLUMN else 'video'}-text-retrieval", *TAGS],
        pretty_name=title,
        configs=data.configurations(),
    )


def _summary(data: HubDataset, columns: Sequence[str], medium: str) -> str:
    captions = caption_columns(columns)
    parts = []
    if any(not translated for _, translated in captions.values()):
        parts.append("captions")
    if any(translated for _, translated in captions.values()):
        parts.append("machine translations of the English captions")
    if DESCRIPTION_COLUMN in columns:
        parts.append("descriptions by a multimodal language model")
    languages = " and ".join(LANGUAGE_NAMES[language] for language in data.columns)
    inside = "The pictures are inside." if data.has_images else f"The {medium}s are not inside."
    return (
        f"For cross-lingual retrieval of {medium}s: {', '.join(parts)}, one row for each {medium}. {inside} "
        f"A configuration for each language: {languages}."
    )


def _tables(data: HubDataset, columns: Sequence[str], medium: str) -> list[str]:
    configurations = [
        [f"`{language}`", ", ".join(f"`{name}`" for name in names)] for language, names in data.columns.items()
    ]
    return [
        markdown_table(["configuration", "columns"], configurations),
        markdown_table(["column", "content"], [[f"`{name}`", _meaning(name, medium, columns)] for name in columns]),
        markdown_table(["split", "rows"], [[f"`{name}`", f"{rows:,}"] for name, rows in data.rows.items()]),
    ]


def _meaning(column: str, medium: str, columns: Sequence[str]) -> str:
    base, _, suffix = column.rpartition("_")
    if suffix == "flag":
        null = "; null: not generated" if base in _partly_generated(columns) else ""
        return f'"{OK_FLAG}", or what is wrong with the text of `{base}`{null}'
    if suffix == "similarity":
        return f"back-translation of `{base}` against `caption_en`, chrF from 0 to 100"
    known = {
        ID_COLUMN: "unique in its split",
        VIDEO_ID_COLUMN: "unique in its split",
        FILE_COLUMN: f"path of the {medium} inside its folder",
        IMAGE_COLUMN: "the picture",
        START_COLUMN: "second of the clip at which the item begins; null: its beginning",
        END_COLUMN: "second at which it ends; null: the end of the clip",
        DESCRIPTION_COLUMN: f"what a multimodal language model wrote about the {medium}, in English; null: nothing",
    }
    if column in known:
        return known[column]
    language, translated = caption_columns([column])[column]
    if translated:
        return f"machine translations of `caption_en` into {LANGUAGE_NAMES[language]}, in its order; null: refused"
    if column in _partly_generated(columns):
        return f"captions in {LANGUAGE_NAMES[language]}; those with a flag were written by a model"
    return f"human captions in {LANGUAGE_NAMES[language]}, not aligned with other languages"


def _partly_generated(columns: Sequence[str]) -> list[str]:
    """The columns of captions that a model wrote in part."""
    return [name for name, (_, kind) in text_columns(columns).items() if kind == "partly_generated"]


def _describe(step: Step) -> dict[str, Any]:
    """What the template shows of a step."""
    prompts: dict[str, str] = {}
    settings = _take_prompts(step.settings, prompts)
    # Missing items have a section of their own.
    rates = [
        [f"`{column.removesuffix('_flag')}`", f"{sum(flags.values()):,}", *_rates(flags)]
        for column, flags in step.counts.items()
        if column.endswith("_flag") and sum(flags.values())
    ]
    return {
        "title": _TITLES.get(step.kind, step.kind.capitalize()),
        "date": step.created,
        "settings": markdown_table(["setting", "value"], [[f"`{name}`", text] for name, text in _flat(settings)]),
        "prompts": [{"id": name, "block": _code_block(text)} for name, text in prompts.items()],
        "rates": markdown_table(["column", "texts", OK_FLAG, "others"], rates),
        "events": ", ".join(f"{name} {count:,}" for name, count in step.counts.get("events", {}).items()),
    }


def _take_prompts(settings: Any, prompts: dict[str, str]) -> Any:
    """The settings with the id of each prompt in its place; the texts go to `prompts`."""
    if not isinstance(settings, Mapping):
        return settings
    if {"id", "text"} <= set(settings):
        prompts[settings["id"]] = settings["text"]
        return settings["id"]
    return {name: _take_prompts(value, prompts) for name, value in settings.items()}


def _rates(flags: Mapping[str, int]) -> tuple[str, str]:
    total = sum(flags.values())
    others = (f"{flag} {100 * count / total:.2f} %" for flag, count in flags.items() if flag != OK_FLAG and count)
    return f"{100 * flags.get(OK_FLAG, 0) / total:.2f} %", ", ".join(others) or "none"


def _missing(data: HubDataset) -> str:
    """What was looked for and not found, when the data were read and when they were pushed."""
    written = flag_column(caption_column(SOURCE_LANGUAGE))
    lines = [
        f"- {split}: {count:,} items have {reason}"
        for position, step in enumerate(data.steps)
        if isinstance(step.counts.get("missing"), Mapping)
        for reason, splits in step.counts["missing"].items()
        # A later step wrote these captions; its rates tell what it could not write.
        if reason != NO_CAPTION or not any(written in later.counts for later in data.steps[position + 1 :])
        for split, count in splits.items()
        if count
    ]
    left_out = [
        f"- {split}: {count:,} items have {reason} and are left out"
        for reason, splits in data.missing.counts().items()
        for split, count in splits.items()
        if count
    ]
    return "\n".join(dict.fromkeys([*lines, *left_out]))


def _generated(columns: Sequence[str]) -> str:
    texts = ["The translations"] if any(translated for _, translated in caption_columns(columns).values()) else []
    texts += ["The captions with a flag"] if _partly_generated(columns) else []
    texts += ["The descriptions"] if DESCRIPTION_COLUMN in columns else []
    if not texts:
        return ""
    return f"{' and '.join(texts).replace('and The', 'and the')} were generated and may be wrong, biased or offensive."


def _code_block(text: str) -> str:
    """A fenced block; the fence is longer than any inside."""
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall(r"`+", text)), 3)
    return f"{fence}text\n{text}\n{fence}"


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            yield f"{prefix}{name}", ", ".join(str(item) for item in value)
        elif value is not None:
            yield f"{prefix}{name}", str(value)
