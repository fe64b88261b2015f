"""What a saved model scored: a table with its protocol for the card, and the files that the Hub reads results from."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

from processing.records import query_title
from reporting.markdown import as_code, one_line, plain
from reporting.model_facts import GENERATED_DATASET, ModelFacts
from reporting.report import ABSENT, RECALLS, SUM_OF_RECALLS, markdown_table

EVAL_RESULTS_FOLDER = ".eval_results"
_DIRECTIONS = {"t2i": "text to image", "i2t": "image to text"}


def eval_result_files(facts: ModelFacts) -> dict[str, str]:
    """Path -> text of the files in which the Hub looks for results; none where the data set is not on the Hub.

    The Hub shows them where the data set is a benchmark, that is, names these tasks in its `eval.yaml`.
    """
    dataset = facts.hub_dataset
    if dataset is None or not facts.evaluated_languages:
        return {}
    notes = f"split {one_line(facts.protocol.get('split', facts.split))}"
    if facts.protocol.get("scoring"):
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
        if f"{language}/{key}" in facts.metrics
    ]


def metric_title(key: str) -> str:
    direction, _, metric = key.partition("_")
    return f"{_DIRECTIONS[direction]} {metric}" if direction in _DIRECTIONS else "SumR"


def results_table(facts: ModelFacts) -> str:
    header = ["captions in", *(key.replace("_", " ") for key in RECALLS), "SumR", "items", "texts", "texts an item"]
    rows = []
    for language in facts.evaluated_languages:
        counts = facts.protocol.get("languages", {}).get(language, {})
        numbers = [facts.metrics.get(f"{language}/{key}") for key in (*RECALLS, SUM_OF_RECALLS)]
        rows.append(
            [plain(query_title(language))]
            + [ABSENT if number is None else f"{number:.1f}" for number in numbers]
            + [_count(counts, facts.metrics, language, name) for name in ("num_items", "num_texts")]
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
        kinds = {language.endswith("_mt") for language in facts.evaluated_languages}
        human = "captions written by rules" if facts.dataset == GENERATED_DATASET else "human captions"
        both = f"{human}, or machine translations where the table says so"
        queries = both if len(kinds) > 1 else "machine translations" if True in kinds else human
        lines.append(f"Queries: {queries}, against all items of the split; all texts of an item count as correct.")
    if scoring := protocol.get("scoring"):
        weight = protocol.get("global_weight")
        share = ""
        if weight is not None and facts.has_slots:
            share = f": {weight:g} of the global score and {1 - weight:g} of the best slot"
        lines.append(f"Scores: {plain(scoring)}{share}.")
    if "descriptions" in protocol:
        lines.append(f"Descriptions of the pictures: {'used' if protocol['descriptions'] else 'not used'}.")
    if protocol.get("tie_rule"):
        lines.append(f"Ties: {plain(protocol['tie_rule'])}.")
    if facts.record.checkpoint_choice and facts.split:
        lines.append(f"The checkpoint was chosen by: {plain(facts.record.checkpoint_choice)}.")
    return lines
