"""Adapters against whole and frozen text towers: what is trained, what is stored, what it costs, what it reaches.

    python -m benchmarks.adapters
    python -m benchmarks.adapters --dataset PATH/TO/flickr8k-ccr

Trains a base on the first half of the training items, and goes on from it on the second half, once for each way to
train the text tower, with equal steps, batches and learning rate. The vision tower is frozen in all of them but the
last, so that the rows differ in the text tower alone. Each way runs in a process of its own, for its peak memory. An
adapter is compared on every path first: loaded over its base and merged, it must embed as it did when it was trained.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import measuring
from modeling_leccr.export import save_for_hub
from modeling_leccr.training.adapters import merge_adapter, save_adapter
from modeling_leccr.training.arguments import ModelArguments, Recipe, build_recipe, merged, parse_recipe
from modeling_leccr.training.building import build_processor, load_splits
from modeling_leccr.training.run import SystemRun, train_system
from modeling_leccr.training.weights import ADAPTER_WEIGHTS, has_adapter
from processing.files import write_json_atomic
from processing.processing_leccr import LeccrProcessor
from reporting.report import markdown_table

LORA = {"text_training": "lora", "vision_training": "frozen", "lora": {"r": 8, "lora_alpha": 16}}
WAYS: dict[str, dict[str, Any]] = {
    "text lora": LORA,
    "text lora (DoRA)": merged(LORA, {"lora": {"use_dora": True}}),
    "text full": {"text_training": "full", "vision_training": "frozen"},
    "text frozen": {"text_training": "frozen", "vision_training": "frozen"},
    "both full": {},
}
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
    "per_device_train_batch_size": 8,
}
TOLERANCE = 1e-4


def recipe_of(options: argparse.Namespace, steps: int, **changes: Any) -> Recipe:
    """The recipe of the data set for a number of steps, without evaluation on the way."""
    name = "scenes" if options.dataset is None else "flickr8k_zh"
    settings = merged(parse_recipe([f"configs/{name}.yaml"]).settings, CHANGES[name])
    settings = merged(settings, TINY) if options.tiny else settings
    if options.dataset is not None:
        settings["dataset"] = options.dataset
    settings |= {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False, "disable_tqdm": True}
    if options.batch_size is not None:
        settings["per_device_train_batch_size"] = options.batch_size
    settings |= {"max_steps": steps, "seed": options.seed, "controls": {}, "use_cpu": not torch.cuda.is_available()}
    return build_recipe(settings | changes)


def train_half(
    options: argparse.Namespace, recipe: Recipe, half: int, folder: Path
) -> tuple[SystemRun, LeccrProcessor]:
    """Train on the first (0) or second (1) half of the training items."""
    splits = load_splits(recipe.data)
    processor = build_processor(recipe.model, splits["train"], recipe.data.target_languages)
    middle, end = len(splits["train"]) // 2, len(splits["train"])
    splits["train"] = splits["train"].select(range(middle, end) if half else range(middle))
    options.before_mib = measuring.resident_mib("VmRSS")
    return train_system(recipe, splits, processor, folder / "checkpoints"), processor


def train_base(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train and save what the ways go on from."""
    run, processor = train_half(options, recipe_of(options, options.base_steps), 0, folder)
    save_for_hub(run.model, processor, folder / "base")
    return row_of(options, "base", run, folder / "base" / "model.safetensors", folder)


def train_way(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Go on from the base in one way."""
    recipe = recipe_of(options, options.steps)
    of_the_base = ModelArguments.__dataclass_fields__
    settings = {name: value for name, value in recipe.settings.items() if name not in of_the_base}
    settings |= {"base_model": str(folder / "base")} | WAYS[options.way]
    if "frozen" in settings.get("vision_training", "") or "frozen" in settings.get("text_training", ""):
        settings.pop("learning_rate_multipliers", None)  # of towers that do not learn
    place = folder / options.way
    run, processor = train_half(options, build_recipe(settings), 1, place)
    if not has_adapter(run.model):
        run.model.save_pretrained(place / "model")
        return row_of(options, options.way, run, place / "model" / "model.safetensors", folder)
    trained = embeds(run.model, processor)
    save_adapter(run.model, place / "adapter")
    results = {"merged": embeds(merge_adapter(run.model), processor)}
    results["reloaded"] = embeds(type(run.model).from_pretrained(place / "adapter"), processor)
    measuring.check_equal(results, dict.fromkeys(results, trained), TOLERANCE)
    return row_of(options, options.way, run, place / "adapter" / ADAPTER_WEIGHTS, folder)


@torch.no_grad()
def embeds(model: Any, processor: LeccrProcessor) -> torch.Tensor:
    """Embeddings of a few captions."""
    return model.eval().get_text_features(**processor(text=["a red ball", "a dog runs", "two"])).pooler_output


def row_of(options: argparse.Namespace, name: str, run: SystemRun, file: Path, folder: Path) -> dict[str, Any]:
    """What a run trained, stored, cost and reached."""
    trained, total = run.num_parameters
    full = (folder / "base" / "model.safetensors").stat().st_size
    return {
        "name": name,
        "trained": trained,
        "trained_percent": 100 * trained / total,
        "file_mib": file.stat().st_size / measuring.MEBIBYTE,
        "file_percent_of_full": 100 * file.stat().st_size / full,
        "seconds": run.record.seconds,
        "peak_growth_mib": measuring.resident_mib("VmHWM") - options.before_mib,
        "validation_sum_r": run.record.metrics["validation"]["sum_r"],
    }


def in_child(options: argparse.Namespace, way: str, folder: Path) -> dict[str, Any]:
    """The row of one way, from a fresh process."""
    command = [sys.executable, "-m", "benchmarks.adapters", "--way", way, "--folder", str(folder)]
    for name in ("dataset", "steps", "base_steps", "batch_size", "threads", "seed", "tiny"):
        value = getattr(options, name)
        if value is not None and value is not False:
            command += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    if child.returncode:
        raise RuntimeError(f"training {way!r} failed:\n{child.stdout[-1000:]}{child.stderr[-2000:]}")
    return json.loads(child.stdout.splitlines()[-1])


def main(argv: list[str] | None = None) -> int:
    """Train the base and all ways; see the module's docstring."""
    options = _options(argv)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if options.way is not None:
        train = train_base if options.way == "base" else train_way
        print(json.dumps(train(options, options.folder)))
        return 0
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="leccr-adapters-") as folder:
        rows = [in_child(options, way, Path(folder)) for way in ("base", *WAYS)]
    report = {
        "benchmark": "adapters",
        "machine": measuring.machine(),
        "dataset": "scenes" if options.dataset is None else Path(options.dataset).name,
        **{name: getattr(options, name) for name in ("seed", "threads", "tiny", "steps", "base_steps", "batch_size")},
        "seconds": time.perf_counter() - start,
        "rows": rows,
    }
    write_json_atomic(options.output, report)
    print(markdown_table(list(rows[0]), [[_cell(value) for value in row.values()] for row in rows]))
    print(f"written: {options.output}")
    return 0


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.adapters", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", help="folder of flickr8k-ccr, instead of the embedded scenes")
    parser.add_argument("--base-steps", type=int, default=200, help="steps of the base")
    parser.add_argument("--steps", type=int, default=100, help="steps of each way")
    parser.add_argument("--batch-size", type=int, help="pairs of a step (default: that of the recipe)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own choice)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiny", action="store_true", help="toy sizes, to see that the benchmark works")
    parser.add_argument("--output", type=Path, default=measuring.OUTPUT_FOLDER / "adapters.json", help="JSON to write")
    parser.add_argument("--way", help=argparse.SUPPRESS)  # in a child process of the benchmark
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def _cell(value: Any) -> str:
    return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    sys.exit(main())
