"""Read the weights out of a checkpoint file of the released code, without running anything that is in it."""

import argparse
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

_ENTRY = "model"
_DISTRIBUTED_PREFIX = "module."
# How the loader of torch names a function or class that a pickle asks for.
_FOREIGN_OBJECT = re.compile(r"GLOBAL (\S+)")


def read_official_file(path: str | Path) -> dict[str, Tensor]:
    """The weights of a released checkpoint: `["model"]` of a `.pth`, or a `.safetensors` with the same names.

    Only tensors and plain values are read, nothing is executed. The prefix of distributed training is taken off.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, no checkpoint, or holds anything else than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}; give the checkpoint that the released code wrote.")
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _model_entry(_read_pickle(path))
    foreign = sorted(str(key) for key, value in state.items() if not isinstance(value, Tensor))
    if foreign or not state:
        raise ValueError(f"its weights must be tensors by name, got other values ({foreign[:3]}) or none at all.")
    if all(key.startswith(_DISTRIBUTED_PREFIX) for key in state):
        state = {key.removeprefix(_DISTRIBUTED_PREFIX): value for key, value in state.items()}
    return state


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except Exception as error:  # the library raises a class of its own, without a public name
        raise ValueError("it cannot be read as safetensors: damaged, cut short, or of another kind.") from error


def _read_pickle(path: Path) -> Any:
    try:
        # The options of a command line are plain values too, in a class that does nothing.
        with torch.serialization.safe_globals([argparse.Namespace]):
            # The optimizer's state is twice the model and not wanted: a mapped file is read where it is touched.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # bytes that are no pickle end in any error of the machine that interprets them
        foreign = _FOREIGN_OBJECT.search(str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if foreign:
            raise ValueError(
                f"it holds the foreign object {foreign[1]} beside tensors and plain values; nothing of it was run. "
                f"Save its weights alone if you trust it."
            ) from error
        raise ValueError(
            "it cannot be read as a checkpoint of torch: damaged, cut short, or of another kind."
        ) from error


def _model_entry(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(
            f"it must hold a dictionary with the weights under {_ENTRY!r}, got an object of type "
            f"{type(content).__name__}."
        )
    if not isinstance(content.get(_ENTRY), dict):
        raise ValueError(f"it has no weights under {_ENTRY!r}, only the entries {sorted(map(str, content))[:5]}.")
    return {str(key): value for key, value in content[_ENTRY].items()}
