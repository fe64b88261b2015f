"""What a saved model scored: a table with its protocol for the card, and the files that the Hub reads results from."""

import math
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

from processing.records import query_title
from reporting.markdown import as_code, one_line, plain
from reporting.model_facts import ModelFacts
from reporting.report import ABSENT, RECALLS, SUM_OF_RECALLS, markdown_table

EVAL_RESULTS_FOLDER = ".eval_results"
_DIRECTIONS = {"t2i": "text to image", "i2t": "image to text"}
_VIDEO_DIRECTIONS = {"t2i": "text to video", "i2t": "video to text"}
_TEXT_DIRECTIONS = {"t2i": "text to English captions", "i2t": "English captions to text"}


def eval_result_files(facts: ModelFacts) -> dict[str, str]:
    """Path -> text of the files in which the Hub looks for results; none where the data set is not on the Hub.

    The Hub shows them where the data set is a benchmark, that is, names these tasks in its `eval.yaml`.
    """
    dataset = facts.hub_dataset
    if dataset is None or not facts.evaluated_languages:
        return {}
    notes = f"split {one_line(facts.protocol.get('split', facts.split))}"
    if facts.protocol.get("scoring") and facts.has_slots:
        notes += f", {one_line(facts.protocol['scoring'])} scores"
    entries = [
        EvalResultEntry(dataset_id=dataset, task_id=one_line(f"{language}_{key}"), value=value, notes=notes)
        for language, key, value in reported_numbers(facts)
    ]
    text = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True)
    return {f"{EVAL_RESULTS_FOLDER}/{dataset.replace('/', '--')}.yaml": text}


def reported_numbers(facts: ModelFacts) -> list[tuple[str, str, float]]:
    return [
        (language, key, round(facts.metrics[f"{language}/{key}"], 2))
        for language in facts.evaluated_languages
        for key in (*RECALLS, SUM_OF_RECALLS)
        if math.isfinite(facts.metrics.get(f"{language}/{key}", math.nan))
    ]


def metric_title(facts: ModelFacts, key: str) -> str:
    seen = _DIRECTIONS if facts.vision_input == "image" else _VIDEO_DIRECTIONS
    directions = _TEXT_DIRECTIONS if facts.is_text_encoder else seen
    direction, _, metric = key.partition("_")
    return f"{directions[direction]} {metric}" if direction in directions else "SumR"


def mean_sum_r(facts: ModelFacts, metrics: Mapping[str, float]) -> float:
    """Mean of SumR over the evaluated languages."""
    return mean(metrics.get(f"{language}/{SUM_OF_RECALLS}", math.nan) for language in facts.evaluated_languages)


def results_table(facts: ModelFacts, metrics: Mapping[str, float]) -> str:
    header = ["captions in", *(key.replace("_", " ") for key in RECALLS), "SumR", "items", "texts", "texts an item"]
    rows = []
    for language in facts.evaluated_languages:
        counts = facts.protocol.get("languages", {}).get(language, {})
        numbers = [metrics.get(f"{language}/{key}", math.nan) for key in (*RECALLS, SUM_OF_RECALLS)]
        rows.append(
            [plain(query_title(language))]
            + [f"{number:.1f}" if math.isfinite(number) else ABSENT for number in numbers]
            + [_count(counts, metrics, language, name) for name in ("num_items", "num_texts")]
            + [_range(counts.get("captions_per_item"))]
        )
    return markdown_table(header, rows)


def _count(counts: Mapping[str, Any], metrics: Mapping[str, float], language: str, name: str) -> str:
    number = counts.get(name, metrics.get(f"{language}/{name}"))
    return ABSENT if number is None else f"{int(number):,}"


def _range(bounds: Sequence[int] | None) -> str:
    if not bounds:
        return ABSENT
    return str(bounds[0]) if bounds[0] == bounds[-1] else f"{bounds[0]} to {bounds[-1]}"


def protocol_lines(facts: ModelFacts) -> list[str]:
    """How the numbers were measured, a line each."""
    protocol = facts.protocol
    lines = []
    if dataset := facts.dataset:
        lines.append(f"Data: {as_code(dataset)}, split {as_code(protocol.get('split', facts.split))}.")
    elif facts.split:
        lines.append(f"Split: {as_code(protocol.get('split', facts.split))}.")
    if protocol:
        lines.append(_queries(facts))
    if facts.is_text_encoder:
        lines.append("Items: an item is the mean of its English captions.")
    if (scoring := protocol.get("scoring")) and facts.has_slots:
        weight = protocol.get("global_weight")
        share = f": {weight:g} of the global score and {1 - weight:g} of the best slot" if weight is not None else ""
        depends = protocol.get("scores_depend_on")
        stretched = f", each stretched to [0, 1] over {plain(depends)}" if depends else ""
        lines.append(f"Scores: {plain(scoring)}{share}{stretched}.")
    elif scoring:
        lines.append("Scores: the cosine of item and text.")
    if "descriptions" in protocol and facts.reads_description:
        used = "used" if protocol["descriptions"] else "not used"
        second = " in the first table, not in the second" if facts.metrics_without_descriptions else ""
        lines.append(f"Descriptions of the {facts.medium}s: {used}{second}.")
    if protocol.get("tie_rule"):
        lines.append(f"Ties: {plain(protocol['tie_rule'])}.")
    if facts.record.checkpoint_choice and facts.split:
        lines.append(f"The checkpoint was chosen by: {plain(facts.record.checkpoint_choice)}.")
    return lines


def _queries(facts: ModelFacts) -> str:
    kinds = {language.endswith("_mt") for language in facts.evaluated_languages}
    human, translated, named = "human captions", "machine translations", "so"
    if facts.is_drawn:
        human, named = "captions written by rules", "machine translation"
        translated = f"{human}, with disturbed words"
    both = f"{human}, or {translated} where the table says {named}"
    queries = both if len(kinds) > 1 else translated if True in kinds else human
    counts = facts.protocol.get("languages", {})
    left_out = [
        f"{number:,} in {plain(query_title(language))}"
        for language in facts.evaluated_languages
        if (number := counts.get(language, {}).get("items_without_translation_left_out"))
    ]
    items = f"all items of the split but those without a translation ({', '.join(left_out)})" if left_out else ""
    items = items or "all items of the split"
    return f"Queries: {queries}, against {items}; all texts of an item count as correct."
