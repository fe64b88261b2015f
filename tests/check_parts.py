"""A toy base, a document and stand-ins for trainings, for the tests of the checks."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks import experiments
from benchmarks.experiments import Result
from modeling_leccr.training.reading import merged
from tests.training_parts import tiny_recipe


def toy_base(folder: Path) -> Path:
    """A file with the base of a check at toy size."""
    settings = tiny_recipe(folder)
    for name in ("output_dir", "disable_tqdm", "use_cpu", "eval_strategy", "save_strategy", "eval_steps", "save_steps"):
        del settings[name]
    file = folder / "base.yaml"
    file.write_text(yaml.safe_dump({"base": settings}), encoding="utf-8")
    return file


def document_with(folder: Path, *parts: str) -> Path:
    document = folder / "RESULTS.md"
    document.write_text("".join(f"<!-- {part} -->\n<!-- end of {part} -->\n" for part in parts), encoding="utf-8")
    return document


def made_up(sum_r: Callable[[dict[str, Any], int], float]) -> Callable[..., list[Result]]:
    """Stands in for `run_experiments`: trains nothing, and says what the changes of each variant reach."""

    def run(base: dict[str, Any], variants: dict[str, Any], seeds: Sequence[int], *_: Any, **__: Any) -> list[Result]:
        results = []
        for seed in seeds:
            for name, changes in variants.items():
                settings = merged(base, changes)
                metrics = {language: {"sum_r": sum_r(settings, seed)} for language in settings["target_languages"]}
                protocol = {"languages": dict.fromkeys(settings["target_languages"])}
                found = Result(name, seed, settings, seconds=1.0, metrics=metrics, protocol=protocol)
                results.append(
                    found if sum_r(settings, seed) >= 0 else Result(name, seed, settings, error="too little")
                )
        return results

    return run


def run_here(_: Any, jobs: Sequence[experiments.Job], **__: Any) -> Iterator[tuple[experiments.Job, None]]:
    """Stands in for `run_jobs`, whose processes spend ten seconds on their imports."""
    for job in jobs:
        experiments.run_job(job)
        yield job, None
