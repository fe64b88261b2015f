"""English guidance: hard against softened targets, where the English captions or the translations are noisy.

    python -m benchmarks.check_guidance --write docs/RESULTS.md

λ is the share of English guidance in the target term: 0 trains on hard targets alone (a translation belongs to its own
item and to no other), above it the softened targets that the English captions give take a share. Guidance should pay
where translations are noisy, and less where the English captions are. Scenes can make either wrong on purpose, in
training alone: `translation_noise` drops, swaps or replaces words of the translations, `guidance_noise` makes
attributes of the English captions false. One noise at a time moves, the other stays at 0: a cross, because all pairs of
noises would take twice the time. Each is trained on all training items, and on a quarter of them with half the steps,
which is twice the epochs. Queries are clean human captions throughout.
"""

import argparse
import sys
from typing import Any

from benchmarks import checks
from benchmarks.experiments import Result, by_variant, run_experiments, spread
from processing.records import query_title
from reporting.report import markdown_table
from reporting.sweeps import Point, draw_sweeps

NAME = "check_guidance"
GUIDANCES = (0.0, 0.25, 0.75)
NOISES = (0.0, 0.2, 0.4)
# The setting that moves -> what is noisy then.
KNOBS = {"translation_noise": "translations", "guidance_noise": "English captions"}
SHARES = (1.0, 0.25)  # of the training items; a run takes the square root of it of the steps


def main(argv: list[str] | None = None) -> int:
    """Train the cross and report; see the module's docstring. 1 if a training failed."""
    options = checks.parse(checks.parser_of(NAME, __doc__), argv)
    base = checks.base_recipe(options.base)
    results = run_experiments(base, variants_of(base), options.seeds, options.folder, workers=options.workers)
    report(options, base, results)
    return int(any(result.error is not None for result in results))


def sizes_of(base: dict[str, Any]) -> dict[int, int]:
    """Numbers of training items -> steps."""
    items, steps = int(base["scenes"]["train_size"]), int(base["max_steps"])
    return {max(1, round(share * items)): max(1, round(share**0.5 * steps)) for share in SHARES}


def arms() -> list[tuple[str, float]]:
    """The settings of the cross: knob and noise; the middle is the first, in the name of the first knob."""
    knobs = list(KNOBS)
    return [(knobs[0], 0.0), *((knob, noise) for knob in knobs for noise in NOISES if noise)]


def variant_name(size: int, knob: str, noise: float, guidance: float) -> str:
    """The name of a variant; without noise it is the same for all knobs."""
    what = f"{knob} {noise:g}" if noise else "no noise"
    return f"{size} items, {what}, guidance {guidance:g}"


def variants_of(base: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Name -> changes of the base."""
    return {
        variant_name(size, knob, noise, guidance): {
            "scenes": {"train_size": size, **dict.fromkeys(KNOBS, 0.0), knob: noise},
            "loss": {"guidance": guidance},
            "max_steps": steps,
        }
        for size, steps in sizes_of(base).items()
        for knob, noise in arms()
        for guidance in GUIDANCES
    }


def report(options: argparse.Namespace, base: dict[str, Any], results: list[Result]) -> None:
    """Tables, picture, JSON."""
    groups = by_variant(results)
    budgets, languages = sizes_of(base), base["target_languages"]
    sizes = list(budgets)
    gains = gain_rows(groups, sizes)
    place = checks.picture_place(options, f"{NAME}.png")
    parts = [
        "SumR (0 to 600) of softened targets less that of hard ones (λ = 0), mean over the languages, the same seeds "
        "on both sides: mean ± standard deviation over seeds.",
        markdown_table(["training items", "noisy", "noise", "hard", *(f"λ = {g:g}" for g in GUIDANCES[1:])], gains),
    ]
    if any(groups.values()):
        draw(groups, sizes, place)
        parts.append(checks.picture_link(options, place, "SumR of hard and softened targets over noise"))
    parts += [
        "SumR by language:",
        markdown_table(
            ["training items", "noisy", "noise", "λ", *map(query_title, languages)],
            language_rows(groups, sizes, languages),
        ),
    ]
    data = f"embedded scenes, {' and '.join(f'{size:,} items in {steps} steps' for size, steps in budgets.items())}"
    checks.finish(
        NAME,
        options,
        "\n\n".join(parts),
        results,
        data=data,
        sum_r={name: {run.seed: run.metrics for run in runs} for name, runs in groups.items()},
    )


def gain_rows(groups: dict[str, list[Result]], sizes: list[int]) -> list[list[str]]:
    """A row for each place of the cross: what hard targets reach, and what each softened form adds."""
    rows = []
    for size in sizes:
        for knob, noise in arms():
            hard, *soft = (variant_name(size, knob, noise, guidance) for guidance in GUIDANCES)
            reached = spread([run.sum_r for run in groups[hard]])
            added = [checks.signed(checks.paired(groups, name, hard)) for name in soft]
            rows.append([f"{size:,}", KNOBS[knob] if noise else "nothing", f"{noise:g}", reached, *added])
    return rows


def language_rows(groups: dict[str, list[Result]], sizes: list[int], languages: list[str]) -> list[list[str]]:
    """A row for each variant, a column for each language."""
    rows = []
    for size in sizes:
        for knob, noise in arms():
            for guidance in GUIDANCES:
                runs = groups[variant_name(size, knob, noise, guidance)]
                reached = [spread([run.metrics[language]["sum_r"] for run in runs]) for language in languages]
                rows.append([f"{size:,}", KNOBS[knob] if noise else "nothing", f"{noise:g}", f"{guidance:g}", *reached])
    return rows


def draw(groups: dict[str, list[Result]], sizes: list[int], place: Any) -> None:
    """A panel for each knob and size, a line for each λ."""
    panels: dict[str, dict[str, list[Point]]] = {}
    for size in sizes:
        for knob, what in KNOBS.items():
            lines = panels[f"{size:,} training items, noisy {what}"] = {}
            for guidance in GUIDANCES:
                found = {noise: groups[variant_name(size, knob, noise, guidance)] for noise in NOISES}
                points = [
                    (noise, *checks.statistics_of([run.sum_r for run in runs])) for noise, runs in found.items() if runs
                ]
                if points:
                    lines["hard targets" if guidance == 0 else f"softened, λ = {guidance:g}"] = points
    labels = [knob for _ in sizes for knob in KNOBS]
    draw_sweeps(panels, place, title="Hard and softened targets under noise", x_label=labels)


if __name__ == "__main__":
    sys.exit(main())
