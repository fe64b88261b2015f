"""The folder that the processes of a job share: who may write what, what is done, and when all of it is."""

import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from processing.files import write_json_atomic
from processing.generation import KNOWN_FLAGS
from processing.job_shards import Shard, ShardState, flag_columns, list_differences, read_shard_state
from processing.manifest import MANIFEST_FILE, Manifest, Step, read_manifest

HIDDEN_FOLDER = ".leccr"
REDO_FILE = "redo.json"
logger = logging.getLogger(__name__)


class JobFolder:
    """A data set folder in the making.

    Args:
        out: the folder.
        step: what identifies the job: kind, settings and how it is cut; without counts.
        splits: name -> number of rows.
        shards: all of them, in order.
        columns: the new columns.
        source_steps: how the rows were made, for the manifest.
    """

    def __init__(
        self,
        out: Path,
        step: Step,
        splits: Mapping[str, int],
        shards: Sequence[Shard],
        columns: Sequence[str],
        *,
        source_steps: Sequence[Step] = (),
    ) -> None:
        self.out = out
        self.shards = shards
        self.redo_flags: tuple[str, ...] = ()
        self.round = 0
        self._step = step
        self._splits = dict(splits)
        self._columns = list(columns)
        self._source_steps = tuple(source_steps)
        self._hidden = out / HIDDEN_FOLDER

    def prepare(self, redo: tuple[str, ...], *, since: float) -> Manifest:
        """Start the job, or join one that is under way.

        Args:
            redo: flags of texts that are to be done again, sorted.
            since: seconds since the epoch; a redo that was under way then, or later, is not done once more.

        Returns:
            The manifest; complete if there is nothing left to do.

        Raises:
            ValueError: the folder holds something else, a redo of other flags is under way, or a flag is unknown.
        """
        if self.out.is_file():
            raise ValueError(f"{self.out} is a file; name a folder to write to.")
        if not redo and not self._hidden.exists() and self.manifest().complete:
            return self.manifest()
        with self._lock_folder():
            manifest = self.manifest()
            try:
                if redo:
                    self._start_redo(manifest, redo, since)
            finally:
                manifest = self.manifest()
                if manifest.complete:
                    self._remove_leftovers()
            self._read_redo()
            return manifest

    def begin(self) -> None:
        """Write the manifest if the folder has none. To be called before a shard is written.

        Not earlier, so that a run that fails before its first shard, say for a wrong name of the model, leaves the
        folder free for the corrected one.

        Raises:
            ValueError: meanwhile, processes of another job have written to the folder.
        """
        with self._lock_folder():
            self.manifest()
            if not (self.out / MANIFEST_FILE).exists():
                step = replace(self._step, created=datetime.now(timezone.utc).date().isoformat())
                Manifest((*self._source_steps, step), self._splits, complete=False).write(self.out)

    def manifest(self) -> Manifest:
        """The manifest of this job.

        Raises:
            ValueError: the folder holds something else.
        """
        if not (self.out / MANIFEST_FILE).exists():
            visible = [path.name for path in self.out.glob("*") if not path.name.startswith(".")]
            if visible:
                raise ValueError(
                    f"{self.out} holds files and no manifest (first: {sorted(visible)[:3]}); name another folder."
                )
            return Manifest(splits=self._splits, complete=False)
        manifest = read_manifest(self.out)
        if manifest.steps and manifest.steps[-1].kind != self._step.kind:
            kind = manifest.steps[-1].kind
            raise ValueError(f"{self.out} holds a job of another kind, {kind!r}; name another folder.")
        found = _identity(manifest.steps[-1] if manifest.steps else Step("", {}), manifest.splits)
        differences = list(list_differences(found, _identity(self._step, self._splits)))
        if differences:
            raise ValueError(
                f"{self.out} holds another job: {'; '.join(differences)}. Name another folder, or ask for the same."
            )
        return manifest

    def path(self, shard: Shard) -> Path:
        """Where a shard is, or will be."""
        return self.out / shard.name

    def state(self, shard: Shard) -> ShardState | None:
        """What a shard tells; None where it is absent or damaged."""
        return read_shard_state(self.path(shard), len(shard.rows), self._columns)

    def is_done(self, state: ShardState | None) -> bool:
        """Whether nothing is left to do for a shard in this state."""
        return state is not None and (state.round >= self.round or not state.has_any(self.redo_flags))

    @contextmanager
    def claim(self, shard: Shard) -> Iterator[bool]:
        """Hold a shard for this process; False if another process holds it."""
        lock = FileLock(self._hidden / f"{Path(shard.name).stem}.lock")
        try:
            lock.acquire(blocking=False)
        except (Timeout, FileNotFoundError):  # without a folder for locks, the job is complete
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def complete(self) -> Manifest:
        """Count what all shards tell and complete the manifest, if all are done. Any number of processes may call."""
        with self._lock_folder():
            manifest = self.manifest()
            self._read_redo()
            if not manifest.complete:
                counts = self._count()
                if counts is None:
                    return manifest
                step = replace(manifest.steps[-1], counts=counts)
                manifest = replace(manifest, steps=(*manifest.steps[:-1], step), complete=True)
                manifest.write(self.out)
            self._remove_leftovers()
            return manifest

    def _count(self) -> dict[str, Any] | None:
        """Counts of all shards, in an order that does not depend on who wrote which; None if one is not done."""
        flags: dict[str, Counter[str]] = {name: Counter() for name in flag_columns(self._columns)}
        events: Counter[str] = Counter()
        for shard in self.shards:
            state = self.state(shard)
            if state is None or not self.is_done(state):
                return None
            events.update(state.events)
            for name, found in state.flags.items():
                flags[name].update(found)
        counts = {name: dict(sorted(found.items())) for name, found in flags.items()}
        return {"rows": sum(self._splits.values()), **counts, "events": dict(sorted(events.items()))}

    def _start_redo(self, manifest: Manifest, flags: tuple[str, ...], since: float) -> None:
        path = self._hidden / REDO_FILE
        # Without a manifest there is no shard yet, and nothing of which an older redo could be under way.
        if not manifest.complete and manifest.steps and path.exists():
            under_way = json.loads(path.read_text(encoding="utf-8"))["flags"]
            if under_way != list(flags):
                raise ValueError(
                    f"a redo of {under_way} is under way in {self.out}, got {list(flags)}; finish it first."
                )
            return
        states = {shard: state for shard in self.shards if (state := self.state(shard)) is not None}
        last = max((state.round for state in states.values()), default=0)
        redone = [shard for shard, state in states.items() if last and state.round == last and state.redo == flags]
        if manifest.complete and any(self.path(shard).stat().st_mtime >= since for shard in redone):
            # Otherwise a text that fails again would be asked as often as there are processes.
            logger.warning(
                "%s: other processes have redone %s since this one began; run it again for another redo.",
                self.out,
                list(flags),
            )
            return
        found = {flag for state in states.values() for counts in state.flags.values() for flag in counts}
        if unknown := set(flags) - found - KNOWN_FLAGS:
            raise ValueError(
                f"redo names flags that no text has, {sorted(unknown)}; there are {sorted(found)}, and known are "
                f"{sorted(KNOWN_FLAGS)}."
            )
        write_json_atomic(path, {"flags": list(flags), "round": last + 1})
        if manifest.complete:
            replace(manifest, complete=False).write(self.out)

    def _read_redo(self) -> None:
        path = self._hidden / REDO_FILE
        if path.exists():
            redo = json.loads(path.read_text(encoding="utf-8"))
            self.redo_flags, self.round = tuple(redo["flags"]), redo["round"]

    def _remove_leftovers(self) -> None:
        """Remove locks, and temporary files of killed processes: once all is done, no live process has one."""
        for pattern in (".manifest-*.json", "data/.*-of-*.parquet"):
            for path in self.out.glob(pattern):
                path.unlink(missing_ok=True)
        shutil.rmtree(self._hidden, ignore_errors=True)

    @contextmanager
    def _lock_folder(self) -> Iterator[None]:
        """Be the only process that looks at the whole folder and writes its manifest."""
        lock = FileLock(self._hidden / "folder.lock")
        while not lock.is_locked:
            self._hidden.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire()
            except FileNotFoundError:  # another process completed the job and removed the folder of the locks
                continue
        try:
            yield
        finally:
            lock.release()


def _identity(step: Step, splits: Mapping[str, int]) -> dict[str, Any]:
    """What must be equal for two processes to share a folder."""
    step_fields = asdict(step)
    return {name: step_fields[name] for name in ("kind", "settings", "job")} | {"splits": dict(splits)}
