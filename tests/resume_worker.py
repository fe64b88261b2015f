"""Runs that are killed, for tests/test_resume.py: one process forks them all, see benchmarks/resume.py, and reports."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.resume import Laboratory, differences, kill_at_random, wait
from modeling_leccr.training import checkpoints, resumable
from modeling_leccr.training.checkpoints import CHECKPOINT_FILE, saved_checkpoints
from modeling_leccr.training.resumable import ResumableTrainer
from tests.test_streaming import write_shards

NUM_KILLS = {1: 2, 2: 2}
# 3 steps make an epoch.
CHANGES: dict[int, dict[str, Any]] = {1: {"max_steps": 10}, 2: {"max_steps": 6}}
DAMAGED_FILES = ("model.safetensors", "optimizer.pt", "trainer_state.json", CHECKPOINT_FILE)
# Everything at the ends of epochs, of which the second is the last that early stopping allows.
EPOCHS = {
    "eval_strategy": "epoch",
    "save_strategy": "steps",
    "save_steps": 3,
    "load_best_model_at_end": False,
    "logging_strategy": "epoch",
    "max_steps": 9,
}
CHUNKS = {
    "gradient_cache_chunk_size": 3,
    "vision_training": "frozen",
    "text_training": "lora",
    "lora": {"r": 2, "lora_dropout": 0.1},
    "max_steps": 4,
}
# 28 items in 5 shards: the run is killed in the third pass and ends in the fourth.
STREAM = {"streaming": True, "shuffle_buffer": 6, "target_languages": ["de"], "max_steps": 6}
EARLY = {"early_stopping_patience": 1, "learning_rate": 0.0, "max_steps": 10}


def dies_at(owner: Any, name: str, call: int) -> Callable[[], None]:
    """What makes a run kill itself at a call of a function, counted from 1."""

    def prepare() -> None:
        wrapped, calls = getattr(owner, name), []

        def dying(*args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            if len(calls) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return wrapped(*args, **kwargs)

        setattr(owner, name, dying)

    return prepare


# Stage of a checkpoint -> where a run dies; the third checkpoint is the first that takes the place of another.
STAGES = {
    "after the weights": dies_at(ResumableTrainer, "_save_optimizer_and_scheduler", 3),
    "before the seal": dies_at(checkpoints, "seal", 3),
    "before the name": dies_at(checkpoints, "replace_folder", 3),
    "before the old one goes": dies_at(resumable, "remove_old", 3),
    # Each checkpoint clears its place before; the fourth removal is the first of an old one.
    "while the old one goes": dies_at(shutil, "rmtree", 4),
    "after the last": dies_at(ResumableTrainer, "_load_best_model", 1),
}

STAGE_WITH_WORKERS = "before the old one goes"


def state_of(folder: Path) -> dict[str, Any]:
    """What lies in the folder of a run."""
    return {
        "saved": [path.name for path in saved_checkpoints(folder)],
        "hidden": sorted(path.name for path in folder.glob(".checkpoint-*")),
        "damaged": sorted(path.name for path in folder.glob("damaged-*")),
    }


def killed_and_finished(laboratory: Laboratory, folder: Path, prepare: Callable[[], None], **finish: Any) -> dict:
    """A run that dies once and then goes on, and the state of its folder in between."""
    wait(laboratory.launch(folder, prepare=prepare), 60)
    between = state_of(folder)
    return {"between": between, "result": laboratory.finish(folder, **finish), "end": state_of(folder)}


def compared(run: dict[str, Any], reference: dict[str, Any]) -> dict[str, Any]:
    return {**run, "differences": differences(run["result"], reference)}


def damaged(laboratory: Laboratory, folder: Path, reference: dict[str, Any]) -> dict[str, Any]:
    """Runs whose newest checkpoint lost half of a file."""
    stopped = folder / "stopped"
    wait(laboratory.launch(stopped, prepare=dies_at(resumable, "remove_old", 4)), 60)
    reports = {}
    for name in DAMAGED_FILES:
        place = folder / name
        shutil.copytree(stopped, place)
        newest = saved_checkpoints(place)[-1]
        data = (newest / name).read_bytes()
        (newest / name).write_bytes(data[: len(data) // 2])
        result = laboratory.finish(place)
        log = (place / "log.txt").read_text(encoding="utf-8")
        reports[name] = {
            **compared({"result": result, "end": state_of(place)}, reference),
            "newest": newest.name,
            "warning": next((line for line in log.splitlines() if "is not resumed from" in line), ""),
        }
    return reports


def refused(laboratory: Laboratory, run: Path, place: Path) -> dict[str, Any]:
    """The processes of a run that is told to go on from a damaged checkpoint."""
    shutil.copytree(run, place)
    newest = saved_checkpoints(place)[-1]
    (newest / "optimizer.pt").unlink()
    pids = laboratory.launch(place, changes={"resume_from_checkpoint": str(newest)})
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    log = (place / "log.txt").read_text(encoding="utf-8")
    return {"statuses": statuses, "errors": [line for line in log.splitlines() if line.startswith("ValueError")]}


def run_cases(folder: Path) -> None:
    """All cases; what they found goes to FOLDER/report.json."""
    report: dict[str, Any] = {"random": {}, "stages": {}}
    laboratories = {number: Laboratory(changes, number) for number, changes in CHANGES.items()}
    for number, laboratory in laboratories.items():
        report["random"][number] = kill_at_random(laboratory, folder / f"random-{number}", NUM_KILLS[number], seed=0)
    report["refused"] = refused(laboratories[2], folder / "random-2" / "reference", folder / "refused")
    one = laboratories[1]
    reference = json.loads((folder / "random-1" / "reference" / "result.json").read_text(encoding="utf-8"))
    report["reference"] = reference
    for number, (stage, prepare) in enumerate(STAGES.items()):
        # One goes on with data loader workers, which must change nothing.
        changes = {"dataloader_num_workers": 2} if stage == STAGE_WITH_WORKERS else {}
        run = killed_and_finished(one, folder / f"stage-{number}", prepare, changes=changes)
        report["stages"][stage] = compared(run, reference)
    report["damaged"] = damaged(one, folder / "damaged", reference)
    (folder / "data").mkdir()
    stream = Laboratory({**STREAM, "dataset": str(write_shards(folder / "data"))})
    for name, laboratory, prepare in [
        ("epochs", Laboratory(EPOCHS, parts=one.parts), dies_at(ResumableTrainer, "_run_epoch", 2)),
        ("early", Laboratory(EARLY, parts=one.parts), dies_at(ResumableTrainer, "_load_best_model", 1)),
        ("chunks", Laboratory(CHUNKS, parts=one.parts), dies_at(resumable, "remove_old", 1)),
        ("stream", stream, dies_at(resumable, "remove_old", 2)),
    ]:
        reference = laboratory.finish(folder / f"{name}-reference")
        run = killed_and_finished(laboratory, folder / name, prepare)
        report[name] = {**compared(run, reference), "log": reference["log"]}
    (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")
