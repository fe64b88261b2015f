"""What the processes of tests/test_cl2cm_distributed.py do: steps of both stages, and a recipe with both."""

from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from modeling_leccr.streams_leccr import TextStreamModel
from modeling_leccr.training.arguments import build_recipe
from modeling_leccr.training.building import build_processor, load_splits
from modeling_leccr.training.run import train_system
from modeling_leccr.training.trainer import LeccrTrainer
from tests.distributed_worker import logged_losses
from tests.tiny import tiny_cl2cm, tiny_cross_lingual
from tests.training_parts import (
    GRADIENT_DESCENT,
    text_config_without_dropout,
    tiny_recipe,
    tiny_split,
    tiny_trainer,
)

WORLD_SIZE = 2
STEPS: dict[str, Any] = {**GRADIENT_DESCENT, "max_steps": 2, "max_grad_norm": 0.0}
# Every term counts, so that a wrong gradient of any shows in the weights.
LOSSES: dict[str, dict[str, Any]] = {
    "first": {"word_transport": 0.7, "word_alignment": 0.5},
    "second": {"relational_transfer": 0.8, "feature_distillation": 0.6},
}
# Name -> stage, and settings of each of the processes; one process takes all rows at once.
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    f"{stage}-{how}": (stage, settings)
    for stage in LOSSES
    for how, settings in {
        "direct": {},
        "cached": {"gradient_cache_chunk_size": 1},
    }.items()
}


def make_trainer(folder: Path, stage: str, **settings: Any) -> LeccrTrainer:
    """Two steps of one stage without dropout; two of eight pictures have the same English caption."""
    captions = [*([["the same words"]] * 2), *([[f"caption number {i}"] for i in range(6)])]
    split = tiny_split(8, caption_en=captions)
    model: TextStreamModel
    if stage == "first":
        model, teacher = tiny_cross_lingual(text_config=text_config_without_dropout()), None
    else:
        model = tiny_cl2cm(text_config=text_config_without_dropout())
        teacher = tiny_cross_lingual(seed=7)  # with dropout, were it in training
    settings = {**STEPS, "loss": LOSSES[stage], "per_device_train_batch_size": 8, **settings}
    return tiny_trainer(folder, model.train(), split=split, validation=tiny_split(5), teacher=teacher, **settings)


def found_by(trainer: LeccrTrainer) -> dict[str, Tensor]:
    """Losses, weights of model and teacher after training, and the metrics of an evaluation."""
    trainer.train()
    metrics = trainer.evaluate()
    weights = {f"weight/{name}": value.detach().clone() for name, value in trainer.model.state_dict().items()}
    teacher = {} if trainer.teacher is None else trainer.teacher.state_dict()
    return {
        **logged_losses(trainer.state.log_history),
        **weights,
        **{f"teacher/{name}": value.clone() for name, value in teacher.items()},
        **{f"metric/{name}": next(iter(weights.values())).new_tensor([value]) for name, value in metrics.items()},
    }


def recipe_of(folder: Path, **changes: Any) -> dict[str, Any]:
    """A recipe in two stages without dropout, of plain gradient descent."""
    tower = {**tiny_recipe(folder)["text_tower"], "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    settings = {
        "system": "cl2cm",
        "model": {"embed_dim": 16, "visual_dim": 32},
        "text_tower": tower,
        "eval_steps": 2,
        "save_steps": 2,
        **STEPS,
    }
    return tiny_recipe(folder, **{**settings, **changes})


def train_both(folder: Path, **changes: Any) -> dict[str, Tensor]:
    """The weights of a model after both stages."""
    recipe = build_recipe(recipe_of(folder, **changes))
    splits = load_splits(recipe.data)
    processor = build_processor(recipe.model, splits["train"], recipe.data.target_languages)
    run = train_system(recipe, splits, processor, folder / "checkpoints", parts_folder=folder)
    return {name: value.detach().clone() for name, value in run.model.state_dict().items()}


def run_process(folder: Path) -> None:
    """All runs of one process."""
    rank = dist.get_rank()
    for name, (stage, settings) in RUNS.items():
        settings = {**settings, "per_device_train_batch_size": 4}
        save_file(found_by(make_trainer(folder / "trainer", stage, **settings)), folder / f"{name}-{rank}.safetensors")
    save_file(train_both(folder / "both", per_device_train_batch_size=3), folder / f"both-{rank}.safetensors")
