"""Whether two embedded data sets are the same, also when another process made one of them."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import datasets


def digest(scenes: datasets.DatasetDict) -> str:
    """Of everything that is stored, pictures and clips as the bytes of their files."""
    stored = {name: split.with_format("arrow")[:].to_pydict() for name, split in scenes.items()}
    return hashlib.sha256(repr(stored).encode()).hexdigest()


def digest_elsewhere(module: str, loader: str) -> str:
    """The digest of `loader(SMALL)` in a process with another hash seed; this one has a seed of its own.

    Args:
        module: a test module that has both.
        loader: the name of a function.
    """
    program = (
        f"from {module} import SMALL, {loader}\nfrom tests.scenes_parts import digest\nprint(digest({loader}(SMALL)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": "."},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout.strip()
