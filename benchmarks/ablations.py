"""What each part of LECCR is worth: the groups of benchmarks/ablations.yaml, each a table and a picture.

    python -m benchmarks.ablations
    python -m benchmarks.ablations --group slots losses --seeds 0
    python -m benchmarks.ablations --group slots --dataset PATH/TO/flickr8k-ccr

The recipe is the base of that file, on scenes; with --dataset it is LECCR of benchmarks/compare_flickr8k.yaml. A run
that is stopped goes on where it was; what is there is not trained again. In a document, the place of a group is
`ablation_GROUP`, with --dataset `ablation_GROUP_flickr8k`.
"""

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import checks
from benchmarks.ablation_groups import BASE, Group, changes_of, read_groups, trainings
from benchmarks.ablation_measures import RANKS, MeasureJob, measure_models, read_ranks, read_values
from benchmarks.ablation_tables import Row, Rows
from benchmarks.compare import read_comparison
from benchmarks.experiments import Result, run_experiments
from modeling_leccr.training.reading import merged
from processing.records import query_title

REAL_DATA = "flickr8k"
REAL_DATA_FILE = checks.BASE.with_name("compare_flickr8k.yaml")
REAL_DATA_GROUPS = ("slots",)

logger = logging.getLogger(__name__)

# (group, variant) -> its results, one a seed
Trained = Mapping[tuple[str, str], list[Result]]


def main(argv: Sequence[str] | None = None) -> int:
    """Train, measure, report; see the module's docstring. 1 where a training failed."""
    parser = checks.parser_of("ablations", __doc__)
    parser.add_argument("--group", nargs="+", help="groups of the file; default: all, of real data the slots alone")
    parser.add_argument("--dataset", type=Path, help="folder of flickr8k-ccr, in place of scenes")
    options = checks.parse(parser, argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    base, groups = read_groups(options.base)
    if options.dataset is not None:
        base = real_data_recipe(REAL_DATA_FILE, options.dataset)
    names = options.group or list(groups if options.dataset is None else REAL_DATA_GROUPS)
    unknown = sorted(set(names) - set(groups))
    if unknown:
        parser.error(f"--group takes names among {list(groups)}, got {unknown}.")
    shared = trainings(base, list(groups.values()))
    asked = [compared_with_base(group, shared) for group in groups.values() if group.name in names]
    trained = train(base, asked, shared, options)
    for group in asked:
        rows = Rows(group, measured_rows(group, base, trained, options), _text_items(trained))
        if not rows.reference.ranks:
            logger.error("%s: its reference %s failed, so that there is no table", group.name, group.reference)
            continue
        report(rows, [result for variant in group.variants for result in trained[group.name, variant.name]], options)
    return int(any(result.error is not None for results in trained.values() for result in results))


def real_data_recipe(path: Path, dataset: Path) -> dict[str, Any]:
    """The settings of LECCR in the comparison on real data."""
    comparison = read_comparison(path, str(dataset))
    return merged(comparison.base, comparison.systems["LECCR"])


def compared_with_base(group: Group, names: Mapping[tuple[str, str], str]) -> Group:
    """A group whose reference is the variant that equals the base; real data have another base than scenes.

    Args:
        group: that of the file, whose reference stays where none or all of its variants equal the base.
        names: of the trainings.
    """
    equal = [variant.name for variant in group.variants if names[group.name, variant.name] == BASE]
    return replace(group, reference=equal[0]) if len(equal) == 1 else group


def train(
    base: dict[str, Any],
    groups: Sequence[Group],
    names: Mapping[tuple[str, str], str],
    options: argparse.Namespace,
) -> Trained:
    """Train what the groups need, each training once.

    Args:
        base: settings of the base recipe.
        groups: those that were asked for.
        names: of the trainings.
        options: of the command.
    """
    pairs = [(group, variant) for group in groups for variant in group.variants]
    changes = {names[group.name, variant.name]: changes_of(group, variant) for group, variant in pairs}
    results: dict[str, list[Result]] = {name: [] for name in changes}
    for result in run_experiments(
        base, changes, options.seeds, options.folder, workers=options.workers, keep_models=True
    ):
        results[result.variant].append(result)
    return {(group.name, variant.name): results[names[group.name, variant.name]] for group, variant in pairs}


def measured_rows(group: Group, base: dict[str, Any], trained: Trained, options: argparse.Namespace) -> list[Row]:
    """The rows of a group, with what has to be measured on the trained models; that is done once too."""
    evaluations = None if group.trained else {variant.name: variant.changes for variant in group.variants}
    rows, jobs = [], []
    for variant in group.variants:
        row = Row(variant)
        rows.append(row)
        settings = merged(base, changes_of(group, variant))
        for result in trained[group.name, variant.name]:
            if result.error is not None or result.model_folder is None:
                continue
            row.ranks[result.seed] = result.ranks
            for measure in group.measures if evaluations is None else (RANKS,):
                job = MeasureJob(measure, settings | {"seed": result.seed}, result.model_folder, evaluations)
                jobs.append((row, result.seed, job))
    measure_models([job for _, _, job in jobs], workers=options.workers)
    for row, seed, job in jobs:
        if job.measure == RANKS:
            row.ranks[seed] = read_ranks(job)[row.variant.name]
        else:
            for column, value in read_values(job).items():
                row.measured.setdefault(column, []).append(value)
    return rows


def report(rows: Rows, results: Sequence[Result], options: argparse.Namespace) -> None:
    """Print table and picture of a group, keep its rows as JSON, and put them in their place in a document."""
    part = f"ablation_{rows.group.name}" + (f"_{REAL_DATA}" if options.dataset is not None else "")
    results = list({(result.variant, result.seed): result for result in results}.values())  # variants may share them
    data = _data(results, options)
    place = checks.picture_place(options, f"{part}.png")
    rows.draw(place, data)
    text = [rows.group.text, rows.table(), checks.picture_link(options, place, rows.group.title), rows.findings()]
    checks.finish("ablations", options, "\n\n".join(text), results, data=data, part=part, rows=rows.to_json())


def _text_items(trained: Trained) -> dict[str, list[int]]:
    return next((result.text_items for results in trained.values() for result in results if result.error is None), {})


def _data(results: Sequence[Result], options: argparse.Namespace) -> str:
    """What was trained on and measured, in words."""
    protocol = next(result.protocol for result in results if result.error is None)
    titles = ", ".join(map(query_title, protocol["languages"]))
    items = next(iter(protocol["languages"].values()))["num_items"]
    name = "scenes" if options.dataset is None else f"{REAL_DATA}, two human captions in place of descriptions"
    return f"{name}, {titles}, {items} items of {protocol['split']}"


if __name__ == "__main__":
    sys.exit(main())
