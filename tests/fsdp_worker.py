"""What each of the two processes of tests/test_fsdp.py does.

accelerate ignores its settings of FSDP on the CPU. Here it is told that its processes are those of GPUs, so that the
trainer takes the road that it takes there; the collectives are gloo's.
"""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import DistributedType

from modeling_leccr import LeccrModel
from modeling_leccr.training.sharding import is_split, whole_model
from modeling_leccr.training.trainer import LeccrTrainer
from tests.tiny import tiny_model, tiny_vision_config
from tests.training_parts import GRADIENT_DESCENT, LOSS, text_config_without_dropout, tiny_split, tiny_trainer

NUM_PROCESSES = 2
BATCH_SIZE = 4
SETTINGS: dict[str, Any] = {
    **GRADIENT_DESCENT,
    "max_steps": 3,
    "eval_strategy": "steps",
    "save_strategy": "steps",
    "eval_steps": 1,
    "save_steps": 1,
    "save_total_limit": 3,
    "loss": LOSS,
}

# Without evaluation, of which the first run and the cached one have enough.
ALONE: dict[str, Any] = {"eval_strategy": "no", "load_best_model_at_end": False}


def make_model() -> LeccrModel:
    """The same weights in every process, and no dropout; one layer of most kinds, for each is gathered on its own."""
    vision = tiny_vision_config()
    vision.num_hidden_layers = 1
    layers = {"num_slot_layers": 1, "num_interaction_layers": 1}
    return tiny_model(text_config=text_config_without_dropout(), vision_config=vision, dropout=0.0, **layers)


def make_trainer(folder: Path, num_processes: int, **arguments: Any) -> LeccrTrainer:
    """Its batch is that of one process, shared out."""
    model = arguments.pop("model", None) or make_model()
    settings = {**SETTINGS, "per_device_train_batch_size": BATCH_SIZE // num_processes, **arguments}
    return tiny_trainer(folder, model, validation=tiny_split(), **settings)


def as_if_on_gpus(initialise: Callable) -> Callable:
    """`PartialState.__init__` that calls the kind of its processes by another name."""

    def initialise_state(self: PartialState, *args: Any, **kwargs: Any) -> None:
        is_new = not PartialState._shared_state
        initialise(self, *args, **kwargs)
        if is_new:
            PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU

    return initialise_state


def run(folder: Path, name: str, *, precision: str = "no", resume: str | None = None, **arguments: Any) -> None:
    """Train, and leave the log and the whole model in FOLDER/name."""
    os.environ["ACCELERATE_MIXED_PRECISION"] = precision
    trainer = make_trainer(folder / name, NUM_PROCESSES, **arguments)
    trainer.train(resume_from_checkpoint=resume)
    if not is_split(trainer.model):
        raise RuntimeError("the weights were not split, so that nothing was tested.")
    own = sum(value.to_local().numel() for value in trainer.model.state_dict().values())
    model = whole_model(trainer)
    if dist.get_rank() == 0:
        model.save_pretrained(folder / name / "whole")
        log = {"own_parameters": own, "parameters": model.num_parameters(), "lines": trainer.state.log_history}
        (folder / name / "log.json").write_text(json.dumps(log), encoding="utf-8")
    dist.barrier()


def run_cases(folder: Path) -> None:
    """All cases, for starting a process costs more than they do."""
    with mock.patch.object(PartialState, "__init__", as_if_on_gpus(PartialState.__init__)):
        run(folder, "float32")
        run(folder, "cached", gradient_cache_chunk_size=1, save_strategy="no", load_best_model_at_end=False)
        run(folder, "bf16", precision="bf16", max_steps=2, **ALONE, save_strategy="no")
        adamw: dict[str, Any] = {"optim": "adamw_torch_fused", "learning_rate": 1e-3, "max_steps": 2, **ALONE}
        run(folder, "uninterrupted", **adamw)
        run(folder, "resumed", resume=str(folder / "uninterrupted" / "checkpoint-1"), **adamw)
        model = make_model()
        with torch.no_grad():
            model.logit_scale.value.fill_(math.log(200.0))  # where `forward` passes no gradient
        run(folder, "clamped", model=model, max_steps=1, **ALONE, save_strategy="no")
