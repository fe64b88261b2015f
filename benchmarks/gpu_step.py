"""A bf16 training step on one GPU, at once and with the gradient cache, against the official form of the step.

    python -m benchmarks.gpu_step --write docs/SCALING.md
    python -m benchmarks.gpu_step --device cpu --size tiny      # shows that it runs; its times say nothing

ViT-B/32 at 224 px and mBERT-base from random weights; forward under bf16 autocast, losses, backward and AdamW on
float32 weights. Captions have 12 to 20 tokens, descriptions 60 to 120. Losses and gradients of the two forms are
compared in float32 before any time is taken. Every share is of the bf16 matrix peak that the same run measures; the
second forward pass of the gradient cache counts as work.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from accelerate.utils import convert_to_fp32
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import commands, gradient_cache, measuring, official_form, sizes, training_step
from modeling_leccr import LeccrModel

NAME = "gpu_step"
COMPARED_PAIRS = 8
# Of the loss, and of the largest gradient of a parameter; other kernels than on the CPU, so more than there.
TOLERANCE = 1e-4
COLUMNS = ("step", "pairs", "seconds", "pairs_per_second", "peak_gib", "tflops", "share_of_peak")
PEAK_SIZES = {"real": 8192, "tiny": 256}


class Bfloat16(nn.Module):
    """A form of the forward under autocast, as accelerate runs it: what it returns is float32 again."""

    def __init__(self, model: LeccrModel, forward: Callable[..., Any]) -> None:
        super().__init__()
        self.model, self.function = model, forward

    def forward(self, **inputs: Tensor) -> Any:
        """As the function's."""
        with torch.autocast(self.model.device.type, dtype=torch.bfloat16):
            return convert_to_fp32(self.function(**inputs))


class Form:
    """One way to take a step.

    Args:
        name: for the table.
        backward: leaves the gradients of a batch.
        optimizer: takes the step.
        pairs: in the batch.
    """

    def __init__(self, name: str, backward: Callable[[], Any], optimizer: torch.optim.Optimizer, pairs: int) -> None:
        self.name, self.backward, self.optimizer, self.pairs = name, backward, optimizer, pairs

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        self.backward()
        self.optimizer.step()


def main(argv: list[str] | None = None) -> int:
    """Compare, then time; see the module's docstring."""
    parser = commands.arguments(NAME, __doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", choices=("real", "tiny"), default="real", help="of the towers")
    parser.add_argument("--batch-size", type=int, default=128, help="pairs of the direct steps (default: 128)")
    parser.add_argument("--large-batch", type=int, default=4096, help="pairs of the cached step (default: 4096)")
    parser.add_argument("--chunk", type=int, default=128, help="pairs of a chunk of the cached step (default: 128)")
    parser.add_argument("--repeats", type=int, default=10, help="timed steps of each kind; the median counts")
    return commands.main_of(run, parser, argv)


def run(options: argparse.Namespace) -> None:
    """Check, time, report."""
    device = options.device
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("error: torch sees no GPU; `--device cpu --size tiny` shows that the benchmark runs.")
    model: Any = sizes.build_model(tiny=options.size == "tiny").train()
    model.to(device)
    differences = compare(model, batch_on(device, model, min(COMPARED_PAIRS, options.batch_size)))
    small, large = (partial(batch_on, device, model, pairs) for pairs in (options.batch_size, options.large_batch))
    peak = matrix_peak(options)
    rows = []
    # One after the other, each with its batch: what one form holds must not count in the peak of the next.
    for make in (
        lambda: direct("official", model, small()),
        lambda: direct("ours", model, small()),
        lambda: cached(model, large(), options),
    ):
        form = make()
        repeats = options.repeats if form.pairs == options.batch_size else max(options.repeats // 5, 1)
        rows.append(measured(form, repeats, device))
        del form
        model.zero_grad()
    peak = max(peak, matrix_peak(options))
    for row in rows:
        row["share_of_peak"] = row["tflops"] / peak
    facts = (
        f"bf16 matrix peak in the same run: {commands.shown(peak)} TFLOP/s. In float32 the losses of the forms differ "
        f"by {commands.shown(differences['loss'])} at most."
    )
    commands.report(
        NAME,
        options,
        f"{commands.table(rows, COLUMNS)}\n\n{facts}",
        data=f"random pairs, {options.size} towers, bf16, {device}",
        shapes={name: list(value.shape) for name, value in sizes.training_batch(model, options.batch_size).items()},
        largest_differences=differences,
        bf16_matrix_peak_tflops=peak,
        rows=rows,
    )


def matrix_peak(options: argparse.Namespace) -> float:
    """TFLOP/s of the best of a few products of square bf16 matrices."""
    size = PEAK_SIZES[options.size]
    return measuring.matrix_peak(torch.bfloat16, size=size, repeats=10, device=options.device) / 1e3


def batch_on(device: str, model: LeccrModel, pairs: int) -> dict[str, Tensor]:
    """Random pairs in the memory of the device."""
    return {name: value.to(device) for name, value in sizes.training_batch(model, pairs).items()}


def compare(model: LeccrModel, batch: dict[str, Tensor]) -> dict[str, float]:
    """Largest difference of a loss and of a gradient (relative to the largest of its parameter), in float32.

    Raises:
        FormsDifferError: it is beyond TOLERANCE.
    """
    ours, official = (training_step.Step(form, model, batch).results() for form in ("ours", "official"))
    differences = measuring.check_step(ours, official, TOLERANCE)
    return {kind: measuring.largest(differences, f"{kind}/") for kind in ("loss", "gradient")}


def direct(form: str, model: LeccrModel, batch: dict[str, Tensor]) -> Form:
    """The whole batch at once, in our form or the official one; the latter keeps AdamW as torch chooses it."""
    step = training_step.Step(form, model, batch)
    run = Bfloat16(model, model if form == "ours" else lambda **inputs: official_form.forward(model, inputs))
    return Form(
        form,
        lambda: step.criterion.total(step.terms(run(**step.inputs))).backward(),
        step.optimizer,
        len(step.image_ids),
    )


def cached(model: LeccrModel, batch: dict[str, Tensor], options: argparse.Namespace) -> Form:
    """A large batch in chunks."""
    wrapped: Any = Bfloat16(model, model)
    step = gradient_cache.Step(wrapped, batch, options.chunk)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True, **training_step.ADAMW)
    return Form(f"ours, chunks of {options.chunk}", step, optimizer, len(batch["image_ids"]))


def measured(form: Form, repeats: int, device: str) -> dict[str, Any]:
    """A row of the table: the first step is counted, the second warms up, the others are timed."""
    with FlopCounterMode(display=False) as counter:
        form()
    form()
    measuring.synchronise(device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        form()
        measuring.synchronise(device)
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    return {
        "step": form.name,
        "pairs": form.pairs,
        "seconds": median,
        "pairs_per_second": form.pairs / median,
        "peak_gib": torch.cuda.max_memory_allocated() / measuring.GIBIBYTE if device == "cuda" else None,
        "tflops": counter.get_total_flops() / median / 1e12,
        "all_seconds": seconds,
    }


if __name__ == "__main__":
    sys.exit(main())
