"""Files and folders that are either whole or absent: written under a temporary name and renamed at the end."""

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub.utils.sha import sha_fileobj


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Give a temporary path that becomes `path` on success and disappears on an error.

    A run that is killed while it writes then leaves the file of the run before it, never half a file. The
    temporary file lies in the same folder, because a rename between file systems is a copy.

    Args:
        path: the file to write; its folder is made if needed, an existing file is replaced.

    Yields:
        The path to write to; it has the suffix of `path`, for writers that choose a format by it.

    Raises:
        IsADirectoryError: `path` is a folder.
        FileNotFoundError: the block wrote nothing to the temporary path.
    """
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(f"path must name a file, got the folder {target}; add a file name.")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(target)
    try:
        yield temporary
        if not temporary.exists():
            raise FileNotFoundError(f"nothing was written for {target}; write to the path that atomic_write gives.")
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_text_atomic(path: str | Path, text: str) -> Path:
    """Write UTF-8 text so that a reader sees the old file or the new one, never a part."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def write_json_atomic(path: str | Path, data: Any) -> Path:
    """Write indented JSON so that a reader sees the old file or the new one, never a part.

    Raises:
        TypeError: `data` holds a value that JSON has no form for.
        ValueError: `data` holds NaN or an infinity, which other JSON readers refuse.
    """
    return write_text_atomic(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Give a temporary folder that becomes `path` on success and disappears on an error.

    It lies beside `path` as `.NAME-*` with a random name. A process that is killed leaves it there, half written. If
    that happens between the two renames in which it replaces an older folder, nothing is at `path`, and the older
    one lies beside it in the same way; such folders are never used nor removed, whoever finds them may.

    Args:
        path: the folder to write; the one that it is in is made if needed, and an older one is replaced as a whole. Of
            a link, the folder behind it.

    Yields:
        An empty folder to write to.

    Raises:
        ValueError: `path` is the current folder or one that it is in; it cannot be replaced under one's feet.
    """
    target = Path(path).resolve()
    if Path.cwd().is_relative_to(target):
        raise ValueError(f"{path} is the folder that the command runs in and would be replaced; choose another one.")
    fresh = _beside(target)
    fresh.mkdir(parents=True)
    try:
        yield fresh
        replace_folder(target, fresh)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def replace_folder(target: Path, fresh: Path) -> None:
    """Move the finished folder `fresh` to `target`; an older one there makes room, and comes back if that fails."""
    if not target.exists():
        fresh.rename(target)
        return
    stale = _beside(target)
    target.rename(stale)
    try:
        fresh.rename(target)
    except OSError:
        stale.rename(target)
        raise
    shutil.rmtree(stale)


def file_sha256(path: str | Path) -> str:
    """The hash of a file's contents as 64 hex digits, read piece by piece."""
    with open(path, "rb") as file:
        return sha_fileobj(file).hex()


def _beside(path: Path) -> Path:
    """A name that no other process and no other thread gives, in the same folder and with the same suffix."""
    return path.with_name(f".{path.stem}-{uuid.uuid4().hex}{path.suffix}")
