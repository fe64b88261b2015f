"""A training step (forward, losses, backward, AdamW) against its official form.

    python -m benchmarks.training_step
    python -m benchmarks.training_step --bfloat16     # also ours in bf16: not exact, says how far off

ViT-B/32 at 224 px and mBERT-base from random weights, batch 16, captions of 12 to 20 tokens, descriptions of 60 to
120. Losses and gradients are compared before any time is taken. Official: descriptions padded to the longest, source
and target captions in a forward each, all visual tokens through the interaction, every slot against every visual
token in `slot_vision`, AdamW parameter by parameter.
"""

import argparse
import contextlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import commands, measuring, official_form, sizes
from modeling_leccr import LeccrModel
from modeling_leccr.losses_leccr import LeccrCriterion, LossConfig
from modeling_leccr.training.gather import gather_batch

TOLERANCE = 1e-5
ADAMW: dict[str, Any] = {"lr": 1e-5, "betas": (0.9, 0.98), "weight_decay": 0.01}
STAGES = ("vision", "descriptions", "captions", "rest of forward", "backward", "optimizer")
# The functions that are the stages of the forward: of official_form, and methods of the model.
OFFICIAL_STAGES = {"descriptions": "description_states", "captions": "text_embeds"}
OUR_STAGES = {"descriptions": "_description_states", "captions": "_pair_embeds"}


class Step:
    """One form of the training step on one model and one batch.

    Args:
        form: "ours" or "official".
        model: shared by the forms, so that both start from the same weights.
        batch: as of `sizes.training_batch`.
        precision: what the forward runs under, such as autocast.
    """

    def __init__(
        self,
        form: str,
        model: LeccrModel,
        batch: Mapping[str, Tensor],
        precision: Callable[[], AbstractContextManager] = contextlib.nullcontext,
    ) -> None:
        self.form, self.model, self.precision = form, model, precision
        self.inputs = {name: value for name, value in batch.items() if name != "image_ids"}
        self.image_ids = batch["image_ids"]
        self.criterion = LeccrCriterion(LossConfig())
        if form == "ours":
            self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(model.parameters(), fused=True, **ADAMW)
        else:
            self.optimizer = official_form.optimizer(model, **ADAMW)

    def losses(self) -> dict[str, Tensor]:
        """Forward and all terms, the terms in float32."""
        with self.precision():
            output = (
                self.model(**self.inputs) if self.form == "ours" else official_form.forward(self.model, self.inputs)
            )
        return self.terms(output)

    def terms(self, output: Any) -> dict[str, Tensor]:
        """All terms of what the model returned."""
        if self.form != "ours":
            return official_form.losses(self.criterion, output, self.image_ids)
        rows = gather_batch(self.criterion.summarise(output, self.image_ids))
        return self.criterion(rows, output.logit_scale)

    def results(self) -> dict[str, Tensor]:
        """Losses and gradients, for the comparison of the forms."""
        self.model.zero_grad()
        terms = self.losses()
        total = self.criterion.total(terms)
        total.backward()
        results = {f"loss/{name}": value.detach() for name, value in {**terms, "total": total}.items()}
        for name, parameter in self.model.named_parameters():
            if parameter.grad is not None:
                results[f"gradient/{name}"] = parameter.grad.clone()
        self.model.zero_grad()
        return results

    def __call__(self) -> dict[str, float]:
        """A whole step; seconds of each of its stages."""
        seconds = dict.fromkeys(STAGES, 0.0)
        start = time.perf_counter()
        with self._timed_stages(seconds):
            total = self.criterion.total(self.losses())
        after_forward = time.perf_counter()
        total.backward()
        after_backward = time.perf_counter()
        self.optimizer.step()
        self.optimizer.zero_grad()
        seconds["optimizer"] = time.perf_counter() - after_backward
        seconds["backward"] = after_backward - after_forward
        seconds["rest of forward"] = after_forward - start - sum(seconds[stage] for stage in STAGES[:3])
        return seconds

    @contextlib.contextmanager
    def _timed_stages(self, seconds: dict[str, float]) -> Iterator[None]:
        """Let the towers' passes add their time to `seconds`."""
        owner, names = (self.model, OUR_STAGES) if self.form == "ours" else (official_form, OFFICIAL_STAGES)
        with contextlib.ExitStack() as stack:
            stack.enter_context(_timed(self.model.vision_model, "forward", seconds, "vision"))
            for stage, name in names.items():
                stack.enter_context(_timed(owner, name, seconds, stage))
            yield


@contextlib.contextmanager
def _timed(owner: Any, name: str, seconds: dict[str, float], stage: str) -> Iterator[None]:
    function = getattr(owner, name)

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        result = function(*args, **kwargs)
        seconds[stage] += time.perf_counter() - start
        return result

    with mock.patch.object(owner, name, timed):
        yield


def main(argv: list[str] | None = None) -> int:
    """Compare and time the two forms; see the module's docstring."""
    parser = commands.form_arguments("training_step", __doc__, repeats=5)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--bfloat16", action="store_true", help="also time ours with its forward under bf16 autocast")
    return commands.main_of(run, parser, argv)


def run(options: argparse.Namespace) -> None:
    """Check, time, report."""
    model = sizes.build_model(tiny=options.tiny)
    batch = sizes.training_batch(model, 4 if options.tiny else options.batch_size)
    steps = {form: Step(form, model, batch) for form in measuring.FORMS}
    differences = _check(steps)
    work = {form: _giga_operations(step) for form, step in steps.items()}
    parts: dict[str, list[dict[str, float]]] = {form: [] for form in steps}
    timed = {form: _recorded(step, parts[form]) for form, step in steps.items()}
    measuring.interleave(timed, options.repeats)
    whole = {form: [sum(run.values()) for run in runs[1:]] for form, runs in parts.items()}  # the first is the warm-up
    worst = {"max_difference": measuring.largest(differences, "loss/")}
    worst["max_gradient_difference"] = measuring.largest(differences, "gradient/")
    rows = [{**measuring.timing_row("whole step", whole), **worst}]
    for stage in STAGES:
        rows.append(
            measuring.timing_row(stage, {form: [run[stage] for run in runs[1:]] for form, runs in parts.items()})
        )
    achieved = {form: work[form] / statistics.median(whole[form]) for form in steps}
    facts: dict[str, Any] = {
        "sizes": {name: list(value.shape) for name, value in batch.items()},
        "largest_differences": _summary(differences),
        "giga_operations": work,
        "achieved_gflops": achieved,
    }
    if options.bfloat16:
        facts["bfloat16"] = _bfloat16(options, model, batch, steps["official"])
    commands.finish("training_step", options, rows, **facts)


def _check(steps: Mapping[str, Step]) -> dict[str, float]:
    """Losses within the tolerance, gradients within the tolerance of the largest gradient of their parameter."""
    ours, official = (steps[form].results() for form in ("ours", "official"))
    return measuring.check_step(ours, official, TOLERANCE, gradient_tolerance=100 * TOLERANCE)


def _summary(differences: Mapping[str, float]) -> dict[str, float]:
    """Each loss, and the worst gradient."""
    summary = {name: value for name, value in differences.items() if name.startswith("loss/")}
    worst = max((name for name in differences if name.startswith("gradient/")), key=lambda name: differences[name])
    return {**summary, worst: differences[worst]}


def _recorded(step: Step, runs: list[dict[str, float]]) -> Callable[[], None]:
    return lambda: runs.append(step())


def _giga_operations(step: Step) -> float:
    """Multiplications and additions of the matrix products of forward and backward, in 1e9."""
    counter = FlopCounterMode(display=False)
    with counter:
        step.criterion.total(step.losses()).backward()
    step.model.zero_grad()
    return counter.get_total_flops() / 1e9


def _bfloat16(
    options: argparse.Namespace, model: LeccrModel, batch: Mapping[str, Tensor], official: Step
) -> dict[str, Any]:
    """Ours with its forward under bf16 autocast, against the official form in float32 with the same weights."""

    step = Step("ours", model, batch, lambda: torch.autocast("cpu", dtype=torch.bfloat16))
    with torch.no_grad():
        differences = measuring.largest_difference(step.losses(), official.losses())
    # Without a warm-up: where bf16 does not help it takes minutes.
    seconds = measuring.interleave({"official": official, "ours": step}, max(options.repeats // 2, 1), warm_up=False)
    size = 256 if options.tiny else 1024
    row = measuring.timing_row("bfloat16", seconds)
    return {
        "speed_up": row["speed_up"],
        "our_seconds": row["our_seconds"],
        "official_seconds": row["official_seconds"],
        "loss_differences": differences,
        "matrix_peak_gflops": measuring.matrix_peak(torch.bfloat16, size=size),
        "float32_matrix_peak_gflops": measuring.matrix_peak(size=size),
    }


if __name__ == "__main__":
    sys.exit(main())
