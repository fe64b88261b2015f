"""A tiny split in the schema, a tiny trainer and a tiny recipe, for the tests of training."""

from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import TrainerCallback

from modeling_leccr import CrossLingualModel
from modeling_leccr.streams_leccr import TextStreamModel
from modeling_leccr.training.arguments import LeccrTrainingArguments
from modeling_leccr.training.trainer import LeccrTrainer
from processing.pairs import CaptionPairs
from tests.tiny import IMAGE_SIZE, SENTENCES, VOCAB_SIZE, tiny_image, tiny_processor, tiny_text_config

TINY_VISION = {
    "model_type": "vit",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "patch_size": 8,
}
TINY_TEXT = {
    "model_type": "bert",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


# Written out, not read from the code: a term that got lost there must be missed here.
TERMS = {
    "source_contrastive",
    "target_contrastive",
    "cross_lingual",
    "softened",
    "slot_contrastive",
    "slot_vision",
    "slot_diversity",
}


# Every term counts, so that a wrong gradient of any shows in the total.
LOSS: dict[str, Any] = {"guidance": 0.5, "slot_contrastive": 0.7, "slot_vision": 0.3, "slot_diversity": 0.4}
# Steps that show a gradient as it is; Adam would hide its scale.
GRADIENT_DESCENT: dict[str, Any] = {
    "learning_rate": 0.1,
    "optim": "sgd",
    "lr_scheduler_type": "constant",
    "warmup_steps": 0,
    "weight_decay": 0.0,
}


def tiny_split(num_items: int = 8, **columns: list[Any]) -> datasets.Dataset:
    """Items in the schema, one caption each, with German; `columns` replace whole columns."""
    rows = [SENTENCES[i % len(SENTENCES)] for i in range(num_items)]
    data: dict[str, list[Any]] = {
        "image": [tiny_image(i) for i in range(num_items)],
        "image_id": [f"item-{i}" for i in range(num_items)],
        "description": [description for _, _, description in rows],
        "caption_en": [[source] for source, _, _ in rows],
        "caption_de_mt": [[target] for _, target, _ in rows],
        "caption_de": [[target] for _, target, _ in rows],
    }
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "image_id": datasets.Value("string"),
            "description": datasets.Value("string"),
            **{name: datasets.List(datasets.Value("string")) for name in data | columns if name.startswith("caption_")},
        }
    )
    return datasets.Dataset.from_dict(data | columns, features=features)


def text_config_without_dropout() -> Any:
    """The tiny text tower, the same in every pass."""
    config = tiny_text_config()
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    return config


def tiny_trainer(
    folder: Path,
    model: TextStreamModel,
    *,
    split: datasets.Dataset | None = None,
    validation: datasets.Dataset | None = None,
    teacher: CrossLingualModel | None = None,
    callbacks: list[TrainerCallback] | None = None,
    trainer_class: type[LeccrTrainer] = LeccrTrainer,
    **arguments: Any,
) -> LeccrTrainer:
    """A trainer on the CPU: batches of 4, every step logged, no evaluation and no checkpoint unless asked for."""
    defaults: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "max_steps": 2,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return trainer_class(
        model,
        LeccrTrainingArguments(**{**defaults, **arguments}),
        processor=tiny_processor(),
        pairs=CaptionPairs(
            tiny_split() if split is None else split,
            ["de"],
            read_images=model.config.reads_image,
            read_descriptions=model.config.reads_description,
            **({"vision_input": model.config.vision_input} if model.config.reads_image else {}),
        ),
        validation=validation,
        languages=["de"],
        teacher=teacher,
        callbacks=callbacks,
    )


def weights_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of all weights."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def tiny_recipe(folder: Path, **changes: Any) -> dict[str, Any]:
    """Settings of a recipe that trains for two steps on a few scenes; `changes` replace whole settings."""
    settings: dict[str, Any] = {
        "dataset": "scenes",
        "scenes": {"train_size": 12, "validation_size": 4, "test_size": 6, "image_size": 32, "captions_per_item": 1},
        "test_split": "test",
        "target_languages": ["de", "zh"],
        "output_dir": str(folder),
        "vision_tower": TINY_VISION,
        "text_tower": TINY_TEXT,
        "image_size": IMAGE_SIZE,
        "vocab_size": 4 * VOCAB_SIZE,
        "max_length": 48,
        "model": {"slot_dim": 32, "embed_dim": 16, "num_slot_layers": 1, "num_attention_heads": 4, "num_slots": 2},
        "per_device_train_batch_size": 6,
        "max_steps": 2,
        "learning_rate": 1e-3,
        "eval_strategy": "steps",
        "save_strategy": "steps",
        "eval_steps": 1,
        "save_steps": 1,
        "logging_steps": 1,
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return settings | changes
