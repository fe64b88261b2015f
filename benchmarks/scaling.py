"""What a training step sends and holds, by formula and as measured, for docs/SCALING.md.

    python -m benchmarks.scaling --write docs/SCALING.md
    python -m benchmarks.scaling --tiny --processes 2

Bytes are counted in real gloo processes on this machine: every collective that the gather of embeddings calls, and
every bucket of gradients that DDP exchanges. They must equal the formulas before a table is printed. Memory is counted
as the tensors that autograd keeps, at the published geometry (ViT-B/32 at 224 px, mBERT-base, descriptions of 60 to
120 tokens) with random weights.
"""

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from benchmarks import commands, measuring, sizes
from benchmarks.measuring import GIBIBYTE, MEBIBYTE
from benchmarks.processes import run_processes
from modeling_leccr import LeccrConfig, packing_leccr
from modeling_leccr.losses_leccr import LeccrCriterion, LossConfig, MatchingBatch
from modeling_leccr.training.gather import gather_batch
from processing.files import write_json_atomic

NAME = "scaling"
FLOAT32 = 4
ID = 8
# float32 weights and gradients, and the two float32 moments of AdamW.
BYTES_PER_PARAMETER = 16
BATCHES = (128, 1024, 4096, 16_384, 65_536)
ACTIVATION_BATCHES = (2, 4)
TOKENS = {"caption": 16, "description": 90}  # of a pair on average, see benchmarks/sizes.py


def row_bytes(config: LeccrConfig) -> int:
    """Bytes of a pair's row: what every process is sent of it in a step.

    In float32 three embeddings, the embeddings of the slots, the mean directions of slots and patches and the mean
    similarity of the slots; and an id.
    """
    floats = 3 * config.embed_dim
    if config.has_slots:
        floats += config.num_slots * config.embed_dim + 2 * config.slot_dim + 1
    return FLOAT32 * floats + ID


def token_bytes(config: Any) -> int:
    """Bytes of a pair, were the states of its tokens gathered instead of its row."""
    patches = (config.vision_config.image_size // config.vision_config.patch_size) ** 2 + 1
    text_tokens = 2 * TOKENS["caption"] + TOKENS["description"]
    return FLOAT32 * (patches * config.slot_dim + text_tokens * config.text_config.hidden_size)


def sent_bytes(model: Any, pairs: int, processes: int) -> dict[str, int]:
    """Bytes that a process hands to each kind of collective in a step; a gather brings as many of each process."""
    trained = sum(value.numel() for value in model.parameters() if value.requires_grad)
    return {
        "all_gather of embeddings": pairs // processes * (row_bytes(model.config) - ID),
        "all_gather of ids": pairs // processes * ID,
        "all_gather of counts": ID,
        "all_reduce of gradients": FLOAT32 * trained,
    }


def loss_matrices(config: LeccrConfig) -> int:
    """Float32 matrices (pairs x pairs) that autograd keeps of all terms together, were none freed before the last.

    Raises:
        FormsDifferError: what is kept is no whole number of such matrices and of rows.
    """
    step = 64
    first, second, third = (kept_by_losses(config, pairs) for pairs in (step, 2 * step, 3 * step))
    matrices = (third - 2 * second + first) / (2 * step**2 * FLOAT32)
    if matrices != round(matrices):
        raise measuring.FormsDifferError(f"the losses keep {matrices} matrices, which is no whole number.")
    return round(matrices)


def kept_by_losses(config: LeccrConfig, pairs: int) -> int:
    """Bytes that autograd keeps between forward and backward of all terms."""
    rows, criterion = random_rows(config, pairs), LeccrCriterion(LossConfig())
    logit_scale = torch.zeros(1, requires_grad=True)
    return measuring.saved_bytes(lambda: criterion.total(criterion(rows, logit_scale)))


def random_rows(config: LeccrConfig, pairs: int) -> MatchingBatch:
    """What the losses read of a batch; leaves, as the gradient cache has them."""

    def directions(*shape: int) -> Tensor:
        return torch.nn.functional.normalize(torch.randn(*shape), dim=-1).requires_grad_()

    return MatchingBatch(
        torch.arange(pairs),
        image_embeds=directions(pairs, config.embed_dim),
        source_embeds=directions(pairs, config.embed_dim),
        target_embeds=directions(pairs, config.embed_dim),
        slot_embeds=directions(pairs, config.num_slots, config.embed_dim),
        slot_summary=directions(pairs, config.slot_dim),
        patch_summary=directions(pairs, config.slot_dim),
        slot_similarity=torch.rand(pairs, requires_grad=True),
    )


def activation_bytes(model: Any) -> float:
    """Bytes of activations that a pair adds to a step, padded as on a GPU."""

    def kept(pairs: int) -> int:
        batch = sizes.training_batch(model, pairs)
        del batch["image_ids"]
        return measuring.saved_bytes(lambda: model(**batch))

    with mock.patch.object(packing_leccr, "_can_pack", return_value=False):
        few, many = (kept(pairs) for pairs in ACTIVATION_BATCHES)
    return (many - few) / (ACTIVATION_BATCHES[1] - ACTIVATION_BATCHES[0])


class CountedCollectives:
    """Counts the bytes that this process hands to collectives."""

    def __init__(self) -> None:
        self.bytes: Counter[str] = Counter()

    def counting(self, collective: Callable[..., Any]) -> Callable[..., Any]:
        """A collective of torch.distributed that is counted."""

        def call(outputs: list[Tensor], own: Tensor, *args: Any, **kwargs: Any) -> Any:
            kind = "embeddings" if own.is_floating_point() else "ids" if len(own) > 1 else "counts"
            self.bytes[f"all_gather of {kind}"] += own.nbytes
            return collective(outputs, own, *args, **kwargs)

        return call

    def reduce_bucket(self, group: Any, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        """DDP's own mean of a bucket of gradients, counted."""
        self.bytes["all_reduce of gradients"] += bucket.buffer().nbytes
        bucket.buffer().div_(dist.get_world_size())
        # Waited for here: a callback would be freed by gloo's thread, which needs the interpreter's lock for it, while
        # DDP holds the lock and waits for that thread to end. Neither would go on.
        dist.all_reduce(bucket.buffer())
        mean: torch.futures.Future[Tensor] = torch.futures.Future()
        mean.set_result(bucket.buffer())
        return mean


def step_in_process(folder: Path, pairs: int, seed: int) -> None:
    """One process of a step of tiny towers; it leaves what it counted."""
    rank, processes = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(seed)
    model = sizes.build_model(tiny=True).train()
    batch = {name: value.chunk(processes)[rank] for name, value in sizes.training_batch(model, pairs).items()}
    image_ids, criterion, counted = batch.pop("image_ids"), LeccrCriterion(LossConfig()), CountedCollectives()
    wrapped = DistributedDataParallel(model)
    wrapped.register_comm_hook(None, counted.reduce_bucket)
    output = wrapped(**batch)
    with mock.patch.object(dist, "all_gather", counted.counting(dist.all_gather)):
        rows = gather_batch(criterion.summarise(output, image_ids))
    criterion.total(criterion(rows, output.logit_scale)).backward()
    write_json_atomic(folder / f"{rank}.json", dict(counted.bytes))


def communication(numbers: Sequence[int], pairs: int, seed: int) -> list[dict[str, Any]]:
    """Rows of the table: what one process of a step hands over, counted and by formula, for numbers of processes.

    Raises:
        FormsDifferError: a count is not what the formula says.
        ProcessesFailedError: a process failed or hung.
    """
    # All forks before this process computes, which gives it threads of its own.
    counted = {number: counted_bytes(number, pairs, seed) for number in numbers}
    model, rows = sizes.build_model(tiny=True), []
    for number, counts in counted.items():
        expected = sent_bytes(model, pairs, number)
        if any(count != expected for count in counts):
            raise measuring.FormsDifferError(f"{number} processes sent {counts}; by formula it is {expected}.")
        rows += [
            {"processes": number, "pairs": pairs, "collective": kind, "counted": counts[0][kind], "formula": size}
            for kind, size in expected.items()
        ]
    return rows


def counted_bytes(processes: int, pairs: int, seed: int) -> list[dict[str, int]]:
    """Bytes that each process of a step hands to each kind of collective."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run_processes(step_in_process, folder, pairs, seed, world_size=processes, method="fork")
        return [json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(processes)]


def run(options: argparse.Namespace) -> None:
    """Count, compare, report."""
    # The first, for a process that has threads must not fork.
    counted = communication(options.processes, options.pairs, options.seed)
    model: Any = sizes.build_model(tiny=options.tiny).train()
    parameters = sum(value.numel() for value in model.parameters())
    activations, matrices = activation_bytes(model), loss_matrices(model.config)
    weights = BYTES_PER_PARAMETER * parameters
    rows = []
    for pairs in BATCHES:
        gathered, losses = pairs * row_bytes(model.config), matrices * FLOAT32 * pairs**2
        chunk = min(pairs, options.chunk)
        rows.append(
            {
                "pairs": pairs,
                "gathered_mib": gathered / MEBIBYTE,
                "tokens_instead_mib": pairs * token_bytes(model.config) / MEBIBYTE,
                "loss_matrices_gib": losses / GIBIBYTE,
                "direct_gib": (weights + pairs * activations + losses) / GIBIBYTE,
                f"chunks_of_{options.chunk}_gib": (weights + chunk * activations + losses + 2 * gathered) / GIBIBYTE,
            }
        )
    facts = {
        "parameters": parameters,
        "row_bytes": row_bytes(model.config),
        "token_bytes": token_bytes(model.config),
        "activation_bytes": activations,
        "loss_matrices": matrices,
    }
    commands.report(
        NAME,
        options,
        text_of(facts, model.config, counted, rows),
        data=f"{options.pairs} random pairs in the counted steps",
        tiny=options.tiny,
        **facts,
        communication=counted,
        rows=rows,
    )


def text_of(
    facts: dict[str, Any], config: LeccrConfig, counted: list[dict[str, Any]], rows: list[dict[str, Any]]
) -> str:
    """The tables and the numbers that they are made of."""
    small: Any = sizes.build_model(tiny=True).config
    of_counted = (
        f"Counted: bytes that one process hands over in a step. Tiny towers ({_dimensions(small)}), whose rows have "
        f"{row_bytes(small)} bytes."
    )
    of_computed = (
        f"Computed, not measured, from what autograd keeps of a few pairs: the memory of one process that holds all "
        f"pairs, at {_dimensions(config)}. {facts['parameters'] / 1e6:.1f} million parameters have "
        f"{BYTES_PER_PARAMETER} bytes each with gradient and AdamW, "
        f"{BYTES_PER_PARAMETER * facts['parameters'] / GIBIBYTE:.2f} GiB. A row has {facts['row_bytes']:,} bytes; the "
        f"states of a pair's tokens would have {facts['token_bytes'] / MEBIBYTE:.2f} MiB. A pair's activations take "
        f"{facts['activation_bytes'] / MEBIBYTE:.0f} MiB in float32, the losses keep {facts['loss_matrices']} matrices "
        f"of pairs x pairs at most."
    )
    return "\n\n".join([of_counted, commands.table(counted), of_computed, commands.table(rows)])


def _dimensions(config: LeccrConfig) -> str:
    return f"D = {config.embed_dim}, H = {config.slot_dim}, K = {config.num_slots}"


def main(argv: list[str] | None = None) -> int:
    """Count and print the tables; see the module's docstring."""
    parser = commands.arguments(NAME, __doc__)
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4], help="of the counted steps (default: 2 4)")
    parser.add_argument("--pairs", type=int, default=16, help="in the counted steps, a multiple of the processes")
    parser.add_argument("--chunk", type=int, default=128, help="pairs of a chunk in the table of memory (default: 128)")
    parser.add_argument("--tiny", action="store_true", help="toy sizes, to see that the benchmark works")
    return commands.main_of(run, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
