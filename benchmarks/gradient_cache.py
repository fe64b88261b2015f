"""The gradient cache against the direct step: equal gradients first, then the peak memory and the time of both.

    python -m benchmarks.gradient_cache
    python -m benchmarks.gradient_cache --size real --batch-size 32 --chunks 2 8
    python -m benchmarks.gradient_cache --size real --device cuda --batch-size 512 --chunks 32 128

A step is forward, losses and backward in float32 and without dropout, with which steps in different chunks could not be
equal. Towers are tiny (two layers of width 32) or real (CLIP ViT-B/32 and mBERT-base from random weights). The peak is
that of the first step in a fresh process, above what it held before: resident memory, or on a GPU what torch holds.
Besides gradients it holds the activations of one chunk, or the losses of all pairs (a matrix of pairs x pairs for each
term): both are counted too, as what autograd keeps of them.
"""

import argparse
import statistics
import sys

import torch
from accelerate import Accelerator
from torch import Tensor

from benchmarks import commands, measuring, sizes
from modeling_leccr import LeccrModel
from modeling_leccr.losses_leccr import LeccrCriterion, LossConfig, MatchingBatch
from modeling_leccr.training.gather import float_parts
from modeling_leccr.training.gradient_cache import cached_backward, count_chunks

NAME = "gradient_cache"
TOLERANCE = 1e-5
DIRECT = 0  # as a chunk size: all rows at once
COLUMNS = (
    "step",
    "activations_mib",
    "losses_mib",
    "peak_mib",
    "share_of_memory",
    "seconds",
    "times_direct",
    "max_difference",
)


class Step:
    """Forward, losses and backward of one batch.

    Args:
        model, batch: shared by the steps that are compared; the batch as of `sizes.training_batch`.
        chunk_size: rows whose activations are kept at a time; DIRECT keeps all.
    """

    def __init__(self, model: LeccrModel, batch: dict[str, Tensor], chunk_size: int) -> None:
        self.model, self.chunk_size = model, chunk_size
        self.inputs = {name: value for name, value in batch.items() if name != "image_ids"}
        self.image_ids = batch["image_ids"]
        self.criterion = LeccrCriterion(LossConfig())
        self.accelerator = Accelerator(cpu=self.image_ids.device.type == "cpu")
        self.terms: dict[str, Tensor] = {}

    def __call__(self) -> None:
        """One step; the gradients are left in the parameters."""
        self.model.zero_grad()
        if self.chunk_size == DIRECT:
            output = self.model(**self.inputs)
            self._total(self.criterion.summarise(output, self.image_ids), output.logit_scale).backward()
        else:
            cached_backward(
                self.model,
                self.inputs,
                self.image_ids,
                num_chunks=count_chunks([self.image_ids.shape[0]], self.chunk_size),
                summarise=self.criterion.summarise,
                loss_of=self._total,
                accelerator=self.accelerator,
            )
        measuring.synchronise(self.image_ids.device.type)

    def results(self) -> dict[str, Tensor]:
        """Terms and gradients."""
        self()
        losses = {f"loss/{name}": value for name, value in self.terms.items()}
        gradients = {
            f"gradient/{name}": parameter.grad.clone()
            for name, parameter in self.model.named_parameters()
            if parameter.grad is not None
        }
        return losses | gradients

    def activations_mib(self) -> float:
        """MiB that autograd keeps of the forward of one chunk."""
        num_rows = self.chunk_size or self.image_ids.shape[0]
        # Copied, because a slice would count as the whole tensor that it is cut from.
        part = {name: value[:num_rows].clone() for name, value in self.inputs.items()}
        return measuring.saved_bytes(lambda: self.model(**part)) / measuring.MEBIBYTE

    def losses_mib(self) -> float:
        """MiB that autograd keeps of the losses of all rows."""
        with torch.no_grad():
            output = self.model(**self.inputs)
            rows = self.criterion.summarise(output, self.image_ids)
        leaves = {name: value.requires_grad_() for name, value in float_parts(rows).items()}
        batch = MatchingBatch(image_ids=self.image_ids, **leaves)
        scale = output.logit_scale.detach().requires_grad_()
        return measuring.saved_bytes(lambda: self._total(batch, scale)) / measuring.MEBIBYTE

    def _total(self, rows: MatchingBatch, logit_scale: Tensor) -> Tensor:
        terms = self.criterion(rows, logit_scale)
        self.terms = {name: value.detach() for name, value in terms.items()}
        return self.criterion.total(terms)


def main(argv: list[str] | None = None) -> int:
    """Compare, measure and time; see the module's docstring."""
    parser = commands.arguments(NAME, __doc__)
    parser.add_argument("--size", choices=("tiny", "real"), default="tiny", help="of the towers (default: tiny)")
    parser.add_argument("--batch-size", type=int, default=512, help="pairs in a step (default: 512)")
    parser.add_argument("--chunks", type=int, nargs="+", default=[8, 32, 128], help="chunk sizes (default: 8 32 128)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeats", type=int, default=3, help="timed steps of each kind; the median counts")
    parser.add_argument("--peak-of", type=int, help=argparse.SUPPRESS)  # in a child process of the benchmark
    return commands.main_of(run, parser, argv)


def run(options: argparse.Namespace) -> None:
    """Check, measure, time, report."""
    model, batch = build(options)
    if options.peak_of is not None:
        print(measuring.peak_growth(Step(model, batch, options.peak_of), options.device))
        return
    kinds = [DIRECT, *options.chunks]
    steps = {kind: Step(model, batch, kind) for kind in kinds}
    differences = {kind: compare(steps[kind], steps[DIRECT]) for kind in options.chunks}
    peaks = {kind: float(commands.in_child(NAME, options, peak_of=kind)) for kind in kinds}
    seconds = measuring.interleave({str(kind): steps[kind] for kind in kinds}, options.repeats, warm_up=False)
    median = {kind: statistics.median(seconds[str(kind)]) for kind in kinds}
    rows = [
        {
            "step": "direct" if kind == DIRECT else f"chunk {kind}",
            "activations_mib": steps[kind].activations_mib(),
            "losses_mib": steps[kind].losses_mib(),
            "peak_mib": peaks[kind],
            "share_of_memory": peaks[kind] / peaks[DIRECT],
            "seconds": median[kind],
            "times_direct": median[kind] / median[DIRECT],
            "max_difference": differences.get(kind, 0.0),
            "all_seconds": seconds[str(kind)],
        }
        for kind in kinds
    ]
    commands.report(
        NAME,
        options,
        commands.table(rows, COLUMNS),
        data=f"{options.batch_size} random pairs, {options.size} towers, float32",
        device=options.device,
        shapes={name: list(value.shape) for name, value in batch.items()},
        tolerance=TOLERANCE,
        rows=rows,
    )


def build(options: argparse.Namespace) -> tuple[LeccrModel, dict[str, Tensor]]:
    """The same model and batch in every process."""
    torch.manual_seed(options.seed)
    model = sizes.build_model(tiny=options.size == "tiny").train()
    batch = sizes.training_batch(model, options.batch_size)
    return model.to(options.device), {name: value.to(options.device) for name, value in batch.items()}


def compare(cached: Step, direct: Step) -> float:
    """Largest difference of a term, or of a gradient as a share of the largest of its parameter.

    Raises:
        FormsDifferError: it is beyond TOLERANCE.
    """
    return max(measuring.check_step(cached.results(), direct.results(), TOLERANCE).values())


if __name__ == "__main__":
    sys.exit(main())
