"""Systems side by side on one data set, with the same budget: recalls over seeds, differences, and how sure they are.

    python -m benchmarks.compare
    python -m benchmarks.compare benchmarks/compare_flickr8k.yaml --dataset PATH/TO/flickr8k-ccr --write docs/RESULTS.md

A file holds `base` (settings of a recipe), `systems` (name -> changes of it) and `reference` (the system that the
others are compared with first). It may hold `extra_languages`, which no system is trained on and which are evaluated on
the items that have captions in them, and `note`, a text below the tables. Its name is that of its place in a document.
A run that is stopped goes on where it was.
"""

import dataclasses
import itertools
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks import checks
from benchmarks.experiments import Result, by_variant, run_experiments, spread
from modeling_leccr.training.arguments import DataArguments
from modeling_leccr.training.reading import read_yaml
from processing.records import query_title
from reporting.bootstrap import CONFIDENCE, DRAWS, Interval, paired_bootstrap
from reporting.compare import draw_seeds
from reporting.report import ABSENT, markdown_table
from retrieval.metrics import RECALL_CUTOFFS

DEFAULT_FILE = Path(__file__).with_name("compare_scenes.yaml")
RECALLS = tuple(f"{direction}_R@{cutoff}" for direction in ("t2i", "i2t") for cutoff in RECALL_CUTOFFS)
MEAN = "mean"


@dataclass(frozen=True)
class Comparison:
    """What is compared.

    Args:
        base: settings of a recipe.
        systems: name -> changes of it.
        reference: the system whose differences from the others come first.
        extra_languages: see `run_experiments`.
        note: a sentence below the tables.
    """

    base: dict[str, Any]
    systems: dict[str, dict[str, Any]]
    reference: str
    extra_languages: list[str] = field(default_factory=list)
    note: str = ""

    def __post_init__(self) -> None:
        if len(self.systems) < 2 or self.reference not in self.systems:
            raise ValueError(
                f"systems must be two or more, and reference one of them, got {list(self.systems)} and "
                f"{self.reference!r}."
            )
        shared = {entry.name for entry in dataclasses.fields(DataArguments)}
        for name, changes in self.systems.items():
            if refused := sorted(shared & set(changes)):
                raise ValueError(
                    f"the system {name!r} changes {refused}, but all systems answer the same queries; say it in `base`."
                )
        if trained := sorted({*self.extra_languages} & {*self.base.get("target_languages", [])}):
            raise ValueError(f"extra_languages must not be trained on, got {trained}, which are target_languages.")


def read_comparison(file: Path, dataset: str | None = None) -> Comparison:
    """A comparison from its YAML file.

    Args:
        file: see the module's docstring.
        dataset: folder or Hub id, instead of that of the file.

    Raises:
        ValueError: a part is absent, unknown or contradicts another.
    """
    found = read_yaml(file.read_text(encoding="utf-8"), str(file))
    known = {entry.name for entry in dataclasses.fields(Comparison)}
    needed = {"base", "systems", "reference"}
    if not isinstance(found, dict) or not needed <= set(found) <= known:
        raise ValueError(f"{file} must hold {sorted(needed)} and may hold {sorted(known - needed)}, got {list(found)}.")
    if dataset is not None:
        found["base"] = {**found["base"], "dataset": dataset}
    systems = {name: changes or {} for name, changes in found["systems"].items()}
    return Comparison(**{**found, "systems": systems})


def values_of(results: Sequence[Result], language: str, metric: str) -> list[float]:
    """A metric of a language, or the mean over the languages that were trained on, of each seed."""
    return [
        fmean(result.metrics[code][metric] for code in _main_languages(result))
        if language == MEAN
        else result.metrics[language][metric]
        for result in results
    ]


def rows_of(comparison: Comparison, results: Sequence[Result]) -> dict[str, str]:
    """The languages of the tables, as they are named there; the mean only where there are several.

    Raises:
        ValueError: every training failed.
    """
    done = next((result for result in results if result.error is None), None)
    if done is None:
        reasons = {result.variant: result.error for result in results}
        raise ValueError(f"no training succeeded, so there is nothing to compare: {reasons}.")
    titles = {code: query_title(code) for code in _main_languages(done)}
    if len(titles) > 1:
        titles[MEAN] = f"mean of {len(titles)}"
    for code in comparison.extra_languages:
        titles[code] = f"{query_title(code)}, not trained on ({len(done.ranks[code].i2t)} items)"
    return titles


def recall_table(groups: Mapping[str, Sequence[Result]], titles: Mapping[str, str], num_seeds: int) -> str:
    """A row for each system and language: mean ± standard deviation over seeds."""
    header = ["system", "language", *(name.replace("_", " ") for name in RECALLS), "SumR"]
    rows = [
        [_title(name, results, num_seeds), title]
        + [spread(values_of(results, code, metric)) for metric in (*RECALLS, "sum_r")]
        for name, results in groups.items()
        for code, title in titles.items()
    ]
    return markdown_table(header, rows)


def cost_table(groups: Mapping[str, Sequence[Result]]) -> str:
    """A row for each system: its size and its training."""
    rows = []
    for name, results in groups.items():
        parameters = _different(result.num_parameters["all"] for result in results)
        steps = _different(result.steps for result in results)
        rows.append([name, parameters, steps, spread([result.seconds for result in results], 0)])
    return markdown_table(["system", "parameters", "updates", "seconds of training"], rows)


def differences_of(
    comparison: Comparison, groups: Mapping[str, Sequence[Result]], titles: Mapping[str, str]
) -> dict[tuple[str, str], dict[str, Interval]]:
    """(system, other system) -> language -> difference of SumR over the seeds that both have; pairs with the reference
    come first, and those without a seed in common are left out."""
    order = [comparison.reference, *(name for name in groups if name != comparison.reference)]
    found = {}
    for ours, theirs in itertools.combinations(order, 2):
        pairs = checks.same_seeds(groups[ours], groups[theirs])
        if not pairs:
            continue
        text_items, main = pairs[0][0].text_items, _main_languages(pairs[0][0])
        found[ours, theirs] = {
            code: paired_bootstrap(
                [one.ranks for one, _ in pairs],
                [other.ranks for _, other in pairs],
                {language: text_items[language] for language in (main if code == MEAN else [code])},
            )
            for code in titles
        }
    return found


def difference_table(
    groups: Mapping[str, Sequence[Result]],
    differences: Mapping[tuple[str, str], Mapping[str, Interval]],
    titles: Mapping[str, str],
) -> str:
    """A row for each pair of systems, a column for each language."""
    rows = []
    for (ours, theirs), intervals in differences.items():
        sides = list(zip(*checks.same_seeds(groups[ours], groups[theirs]), strict=True))
        cells = []
        for code in titles:
            one, other = (values_of(side, code, "sum_r") for side in sides)
            by_seed = [a - b for a, b in zip(one, other, strict=True)]
            cells.append(f"{checks.signed(by_seed)} ({checks.signed_interval(intervals[code])})")
        rows.append([f"{ours} − {theirs}", *cells])
    return markdown_table(["difference of SumR", *titles.values()], rows)


def text_of(
    comparison: Comparison,
    groups: Mapping[str, Sequence[Result]],
    titles: Mapping[str, str],
    differences: Mapping[tuple[str, str], Mapping[str, Interval]],
    num_seeds: int,
) -> str:
    """Tables, with what a reader must know of them."""
    first = next(result for results in groups.values() for result in results)
    languages = first.protocol["languages"].values()
    items = sorted({counts["num_items"] for counts in languages})
    texts = sorted({counts["num_texts"] for counts in languages})
    split = first.protocol["split"]
    parts = [
        f"Recalls in percent on {split} ({_joined(items)} items, {_joined(texts)} captions a language), SumR their sum "
        f"(0 to 600); mean ± standard deviation over {checks.counted(num_seeds, 'seed')} of the training.",
        recall_table(groups, titles, num_seeds),
    ]
    if comparison.extra_languages:
        parts.append(
            "A language that is not trained on is asked of those items alone that have captions in it, which are its "
            "only candidates too: its recalls cannot be compared with those of other languages."
        )
    parts += [
        "Parameters are those of the model that answers queries. A teacher is not counted among them, but the updates "
        "and seconds of its training are. Seconds, on one thread, also depend on what else the machine did.",
        cost_table(groups),
    ]
    if differences:
        parts += [
            f"Differences of SumR, seed by seed: mean ± standard deviation over seeds, and in brackets the "
            f"{100 * CONFIDENCE:g} % interval of the mean from a paired bootstrap ({DRAWS:,} draws): items are "
            f"resampled with all of their captions, the same for both systems and all seeds. The deviation tells of "
            f"the choice of the seeds, the interval of that of the items.",
            difference_table(groups, differences, titles),
        ]
    return "\n\n".join([*parts, comparison.note.strip()]).strip()


def main(argv: Sequence[str] | None = None) -> int:
    """Train, compare and report; 1 if a training failed."""
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    parser = checks.parser_of("compare", __doc__, base=False)
    parser.add_argument("file", type=Path, nargs="?", default=DEFAULT_FILE, help="YAML file of the comparison")
    parser.add_argument("--dataset", help="folder or Hub id of the data set, instead of that of the file")
    options = checks.parse(parser, argv)
    comparison = read_comparison(options.file, options.dataset)
    results = run_experiments(
        comparison.base,
        comparison.systems,
        options.seeds,
        options.folder,
        workers=options.workers,
        extra_languages=comparison.extra_languages,
    )
    groups, titles = by_variant(results), rows_of(comparison, results)
    differences = differences_of(comparison, groups, titles)
    name = options.file.stem
    sums = {
        system: {code: values_of(results, code, "sum_r") for code in titles} if results else {}
        for system, results in groups.items()
    }
    picture = checks.picture_place(options, f"{name}.png")
    title = (
        f"{_dataset_of(comparison)}: SumR, mean ± standard deviation over {checks.counted(len(options.seeds), 'seed')}"
    )
    draw_seeds(sums, titles, picture, title=title, y_label="SumR (0 to 600)")
    text = text_of(comparison, groups, titles, differences, len(options.seeds))
    checks.finish(
        "compare",
        options,
        f"{text}\n\n{checks.picture_link(options, picture, 'SumR of the systems')}",
        results,
        data=f"{_dataset_of(comparison)}, batches of {comparison.base['per_device_train_batch_size']} pairs",
        part=name,
        sum_r=sums,
        differences={
            f"{ours} - {theirs}": {code: dataclasses.asdict(interval) for code, interval in intervals.items()}
            for (ours, theirs), intervals in differences.items()
        },
    )
    return int(any(result.error is not None for result in results))


def _main_languages(result: Result) -> list[str]:
    return list(result.protocol["languages"])


def _title(name: str, results: Sequence[Result], num_seeds: int) -> str:
    missing = 0 < len(results) < num_seeds
    return f"{name} ({len(results)} of {num_seeds} seeds)" if missing else name


def _different(numbers: Iterable[int]) -> str:
    return ", ".join(f"{number:,}" for number in dict.fromkeys(numbers)) or ABSENT


def _joined(numbers: Sequence[int]) -> str:
    return " to ".join(f"{number:,}" for number in dict.fromkeys((numbers[0], numbers[-1])))


def _dataset_of(comparison: Comparison) -> str:
    dataset = Path(str(comparison.base.get("dataset", "scenes"))).name
    return "embedded scenes" if dataset == "scenes" else dataset


if __name__ == "__main__":
    sys.exit(main())
