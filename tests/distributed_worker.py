"""What the processes of tests/test_distributed.py do: 1, 2 and 4 of them run all cases.

Each case writes what every process found, and what one process finds with the whole batch, to
FOLDER/<case>-<rank or expected>.safetensors.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from modeling_leccr import LeccrModel
from modeling_leccr.losses_leccr import LeccrCriterion, LossConfig, MatchingBatch
from modeling_leccr.training.gather import gather_batch, row_counts
from modeling_leccr.training.gradient_cache import cached_backward, chunk_slices, count_chunks
from tests.gather_worker import gather_rows
from tests.tiny import tiny_model, tiny_pairs, tiny_text_config, tiny_vision_config
from tests.training_parts import GRADIENT_DESCENT, LOSS, text_config_without_dropout, tiny_split, tiny_trainer

WORLD_SIZES = (1, 2, 4)
SEEDS = (0, 1)
NUM_ITEMS = 8
TRAINER_SETTINGS: dict[str, Any] = {**GRADIENT_DESCENT, "max_steps": 2, "max_grad_norm": 0.0, "loss": LOSS}


@dataclass(frozen=True)
class Case:
    """One step on a global batch.

    Args:
        name: of the files.
        seed: of weights, rows and random numbers.
        sizes: rows of each process in each accumulated batch: (batches, processes).
        chunk_size: of the gradient cache; None for the direct step.
        dropout: on, or off.
        lora: train an adapter of the text tower and the heads, with the vision tower frozen.
    """

    name: str
    seed: int
    sizes: tuple[tuple[int, ...], ...]
    chunk_size: int | None = None
    dropout: bool = False
    lora: bool = False


SPLIT = Case("split-weights", seed=3, sizes=((3, 4), (4, 3)), chunk_size=2, dropout=True)
LOCAL_SLICE = Case("local-slice", seed=0, sizes=((3, 3),))


def cases(world_size: int, seeds: tuple[int, ...]) -> list[Case]:
    """Each chunk size, with dropout for every other one and in the next seed for the others; all else by chance:
    weights and rows, numbers of rows even or not, one or several batches accumulated, and some processes with fewer
    rows than others have chunks."""
    found = []
    for seed in seeds:
        chance = random.Random(100 * seed + world_size)
        for number, chunk_size in enumerate((None, 1, 3, 99)):
            dropout = (number + seed) % 2 == 1
            num_batches = 2 if chunk_size == 1 else chance.choice((1, 2))
            even = (chance.randint(2, 3),) * world_size
            uneven = tuple(chance.randint(1, 4) + (world_size == 1) for _ in range(world_size))
            sizes = tuple(chance.choice((even, uneven, uneven)) for _ in range(num_batches))
            name = f"w{world_size}-s{seed}-chunk{chunk_size}-{'dropout' if dropout else 'plain'}"
            found.append(Case(name, chance.randrange(1000), sizes, chunk_size, dropout))
    for chunk_size in (None, 2):
        sizes = ((3,) * world_size, (3,) * world_size)
        found.append(Case(f"w{world_size}-lora-chunk{chunk_size}", 0, sizes, chunk_size, dropout=True, lora=True))
    return found


def make_model(seed: int = 0, *, dropout: bool = False, lora: bool = False) -> LeccrModel:
    """The same weights in every process; training mode, and with no dropout unless asked for."""
    text_config = tiny_text_config() if dropout else text_config_without_dropout()
    vision_config = tiny_vision_config()
    text_config.num_hidden_layers = vision_config.num_hidden_layers = 1
    fields = {"dropout": 0.2, "description_dropout": 0.4} if dropout else {"dropout": 0.0}
    model = tiny_model(seed=seed, text_config=text_config, vision_config=vision_config, **fields)
    if lora:
        heads = [name for name, _ in model.named_children() if name not in ("text_model", "vision_model")]
        config = LoraConfig(r=2, target_modules=["query", "value"], modules_to_save=heads, lora_dropout=0.2)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model.add_adapter(config)
            for name, parameter in model.named_parameters():
                if "lora_B" in name:  # zeros hide the adapter's dropout
                    torch.nn.init.normal_(parameter)
    return model.train()


def rows_of(case: Case, batch: int, first: int, last: int) -> dict[str, Tensor]:
    """A slice of a global batch; about half of its rows show an image that another row shows too."""
    num_rows = sum(case.sizes[batch])
    seed = 10 * case.seed + batch
    image_ids = torch.randint(0, max(2, num_rows), (num_rows,), generator=torch.Generator().manual_seed(seed))
    image_ids[:2] = torch.tensor([0, 1])  # a batch of one image has no negatives
    rows = {**tiny_pairs(num_rows, seed=seed), "image_ids": image_ids}
    return {name: value[first:last] for name, value in rows.items()}


def share_of(case: Case, batch: int, rank: int) -> dict[str, Tensor]:
    first = sum(case.sizes[batch][:rank])
    return rows_of(case, batch, first, first + case.sizes[batch][rank])


def seed_process(case: Case, rank: int) -> None:
    """Processes draw other random numbers, as they do in training."""
    torch.manual_seed(1000 * case.seed + rank)


class Found:
    """Losses, gradients and the next random number after a step, by name."""

    def __init__(self) -> None:
        self.criterion = LeccrCriterion(LossConfig(**LOSS))
        self.values: dict[str, Tensor] = {}
        self.num_losses = 0

    def loss_of(self, batch: MatchingBatch, logit_scale: Tensor) -> Tensor:
        """The total; its terms are kept."""
        terms = self.criterion(batch, logit_scale)
        total = self.criterion.total(terms)
        for name, value in {**terms, "total": total}.items():
            self.values[f"loss/{self.num_losses}/{name}"] = value.detach().reshape(1).clone()
        self.num_losses += 1
        return total

    def add_gradients(self, model: torch.nn.Module) -> None:
        for name, value in model.named_parameters():
            if value.grad is not None:
                whole = value.grad.full_tensor() if isinstance(value.grad, DTensor) else value.grad
                self.values[f"grad/{name.removeprefix('module.')}"] = whole.clone()


class SplitAccelerator:
    """What a step needs of accelerate where weights are split over processes (FSDP2), left out by it on the CPU."""

    process_index = property(lambda self: dist.get_rank())

    def prepare_model(self, model: LeccrModel) -> torch.nn.Module:
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for part in (*model.text_model.encoder.layer, *model.semantic_slots.layers, model):
            fully_shard(part, mesh=mesh)
        return model

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    @contextmanager
    def no_sync(self, model: Any) -> Iterator[None]:
        model.set_requires_gradient_sync(False)
        yield
        model.set_requires_gradient_sync(True)


def run_case(case: Case, accelerator: Any, gather: Callable = gather_batch) -> dict[str, Tensor]:
    """What this process finds with its share of the rows."""
    rank, found = accelerator.process_index, Found()
    model = accelerator.prepare_model(make_model(case.seed, dropout=case.dropout, lora=case.lora))
    seed_process(case, rank)
    for batch in range(len(case.sizes)):
        inputs = share_of(case, batch, rank)
        image_ids = inputs.pop("image_ids")
        holds_back = batch < len(case.sizes) - 1 and isinstance(model, DistributedDataParallel)
        if holds_back:
            model.require_backward_grad_sync = False  # as `no_sync`, which the trainer enters
        if case.chunk_size is None:
            output = model(**inputs)
            rows = gather(found.criterion.summarise(output, image_ids))
            accelerator.backward(found.loss_of(rows, output.logit_scale) / len(case.sizes))
        else:
            sizes = row_counts(image_ids)
            cached_backward(
                model,
                inputs,
                image_ids,
                num_chunks=count_chunks(sizes, case.chunk_size),
                summarise=found.criterion.summarise,
                loss_of=lambda rows, scale, sizes=sizes: found.loss_of(gather(rows, sizes), scale),
                accelerator=accelerator,
                divisor=len(case.sizes),
            )
        if holds_back:
            model.require_backward_grad_sync = True
    found.add_gradients(model)
    found.values["random/next"] = torch.rand(1)
    return found.values


def expected_of(case: Case) -> dict[str, Tensor]:
    """The same in one process: without dropout the whole batch at once; with it, every chunk of every process after
    the other with the random numbers of that process, and all graphs kept until the loss of all rows."""
    model, found = make_model(case.seed, dropout=case.dropout, lora=case.lora), Found()
    rows: list[list[MatchingBatch]] = [[] for _ in case.sizes]
    for rank in range(len(case.sizes[0])):
        seed_process(case, rank)
        for batch, sizes in enumerate(case.sizes):
            inputs = share_of(case, batch, rank)
            num_chunks = 1 if case.chunk_size is None else -(-max(sizes) // case.chunk_size)
            for position, chunk in enumerate(chunk_slices(sizes[rank], num_chunks)):
                part = {name: value[chunk] for name, value in inputs.items()}
                image_ids = part.pop("image_ids")
                output = model(**part)
                if position < sizes[rank]:
                    rows[batch].append(found.criterion.summarise(output, image_ids))
        found.values[f"random/next-{rank}"] = torch.rand(1)
    for batch, parts in enumerate(rows):
        if case.dropout:
            whole = MatchingBatch(**{name: torch.cat([vars(part)[name] for part in parts]) for name in vars(parts[0])})
            logit_scale = output.logit_scale
        else:
            inputs = rows_of(case, batch, 0, sum(case.sizes[batch]))
            image_ids = inputs.pop("image_ids")
            output = model(**inputs)
            whole, logit_scale = found.criterion.summarise(output, image_ids), output.logit_scale
        (found.loss_of(whole, logit_scale) / len(rows)).backward(retain_graph=True)
    found.add_gradients(model)
    return found.values


def gather_local_slice(batch: MatchingBatch, sizes: list[int] | None = None) -> MatchingBatch:
    """How the released code gathers: rows of other processes come without gradient."""

    def gather(rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.detach().contiguous())
        parts[dist.get_rank()] = rows
        return torch.cat(parts)

    return batch.map(gather)


# Name -> number of processes and settings; each takes the steps of one process with all rows, see `one_process`.
TRAINER_RUNS: dict[str, tuple[int, dict[str, Any]]] = {
    "direct": (2, {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 1}),
    "cached": (2, {"per_device_train_batch_size": 4, "gradient_cache_chunk_size": 3}),
    "cached-accumulated": (
        2,
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "gradient_cache_chunk_size": 1},
    ),
    "cached-checkpointing": (
        2,
        {"per_device_train_batch_size": 4, "gradient_cache_chunk_size": 3, "gradient_checkpointing": True},
    ),
    "cached-four": (4, {"per_device_train_batch_size": 2, "gradient_cache_chunk_size": 1}),
}


# Settings that must change nothing but memory and time.
SAVES_MEMORY = ("gradient_cache_chunk_size", "gradient_checkpointing")


def one_process(name: str) -> dict[str, Any]:
    """Settings of the one process that a run must equal."""
    world_size, settings = TRAINER_RUNS[name]
    settings = {key: value for key, value in settings.items() if key not in SAVES_MEMORY}
    return settings | {"per_device_train_batch_size": world_size * settings["per_device_train_batch_size"]}


def run_trainer(folder: Path, name: str) -> None:
    """Two steps through sampler, collator, accelerate and optimizer; then an evaluation in every process."""
    world_size, settings = TRAINER_RUNS[name]
    validation = tiny_split() if name == "direct" else None
    trainer = tiny_trainer(folder / "trainer", make_model(), validation=validation, **TRAINER_SETTINGS, **settings)
    if trainer.accelerator.num_processes != world_size:
        raise RuntimeError(f"the trainer runs {trainer.accelerator.num_processes} processes, not {world_size}.")
    drawn = torch.rand(1)
    trainer.train()
    if trainer.model.text_model.is_gradient_checkpointing != settings.get("gradient_checkpointing", False):
        raise RuntimeError("the activations were not recomputed, so that nothing was tested.")
    found = {**logged_losses(trainer.state.log_history), "drawn": drawn}
    if validation is not None:
        found |= {f"metric/{name}": torch.tensor([value]) for name, value in trainer.evaluate().items()}
    found |= {f"weight/{name}": value.contiguous() for name, value in trainer.model.state_dict().items()}
    save_file(found, folder / f"trainer-{name}-{dist.get_rank()}.safetensors")


def logged_losses(log_history: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Loss and terms of each line of the log."""
    lines = [entry for entry in log_history if "loss" in entry]
    return {
        f"{name}/{step}": torch.tensor([float(value)])
        for step, entry in enumerate(lines)
        for name, value in entry.items()
        if name == "loss" or name.startswith("loss/")
    }


def run_process(folder: Path, world_size: int, seeds: tuple[int, ...]) -> None:
    """All cases of one process, for starting a process costs more than they do."""
    accelerator = Accelerator(cpu=True)
    if accelerator.num_processes != world_size:
        raise RuntimeError(f"expected {world_size} processes, got {accelerator.state}.")
    rank = accelerator.process_index
    steps = [(case, accelerator, gather_batch) for case in cases(world_size, seeds)]
    if world_size == 2:
        gather_rows(folder)
        steps += [(SPLIT, SplitAccelerator(), gather_batch), (LOCAL_SLICE, accelerator, gather_local_slice)]
    for case, how, gather in steps:
        save_file(run_case(case, how, gather), folder / f"{case.name}-{rank}.safetensors")
        if rank == 0:
            save_file(expected_of(case), folder / f"{case.name}-expected.safetensors")
    for name, (wanted, _) in TRAINER_RUNS.items():
        if wanted == world_size:
            run_trainer(folder, name)
