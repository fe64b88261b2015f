"""The visual-semantic interaction, forward and backward, against its official form.

    python -m benchmarks.interaction

Batch 256, 145 visual tokens (ViT-B/32 at 384 px), 4 slots, width 512, dual interaction with class-token pooling.
Official: all visual tokens go through the blocks. Results and gradients are compared first. Memory is measured twice:
the tensors that autograd keeps between forward and backward, and the growth of the peak resident memory of a fresh
process that runs one forward and backward.
"""

import argparse
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks import commands, measuring, official_form
from modeling_leccr import LeccrConfig
from modeling_leccr.slots_leccr import VisualSemanticInteraction

TOLERANCE = 1e-5
SIZES = {"batch_size": (256, 4), "num_patches": (145, 7), "slot_dim": (512, 16), "num_slots": (4, 4)}  # real, tiny


def main(argv: list[str] | None = None) -> int:
    """Compare and time the two forms; see the module's docstring."""
    parser = commands.form_arguments("interaction", __doc__, repeats=5)
    for name in SIZES:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int)
    return commands.main_of(run, parser, argv)


def run(options: argparse.Namespace) -> None:
    """Check, time, measure memory, report."""
    for name, (real, tiny) in SIZES.items():
        if getattr(options, name) is None:
            setattr(options, name, tiny if options.tiny else real)
    forms = build_forms(options)
    if options.memory_of:
        print(measuring.peak_growth(forms[options.memory_of]))
        return
    results = {form: forms[form]() for form in measuring.FORMS}
    # Sums over the batch are compared relative to the largest: some, as of the key biases, are zero but for rounding.
    scale = 1 / max(float(value.abs().max()) for value in results["official"].values())
    scaled = {form: {name: value * scale for name, value in part.items()} for form, part in results.items()}
    differences = measuring.check_equal(scaled["ours"], scaled["official"], TOLERANCE)
    saved = {form: measuring.saved_bytes(forms[form].forward) for form in measuring.FORMS}
    row = {
        **measuring.timing_row("interaction", measuring.interleave(forms, options.repeats)),
        "official_saved_mib": saved["official"] / measuring.MEBIBYTE,
        "our_saved_mib": saved["ours"] / measuring.MEBIBYTE,
        "saved_ratio": saved["ours"] / saved["official"],
        "max_difference": max(differences.values()),
    }
    if not options.no_memory:
        row |= commands.form_peaks("interaction", options)
    sizes = {name: getattr(options, name) for name in SIZES}
    commands.finish("interaction", options, [row], sizes=sizes)


class Form:
    """One form of the interaction: a call runs forward and backward and returns outputs and gradients.

    Args:
        function: (module, patch_states, slots) -> class token (batch, 1, width) and slots.
        module, patch_states, slots: shared by the forms.
    """

    def __init__(
        self,
        function: Callable[[VisualSemanticInteraction, Tensor, Tensor], tuple[Tensor, Tensor]],
        module: VisualSemanticInteraction,
        patch_states: Tensor,
        slots: Tensor,
    ) -> None:
        self.function, self.module, self.patch_states, self.slots = function, module, patch_states, slots

    def forward(self) -> tuple[Tensor, Tensor]:
        """Class token and enhanced slots."""
        return self.function(self.module, self.patch_states, self.slots)

    def __call__(self) -> dict[str, Any]:
        """One forward and backward: outputs and gradients."""
        self.module.zero_grad()
        self.patch_states.grad = self.slots.grad = None
        visual, slots = self.forward()
        (visual.sin().sum() + slots.sin().sum()).backward()
        gradients = {f"gradient/{name}": value.grad for name, value in self.module.named_parameters()}
        inputs = {"gradient/patch_states": self.patch_states.grad, "gradient/slots": self.slots.grad}
        return {"class_token": visual.detach(), "slots": slots.detach(), **inputs, **gradients}


def build_forms(options: argparse.Namespace) -> dict[str, Form]:
    """Both forms over one module and one input."""
    heads = 2 if options.tiny else 8
    config = LeccrConfig(slot_dim=options.slot_dim, num_attention_heads=heads, dropout=0.0)
    config._attn_implementation = "sdpa"
    module = VisualSemanticInteraction(config)
    patch_states = torch.randn(options.batch_size, options.num_patches, options.slot_dim, requires_grad=True)
    slots = torch.randn(options.batch_size, options.num_slots, options.slot_dim, requires_grad=True)
    return {
        "official": Form(official_form.interaction, module, patch_states, slots),
        "ours": Form(_ours, module, patch_states, slots),
    }


def _ours(module: VisualSemanticInteraction, patch_states: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
    return module(patch_states, slots, first_token_only=True)


if __name__ == "__main__":
    sys.exit(main())
