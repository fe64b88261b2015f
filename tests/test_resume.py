"""A run that is killed, at whatever moment, ends as the run that nobody disturbed: weights, states, log and metrics."""

import json
import os
from typing import Any

import pytest

from benchmarks.resume import ENVIRONMENT
from tests.launch_parts import run_processes
from tests.resume_worker import DAMAGED_FILES, NUM_KILLS, STAGE_WITH_WORKERS, STAGES, run_cases

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")

TERMS = ("loss/softened", "loss/slot_contrastive", "logit_scale", "grad_norm", "learning_rate")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What tests/resume_worker.py found; it does all cases, for importing costs more than they do."""
    folder = tmp_path_factory.mktemp("resume")
    run_processes(run_cases, folder, variables=ENVIRONMENT, seconds=400)
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("num_processes", NUM_KILLS)
def test_a_run_killed_at_random_moments_ends_as_if_nobody_had_killed_it(report: dict[str, Any], num_processes: int):
    """Hours after a preemption, the result is another one, and nobody can say why."""
    found = report["random"][str(num_processes)]
    assert found["kills"] == NUM_KILLS[num_processes]
    assert found["differences"] == []
    assert len(found["weights"]) == found["runs"] + 1 and len(set(found["weights"])) == 1


def test_the_undisturbed_run_has_what_can_be_lost(report: dict[str, Any]):
    """A comparison of runs without a best checkpoint, open sums of the log or several epochs would prove little."""
    reference = report["reference"]
    assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"} == set(reference["states"])
    assert reference["last_checkpoint"] == "checkpoint-10"
    lines = [line for line in reference["log"] if "loss" in line]
    assert [line["step"] for line in lines] == [2, 3, 4, 6, 8, 9, 10]
    assert all(name in line for line in lines for name in TERMS)
    assert len({line["loss"] for line in lines}) == len(lines)
    assert [line["step"] for line in reference["log"] if "eval_sum_r" in line] == [2, 4, 6, 8, 10]
    assert reference["choice"].startswith("best SumR on validation") and reference["metrics"]["validation"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_killed_while_it_writes_a_checkpoint_goes_on_from_a_whole_one(report: dict[str, Any], stage: str):
    """Half a checkpoint that looks whole ends the run for good, or trains on with a part of its state."""
    run = report["stages"][stage]
    assert run["differences"] == []
    between, end = run["between"], run["end"]
    if stage == "after the last":
        assert "checkpoint-10" in between["saved"]
    elif stage.startswith("before the old"):
        assert between["saved"] == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    elif stage.startswith("while"):
        assert "checkpoint-6" in between["saved"] and len(between["saved"]) == 2 and len(between["hidden"]) == 1
    else:
        assert between["saved"] == ["checkpoint-2", "checkpoint-4"] and between["hidden"] == [".checkpoint-6"]
    assert end["hidden"] == end["damaged"] == [] and len(end["saved"]) == 2


def test_workers_of_the_data_loader_change_nothing(report: dict[str, Any]):
    """The run goes on with two workers from a checkpoint that was written without."""
    assert report["stages"][STAGE_WITH_WORKERS]["differences"] == []


@pytest.mark.parametrize("name", DAMAGED_FILES)
def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_used(report: dict[str, Any], name: str):
    """A full disk or a broken copy must not cost the run, nor pass in silence."""
    run = report["damaged"][name]
    assert run["newest"] == "checkpoint-8"
    assert run["differences"] == []
    assert f"damaged-checkpoint-8: {'it has no readable ' if name == 'checkpoint.json' else ''}{name}" in run["warning"]
    assert run["end"]["damaged"] == ["damaged-checkpoint-8"]


def test_the_end_of_an_epoch_is_not_lost_with_the_checkpoint_of_its_last_step(report: dict[str, Any]):
    """Evaluation and log line come after the last step's checkpoint in the stock trainer, so that a run that goes on
    from it has neither."""
    run = report["epochs"]
    assert run["between"]["saved"] == ["checkpoint-3"]
    assert run["differences"] == []
    log = run["result"]["log"]
    assert [line["step"] for line in log if "eval_sum_r" in line] == [3, 6, 9]
    assert [line["step"] for line in log if "loss" in line] == [3, 6, 9]


def test_a_run_that_early_stopping_had_ended_takes_no_further_step(report: dict[str, Any]):
    """The stock trainer forgets that it had stopped and trains on."""
    run = report["early"]
    assert run["between"]["saved"][-1] == "checkpoint-4"
    assert run["differences"] == []
    assert max(line["step"] for line in run["result"]["log"]) == 4


def test_adapters_and_steps_in_chunks_go_on_to_the_bit(report: dict[str, Any]):
    """The gradient cache replays random states; where it leaves the generator decides the dropout of the next step."""
    run = report["chunks"]
    assert run["between"]["saved"] == ["checkpoint-2"]
    assert run["differences"] == []
    assert "adapter_model.safetensors" in run["result"]["states"]


def test_a_killed_run_on_a_stream_goes_on_with_the_rows_that_come_next(report: dict[str, Any]):
    """Where the buffer and the shards stood is written nowhere; it follows from the number of the step alone."""
    run = report["stream"]
    assert run["between"]["saved"] == ["checkpoint-2", "checkpoint-4"]
    assert run["differences"] == []
    assert len({line["loss"] for line in run["log"] if "loss" in line}) == 4


def test_every_process_refuses_a_damaged_checkpoint_that_was_named(report: dict[str, Any]):
    """Where the main process alone looks and stops, the others wait for it for ever."""
    assert report["refused"]["statuses"] == [1, 1]
    errors = report["refused"]["errors"]
    assert len(errors) == 2 and all("checkpoint-6' must be an intact checkpoint" in error for error in errors)
    assert all("optimizer.pt is missing" in error for error in errors)
