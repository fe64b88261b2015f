"""Saves a model in processes that are killed, for tests/test_export.py: python save_worker.py FOLDER.

FOLDER holds a folder for each case, named STEP or STEP-older; there, a model is saved as `model`, and the process is
killed at the step. The processes are forks of this one, in which torch and transformers have no threads yet: a fork of
a process that has some can hang. Prints the wait status of each case as JSON. Before, a model and its processor are
saved in FOLDER/plain by their own methods, while nothing else has been saved in this process.
"""

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modeling_leccr.export import save_for_hub
from tests.tiny import tiny_model, tiny_processor

STEPS = ("processor", "card", "rename")


def fail_at(step: str, monkeypatch: pytest.MonkeyPatch, fail: Callable[..., Any]) -> None:
    """Let one step of a save to a folder `model` end as on a full disk, or in a kill."""
    if step == "processor":
        monkeypatch.setattr("processing.processing_leccr.LeccrProcessor.save_pretrained", fail)
    elif step == "card":
        monkeypatch.setattr("modeling_leccr.export.model_card", fail)
    else:
        rename, failed = Path.rename, []

        def rename_or_fail(self: Path, to: Path) -> Path:
            if to.name == "model" and not failed:  # afterwards, the older model is moved back
                failed.append(to)
                fail()
            return rename(self, to)

        monkeypatch.setattr(Path, "rename", rename_or_fail)


def save_killed(folder: Path) -> int:
    """Save in a new process that is killed on the way; its wait status."""
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    try:
        fail_at(
            folder.name.removesuffix("-older"),
            pytest.MonkeyPatch(),
            lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL),
        )
        save_for_hub(tiny_model(seed=1), tiny_processor(), folder / "model")
    except BaseException:
        traceback.print_exc()
    os._exit(1)


def main(folder: Path) -> None:
    """Each case after the other."""
    cases = sorted(folder.iterdir())
    tiny_model().save_pretrained(folder / "plain")
    tiny_processor().save_pretrained(folder / "plain")
    print(json.dumps({case.name: save_killed(case) for case in cases}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
