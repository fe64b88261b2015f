"""Models that experiments kept, opened again with what they are measured on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from modeling_leccr import LeccrModel
from modeling_leccr.training.arguments import DataArguments, Recipe, build_recipe
from modeling_leccr.training.building import load_splits
from modeling_leccr.training.run import reported_split
from processing.processing_leccr import LeccrProcessor
from processing.video_frames_leccr import FrameSampling


@dataclass(frozen=True)
class Trained:
    """A trained model, ready to be measured.

    Args:
        recipe: by which it was trained.
        model: in evaluation mode.
        processor: its processor.
        split: that is reported.
    """

    recipe: Recipe
    model: LeccrModel
    processor: LeccrProcessor
    split: Any

    @property
    def languages(self) -> Sequence[str]:
        """Those that the recipe evaluates."""
        return self.recipe.data.evaluation_languages or self.recipe.data.target_languages


def open_trained(settings: dict[str, Any], model_folder: Path) -> Trained:
    """Open a model in a process of its own, which then has one thread.

    Args:
        settings: of its recipe, whole.
        model_folder: of model and processor.
    """
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
    recipe = build_recipe(settings)
    model = LeccrModel.from_pretrained(model_folder).eval()
    processor = LeccrProcessor.from_pretrained(model_folder)
    return Trained(recipe, model, processor, _reported(recipe.data, model.config, processor.sampling))


_kept: dict[str, Any] = {}  # one split: most jobs of a process have the same one


def _reported(data: DataArguments, config: Any, sampling: FrameSampling | None) -> Any:
    """The reported split, as a model of this configuration sees it."""
    key = repr((data, config.item_source, getattr(config, "vision_input", None), sampling))
    if key not in _kept:
        _kept.clear()
        splits = load_splits(data, config, sampling)
        _kept[key] = splits[reported_split(splits)]
    return _kept[key]
