"""What each semantic slot reads, how alike the slots are, and which one wins by type of query.

    python -m benchmarks.check_slots --write docs/RESULTS.md

Trains LECCR on scenes and looks into it on the reported split:

- attention: the weights of the last slot block over the tokens of a description, averaged over its heads and summed
  over the tokens of a word; as a picture for a few items, and for all of them by the kind of word.
- similarity: cosines between the slots of an item before the interaction with the picture (`slots`) and after it, as
  captions are matched with them (`slot_embeds`), with the weights at the start of training and at its end.
- winners: with which slot of its own item a query is matched. The type of a query is what it says of the object that
  it names first (colour, shape, texture, size), how that is placed, how many objects it names, and the background.
  Cramér's V tells how far slot and type depend on each other, from 0 to 1; beside it the V of shuffled winners, where
  items have exchanged the winners of all their queries: what a table of this size shows by chance.

With `--folder outputs/ablations` the models of `benchmarks.ablations` are read instead of training others.
"""

import argparse
import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import set_seed

from benchmarks import checks
from benchmarks.experiments import Result, run_experiments, spread
from benchmarks.slot_winners import (
    KINDS,
    TYPES,
    agreement,
    attention_by_kind,
    cramers_v,
    shuffled_cramers_v,
    types_of_queries,
    winner_counts,
)
from modeling_leccr import LeccrModel
from modeling_leccr.training.arguments import Recipe, build_recipe
from modeling_leccr.training.building import build_model, load_splits
from modeling_leccr.training.reading import merged
from modeling_leccr.training.run import reported_split
from processing.files import atomic_write
from processing.processing_leccr import LeccrProcessor
from processing.records import query_title
from processing.scenes import ScenesConfig
from reporting.report import markdown_table
from reporting.slot_pictures import draw_slot_shares, draw_slot_similarity, slot_attention_sheet
from retrieval.encode import encode_texts
from retrieval.evaluation import read_captions
from retrieval.slot_readings import SlotReading, mean_of_different, mean_slot_cosines, read_slots, winning_slots
from retrieval.views import ItemViews

NAME = "check_slots"
VARIANT = "base"  # as in benchmarks.ablations, so that the two share a training
SHOWN_ITEMS = 3
ALL_QUERIES = "all queries"
STATES = ("at the start", "trained")


@dataclass(frozen=True)
class TypeResult:
    """How far the winning slot depends on one type of query; means over languages.

    Args:
        counts: word of the type -> queries that each slot wins, of all languages together.
        cramers_v: of slots and words.
        shuffled: mean Cramér's V of shuffled winners.
        shuffled_high: their 95th percentile.
    """

    counts: dict[str, list[int]]
    cramers_v: float
    shuffled: float
    shuffled_high: float


@dataclass(frozen=True)
class SlotAnalysis:
    """What was found in one trained model.

    Args:
        cosines: STATES -> ("before", "after" the interaction) -> (num_slots, num_slots).
        overlap: STATES -> share of the attention that two slots have in common, mean over items and pairs of slots.
        attention: (num_slots, num_kinds), and for equal attention to each word (num_kinds,).
        special: (num_slots,) attention to tokens of no word.
        types: type of query -> what it tells of the winner.
        agreement: share of queries that the same slot wins in two languages, and by chance.
        readings: of the first items, for the picture.
    """

    cosines: dict[str, dict[str, Tensor]]
    overlap: dict[str, float]
    attention: tuple[Tensor, Tensor]
    special: Tensor
    types: dict[str, TypeResult]
    agreement: tuple[float, float] | None
    readings: list[SlotReading]


def main(argv: list[str] | None = None) -> int:
    """Train, look into the models, report; see the module's docstring. 1 if a training failed."""
    options = checks.parse(checks.parser_of(NAME, __doc__), argv)
    base = checks.base_recipe(options.base)
    if base.get("dataset", "scenes") != "scenes" or int(base.get("model", {}).get("num_slots", 4)) < 2:
        raise SystemExit(
            f"{options.base} must train two slots or more on scenes, whose captions come with their facts."
        )
    results = run_experiments(
        base, {VARIANT: {}}, options.seeds, options.folder, workers=options.workers, keep_models=True
    )
    recipe = build_recipe(merged(base, {"use_cpu": True}))
    splits = load_splits(recipe.data)
    split = splits[reported_split(splits)]
    analyses = {
        result.seed: analyse(recipe, result.seed, result.model_folder, split)
        for result in results
        if result.model_folder is not None and result.error is None
    }
    report(options, base, results, analyses, split)
    return int(any(result.error is not None for result in results))


def analyse(recipe: Recipe, seed: int, model_folder: Path, split: Any) -> SlotAnalysis:
    """Look into one trained model, and into the same one before its training."""
    model = LeccrModel.from_pretrained(model_folder).eval()
    processor = LeccrProcessor.from_pretrained(model_folder)
    set_seed(seed)
    start = build_model(recipe.model, processor.tokenizer).eval()
    readings = {state: read_slots(found, processor, split) for state, found in zip(STATES, (start, model), strict=True)}
    trained = readings["trained"]
    slot_embeds = torch.stack([reading.slot_embeds for reading in trained])
    types, agreed = winners_by_type(recipe, model, processor, split, slot_embeds)
    return SlotAnalysis(
        cosines={
            state: {
                "before": mean_slot_cosines(torch.stack([reading.slots for reading in found])),
                "after": mean_slot_cosines(torch.stack([reading.slot_embeds for reading in found])),
            }
            for state, found in readings.items()
        },
        overlap={state: fmean(attention_overlap(reading) for reading in found) for state, found in readings.items()},
        attention=attention_by_kind([(reading.words, reading.weights) for reading in trained]),
        special=torch.stack([reading.special_weights for reading in trained]).mean(dim=0),
        types=types,
        agreement=agreed,
        readings=trained[:SHOWN_ITEMS],
    )


def attention_overlap(reading: SlotReading) -> float:
    """Share of the attention that two slots of an item have in common, 0 to 1, mean over pairs of slots."""
    weights = torch.cat([reading.weights, reading.special_weights[:, None]], dim=1)
    pairs = itertools.combinations(weights, 2)
    return fmean(float(torch.minimum(one, other).sum()) for one, other in pairs)


def largest_share(analysis: SlotAnalysis) -> float:
    """Share of the queries that the most frequent winner wins, in all languages together."""
    counts = analysis.types[ALL_QUERIES].counts[ALL_QUERIES]
    return max(counts) / sum(counts)


def winners_by_type(
    recipe: Recipe, model: Any, processor: Any, split: Any, slot_embeds: Tensor
) -> tuple[dict[str, TypeResult], tuple[float, float] | None]:
    """What each type of query tells of the slot that wins, and how far languages agree on it."""
    config = ScenesConfig(**recipe.data.scenes)
    types = types_of_queries(config, recipe.data.test_split or recipe.data.validation_split)
    num_slots = slot_embeds.shape[1]
    winners: list[Tensor] = []
    for language in recipe.data.target_languages:
        texts, owners = read_captions(split, language)
        winners.append(winning_slots(slot_embeds, encode_texts(model, processor, texts, progress=False), owners))
    found = {ALL_QUERIES: type_result(winners, [ALL_QUERIES] * len(winners[0]), num_slots, config.captions_per_item)}
    found |= {name: type_result(winners, types[name], num_slots, config.captions_per_item) for name in TYPES}
    return found, agreement(winners) if len(winners) > 1 else None


def type_result(winners: Sequence[Tensor], words: Sequence[str], num_slots: int, captions_per_item: int) -> TypeResult:
    """What one type tells of the winners of each language."""
    tables = [winner_counts(of_language, words, num_slots) for of_language in winners]
    shuffled = [
        shuffled_cramers_v(of_language, words, num_slots, captions_per_item=captions_per_item)
        for of_language in winners
    ]
    return TypeResult(
        counts={word: [sum(both) for both in zip(*(t[word] for t in tables), strict=True)] for word in tables[0]},
        cramers_v=fmean(cramers_v(list(table.values())) for table in tables),
        shuffled=fmean(fmean(values) for values in shuffled),
        shuffled_high=fmean(values[int(0.95 * len(values))] for values in shuffled),
    )


def report(
    options: argparse.Namespace,
    base: Mapping[str, Any],
    results: list[Result],
    analyses: Mapping[int, SlotAnalysis],
    split: Any,
) -> None:
    """Tables, pictures, JSON."""
    texts = ["All models failed; see the logs beside the results."]
    if analyses:
        seed, first = next(iter(analyses.items()))
        places = draw(options, first, split, seed)
        texts = [
            f"Pictures and shares are of seed {seed}: a slot has no name, so slot 1 of another seed is another slot. "
            "Attention is that of the last slot block, averaged over heads.",
            checks.picture_link(options, places["attention"], "Words that each slot attends to"),
            "Attention to the words of all descriptions by what they tell, in percent of that to words. The last "
            "column: attention to tokens of no word, in percent of all.",
            attention_table(first),
            "How alike the slots of an item are: mean cosine between different slots before and after the interaction "
            "with the picture, and the share of their attention that two slots have in common (1: the same words, "
            "equally).",
            similarity_table(analyses),
            checks.picture_link(options, places["similarity"], "Cosines between slots"),
            f"Which slot wins by type of query (mean over languages, ± standard deviation over seeds). Of all queries, "
            f"the slot that wins most wins {spread([100 * largest_share(found) for found in analyses.values()])} %.",
            winner_table(analyses),
            checks.picture_link(options, places["winners"], "Shares of the slots among the winners by type of query"),
        ]
        texts += agreement_text(base, analyses)
    data = f"embedded scenes, {len(split)} items of the reported split, {checks.budget(base)}"
    facts = {str(seed): analysis_facts(analysis) for seed, analysis in analyses.items()}
    checks.finish(NAME, options, "\n\n".join(texts), results, data=data, analyses=facts)


def draw(options: argparse.Namespace, analysis: SlotAnalysis, split: Any, seed: int) -> dict[str, Path]:
    """The three pictures of a model."""
    places = {
        name: checks.picture_place(options, f"slots_{name}.png") for name in ("attention", "similarity", "winners")
    }
    sheet = slot_attention_sheet(analysis.readings, ItemViews(split), title=f"What slots attend to (seed {seed})")
    # A palette of an octree keeps the colours of the slots and a quarter of the bytes.
    small = sheet.quantize(255, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    with atomic_write(places["attention"]) as temporary:
        small.save(temporary, format="PNG", optimize=True)
    panels = {
        f"{state}, {when} the interaction": cosines
        for state, both in analysis.cosines.items()
        for when, cosines in both.items()
    }
    draw_slot_similarity(panels, places["similarity"], title=f"Mean cosine between the slots of an item (seed {seed})")
    groups = {name: result.counts for name, result in analysis.types.items()}
    draw_slot_shares(
        groups, places["winners"], title=f"Which slot wins (seed {seed}), percent of queries", x_label="winning slot"
    )
    return places


def attention_table(analysis: SlotAnalysis) -> str:
    """A row a slot, a column a kind of word."""
    weights, even = analysis.attention
    rows = [
        [f"slot {slot + 1}", *percents(row), f"{100 * float(analysis.special[slot]):.0f}"]
        for slot, row in enumerate(weights)
    ]
    return markdown_table(["", *KINDS, "[CLS], [SEP]"], [*rows, ["each word alike", *percents(even), ""]])


def percents(shares: Tensor) -> list[str]:
    """Shares in whole percent."""
    return [f"{100 * share:.0f}" for share in shares.tolist()]


def similarity_table(analyses: Mapping[int, SlotAnalysis]) -> str:
    """A row for each state of the model."""
    rows = []
    for state in STATES:
        cosines = [
            spread([mean_of_different(analysis.cosines[state][when]) for analysis in analyses.values()], 3)
            for when in ("before", "after")
        ]
        rows.append([state, *cosines, spread([analysis.overlap[state] for analysis in analyses.values()], 3)])
    return markdown_table(["model", "cosine before", "cosine after", "attention in common"], rows)


def winner_table(analyses: Mapping[int, SlotAnalysis]) -> str:
    """A row a type of query."""
    rows = []
    for name in TYPES:
        found = [analysis.types[name] for analysis in analyses.values()]
        values = [spread([getattr(result, part) for result in found], 3) for part in ("cramers_v", "shuffled")]
        rows.append([name, str(len(found[0].counts)), *values, f"{fmean(r.shuffled_high for r in found):.3f}"])
    return markdown_table(["type", "words", "Cramér's V", "V shuffled", "95 % of V shuffled are below"], rows)


def agreement_text(base: Mapping[str, Any], analyses: Mapping[int, SlotAnalysis]) -> list[str]:
    """How far languages agree on the winner, if there are several."""
    found = [analysis.agreement for analysis in analyses.values() if analysis.agreement is not None]
    if not found:
        return []
    same, chance = (spread([100 * pair[side] for pair in found]) for side in (0, 1))
    languages = ", ".join(query_title(language) for language in base["target_languages"])
    return [
        f"Captions that say the same in two languages ({languages}) are won by the same slot in {same} % of the cases; "
        f"by chance, with the same shares of the slots, it would be {chance} %."
    ]


def analysis_facts(analysis: SlotAnalysis) -> dict[str, Any]:
    """An analysis for a JSON file."""
    return {
        "cosines": {
            state: {when: cosines.tolist() for when, cosines in both.items()}
            for state, both in analysis.cosines.items()
        },
        "attention_in_common": analysis.overlap,
        "attention_by_kind": dict(zip(KINDS, analysis.attention[0].T.tolist(), strict=True)),
        "words_by_kind": dict(zip(KINDS, analysis.attention[1].tolist(), strict=True)),
        "attention_to_no_word": analysis.special.tolist(),
        "types": {name: vars(result) for name, result in analysis.types.items()},
        "agreement": analysis.agreement,
    }


if __name__ == "__main__":
    sys.exit(main())
