"""What a number depends on besides the recipe: libraries, machine, revision of the code, memory."""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psutil
import torch

from processing.files import write_json_atomic

RUN_FILE = "run.json"
LIBRARIES = ("torch", "transformers", "accelerate", "datasets", "huggingface_hub", "safetensors", "numpy", "pillow")
GIB = 1024**3


def environment() -> dict[str, Any]:
    """Versions and machine of this process, fit to be published: no host name, no user name, no path.

    Returns:
        `python`, `platform`, `processor`, `cpu_count` (those that this process may use), `torch_threads`,
        `accelerator` (name of the first GPU, or None), `libraries` (name → version), `git_revision` (with `+changes`
        if tracked files differ from it; None outside a git checkout).
    """
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor_name(),
        "cpu_count": _usable_cpus(),
        "torch_threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "libraries": {name: version for name in LIBRARIES if (version := _version(name)) is not None},
        "git_revision": git_revision(__file__),
    }


def write_run_start(
    folder: str | Path, settings: Mapping[str, Any], *, data: Mapping[str, Any], num_processes: int, resumed: bool
) -> Path:
    """Write `run.json` when a run begins, so that one that is stopped has a record too.

    Args:
        folder: of the results.
        settings: the recipe as it was given; tokens are left out. With its folders: this file stays on the machine.
        data: see `reporting.fingerprints.data_fingerprints`.
        num_processes: that train together.
        resumed: this start goes on with an earlier one, whose entry stays.

    Returns:
        The file: `starts`, a list with an entry for each start.

    Raises:
        ValueError: the run is resumed, and the file of its earlier start is damaged.
    """
    path = Path(folder) / RUN_FILE
    earlier = []
    if resumed and path.is_file():
        try:
            earlier = json.loads(path.read_text(encoding="utf-8"))["starts"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no record of a run ({error!r}); delete it to resume without it.") from error
    start = {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "num_processes": num_processes,
        "settings": _without_tokens(settings),
        "environment": environment(),
        "data": dict(data),
    }
    return write_json_atomic(path, {"starts": [*earlier, start]})


def _without_tokens(settings: Any) -> Any:
    if not isinstance(settings, Mapping):
        return settings
    return {name: _without_tokens(value) for name, value in settings.items() if not str(name).endswith("token")}


def git_revision(path: str | Path) -> str | None:
    """Commit of the checkout in which `path` is tracked, with `+changes` if tracked files differ from it.

    Returns:
        None if git is not installed, or the file is in no checkout, as an installed package is. That its environment
        may lie in the checkout of another project is why the file itself must be tracked.
    """
    file = Path(path).resolve()
    if _git(file.parent, "ls-files", "--error-unmatch", file.name) is None:
        return None
    revision = _git(file.parent, "rev-parse", "--short=12", "HEAD")
    if revision is None:
        return None
    changes = _git(file.parent, "status", "--porcelain", "--untracked-files=no")
    return f"{revision}+changes" if changes else revision


class PeakMemory:
    """Highest resident memory of this process and its children while the block runs.

    Children (data workers, a reload in a fresh process) are counted at the moment of each sample; pages that they
    share with their parent count in both, so that the sum is an upper bound of what the samples saw.

        with PeakMemory() as memory:
            train()
        logger.info("%.2f GiB", memory.peak_gib)

    Args:
        interval: seconds between two samples. A rise of this process itself is found exactly, whenever it comes.

    Raises:
        ValueError: `interval` is not positive.
    """

    def __init__(self, interval: float = 0.25) -> None:
        if interval <= 0:
            raise ValueError(f"interval must be a positive number of seconds, got {interval}.")
        self.interval = interval
        self.peak_bytes = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._lifetime_peak_before = 0

    @property
    def peak_gib(self) -> float:
        """The peak in GiB (1024³ bytes)."""
        return self.peak_bytes / GIB

    def __enter__(self) -> "PeakMemory":
        self._stop.clear()
        self._lifetime_peak_before = _lifetime_peak_bytes()
        self.peak_bytes = _tree_bytes()
        self._thread = threading.Thread(target=self._sample, name="peak-memory", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self.peak_bytes = max(self.peak_bytes, _tree_bytes())
        # The kernel's own high-water mark sees spikes between samples; it is ours only if it rose in the block.
        lifetime_peak = _lifetime_peak_bytes()
        if lifetime_peak > self._lifetime_peak_before:
            self.peak_bytes = max(self.peak_bytes, lifetime_peak)

    def _sample(self) -> None:
        while not self._stop.wait(self.interval):
            self.peak_bytes = max(self.peak_bytes, _tree_bytes())


def _tree_bytes() -> int:
    process = psutil.Process()
    total = process.memory_info().rss
    for child in process.children(recursive=True):
        try:
            total += child.memory_info().rss
        except psutil.Error:  # it ended between the list and the look
            continue
    return total


def _lifetime_peak_bytes() -> int:
    """High-water mark since the process began; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Not getrusage: there, a child begins with the mark of the process that started it.
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor_name() -> str:
    """Name of the processor, which timings depend on; empty where the system does not tell."""
    description = Path("/proc/cpuinfo")
    if description.is_file():
        for line in description.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(folder: str | Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
