"""The controls of a recipe: systems that are trained beside the main one, on the same data with the same budget."""

import dataclasses
from typing import Any

from modeling_leccr.training.arguments import DataArguments, Recipe, build_recipe
from modeling_leccr.training.checks import PROCESS_SETTINGS
from modeling_leccr.training.systems import varied

# Splits and processor are made once, so that systems are compared on the same inputs; the main system alone is pushed.
_SHARED_SETTINGS = {entry.name for entry in dataclasses.fields(DataArguments)} | {
    "image_size",
    "num_frames",
    "frame_rate",
    "vocab_size",
    "max_length",
    "clean_captions",
    "base_model",
    "output_dir",
    "push_to_hub",
    *PROCESS_SETTINGS,
}
# What the section `model` says of frames, for which a system of descriptions alone has no use.
_OF_VIDEOS = frozenset({"vision_input", "feature_dim", "project_features"})


def control_recipes(recipe: Recipe) -> dict[str, Recipe]:
    """The recipes of the controls: the main one with a few settings changed.

    Raises:
        ValueError: a control changes what all systems share: the data, what reads them, or what is found.
    """
    for name, changes in recipe.training.controls.items():
        refused = sorted(set(changes) & _SHARED_SETTINGS)
        if refused or name == recipe.title or "/" in name:
            raise ValueError(
                f"the control {name!r} must have a name of its own without '/', and share the data, the processor and "
                f"the precision with the main system; got changes of {refused or 'the name'}. Train it as a recipe of "
                f"its own."
            )
    shared = {name: value for name, value in recipe.settings.items() if name != "controls"}
    if isinstance(shared.get("resume_from_checkpoint"), str):
        shared["resume_from_checkpoint"] = True  # a folder is one of the main system, and a control has its own
    controls = {name: varied(shared, changes) for name, changes in recipe.training.controls.items()}
    for settings in controls.values():
        if not settings.get("base_model") and settings.get("model", {}).get("description_encoder") != "frozen":
            settings.pop("description_states", None)  # the store of the main system is of no use to this one
        if settings.get("model", {}).get("item_source") == "description":  # without vision tower
            factors = settings.get("learning_rate_multipliers") or {}
            settings["learning_rate_multipliers"] = {part: factors[part] for part in factors if part != "vision"}
            settings["model"] = {name: settings["model"][name] for name in settings["model"] if name not in _OF_VIDEOS}
    recipes = {name: _built(name, settings) for name, settings in controls.items()}
    for name, control in recipes.items():
        configs = [system.config for system in (control, recipe) if system.config.reads_image]
        if len({config.vision_input for config in configs}) > 1:
            raise ValueError(
                f"the control {name!r} must see what the main system sees, model.vision_input: "
                f"{configs[1].vision_input}, got {configs[0].vision_input}; train it as a recipe of its own."
            )
        if control.config.captions_are_items != recipe.config.captions_are_items:
            raise ValueError(
                f"the control {name!r} must find what the main system finds, got {control.title} beside "
                f"{recipe.title}: one finds pictures and the other one English captions, so that their numbers do not "
                f"compare. Train it as a recipe of its own."
            )
    return recipes


def _built(name: str, settings: dict[str, Any]) -> Recipe:
    try:
        return build_recipe(settings)
    except ValueError as error:
        raise ValueError(f"the control {name!r}: {error}") from error
