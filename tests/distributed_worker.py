"""One of two processes of tests/test_distributed.py: python -m torch.distributed.run ... distributed_worker.py FOLDER.

Each case writes terms, total and gradients (after DDP's mean over the processes) to FOLDER/<case>-<rank>.safetensors.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from modeling_leccr import LeccrModel
from modeling_leccr.losses_leccr import LeccrCriterion, LossConfig, MatchingBatch
from modeling_leccr.training.gather import gather_batch
from tests.tiny import tiny_model, tiny_pairs
from tests.training_parts import text_config_without_dropout, tiny_split, tiny_trainer

WORLD_SIZE = 2
NUM_ROWS = 8
# Rows 1 and 6 show one image, and so do 0 and 5: each pair lies on two processes.
IMAGE_IDS = torch.tensor([10, 11, 2, 3, 4, 10, 11, 7])
SIZES = {"even": (4, 4), "uneven": (3, 5)}
# Every term counts, so that a wrong gradient of any shows in the total.
LOSS = LossConfig(guidance=0.5, slot_contrastive=0.7, slot_vision=0.3, slot_diversity=0.4)
TRAINER_SETTINGS: dict[str, Any] = {
    "max_steps": 2,
    "learning_rate": 0.1,
    "optim": "sgd",
    "lr_scheduler_type": "constant",
    "warmup_steps": 0,
    "max_grad_norm": 0.0,
    "weight_decay": 0.0,
    "loss": {"guidance": 0.5, "slot_contrastive": 0.7, "slot_vision": 0.3, "slot_diversity": 0.4},
}


def make_model() -> LeccrModel:
    """The same weights in every process, and no dropout."""
    return tiny_model(text_config=text_config_without_dropout(), dropout=0.0)


def rows_of(first: int, last: int) -> dict[str, Tensor]:
    """A slice of the global batch."""
    return {name: value[first:last] for name, value in tiny_pairs(NUM_ROWS).items()} | {
        "image_ids": IMAGE_IDS[first:last]
    }


def losses_and_gradients(
    model: torch.nn.Module, rows: dict[str, Tensor], gather: Callable[[MatchingBatch], MatchingBatch]
) -> dict[str, Tensor]:
    """Forward and backward: `loss/<term>`, `loss/total`, `grad/<parameter>`."""
    criterion = LeccrCriterion(LOSS)
    image_ids = rows.pop("image_ids")
    output = model(**rows)
    terms = criterion(gather(criterion.summarise(output, image_ids)), output.logit_scale)
    total = criterion.total(terms)
    total.backward()
    losses = {f"loss/{name}": value.detach().reshape(1) for name, value in (terms | {"total": total}).items()}
    return losses | gradients_of(model)


def gradients_of(model: torch.nn.Module) -> dict[str, Tensor]:
    return {
        f"grad/{name.removeprefix('module.')}": value.grad.clone()
        for name, value in model.named_parameters()
        if value.grad is not None
    }


def gather_local_slice(batch: MatchingBatch) -> MatchingBatch:
    """How the released code gathers: rows of other processes come without gradient."""

    def gather(rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(WORLD_SIZE)]
        dist.all_gather(parts, rows.detach().contiguous())
        parts[dist.get_rank()] = rows
        return torch.cat(parts)

    return batch.map(gather)


def run_gather(folder: Path, case: str, sizes: tuple[int, int], gather: Callable) -> None:
    rank = dist.get_rank()
    first = sum(sizes[:rank])
    model = DistributedDataParallel(make_model())
    found = losses_and_gradients(model, rows_of(first, first + sizes[rank]), gather)
    save_file(found, folder / f"{case}-{rank}.safetensors")


def run_trainer(folder: Path) -> None:
    """Two steps through accelerate: half of the batch in each process; then an evaluation in both."""
    trainer = tiny_trainer(
        folder / "trainer",
        make_model(),
        validation=tiny_split(),
        per_device_train_batch_size=NUM_ROWS // 2 // WORLD_SIZE,
        **TRAINER_SETTINGS,
    )
    if trainer.accelerator.num_processes != WORLD_SIZE:
        raise RuntimeError(f"the trainer runs {trainer.accelerator.num_processes} processes, not {WORLD_SIZE}.")
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    found = {
        f"{name}/{step}": torch.tensor([float(value)])
        for step, entry in enumerate(logged)
        for name, value in entry.items()
        if name == "loss" or name.startswith("loss/")
    }
    metrics = {f"metric/{name}": torch.tensor([value]) for name, value in trainer.evaluate().items()}
    weights = {f"weight/{name}": value.contiguous() for name, value in trainer.model.state_dict().items()}
    save_file(found | metrics | weights, folder / f"trainer-{dist.get_rank()}.safetensors")


def main(folder: Path) -> None:
    """All cases, for starting a process costs more than they do."""
    torch.set_num_threads(1)
    PartialState(cpu=True)
    if not dist.is_initialized() or dist.get_world_size() != WORLD_SIZE or dist.get_backend() != "gloo":
        raise RuntimeError(f"expected {WORLD_SIZE} gloo processes, got {PartialState()}.")
    for case, sizes in SIZES.items():
        run_gather(folder, case, sizes, gather_batch)
    run_gather(folder, "local-slice", SIZES["even"], gather_local_slice)
    run_trainer(folder)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
