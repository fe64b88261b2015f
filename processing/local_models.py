"""What all models that run in this process share: their exact version, and the device they run on."""

import hashlib
import os
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HFValidationError

# What the version of a folder begins with.
FOLDER_VERSION = "sha256:"
_CONFIG_FILE = "config.json"
_BLOCK_BYTES = 2**24


def resolve_revision(name: str, revision: str | None = None) -> str:
    """The exact version of a model, without loading its weights.

    All files of a folder are read for it, since two fine-tuned models differ in nothing but the values of their
    weights: about 1.5 GB a second, or what the disk gives.

    Args:
        name: folder, or name on the Hub.
        revision: branch, tag or commit on the Hub; the main branch by default.

    Returns:
        The commit on the Hub; for a folder "sha256:" and 12 hex digits of the names and contents of its files.

    Raises:
        FileNotFoundError: there is no such model, or the Hub cannot be reached; the message tells.
        ValueError: a revision is given for a folder.
    """
    folder = Path(name)
    if not folder.is_dir():
        try:
            # The file lies in a folder of the cache that is named by the commit.
            return Path(hf_hub_download(name, _CONFIG_FILE, revision=revision)).parent.name
        except (OSError, HFValidationError) as error:
            reason = " ".join(str(error).split())
            raise FileNotFoundError(
                f"there is no folder {name!r}, and on the Hub it cannot be read: {reason}"
            ) from error
    if revision is not None:
        raise ValueError(f"revision is for models on the Hub, and {name} is a folder; leave {revision!r} out.")
    if not (folder / _CONFIG_FILE).is_file():
        raise FileNotFoundError(f"{name} holds no model; there is no {_CONFIG_FILE} in it.")
    return FOLDER_VERSION + _digest_of_files(folder)


def _digest_of_files(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        # The size keeps the end of a file and the next name apart.
        digest.update(f"\n{path.name} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()[:12]


def public_name(name: str) -> str:
    """The name of a model for a manifest: the rest of the path of a folder is of this machine."""
    return Path(name).resolve().name if Path(name).is_dir() else name


def process_device() -> torch.device:
    """The GPU of this process, by the LOCAL_RANK that launchers set, or the CPU.

    Without a launcher it is the first GPU that CUDA_VISIBLE_DEVICES leaves.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def chosen_device(name: str | None) -> torch.device:
    """The device that an option names; the GPU of this process, or the CPU, where it names none.

    Args:
        name: such as "cpu", "cuda" or "cuda:1".

    Raises:
        ValueError: this machine has no such device.
    """
    if name is None:
        return process_device()
    try:
        torch.zeros(1, device=name).cpu()
    except (RuntimeError, AssertionError) as error:  # builds of torch without CUDA assert
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"device must be one of this machine, such as cpu, cuda or cuda:1, got {name!r} ({reason}); "
            f"leave it out to take what there is."
        ) from error
    return torch.device(name)
