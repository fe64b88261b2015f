"""Adapters against whole and frozen text towers: what is trained, what is stored, what it costs, what it reaches.

    python -m benchmarks.adapters
    python -m benchmarks.adapters --dataset PATH/TO/flickr8k-ccr --write docs/SCALING.md

Trains a base on the first half of the training items, and goes on from it on the second half, once for each way to
train the text tower, with equal steps and batches. The vision tower is frozen in all ways, so that the rows differ in
the text tower alone. Each way runs in a process of its own, for its peak memory, on the CPU. An adapter is compared
on every path first: loaded over its base and merged, it must embed as it did when it was trained.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks import commands, measuring
from modeling_leccr.export import save_for_hub
from modeling_leccr.training.adapters import merge_adapter, save_adapter
from modeling_leccr.training.arguments import ModelArguments, Recipe, build_recipe, parse_recipe
from modeling_leccr.training.building import build_processor, load_splits
from modeling_leccr.training.reading import merged
from modeling_leccr.training.run import SystemRun, train_system
from modeling_leccr.training.sharding import has_adapter
from modeling_leccr.training.weights import ADAPTER_WEIGHTS
from processing.processing_leccr import LeccrProcessor

NAME = "adapters"
BASE = "base"
# Way -> how the text tower is trained, and its learning rate as a factor of the recipe's: the best SumR on validation
# of 0.1 and 1 for the tower, of 0.1, 1, 4 and 10 for the adapter, on flickr8k-ccr (base of 140 steps, ways of 50).
WAYS: dict[str, tuple[str, float | None]] = {
    "text full": ("full", 1.0),
    "text lora": ("lora", 4.0),
    "text frozen": ("frozen", None),
}
LORA = {"r": 8, "lora_alpha": 16}
COLUMNS = (
    "way",
    "text_learning_rate",
    "trained",
    "trained_percent",
    "file_mib",
    "file_percent_of_full",
    "seconds",
    "peak_growth_mib",
    "validation_sum_r",
)
# Heads are trained and stored whole, so they have to be narrow beside the towers, as they are between real ones.
NARROW_HEADS = {"slot_dim": 32, "embed_dim": 64, "num_attention_heads": 4}
BERT = {"model_type": "bert", "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024}
CHANGES: dict[str, dict[str, Any]] = {
    "scenes": {"text_tower": {**BERT, "num_hidden_layers": 2}, "model": NARROW_HEADS},
    # As in multilingual encoders, most of the parameters are the table of words.
    "flickr8k_zh": {"text_tower": {**BERT, "hidden_size": 128, "intermediate_size": 512}, "model": NARROW_HEADS},
}
TINY = {
    "scenes": {"train_size": 24, "validation_size": 6, "test_size": 4, "image_size": 32},
    "text_tower": {**BERT, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1},
    "model": {"slot_dim": 16, "embed_dim": 16},
    "target_languages": ["de"],
}
TINY_BATCH = 8
TOLERANCE = 1e-4


def recipe_of(options: argparse.Namespace, steps: int) -> Recipe:
    """The recipe of the data set for a number of steps, without evaluation on the way."""
    name = "scenes" if options.dataset is None else "flickr8k_zh"
    settings = merged(parse_recipe([f"configs/{name}.yaml"]).settings, CHANGES[name])
    settings = merged(settings, TINY) if options.tiny else settings
    if options.dataset is not None:
        settings["dataset"] = options.dataset
    settings |= {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False, "disable_tqdm": True}
    settings |= {"per_device_train_batch_size": TINY_BATCH if options.tiny else options.batch_size, "max_steps": steps}
    return build_recipe(settings | {"seed": options.seed, "controls": {}, "use_cpu": True})


def train_half(recipe: Recipe, half: int, folder: Path) -> tuple[SystemRun, LeccrProcessor, float]:
    """Train on the first (0) or second (1) half of the training items; with the growth of memory in MiB."""
    splits = load_splits(recipe.data)
    processor = build_processor(recipe.model, splits["train"], recipe.data.target_languages)
    middle, end = len(splits["train"]) // 2, len(splits["train"])
    splits["train"] = splits["train"].select(range(middle, end) if half else range(middle))
    runs: list[SystemRun] = []
    peak = measuring.peak_growth(lambda: runs.append(train_system(recipe, splits, processor, folder / "checkpoints")))
    return runs[0], processor, peak


def train_base(options: argparse.Namespace) -> dict[str, Any]:
    """Train and save what the ways go on from."""
    system, processor, peak = train_half(recipe_of(options, options.base_steps), 0, options.folder)
    save_for_hub(system.model, processor, options.folder / BASE)
    return row_of(options, system, peak, options.folder / BASE / "model.safetensors")


def train_way(options: argparse.Namespace) -> dict[str, Any]:
    """Go on from the base in one way."""
    training, factor = WAYS[options.way]
    settings = recipe_of(options, options.steps).settings
    multipliers = {"heads": settings.get("learning_rate_multipliers", {}).get("heads", 1.0)}
    settings = {name: value for name, value in settings.items() if name not in ModelArguments.__dataclass_fields__}
    settings |= {"base_model": str(options.folder / BASE), "vision_training": "frozen", "text_training": training}
    settings |= {"learning_rate_multipliers": multipliers if factor is None else multipliers | {"text": factor}}
    if training == "lora":
        settings["lora"] = LORA
    place = options.folder / options.way
    system, processor, peak = train_half(build_recipe(settings), 1, place)
    model = system.model
    if not has_adapter(model):
        model.save_pretrained(place / "model")
        return row_of(options, system, peak, place / "model" / "model.safetensors")
    trained = embeds(model, processor)
    save_adapter(model, place / "adapter")
    results = {"merged": embeds(merge_adapter(model), processor)}
    results["reloaded"] = embeds(type(model).from_pretrained(place / "adapter"), processor)
    measuring.check_equal(results, dict.fromkeys(results, trained), TOLERANCE)
    return row_of(options, system, peak, place / "adapter" / ADAPTER_WEIGHTS)


@torch.no_grad()
def embeds(model: Any, processor: LeccrProcessor) -> torch.Tensor:
    """Embeddings of a few captions."""
    return model.eval().get_text_features(**processor(text=["a red ball", "a dog runs", "two"])).pooler_output


def row_of(options: argparse.Namespace, system: SystemRun, peak: float, file: Path) -> dict[str, Any]:
    """What a run trained, stored, cost and reached."""
    trained, total = system.num_parameters
    full = (options.folder / BASE / "model.safetensors").stat().st_size
    factor = 1.0 if options.way == BASE else WAYS[options.way][1]
    return {
        "way": options.way,
        "text_learning_rate": factor and factor * recipe_of(options, options.steps).training.learning_rate,
        "trained": trained,
        "trained_percent": 100 * trained / total,
        "file_mib": file.stat().st_size / measuring.MEBIBYTE,
        "file_percent_of_full": 100 * file.stat().st_size / full,
        "seconds": system.record.seconds,
        "peak_growth_mib": peak,
        "validation_sum_r": system.record.metrics["validation"]["sum_r"],
    }


def main(argv: list[str] | None = None) -> int:
    """Train the base and all ways; see the module's docstring."""
    return commands.main_of(run, build_parser(), argv)


def build_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = commands.arguments(NAME, __doc__)
    parser.add_argument("--dataset", help="folder of flickr8k-ccr, instead of the embedded scenes")
    parser.add_argument("--base-steps", type=int, default=400, help="steps of the base (default: 400)")
    parser.add_argument("--steps", type=int, default=150, help="steps of each way (default: 150)")
    parser.add_argument("--batch-size", type=int, default=64, help="pairs of a step (default: 64)")
    parser.add_argument("--tiny", action="store_true", help="toy sizes, to see that the benchmark works")
    parser.add_argument("--way", help=argparse.SUPPRESS)  # in a child process of the benchmark
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser


def run(options: argparse.Namespace) -> None:
    """Train one way in a child process, or all of them in such processes, and report."""
    if options.way is not None:
        train = train_base if options.way == BASE else train_way
        print(json.dumps(train(options)))
        return
    with tempfile.TemporaryDirectory(prefix="leccr-adapters-") as folder:
        rows = [json.loads(commands.in_child(NAME, options, way=way, folder=folder)) for way in (BASE, *WAYS)]
    dataset = "embedded scenes" if options.dataset is None else Path(options.dataset).name
    commands.report(
        NAME,
        options,
        commands.table(rows, COLUMNS),
        data=f"{dataset}, base {options.base_steps} steps, each way {options.steps}, batch {options.batch_size}",
        lora=LORA,
        rows=rows,
    )


if __name__ == "__main__":
    sys.exit(main())
