"""What the processes of tests/test_distributed_videos.py do: steps of the trainer on videos of unequal length."""

from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from modeling_leccr.training.trainer import LeccrTrainer
from tests.distributed_worker import logged_losses
from tests.tiny import tiny_cl2cm, tiny_cross_lingual, tiny_model, tiny_vision_config
from tests.training_parts import GRADIENT_DESCENT, LOSS, text_config_without_dropout, tiny_trainer
from tests.video_parts import FEATURE_DIM, LENGTHS, video_split

WORLD_SIZE = 2
NUM_PAIRS = len(LENGTHS)
# Name -> what is read of an item, whether the model is CL2CM, and settings of each of the processes. One process takes
# all pairs at once.
RUNS: dict[str, tuple[str, bool, dict[str, Any]]] = {
    "features": ("features", False, {}),
    "features-cached": ("features", False, {"gradient_cache_chunk_size": 3}),
    "frames": ("frames", False, {}),
    "frames-cached": ("frames", False, {"gradient_cache_chunk_size": 1}),
    "cl2cm-features-cached": ("features", True, {"gradient_cache_chunk_size": 1}),
}


def make_trainer(folder: Path, vision_input: str, taught: bool, **settings: Any) -> LeccrTrainer:
    """Two steps without dropout on eight videos."""
    fields: dict[str, Any] = {"vision_input": vision_input, "text_config": text_config_without_dropout()}
    if vision_input == "features":
        fields["feature_dim"] = FEATURE_DIM
    vision_config = tiny_vision_config()
    vision_config.num_hidden_layers = fields["text_config"].num_hidden_layers = 1
    make = tiny_cl2cm if taught else tiny_model
    model = make(vision_config=vision_config, dropout=0.0, num_attention_heads=4, **fields).train()
    split = video_split(vision_input)
    teacher = tiny_cross_lingual(seed=7) if taught else None
    steps: dict[str, Any] = {**GRADIENT_DESCENT, "max_steps": 2, "max_grad_norm": 0.0}
    loss = {"relational_transfer": 0.8} if taught else LOSS
    settings = {**steps, "loss": loss, "per_device_train_batch_size": NUM_PAIRS, **settings}
    return tiny_trainer(folder, model, split=split, validation=split.select(range(5)), teacher=teacher, **settings)


def found_by(trainer: LeccrTrainer) -> dict[str, Tensor]:
    """Losses, weights after training, and the metrics of an evaluation."""
    trainer.train()
    weights = {f"weight/{name}": value.detach().clone() for name, value in trainer.model.state_dict().items()}
    metrics = trainer.evaluate()
    some = next(iter(weights.values()))
    return {
        **logged_losses(trainer.state.log_history),
        **weights,
        **{f"metric/{name}": some.new_tensor([value]) for name, value in metrics.items()},
    }


def run_process(folder: Path) -> None:
    """All runs of one process."""
    for name, (vision_input, taught, settings) in RUNS.items():
        trainer = make_trainer(
            folder / "trainer", vision_input, taught, per_device_train_batch_size=NUM_PAIRS // WORLD_SIZE, **settings
        )
        save_file(found_by(trainer), folder / f"{name}-{dist.get_rank()}.safetensors")
