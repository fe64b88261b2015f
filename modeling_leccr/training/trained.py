"""Trained models that a recipe names: the `base_model` that it goes on from, and the teacher."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import is_offline_mode
from transformers import PreTrainedConfig
from transformers.utils import CONFIG_NAME

from modeling_leccr.modeling_cl2cm import CrossLingualModel
from modeling_leccr.training.arguments import Recipe
from modeling_leccr.training.checks import check_scoring, check_visual_settings
from modeling_leccr.training.sharding import has_adapter
from modeling_leccr.training.systems import SYSTEMS
from processing.processing_leccr import LeccrProcessor


def model_config(recipe: Recipe) -> Any:
    """The configuration of what a recipe trains, also of one that goes on from a `base_model`.

    Raises:
        ValueError: the base is a model of another system, or the recipe has settings that it has no use for.
        OSError: it is neither here nor on the Hub.
    """
    base, config_class = recipe.model.base_model, recipe.system.config_class
    if base is None:
        return recipe.config
    with explained_absence(base_model=base):
        _check_type(base, config_class, "base_model")
        config = config_class.from_pretrained(base)
    check_visual_settings(recipe.model, recipe.data, config)
    check_scoring(recipe.training.scoring, config, recipe.title)
    return config


def load_teacher(name: str | Path, processor: LeccrProcessor) -> CrossLingualModel:
    """A trained cross-lingual network, as it is asked in the second stage: nothing of it learns or drops out.

    Args:
        name: its folder or Hub id.
        processor: of the second stage, whose tokens the teacher reads too.

    Raises:
        ValueError: it is something else, or reads other tokens, other captions or shorter texts.
        OSError: it is neither here nor on the Hub.
    """
    with explained_absence(teacher=str(name)):
        teacher: CrossLingualModel = trained_model(str(name), CrossLingualModel, "teacher")
        reads_with = LeccrProcessor.from_pretrained(name)
    tokenizer = reads_with.tokenizer
    if tokenizer.get_vocab() != processor.tokenizer.get_vocab():
        raise ValueError(
            f"teacher must read with the tokenizer of this run, got {str(name)!r} with {len(tokenizer)} tokens where "
            f"the run has {len(processor.tokenizer)}, not all the same; train both stages with one text tower."
        )
    if reads_with.clean_captions != processor.clean_captions:
        raise ValueError(
            f"teacher must read captions as this run does, got {str(name)!r} with clean_captions "
            f"{str(reads_with.clean_captions).lower()}; set the same here."
        )
    if tokenizer.model_max_length < processor.max_length:
        raise ValueError(
            f"teacher must read texts of max_length {processor.max_length} tokens, got {str(name)!r} for at most "
            f"{tokenizer.model_max_length}; lower max_length."
        )
    return teacher.requires_grad_(False).eval()


def trained_model(name: str, model_class: Any, setting: str) -> Any:
    """A trained model by its folder or Hub id.

    Args:
        name: of the model.
        model_class: what it must be.
        setting: that names it, for messages.

    Raises:
        ValueError: it is of another type, or an adapter.
        OSError: it is neither here nor on the Hub.
    """
    _check_type(name, model_class.config_class, setting)
    model = model_class.from_pretrained(name, dtype=torch.float32)  # bf16 weights would lose small steps
    if has_adapter(model):
        raise ValueError(
            f"{setting} must be a whole model, got the adapter {name!r}; give the folder `model` of its run, in which "
            f"it is merged."
        )
    # An adapter that is trained on it finds it by this name from anywhere.
    model.name_or_path = str(Path(name).resolve()) if Path(name).is_dir() else name
    return model


def _check_type(name: str, config_class: Any, setting: str) -> None:
    if Path(name).is_dir() and not (Path(name) / CONFIG_NAME).is_file():
        kind = "the adapter " if (Path(name) / "adapter_config.json").is_file() else ""
        raise ValueError(
            f"{setting} must be a whole model, got {kind}{name!r}, which holds no {CONFIG_NAME}; give the folder "
            f"`model` of its run."
        )
    wanted = config_class.model_type
    found = PreTrainedConfig.get_config_dict(name)[0].get("model_type", wanted)
    if found != wanted:
        fitting = [title for title, system in SYSTEMS.items() if system.config_class.model_type == found]
        hint = f" To go on from it, set system: {fitting[0]}." if fitting and setting == "base_model" else ""
        raise ValueError(f"{setting} must be a model of type {wanted!r}, got {name!r} of type {found!r}.{hint}")


@contextmanager
def explained_absence(**names: str) -> Iterator[None]:
    """Say which setting names what is not found; transformers' own words send an offline user to a page of the Hub.

    Args:
        names: setting -> the folder or name on the Hub that the block loads.

    Raises:
        OSError: the block found no such thing.
    """
    try:
        yield
    except OSError as error:
        absent = {setting: name for setting, name in names.items() if not Path(name).is_dir()}
        if error.errno is not None or not absent:  # a full disk, or a folder with something missing
            raise
        reason = str(error).partition("\n")[0]
        named = " or ".join(f"{setting} {name!r}" for setting, name in absent.items())
        elsewhere = (
            "the Hub is offline (HF_HUB_OFFLINE), and not all of it is in the cache; go online once, or give a folder"
            if is_offline_mode()
            else "the Hub has none of this name, or cannot be reached; check the name and the connection"
        )
        raise OSError(f"{named} is no folder here, and {elsewhere}. ({reason})") from error
