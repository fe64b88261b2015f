"""Experiments without their processes, for tests: starting one costs more than a tiny training."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from benchmarks import experiments
from benchmarks.experiments import Job, run_job


def in_one_process(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Have jobs run in this process, one after the other; the list has those that were begun."""
    begun: list[Job] = []

    def run_jobs(
        _: Any, jobs: Sequence[Job], *, workers: int, variables: Mapping[str, str]
    ) -> Iterator[tuple[Job, str | None]]:
        for job in jobs:
            begun.append(job)
            try:
                run_job(job)
            except ValueError as error:
                yield job, f"ValueError: {error}"
            else:
                yield job, None

    monkeypatch.setattr(experiments, "run_jobs", run_jobs)
    return begun
