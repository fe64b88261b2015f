"""A bf16 training step on one GPU, at once and with the gradient cache, against the official form of the step.

    python -m benchmarks.gpu_step --write docs/SCALING.md
    python -m benchmarks.gpu_step --device cpu --size tiny      # shows that it runs; its times say nothing

ViT-B/32 at 224 px and mBERT-base from random weights; forward under bf16 autocast, losses, backward and AdamW on
float32 weights. Captions have 12 to 20 tokens, descriptions 60 to 120. Losses and gradients of the two forms are
compared in float32 before any time is taken. Every share is of the bf16 matrix peak that the same run measures.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import convert_to_fp32
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import gradient_cache, measuring, official_form, sizes, training_step
from benchmarks.marked_text import write_part
from modeling_leccr import LeccrModel
from processing.files import write_json_atomic
from reporting.report import markdown_table

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
    options = build_parser().parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("error: torch sees no GPU; `--device cpu --size tiny` shows that the benchmark runs.", file=sys.stderr)
        return 1
    try:
        report = run(options)
    except measuring.FormsDifferError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    write_json_atomic(options.output, report)
    print(text_of(report))
    print(f"\nwritten: {options.output}")
    if options.write is not None:
        write_part(options.write, NAME, text_of(report))
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{NAME}", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", choices=("real", "tiny"), default="real", help="of the towers")
    parser.add_argument("--batch-size", type=int, default=128, help="pairs of the direct steps (default: 128)")
    parser.add_argument("--large-batch", type=int, default=4096, help="pairs of the cached step (default: 4096)")
    parser.add_argument("--chunk", type=int, default=128, help="pairs of a chunk of the cached step (default: 128)")
    parser.add_argument("--repeats", type=int, default=10, help="timed steps of each kind; the median counts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=measuring.OUTPUT_FOLDER / f"{NAME}.json", help="JSON file")
    parser.add_argument("--write", type=Path, help="document whose table is replaced, such as docs/SCALING.md")
    return parser


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Check, time, and everything that is known of it."""
    torch.manual_seed(options.seed)
    device = torch.device(options.device)
    model: Any = sizes.build_model(tiny=options.size == "tiny").train()
    model.to(device)
    differences = compare(model, batch_on(device, model, min(COMPARED_PAIRS, options.batch_size)))
    small, large = (batch_on(device, model, pairs) for pairs in (options.batch_size, options.large_batch))
    peak = matrix_peak(device, PEAK_SIZES[options.size])
    rows = [
        measured(form, options.repeats if form.pairs == options.batch_size else max(options.repeats // 5, 1), device)
        for form in (direct("official", model, small), direct("ours", model, small), cached(model, large, options))
    ]
    peak = max(peak, matrix_peak(device, PEAK_SIZES[options.size]))
    for row in rows:
        row["share_of_peak"] = row["tflops"] / peak
    return {
        "benchmark": NAME,
        "card": torch.cuda.get_device_name() if device.type == "cuda" else None,
        "machine": measuring.machine(),
        "seed": options.seed,
        "size": options.size,
        "chunk": options.chunk,
        "shapes": {name: list(value.shape) for name, value in small.items()},
        "largest_differences": differences,
        "bf16_matrix_peak_tflops": peak,
        "rows": rows,
    }


def batch_on(device: torch.device, model: LeccrModel, pairs: int) -> dict[str, Tensor]:
    """Random pairs in the memory of the device."""
    return {name: value.to(device) for name, value in sizes.training_batch(model, pairs).items()}


def compare(model: LeccrModel, batch: dict[str, Tensor]) -> dict[str, float]:
    """Largest difference of a loss and of a gradient (relative to the largest of its parameter), in float32.

    Raises:
        FormsDifferError: it is beyond TOLERANCE.
    """
    ours, official = (training_step.Step(form, model, batch).results() for form in ("ours", "official"))
    for name, value in official.items():
        if name.startswith("gradient/"):
            scale = 1 / value.abs().max().clamp_min(1e-2)
            ours[name], official[name] = ours[name] * scale, value * scale
    differences = measuring.check_equal(ours, official, TOLERANCE)
    return {
        kind: max(value for name, value in differences.items() if name.startswith(f"{kind}/"))
        for kind in ("loss", "gradient")
    }


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
    accelerator = Accelerator(cpu=options.device == "cpu")
    step = gradient_cache.Step(wrapped, batch, options.chunk)
    step.accelerator = accelerator
    optimizer = torch.optim.AdamW(model.parameters(), fused=True, **training_step.ADAMW)
    return Form(f"ours, chunks of {options.chunk}", step, optimizer, len(batch["image_ids"]))


def measured(form: Form, repeats: int, device: torch.device) -> dict[str, Any]:
    """A row of the table: the first step is counted, the second warms up, the others are timed."""
    with FlopCounterMode(display=False) as counter:
        form()
    form()
    synchronise(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        form()
        synchronise(device)
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    return {
        "step": form.name,
        "pairs": form.pairs,
        "seconds": median,
        "pairs_per_second": form.pairs / median,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None,
        "tflops": counter.get_total_flops() / median / 1e12,
        "all_seconds": seconds,
    }


def matrix_peak(device: torch.device, size: int, repeats: int = 10) -> float:
    """TFLOP/s of the best of a few products of square bf16 matrices."""
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for _ in range(repeats):
        synchronise(device)
        start = time.perf_counter()
        left @ right
        synchronise(device)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds) / 1e12


def synchronise(device: torch.device) -> None:
    """Wait for the queue of a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def text_of(report: dict[str, Any]) -> str:
    """The table, and what it was measured on."""
    peak, difference = shown(report["bf16_matrix_peak_tflops"]), report["largest_differences"]["loss"]
    facts = (
        f"{report['card'] or 'CPU'}, {report['size']} towers, bf16 matrix peak {peak} TFLOP/s in the same run, torch "
        f"{torch.__version__}, seed {report['seed']}. In float32 the losses of the forms differ by {difference:.1e}."
    )
    return f"{facts}\n\n{markdown_table(COLUMNS, [[shown(row[name]) for name in COLUMNS] for row in report['rows']])}"


def shown(value: Any) -> str:
    """A number with the digits that tell."""
    if not isinstance(value, float):
        return "" if value is None else str(value)
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


if __name__ == "__main__":
    sys.exit(main())
