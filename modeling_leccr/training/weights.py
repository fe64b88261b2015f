"""Weights of a checkpoint for a model that exists: whole or not at all, with an adapter or without."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from modeling_leccr.loading_leccr import readable_weights
from modeling_leccr.streams_leccr import TextStreamModel
from modeling_leccr.training.sharding import fill, has_adapter, usual_class

ADAPTER_WEIGHTS = "adapter_model.safetensors"
# peft's files name the parameters as its own wrapper sees them.
_PEFT_PREFIX = "base_model.model."


@torch.no_grad()
def load_weights(model: TextStreamModel, folder: str | Path) -> None:
    """Fill a model with the weights of a checkpoint, in place: optimizers and wrappers keep their parameters.

    Args:
        model: as it was built for the run; with an adapter, the adapter and what is saved with it are filled, and the
            rest stays as it is.
        folder: what `save_pretrained` wrote for such a model.

    Raises:
        ValueError: the checkpoint is of the other kind, lacks weights, holds unknown ones, has some of another shape,
            or cannot be read.
        FileNotFoundError: there are no weights.
    """
    file = Path(folder, ADAPTER_WEIGHTS)
    if has_adapter(model) != file.is_file():
        kind, other = ("an adapter", "whole models") if file.is_file() else ("no adapter", "adapters")
        raise ValueError(
            f"the checkpoint {str(folder)!r} holds {kind}, and this run trains {other}; resume with the "
            f"vision_training and text_training that it was started with."
        )
    if not has_adapter(model):
        # `save_pretrained` writes some towers under the names of older releases; `from_pretrained` knows them, and
        # the trainer's own `load_state_dict(strict=False)` would leave such a tower as it is.
        loaded = usual_class(model).from_pretrained(folder).state_dict()
        _check_fit(folder, model.state_dict(), loaded)
        fill(model, loaded)
        return
    with readable_weights(folder):
        loaded = {name.removeprefix(_PEFT_PREFIX): value for name, value in load_file(file).items()}
    live = model.get_adapter_state_dict()  # of the same storage as the parameters
    _check_fit(folder, live, loaded)
    for name, value in live.items():
        value.copy_(loaded[name])


def _check_fit(folder: str | Path, live: Mapping[str, Tensor], loaded: Mapping[str, Tensor]) -> None:
    """Refuse a checkpoint of another model than that of the run."""
    misfits = {
        "missing_keys": live.keys() - loaded.keys(),
        "unexpected_keys": loaded.keys() - live.keys(),
        "mismatched_keys": {name for name in live.keys() & loaded.keys() if live[name].shape != loaded[name].shape},
    }
    if found := [f"{len(names)} {kind} (first: {sorted(names)[:3]})" for kind, names in misfits.items() if names]:
        raise ValueError(
            f"the checkpoint {str(folder)!r} does not fit the model of this run: {'; '.join(found)}. The settings of "
            f"the model, its towers or its adapter changed since it was written; resume with those that it was "
            f"started with, or start a new run in another output_dir."
        )
