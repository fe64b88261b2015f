"""Parameter groups: who learns how fast, and what decays."""

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from modeling_leccr.training.optimization import parameter_groups
from tests.tiny import tiny_model
from tests.training_parts import tiny_trainer


def settings_by_name(model: nn.Module, **multipliers: float) -> dict[str, dict[str, Any]]:
    """Optimizer settings of each parameter."""
    groups = parameter_groups(model, learning_rate=0.1, weight_decay=0.5, multipliers=multipliers)
    by_id = {id(parameter): group for group in groups for parameter in group["params"]}
    return {name: by_id[id(parameter)] for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("fields", [{}, {"vision": "convnextv2", "image_pooling": "mean"}, {"item_source": "image"}])
def test_every_parameter_is_in_one_group(fields: dict[str, Any]):
    """A parameter in no group is never trained, one in two groups takes two steps."""
    model = tiny_model(**fields)
    groups = parameter_groups(model, learning_rate=0.1, weight_decay=0.5, multipliers={})
    ids = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(parameter) for parameter in model.parameters()}


def test_a_frozen_parameter_is_in_no_group():
    """Decay would still move it."""
    model = tiny_model()
    model.vision_model.requires_grad_(False)
    groups = parameter_groups(model, learning_rate=0.1, weight_decay=0.5, multipliers={})
    frozen = {id(parameter) for parameter in model.vision_model.parameters()}
    assert not any(id(parameter) in frozen for group in groups for parameter in group["params"])


def test_multipliers_reach_their_part_of_the_model():
    """The released code reads a multiplier for new heads and never applies it."""
    for name, settings in settings_by_name(tiny_model(), vision=0.1, heads=10.0).items():
        part = name.split(".")[0]
        factor = {"vision_model": 0.1, "text_model": 1.0}.get(part, 10.0)
        assert settings["lr"] == pytest.approx(0.1 * factor), name


def test_a_factor_for_a_part_that_is_not_trained_is_refused():
    """A `base_model` without vision tower shows only when it is there."""
    model = tiny_model(item_source="description")
    with pytest.raises(ValueError, match=r"factors for \['vision'\], of which the model trains nothing"):
        parameter_groups(model, learning_rate=0.1, weight_decay=0.5, multipliers={"vision": 2.0})


@pytest.mark.parametrize("vision", ["clip", "vit", "convnextv2", "swin"])
def test_matrices_decay_and_nothing_else_does(vision: str):
    """Decay pulls norm gains, position tables, queries and the temperature towards zero, and the rows of words that
    a batch lacks."""
    pooling = "cls" if vision in ("clip", "vit") else "mean"
    model = tiny_model(vision=vision, image_pooling=pooling, description_dropout=0.1)
    settings = settings_by_name(model)
    matrices = {
        f"{name}.weight" for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))
    }
    assert matrices <= set(settings)
    # Attention of torch keeps its projections in parameters of its own.
    decaying = {name for name, group in settings.items() if group["weight_decay"]}
    assert matrices == {name for name in decaying if "in_proj" not in name}
    assert all(settings[name]["weight_decay"] == 0.5 for name in matrices)
    for name in ("logit_scale.value", "semantic_slots.slot_queries", "semantic_slots.null_description"):
        assert settings[name]["weight_decay"] == 0.0


def test_the_optimizer_of_the_trainer_has_these_groups(tmp_path: Path):
    """A trainer that builds its own optimizer would drop the multipliers of the recipe."""
    trainer = tiny_trainer(
        tmp_path,
        tiny_model(),
        learning_rate=0.01,
        weight_decay=0.2,
        learning_rate_multipliers={"text": 0.5},
        adam_beta2=0.9,
    )
    optimizer = trainer.create_optimizer()
    assert {(group["lr"], group["weight_decay"]) for group in optimizer.param_groups} == {
        (0.01, 0.2),
        (0.01, 0.0),
        (0.005, 0.2),
        (0.005, 0.0),
    }
    assert all(group["betas"] == (0.9, 0.9) for group in optimizer.param_groups)
    assert trainer.create_optimizer() is optimizer


@pytest.mark.parametrize("multipliers", [{"head": 2.0}, {"text": 0.0}, {"vision": -1.0}, {"text": float("nan")}])
def test_an_unknown_group_or_factor_is_refused(multipliers: dict[str, float]):
    """A typo would train with the learning rate that one wanted to change."""
    with pytest.raises(ValueError, match="learning_rate_multipliers takes positive factors"):
        parameter_groups(tiny_model(), learning_rate=0.1, weight_decay=0.5, multipliers=multipliers)
