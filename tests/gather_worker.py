"""What two processes of tests/test_distributed.py do besides: gather rows of CL2CM, and go back from a loss of them."""

from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from modeling_leccr.losses_cl2cm import Cl2cmRows, CrossLingualRows
from modeling_leccr.objectives_leccr import BatchRows
from modeling_leccr.training.gather import float_parts, gather_batch

SIZES = (2, 3)
# Name -> type of the rows and the shape of each field behind the rows; fields that are not named are absent.
PARTS: dict[str, tuple[type[BatchRows], dict[str, tuple[int, ...]]]] = {
    "first": (
        CrossLingualRows,
        {
            "source_embeds": (4,),
            "target_embeds": (4,),
            "word_transport": (),
            "word_alignment": (),
            "marginal_error": (),
        },
    ),
    "first-without-words": (CrossLingualRows, {"source_embeds": (4,), "target_embeds": (4,)}),
    "second": (
        Cl2cmRows,
        {
            "image_embeds": (4,),
            "source_embeds": (4,),
            "target_embeds": (4,),
            "teacher_source_embeds": (6,),
            "teacher_target_embeds": (6,),
        },
    ),
}


def make_rows(name: str) -> BatchRows:
    """The global batch, the same in each process; what comes from the teacher or from a plan has no gradient."""
    rows_class, shapes = PARTS[name]
    generator = torch.Generator().manual_seed(len(name))
    values = {key: torch.randn(sum(SIZES), *shape, generator=generator) for key, shape in shapes.items()}
    for key, value in values.items():
        value.requires_grad_(not key.startswith(("teacher", "marginal")))
    return rows_class(image_ids=torch.arange(sum(SIZES)) + 2**40, **values)


def weighted_sum(rows: BatchRows) -> Tensor:
    """A loss to which each number counts differently."""
    flat = torch.cat([value.flatten() for value in float_parts(rows).values()])
    return (flat * torch.arange(1.0, len(flat) + 1)).sum()


def gather_rows(folder: Path) -> None:
    """What one process has of the global batch, and the gradient of its own rows."""
    rank = dist.get_rank()
    for name in PARTS:
        own = make_rows(name).map(lambda value: value.detach().split(SIZES)[rank].requires_grad_(value.requires_grad))
        gathered = gather_batch(own)
        if type(gathered) is not type(own):
            raise TypeError(f"rows of {type(own).__name__} came back as {type(gathered).__name__}.")
        weighted_sum(gathered).backward()
        found = {f"value/{key}": value.detach() for key, value in vars(gathered).items() if value is not None}
        found |= {f"grad/{key}": value.grad for key, value in float_parts(own).items() if value.requires_grad}
        save_file(
            {key: value.contiguous() for key, value in found.items()}, folder / f"gathered-{name}-{rank}.safetensors"
        )
