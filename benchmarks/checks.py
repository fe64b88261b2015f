"""What the commands on experiments share: options, base recipe, places of pictures, the report."""

import argparse
import re
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.experiments import Result
from benchmarks.marked_text import write_part
from modeling_leccr.training.reading import read_yaml
from processing.files import write_json_atomic
from reporting.bootstrap import Interval

BASE = Path(__file__).with_name("ablations.yaml")
PICTURES = "results"  # beside the document
# 97.5th percentiles for two seeds, three, and so on; more seeds than listed take the last one, which is a bit strict.
_STUDENTS_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def parser_of(name: str, description: str | None, *, base: bool = True) -> argparse.ArgumentParser:
    """The options of a check.

    Args:
        name: of the module.
        description: its docstring.
        base: whether the recipe that is varied can be chosen.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=4, help="trainings side by side, each with one thread")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("outputs") / name,
        help="results, models and pictures; a stopped run goes on",
    )
    parser.add_argument("--write", type=Path, help="document whose part is replaced, such as docs/RESULTS.md")
    if base:
        text = "YAML file whose `base` is the recipe that is varied"
        parser.add_argument("--base", type=Path, default=BASE, help=text)
    return parser


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The options, with the command as a reader may repeat it."""
    words = sys.argv[1:] if argv is None else list(argv)
    options = parser.parse_args(words)
    # Where files lie on this machine is of no use to a reader of the table.
    shown = [re.sub(r"^(--[\w-]+=)?/.*?([^/]+)/*$", r"\1PATH/TO/\2", word) for word in words]
    options.command = shlex.join([*parser.prog.split(), *shown])
    return options


def base_recipe(file: Path) -> dict[str, Any]:
    """The settings that all variants of a check start from.

    Raises:
        ValueError: the file holds no `base`.
    """
    found = read_yaml(file.read_text(encoding="utf-8"), str(file))
    base = found.get("base") if isinstance(found, dict) else None
    if not isinstance(base, dict):
        raise ValueError(f"{file} must hold the settings of a recipe under `base`, got {base!r}.")
    return base


def budget(base: Mapping[str, Any]) -> str:
    """How long a recipe trains, in words."""
    steps = base.get("max_steps")
    return f"{steps} steps" if steps else f"{base.get('num_train_epochs', 3):g} epochs"


def picture_place(options: argparse.Namespace, name: str) -> Path:
    """Where a picture goes: beside the document that shows it, or into the folder of the run."""
    folder = options.folder if options.write is None else options.write.parent / PICTURES
    folder.mkdir(parents=True, exist_ok=True)
    return Path(folder) / name


def picture_link(options: argparse.Namespace, place: Path, text: str) -> str:
    """A picture in Markdown, as the document refers to it."""
    seen = place if options.write is None else place.relative_to(options.write.parent)
    return f"![{text}]({seen.as_posix()})"


def finish(
    name: str,
    options: argparse.Namespace,
    text: str,
    results: Sequence[Result],
    *,
    data: str,
    part: str | None = None,
    **facts: Any,
) -> None:
    """Write the JSON file of a check, print its text, and put it into its place in a document.

    Args:
        name: of the module.
        options: of `parse`.
        text: tables, pictures and what belongs to them.
        results: of all trainings.
        data: what was trained on, in words.
        part: name of the place in the document, if it is not that of the module.
        facts: further ones for the JSON file.
    """
    done = [result for result in results if result.error is None]
    failed = {f"{result.variant}, seed {result.seed}": result.error for result in results if result.error}
    seconds = statistics.fmean(result.seconds for result in done) if done else float("nan")
    environments = _different([result.environment for result in done])
    seeds = f"{'seed' if len(options.seeds) == 1 else 'seeds'} {', '.join(map(str, options.seeds))}"
    origin = (
        f"From `{options.command}`: {data}; {seeds}; {counted(len(done), 'training')} of {seconds:.0f} s on average, "
        f"one thread each; {_machines(environments)}."
    )
    if failed:
        origin += f" Failed, so that what is said of them is of fewer seeds or none: {'; '.join(failed)}."
    file = options.folder / f"{part or name}.json"
    write_json_atomic(
        file,
        {
            "check": name,
            "command": options.command,
            "seeds": options.seeds,
            "environments": environments,
            "failed": failed,
            **facts,
        },
    )
    print(f"{text}\n\n{origin}\n\nwritten: {file}")
    if options.write is not None:
        write_part(options.write, part or name, f"{text}\n\n{origin}")


def _different(values: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [value for position, value in enumerate(values) if value not in values[:position]]


def _machines(environments: Sequence[Mapping[str, Any]]) -> str:
    """What the trainings ran on, each machine and revision of the code once; results may be older than this run."""
    found = [
        f"{one.get('processor') or one.get('platform')}, torch {one.get('libraries', {}).get('torch')}, "
        f"code of {one.get('git_revision') or 'no revision'}"
        for one in environments
    ]
    return "; ".join(dict.fromkeys(found)) or "no machine"


def counted(number: int, noun: str) -> str:
    """A number and what it counts, in the plural where it is not one."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def statistics_of(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation over seeds (with n - 1; 0 for a single one).

    Raises:
        ValueError: there is no value.
    """
    if not values:
        raise ValueError("values must hold at least one number: all trainings of this variant failed.")
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def same_seeds(ours: Sequence[Result], theirs: Sequence[Result]) -> list[tuple[Result, Result]]:
    """Results of two variants, seed by seed; seeds that one of them lacks are left out."""
    others = {result.seed: result for result in theirs}
    return [(result, others[result.seed]) for result in ours if result.seed in others]


def paired(groups: Mapping[str, Sequence[Result]], name: str, reference: str) -> list[float]:
    """SumR of a variant less that of another, see `same_seeds`."""
    return [ours.sum_r - theirs.sum_r for ours, theirs in same_seeds(groups[name], groups[reference])]


def told_by_seeds(differences: Sequence[float]) -> bool:
    """Whether the sign of the mean difference outlasts the choice of seeds, by the 95 % interval of Student's t.

    Args:
        differences: one a seed; a single one tells nothing of other seeds.
    """
    if len(differences) < 2:
        return False
    mean, deviation = statistics_of(differences)
    reach = _STUDENTS_T[min(len(differences) - 2, len(_STUDENTS_T) - 1)] * deviation / len(differences) ** 0.5
    return abs(mean) > reach


def signed(values: Sequence[float], digits: int = 1) -> str:
    """Mean difference ± standard deviation over seeds, with its sign."""
    if not values:
        return "failed"
    mean, deviation = statistics_of(values)
    text = f"{round(mean, digits) + 0.0:+.{digits}f}"  # + 0.0: without it, -0.04 would be shown as -0.0
    return f"{text} ± {deviation:.{digits}f}" if len(values) > 1 else text


def signed_interval(interval: Interval) -> str:
    """The ends of an interval, with their signs."""
    return f"{signed([interval.low])} to {signed([interval.high])}"
