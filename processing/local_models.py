"""What all models that run in this process share: their exact version, and the device they run on."""

import hashlib
import os
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download

_CONFIG_FILE = "config.json"


def resolve_revision(name: str, revision: str | None = None) -> str:
    """The exact version of a model, without loading its weights.

    Args:
        name: folder, or name on the Hub.
        revision: branch, tag or commit on the Hub; the main branch by default.

    Returns:
        The commit on the Hub; for a folder "sha256:" and 12 hex digits of its configuration and its file sizes.

    Raises:
        OSError: there is no such model.
        ValueError: a revision is given for a folder.
    """
    folder = Path(name)
    if not folder.is_dir():
        # The file lies in a folder of the cache that is named by the commit.
        return Path(hf_hub_download(name, _CONFIG_FILE, revision=revision)).parent.name
    if revision is not None:
        raise ValueError(f"revision is for models on the Hub, and {name} is a folder; leave {revision!r} out.")
    if not (folder / _CONFIG_FILE).is_file():
        raise FileNotFoundError(f"{name} holds no model; there is no {_CONFIG_FILE} in it.")
    digest = hashlib.sha256((folder / _CONFIG_FILE).read_bytes())
    for path in sorted(folder.iterdir()):
        if path.is_file():
            digest.update(f"\n{path.name} {path.stat().st_size}".encode())
    return f"sha256:{digest.hexdigest()[:12]}"


def public_name(name: str) -> str:
    """The name of a model for a manifest: the rest of the path of a folder is of this machine."""
    return Path(name).resolve().name if Path(name).is_dir() else name


def process_device() -> torch.device:
    """The GPU of this process, by the LOCAL_RANK that launchers set, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
