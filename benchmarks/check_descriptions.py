"""What a wrong description costs, and how far description dropout protects.

    python -m benchmarks.check_descriptions --write docs/RESULTS.md
    python -m benchmarks.check_descriptions --dataset PATH/TO/flickr8k-ccr --write docs/RESULTS.md

First, on scenes, whose descriptions can be made false: `description_noise` is the probability of each attribute, place,
relation and background to be told wrongly, in training and at test alike. The number of objects stays right, and at 1,
where all the rest is false, a description still tells what is not there. Two streams, which read no description, are
the floor.

Then a trained model gets other descriptions at test than it was trained with: `true`, the item's own; `short`, its
first sentence alone (on scenes, how many objects there are and on what background); `shuffled`, that of another item;
`empty`, none at all, which a model refuses that was trained without description dropout. With --dataset this second
part is done on real data, with LECCR of benchmarks/compare_flickr8k.yaml; its descriptions are stand-ins, two human
English captions each.
"""

import argparse
import json
import logging
import random
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks import checks
from benchmarks.compare import read_comparison
from benchmarks.experiments import VARIABLES, Result, by_variant, run_experiments, spread
from benchmarks.pool import run_jobs
from benchmarks.trained import open_trained
from modeling_leccr.training.arguments import varied
from modeling_leccr.training.reading import merged
from processing.files import write_json_atomic
from processing.records import DESCRIPTION_COLUMN
from reporting.differences import draw_differences
from reporting.report import markdown_table
from reporting.sweeps import draw_sweeps
from retrieval.evaluation import retrieval_ranks
from retrieval.metrics import recall_metrics

logger = logging.getLogger(__name__)

NAME = "check_descriptions"
REAL_DATA_PART = "check_descriptions_flickr8k"
NOISES = (0.0, 0.1, 0.25, 0.5, 1.0)
DROPOUTS = (0.0, 0.2)
FLOOR = "two streams"  # the name in the file of the comparison, too
SCENES_FLOOR = {"model": {"item_source": "image", "interaction": "none", "description_dropout": 0.0}}
REAL_DATA_FILE = Path(__file__).with_name("compare_flickr8k.yaml")
GIVEN = {
    "true": "the item's own",
    "short": "its first sentence",
    "shuffled": "that of another item",
    "empty": "none",
}
REFUSED = "refused"
_SHUFFLE_SEED = 0
# Description dropout -> seed -> kind of description -> SumR, or the words with which the model refuses.
Given = dict[float, dict[int, dict[str, Any]]]


@dataclass(frozen=True)
class GivenJob:
    """A trained model, to be evaluated with each kind of description.

    Args:
        settings: of its recipe, whole.
        model_folder: of model and processor.
    """

    settings: dict[str, Any]
    model_folder: Path

    @property
    def file(self) -> Path:
        """Where its result goes: kind of description -> SumR, or why the model refuses."""
        return self.model_folder.with_name(f"{self.model_folder.name}-descriptions.json")


def main(argv: list[str] | None = None) -> int:
    """Train, evaluate with other descriptions, report; see above. 1 if one of these failed."""
    parser = checks.parser_of(NAME, __doc__)
    parser.add_argument("--dataset", type=Path, help="folder of flickr8k-ccr: the second part, on it")
    options = checks.parse(parser, argv)
    noises: tuple[float | None, ...] = NOISES if options.dataset is None else (None,)
    if options.dataset is None:
        base, leccr, floor, part = checks.base_recipe(options.base), {}, SCENES_FLOOR, NAME
    else:
        comparison = read_comparison(REAL_DATA_FILE, str(options.dataset))
        base, part = comparison.base, REAL_DATA_PART
        leccr, floor = comparison.systems["LECCR"], comparison.systems[FLOOR]
    changes = {
        variant_name(dropout, noise): merged(leccr, changes_of(dropout, noise))
        for noise in noises
        for dropout in DROPOUTS
    } | {FLOOR: floor}
    results = run_experiments(base, changes, options.seeds, options.folder, workers=options.workers, keep_models=True)
    # The models of the first noise, which is none, are evaluated again with other descriptions.
    jobs = {
        (dropout, result.seed): GivenJob(
            merged(varied(base, changes[result.variant]), {"seed": result.seed}), result.model_folder
        )
        for dropout in DROPOUTS
        for result in results
        if result.variant == variant_name(dropout, noises[0]) and result.model_folder is not None
    }
    given = given_descriptions(jobs, workers=options.workers)
    absent = [f"dropout {dropout:g}, seed {seed}" for dropout, seed in jobs if seed not in given[dropout]]
    shown = [noise for noise in noises if noise is not None]
    report(options, base, results, given, absent=absent, noises=shown, part=part)
    return int(bool(absent) or any(result.error is not None for result in results))


def variant_name(dropout: float, noise: float | None) -> str:
    """The name of a training; None is the noise of the data as they are."""
    return f"dropout {dropout:g}" + ("" if noise is None else f", noise {noise:g}")


def changes_of(dropout: float, noise: float | None) -> dict[str, Any]:
    """The changes of the base."""
    changes: dict[str, Any] = {"model": {"description_dropout": dropout}}
    return changes if noise is None else changes | {"scenes": {"description_noise": noise}}


def given_descriptions(jobs: Mapping[tuple[float, int], GivenJob], *, workers: int) -> Given:
    """Evaluate models with each kind of description; those that were evaluated before are read from their files.

    Args:
        jobs: (description dropout, seed) -> model.
        workers: processes, each with one thread.
    """
    waiting = [job for job in jobs.values() if not job.file.is_file()]
    with closing(run_jobs(evaluate_given, waiting, workers=workers, variables=VARIABLES)) as ended:
        for job, error in ended:
            if error is not None:
                logger.warning("%s could not be evaluated with other descriptions: %s", job.model_folder.name, error)
    found: Given = {dropout: {} for dropout in DROPOUTS}
    for (dropout, seed), job in jobs.items():
        if job.file.is_file():
            found[dropout][seed] = json.loads(job.file.read_text(encoding="utf-8"))
    return found


def evaluate_given(job: GivenJob) -> None:
    """Evaluate a model with each kind of description, and write the result."""
    trained = open_trained(job.settings, job.model_folder)
    found: dict[str, float | str] = {}
    for kind in GIVEN:
        try:
            ranks = retrieval_ranks(
                trained.model,
                trained.processor,
                with_descriptions(trained.split, kind),
                trained.languages,
                scoring=trained.recipe.training.scoring,
                use_descriptions=kind != "empty",
                progress=False,
            )
        except ValueError as error:
            if kind != "empty":
                raise
            found[kind] = str(error)
        else:
            found[kind] = fmean(recall_metrics(of_language)["sum_r"] for of_language in ranks.values())
    write_json_atomic(job.file, found)


def with_descriptions(split: Any, kind: str) -> Any:
    """A split with descriptions of one kind; `empty` leaves them for `use_descriptions=False` to take away.

    Raises:
        ValueError: there is no such kind.
    """
    if kind not in GIVEN:
        raise ValueError(f"kind must be one of {list(GIVEN)}, got {kind!r}.")
    if kind in ("true", "empty"):
        return split
    descriptions = list(split[DESCRIPTION_COLUMN])
    changed = shuffled(descriptions) if kind == "shuffled" else [first_sentence(text) for text in descriptions]
    return split.remove_columns(DESCRIPTION_COLUMN).add_column(DESCRIPTION_COLUMN, changed)


def shuffled(descriptions: Sequence[str]) -> list[str]:
    """Each item gets the description of another one, and each description is used once."""
    order = list(range(len(descriptions)))
    random.Random(_SHUFFLE_SEED).shuffle(order)
    giver = dict(zip(order, order[1:] + order[:1], strict=True))  # in a circle, so that none keeps its own
    return [descriptions[giver[position]] for position in range(len(descriptions))]


def first_sentence(text: str) -> str:
    """A description up to the end of its first sentence."""
    return re.split(r"(?<=[.!?])\s+|(?<=[。！？])", text.strip(), maxsplit=1)[0]


def report(
    options: argparse.Namespace,
    base: Mapping[str, Any],
    results: list[Result],
    given: Given,
    *,
    absent: Sequence[str],
    noises: Sequence[float],
    part: str,
) -> None:
    """Tables, pictures, JSON; `absent` names the models whose evaluation with other descriptions failed."""
    groups = by_variant(results)
    floor = [run.sum_r for run in groups[FLOOR]]
    texts = ["SumR (0 to 600) is the mean over the languages; mean ± standard deviation over seeds."]
    if noises:
        texts += noise_part(options, groups, floor, noises)
    texts += [
        f"Other descriptions at test than in training{', which had no noise' if noises else ''}; in brackets the "
        f"difference to the true ones. Two streams, which read none: {spread(floor)}.",
        markdown_table(["description at test", *(f"dropout {dropout:g}" for dropout in DROPOUTS)], given_rows(given)),
    ]
    if absent:
        texts.append(f"Not evaluated with other descriptions: {'; '.join(absent)}.")
    bars = {
        f"{kind}, dropout {dropout:g}": difference
        for kind in list(GIVEN)[1:]
        for dropout in DROPOUTS
        if (difference := given_difference(given[dropout], kind)) is not None
    }
    if bars:
        place = checks.picture_place(options, f"{part}_given.png")
        draw_differences(
            bars, place, title="Other descriptions at test", x_label="SumR less that with the item's own description"
        )
        texts.append(checks.picture_link(options, place, "What other descriptions at test cost"))
    data = "embedded scenes" if options.dataset is None else f"{options.dataset.name}, whose descriptions are stand-ins"
    checks.finish(
        NAME,
        options,
        "\n\n".join(texts),
        results,
        data=f"{data}, {checks.budget(base)}",
        part=part,
        sum_r={name: {run.seed: run.metrics for run in runs} for name, runs in groups.items()},
        given=given,
    )


def noise_part(
    options: argparse.Namespace, groups: Mapping[str, list[Result]], floor: list[float], noises: Sequence[float]
) -> list[str]:
    """Table and picture of SumR over the noise of the descriptions."""
    reached = {
        dropout: {noise: [run.sum_r for run in groups[variant_name(dropout, noise)]] for noise in noises}
        for dropout in DROPOUTS
    }
    rows = [
        [f"{noise:g}", *(spread(reached[dropout][noise]) for dropout in DROPOUTS), spread(floor)] for noise in noises
    ]
    lines = {
        f"LECCR, description dropout {dropout:g}": [
            (noise, *checks.statistics_of(values)) for noise, values in found.items() if values
        ]
        for dropout, found in reached.items()
    }
    texts = [markdown_table(["description noise", *(f"dropout {d:g}" for d in DROPOUTS), FLOOR], rows)]
    lines = {name: points for name, points in lines.items() if points}
    if lines:
        place = checks.picture_place(options, f"{NAME}.png")
        floors = {f"{FLOOR}, no descriptions": checks.statistics_of(floor)} if floor else {}
        panels = {"Noise in training and at test": lines}
        draw_sweeps(panels, place, title="False descriptions", x_label="description_noise", floors=floors)
        texts.append(checks.picture_link(options, place, "SumR over the noise of the descriptions"))
    return texts


def given_rows(given: Given) -> list[list[str]]:
    """A row for each kind of description, a column for each dropout."""
    rows = []
    for kind, words in GIVEN.items():
        cells = []
        for dropout in DROPOUTS:
            values = [found[kind] for found in given[dropout].values()]
            if any(isinstance(value, str) for value in values):
                cells.append(REFUSED)
                continue
            difference = [found[kind] - found["true"] for found in given[dropout].values()]
            cells.append(spread(values) + ("" if kind == "true" or not values else f" ({checks.signed(difference)})"))
        rows.append([f"{kind}: {words}", *cells])
    return rows


def given_difference(given: Mapping[int, Mapping[str, Any]], kind: str) -> tuple[float, float] | None:
    """Mean and standard deviation of SumR less that with true descriptions; None where the model refuses."""
    values = [found[kind] for found in given.values()]
    if not values or any(isinstance(value, str) for value in values):
        return None
    return checks.statistics_of([found[kind] - found["true"] for found in given.values()])


if __name__ == "__main__":
    sys.exit(main())
