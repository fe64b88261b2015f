"""The systems that a recipe can train, and how the settings of one become those of another."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modeling_leccr.configuration_cl2cm import Cl2cmConfig, CrossLingualConfig
from modeling_leccr.configuration_leccr import LeccrConfig
from modeling_leccr.losses_cl2cm import Cl2cmCriterion, Cl2cmLossConfig, CrossLingualCriterion, CrossLingualLossConfig
from modeling_leccr.losses_leccr import LeccrCriterion, LossConfig
from modeling_leccr.modeling_cl2cm import Cl2cmModel, CrossLingualModel
from modeling_leccr.modeling_leccr import LeccrModel
from modeling_leccr.training.reading import merged
from processing.languages import SOURCE_LANGUAGE

TWO_STAGES, FIRST_STAGE = "cl2cm", "cross_lingual"


@dataclass(frozen=True)
class System:
    """What one system is made of.

    Args:
        titles: what its models are called, by what their items are embedded from (`config.item_source`).
        config_class: of the model; the section `model` of a recipe sets its fields.
        model_class: the model.
        loss_class: weights and temperatures; the section `loss` of a recipe sets its fields.
        criterion_class: computes the losses.
    """

    titles: Mapping[str, str]
    config_class: type[Any]
    model_class: type[Any]
    loss_class: type[Any]
    criterion_class: type[Any]

    @property
    def sections(self) -> dict[str, frozenset[str]]:
        """The sections of a recipe that every system has in its own way -> the names that they may hold."""
        loss_names = frozenset(entry.name for entry in dataclasses.fields(self.loss_class))
        return {"model": self.config_class.choosable(), "loss": loss_names}

    def configured(self, fields: Mapping[str, Any]) -> Any:
        """A configuration with default towers, to see whether the fields fit each other; a width of frame features
        that is left to the data is any that fits.

        Args:
            fields: the section `model` of a recipe.

        Raises:
            ValueError: they do not fit, or a value is not allowed.
        """
        if not leaves_width_to_data(fields):
            return self.config_class(**fields)
        width_field = self.config_class.visual_width_field
        width = fields.get(width_field, getattr(self.config_class, width_field))
        return self.config_class(**{**fields, "feature_dim": width})


SYSTEMS: dict[str, System] = {
    "leccr": System(
        titles={
            "image_and_description": "LECCR",
            "image": "two streams",
            "description": "description alone",
        },
        config_class=LeccrConfig,
        model_class=LeccrModel,
        loss_class=LossConfig,
        criterion_class=LeccrCriterion,
    ),
    TWO_STAGES: System(
        titles={"image": "CL2CM"},
        config_class=Cl2cmConfig,
        model_class=Cl2cmModel,
        loss_class=Cl2cmLossConfig,
        criterion_class=Cl2cmCriterion,
    ),
    FIRST_STAGE: System(
        titles={"source_captions": "cross-lingual network"},
        config_class=CrossLingualConfig,
        model_class=CrossLingualModel,
        loss_class=CrossLingualLossConfig,
        criterion_class=CrossLingualCriterion,
    ),
}

# Settings that have a meaning for some systems alone.
_MEANT_FOR: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("teacher", "cross_lingual", "init_from_teacher"), (TWO_STAGES,)),
    "description_states": ("leccr",),
    **dict.fromkeys(
        ("vision_tower", "image_size", "num_frames", "frame_rate", "vision_training", "images", "videos", "features"),
        ("leccr", TWO_STAGES),
    ),
    **dict.fromkeys(("corrupt_images", "augmentation"), ("leccr", TWO_STAGES)),
}
# A model of one system is no start for another, has other losses, and is pushed under another name.
_NEVER_SHARED = frozenset({"base_model", "loss", "controls", "push_to_hub", "hub_model_id"})


def system_of(config: Any) -> System:
    """The system of a model, by its configuration."""
    return next(system for system in SYSTEMS.values() if isinstance(config, system.config_class))


def leaves_width_to_data(fields: Mapping[str, Any]) -> bool:
    """Whether the section `model` of a recipe reads frame features without saying how wide they are."""
    return fields.get("vision_input") == "features" and fields.get("feature_dim") is None


def without_meaning(settings: Mapping[str, Any], system: str) -> list[str]:
    """The settings of a recipe that would do nothing for a system."""
    return sorted(name for name, value in settings.items() if value and system not in _MEANT_FOR.get(name, SYSTEMS))


def varied(settings: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Settings of a recipe with changes applied.

    Where the changes name another `system`, the settings that only the first one knows are left out before: fields of
    its model, its losses, and its controls.
    """
    before = settings.get("system") or "leccr"
    after = changes.get("system", before)
    if after == before or after not in SYSTEMS:  # an unknown one is refused with all other values
        return merged(settings, changes)
    return merged(
        first_stage(settings) if (before, after) == (TWO_STAGES, FIRST_STAGE) else _fitted(settings, after), changes
    )


def first_stage(settings: dict[str, Any]) -> dict[str, Any]:
    """Of the settings of a recipe in two stages, those of the first: the same but for its section `cross_lingual`."""
    stage = _fitted(settings, FIRST_STAGE)
    if isinstance(stage.get("resume_from_checkpoint"), str):
        stage["resume_from_checkpoint"] = True  # a folder is one of the second stage
    return merged(stage, settings.get("cross_lingual") or {})


def _fitted(settings: dict[str, Any], system: str) -> dict[str, Any]:
    """The settings that have a meaning for another system too."""
    fit = {
        name: value
        for name, value in settings.items()
        if name not in _NEVER_SHARED and system in _MEANT_FOR.get(name, SYSTEMS)
    }
    fit["system"] = system
    known = SYSTEMS[system].config_class.choosable()
    fit["model"] = {name: value for name, value in (fit.get("model") or {}).items() if name in known}
    if system == FIRST_STAGE:
        if isinstance(languages := fit.get("evaluation_languages"), list):
            # Its items are the English captions, which cannot ask for themselves.
            fit["evaluation_languages"] = [language for language in languages if language != SOURCE_LANGUAGE]
        if factors := fit.get("learning_rate_multipliers"):
            fit["learning_rate_multipliers"] = {part: factors[part] for part in factors if part != "vision"}
        if fit.get("text_training") != "lora":
            fit.pop("lora", None)
    return fit
