"""What descriptions cost: the text tower reads them in each step, or a frozen copy of it does, or nothing has to.

    python -m benchmarks.description_cost --write docs/SCALING.md
    python -m benchmarks.description_cost --recall --write docs/SCALING.md

The step (forward, losses, backward, AdamW) is that of `benchmarks.training_step`: ViT-B/32 at 224 px and mBERT-base
from random weights, batch 16, descriptions of 60 to 120 tokens. As the frozen encoder starts as the text tower, losses
and gradients of the three must agree, the stored ones up to the rounding of their numbers; that is checked before any
time is taken. The time of a step on stored states includes reading them from the disk.

`--recall` takes some minutes: it trains the demo recipe with both encoders, from scratch and on the text tower of the
first of these runs. A frozen encoder from scratch is random for ever; one that was trained before is the usual case.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks import commands, measuring, sizes
from benchmarks.training_step import STAGES, Step
from modeling_leccr import LeccrConfig, LeccrModel
from modeling_leccr.export import save_for_hub
from modeling_leccr.training.arguments import ModelArguments, Recipe, build_recipe, parse_recipe
from modeling_leccr.training.building import build_processor, load_splits
from modeling_leccr.training.reading import merged
from modeling_leccr.training.run import SystemRun, train_system
from processing.description_states import DescriptionStates, StatesDtype

NAME = "description_cost"
RECALL_PART = "description_recall"
COLUMNS = ("name", "step_seconds", "speed_up", "descriptions", "mib_per_item", "loss_difference", "gradient_difference")
EXACT = 1e-5
ROUNDED = 5e-2  # of losses and of gradients relative to the largest of their parameter; int8 moves a number by 0.4 %
DTYPES: tuple[StatesDtype, ...] = ("float16", "int8")
RECIPE = Path(__file__).resolve().parents[1] / "configs" / "scenes.yaml"
TINY_RECIPE = {
    "scenes": {"train_size": 12, "validation_size": 4, "test_size": 4, "image_size": 32, "captions_per_item": 1},
    "per_device_train_batch_size": 6,
}


class EncodedStep(Step):
    """A step in which an encoder reads the descriptions.

    Args:
        encoder: "shared" or "frozen".
        model: with a frozen description encoder, shared by all forms.
        batch: as of `sizes.training_batch`.
        optimizer: shared by all forms; None makes it.
    """

    def __init__(
        self, encoder: str, model: LeccrModel, batch: Mapping[str, Tensor], optimizer: Any | None = None
    ) -> None:
        super().__init__("ours", model, batch)
        # One of its own for each form would keep its moments, each time twice the size of the model.
        self.optimizer = self.optimizer if optimizer is None else optimizer
        self.encoder = encoder

    def losses(self) -> dict[str, Tensor]:
        """As the parent, with the chosen encoder."""
        with mock.patch.object(self.model.config, "description_encoder", self.encoder):
            return super().losses()


class StoredStep(EncodedStep):
    """A step that reads the states of its descriptions from a store."""

    def __init__(self, store: DescriptionStates, model: LeccrModel, batch: Mapping[str, Tensor], optimizer: Any):
        kept = {name: value for name, value in batch.items() if not name.startswith("description_")}
        super().__init__("frozen", model, kept, optimizer)
        self.store = store
        self.names = _names(len(self.image_ids))

    def losses(self) -> dict[str, Tensor]:
        """As the parent, on states from the disk."""
        self.inputs |= self.store.batch(self.names, self.names)
        return super().losses()


def main(argv: list[str] | None = None) -> int:
    """Compare and time, or train; see the module's docstring."""
    parser = commands.arguments(NAME, __doc__)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of each kind; the median counts")
    parser.add_argument("--tiny", action="store_true", help="toy sizes, to see that the benchmark works")
    parser.add_argument("--recall", action="store_true", help="train scenes with both encoders instead")
    parser.add_argument("--max-steps", type=int, help="of each training of --recall (default: as the recipe says)")
    return commands.main_of(run, parser, argv)


def run(options: argparse.Namespace) -> None:
    """Take times or recalls, and report."""
    with tempfile.TemporaryDirectory() as folder:
        if options.recall:
            _report_recall(options, Path(folder))
        else:
            _report_times(options, Path(folder))


def _report_recall(options: argparse.Namespace, folder: Path) -> None:
    rows = recall_rows(options, folder)
    data = "embedded scenes, as of configs/scenes.yaml"
    commands.report(NAME, options, commands.table(rows), data=data, part=RECALL_PART, tiny=options.tiny, rows=rows)


def _report_times(options: argparse.Namespace, folder: Path) -> None:
    shared = sizes.build_model(tiny=options.tiny)
    model = LeccrModel(LeccrConfig(**{**shared.config.to_dict(), "description_encoder": "frozen"})).train()
    del shared
    batch = sizes.training_batch(model, 4 if options.tiny else options.batch_size)
    start = time.perf_counter()
    states = _states_of(model, batch)
    encoding_seconds = time.perf_counter() - start
    first = EncodedStep("shared", model, batch)
    steps: dict[str, EncodedStep] = {"shared": first, "frozen": EncodedStep("frozen", model, batch, first.optimizer)}
    num_items = len(states)
    bytes_per_item = {}
    for dtype in DTYPES:
        store = DescriptionStates.create(folder / dtype, encoder={}, width=states[0].shape[1], dtype=dtype)
        store.add(_names(num_items), states)
        store.reload()
        bytes_per_item[f"stored {dtype}"] = sum(file.stat().st_size for file in store.folder.iterdir()) / num_items
        steps[f"stored {dtype}"] = StoredStep(store, model, batch, first.optimizer)
    differences = _check(steps)
    parts: dict[str, list[dict[str, float]]] = {name: [] for name in steps}
    measuring.interleave({name: _recorded(step, parts[name]) for name, step in steps.items()}, options.repeats)
    rows: list[dict[str, Any]] = []
    for name, runs in parts.items():
        stages = {stage: statistics.median(part[stage] for part in runs[1:]) for stage in STAGES}
        seconds = statistics.median(sum(part.values()) for part in runs[1:])
        rows.append({"name": name, "step_seconds": seconds, **stages, "mib_per_item": 0.0, **differences[name]})
        rows[-1]["mib_per_item"] = bytes_per_item.get(name, 0.0) / measuring.MEBIBYTE
    for row in rows:
        row["speed_up"] = rows[0]["step_seconds"] / row["step_seconds"]
    commands.report(
        NAME,
        options,
        commands.table(rows, COLUMNS),
        data=f"{len(batch['image_ids'])} random pairs, {'tiny' if options.tiny else 'real'} towers, float32",
        tiny=options.tiny,
        rows=rows,
        sizes={name: list(value.shape) for name, value in batch.items()},
        encoding_seconds_per_item=encoding_seconds / num_items,
    )


def _check(steps: Mapping[str, EncodedStep]) -> dict[str, dict[str, float]]:
    """Losses and gradients of each form against those of the shared encoder."""
    expected = steps["shared"].results()
    found = {}
    for form, step in steps.items():
        differences = measuring.check_step(step.results(), expected, ROUNDED if form.startswith("stored") else EXACT)
        found[form] = {
            f"{kind}_difference": measuring.largest(differences, f"{kind}/") for kind in ("loss", "gradient")
        }
    return found


@torch.no_grad()
def _states_of(model: LeccrModel, batch: Mapping[str, Tensor]) -> list[Tensor]:
    mask = batch["description_attention_mask"]
    states = model.get_description_states(batch["description_input_ids"], mask)
    return [rows[kept] for rows, kept in zip(states, mask.bool(), strict=True)]


def _names(num_items: int) -> list[str]:
    return [f"description {item}" for item in range(num_items)]


def _recorded(step: Step, runs: list[dict[str, float]]) -> Any:
    return lambda: runs.append(step())


def recall_rows(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Train the demo recipe with both encoders, from scratch and on a trained text tower; recalls of the test split."""
    settings = parse_recipe([str(RECIPE), "--controls", "null", "--seed", str(options.seed)]).settings
    settings = merged(settings, {"disable_tqdm": True, **(TINY_RECIPE if options.tiny else {})})
    if options.max_steps is not None:
        evaluations = {"eval_steps": options.max_steps, "save_steps": options.max_steps}
        settings = merged(settings, {"max_steps": options.max_steps, **evaluations})
    splits = load_splits(build_recipe(settings).data)
    rows: list[dict[str, Any]] = []
    trained: LeccrModel | None = None
    for start in ("from scratch", "trained tower"):
        runs = {}
        for encoder in ("shared", "frozen"):
            changes: dict[str, Any] = {"model": {"description_encoder": encoder}}
            if encoder == "frozen":
                changes["description_states"] = str(folder / f"states {start}")
            recipe = build_recipe(merged(settings, changes))
            processor = build_processor(recipe.model, splits["train"], recipe.data.target_languages)
            name = f"{start}, {encoder}"
            if trained is not None:
                recipe = _on_trained_tower(recipe, trained, processor, folder / f"base {name}")
            runs[encoder] = train_system(recipe, splits, processor, folder / name)
            rows.append(_recall_row(name, runs[encoder]))
        trained = runs["shared"].model
    return rows


def _on_trained_tower(recipe: Recipe, trained: LeccrModel, processor: Any, folder: Path) -> Recipe:
    """The recipe on a new model whose text tower was trained before, as one from the Hub is."""
    torch.manual_seed(recipe.training.seed)
    model = LeccrModel(LeccrConfig(**{**trained.config.to_dict(), **recipe.model.model}))
    model.text_model.load_state_dict(trained.text_model.state_dict())
    if model.config.description_encoder == "frozen":
        model.description_model.load_state_dict(trained.text_model.state_dict())
    save_for_hub(model, processor, folder)
    own = set(vars(ModelArguments()))
    kept = {name: value for name, value in recipe.settings.items() if name not in own}
    return build_recipe({**kept, "base_model": str(folder)})


def _recall_row(name: str, run: SystemRun) -> dict[str, Any]:
    metrics, seconds = run.record.metrics, run.record.seconds
    return {
        "name": name,
        "test_sum_r": metrics["test"]["sum_r"],
        "validation_sum_r": metrics["validation"]["sum_r"],
        "train_seconds": float(seconds or 0.0),
    }


if __name__ == "__main__":
    sys.exit(main())
