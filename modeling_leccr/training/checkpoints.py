"""Checkpoints that are whole or not there, and that tell when they were damaged since.

A checkpoint is written into a hidden folder beside its place; `checkpoint.json`, with the size and the hash of each
file, comes last, and then the folder gets its name.
"""

import json
import logging
import re
import shutil
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from processing.files import file_sha256, replace_folder, write_json_atomic

logger = logging.getLogger(__name__)

CHECKPOINT_FILE = "checkpoint.json"
# So many stay whatever the limit says: if the last one turns out to be damaged, the one before takes its place.
FEWEST_KEPT = 2
_NAME = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-\d+")
_SET_ASIDE = "damaged-"


def checkpoint_folder(run_folder: str | Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return Path(run_folder, f"{PREFIX_CHECKPOINT_DIR}-{step}")


def staging_folder(checkpoint: Path) -> Path:
    """Where a checkpoint is written; the same in every process, and no checkpoint by its name."""
    return checkpoint.with_name(f".{checkpoint.name}")


def publish(checkpoint: Path, settings: Mapping[str, Any]) -> None:
    """Seal the staging folder and give it the name of the checkpoint.

    Args:
        checkpoint: its place; an older checkpoint there is replaced.
        settings: of the run, for `changed_settings` when it goes on.
    """
    staging = staging_folder(checkpoint)
    seal(staging, settings)
    replace_folder(checkpoint, staging)


def seal(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write `checkpoint.json` into a folder whose files are complete."""
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != CHECKPOINT_FILE
    }
    # Not the step: a run that was started again from an earlier one has higher steps behind it.
    contents = {"saved_at": time.time(), "settings": dict(settings), "files": files}
    write_json_atomic(folder / CHECKPOINT_FILE, contents)


def find_fault(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, in words; None if each file is as it was written."""
    sealed = _sealed(checkpoint)
    if sealed is None:
        return _unsealed(checkpoint)
    for name, written in sealed["files"].items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != written["bytes"]:
            return f"{name} has {path.stat().st_size} bytes instead of {written['bytes']}"
        if file_sha256(path) != written["sha256"]:
            return f"the contents of {name} changed since it was written"
    return None


def saved_checkpoints(run_folder: str | Path) -> list[Path]:
    """The complete checkpoints of a run, in the order in which they were written; their files are not looked at."""
    found = {path: sealed["saved_at"] for path in _named(run_folder) if (sealed := _sealed(path)) is not None}
    return sorted(found, key=lambda path: (found[path], _step(path)))


def checkpoint_to_resume(run_folder: str | Path, setting: str | bool | None) -> Path | None:
    """The checkpoint that a run goes on from.

    Args:
        run_folder: the folder of the run.
        setting: a checkpoint, or True for the newest one of the run that is intact. Newer ones that are damaged are
            reported and set aside as `damaged-checkpoint-N`.

    Returns:
        None where the run starts at its beginning.

    Raises:
        ValueError: the checkpoint that was named is damaged, incomplete or not there.
    """
    if setting is None or setting is False:
        return None
    if setting is not True:
        _refuse(setting, find_fault(Path(setting)))
        return Path(setting)
    if not Path(run_folder).is_dir():
        return None
    for path in _named(run_folder):
        if _sealed(path) is None:
            _set_aside(path, find_fault(path))
    for path in reversed(saved_checkpoints(run_folder)):
        fault = find_fault(path)
        if fault is None:
            return path
        _set_aside(path, fault)
    return None


def check_is_checkpoint(setting: str) -> None:
    """Refuse a folder that is no checkpoint, before there is a run; it reads the files when it goes on.

    Raises:
        ValueError: it is not there, or was not written to its end.
    """
    if _sealed(Path(setting)) is None:
        _refuse(setting, _unsealed(Path(setting)))


def is_newer(checkpoint: Path, other: Path) -> bool:
    """Whether a checkpoint was written after another one."""
    first, second = _sealed(checkpoint), _sealed(other)
    return first is not None and second is not None and first["saved_at"] > second["saved_at"]


def changed_data(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What became of the splits between two starts, in words.

    Args:
        before: role -> fingerprint, see `reporting.fingerprints`.
        now: the same of this start.
    """
    changes = []
    for role in sorted(before.keys() & now.keys()):
        if before[role].get("sha256") == now[role].get("sha256"):
            continue
        unit = "items" if "num_items" in now[role] else "files"
        old, new = (fingerprint.get(f"num_{unit}") for fingerprint in (before[role], now[role]))
        counts = f"{new} {unit} as before, with other contents" if old == new else f"{old} -> {new} {unit}"
        changes.append(f"the {'training' if role == 'train' else role} split changed: {counts}")
    return changes


def settings_of(checkpoint: Path) -> dict[str, Any]:
    """The settings that a checkpoint was sealed with."""
    return (_sealed(checkpoint) or {}).get("settings", {})


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Differences of two settings as `name: before -> now`, sections written as `section.name`."""
    flat_before, flat_now = _flat(before), _flat(now)
    return [
        f"{name}: {flat_before.get(name)!r} -> {flat_now.get(name)!r}"
        for name in sorted(flat_before.keys() | flat_now.keys())
        if flat_before.get(name) != flat_now.get(name)
    ]


def remove_leftovers(run_folder: str | Path) -> None:
    """Remove what a killed run left half written or half removed."""
    for path in Path(run_folder).glob(f".{PREFIX_CHECKPOINT_DIR}-*"):
        shutil.rmtree(path, ignore_errors=True)


def remove_old(run_folder: str | Path, limit: int | None, protected: Collection[Path]) -> None:
    """Remove the oldest checkpoints beyond the limit.

    Args:
        run_folder: the folder of the run.
        limit: how many stay, but never fewer than two; None or 0 removes none.
        protected: the best and the newest one stay.
    """
    if not limit:
        return
    checkpoints = saved_checkpoints(run_folder)
    kept = {path.resolve() for path in protected}
    removable = [path for path in checkpoints if path.resolve() not in kept]
    for path in removable[: max(len(checkpoints) - max(limit, FEWEST_KEPT), 0)]:
        # Under its name, a folder that is removed in part would look like a damaged checkpoint.
        hidden = staging_folder(path)
        path.rename(hidden)
        shutil.rmtree(hidden, ignore_errors=True)


def _refuse(setting: str | bool, fault: str | None) -> None:
    if fault is not None:
        raise ValueError(
            f"resume_from_checkpoint={str(setting)!r} must be an intact checkpoint, but {fault}; name another one, or "
            f"pass true for the newest intact one."
        )


def _unsealed(checkpoint: Path) -> str:
    """What is wrong with a checkpoint that `_sealed` does not know."""
    if not checkpoint.is_dir():
        return "there is no such folder"
    return f"it has no readable {CHECKPOINT_FILE}, which is written when all else is"


def _named(run_folder: str | Path) -> list[Path]:
    return [path for path in Path(run_folder).iterdir() if _NAME.fullmatch(path.name) and path.is_dir()]


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _sealed(checkpoint: Path) -> dict[str, Any] | None:
    try:
        contents = json.loads((checkpoint / CHECKPOINT_FILE).read_text(encoding="utf-8"))
        return contents if {"saved_at", "settings", "files"} <= contents.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def _set_aside(checkpoint: Path, fault: str | None) -> None:
    """Out of the way of the run, and still there for its user."""
    place = checkpoint.with_name(_SET_ASIDE + checkpoint.name)
    logger.warning("%s is not resumed from and is now %s: %s", checkpoint, place.name, fault)
    replace_folder(place, checkpoint)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
