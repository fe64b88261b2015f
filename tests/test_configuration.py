"""LeccrConfig: its checks, its presets, and that it survives a folder."""

import math
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, CLIPVisionConfig

from modeling_leccr import LeccrConfig
from modeling_leccr.configuration_leccr import OFFICIAL_CHOICES
from tests.tiny import tiny_config, tiny_text_config, tiny_vision_config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_slots": 0}, "num_slots must be at least 1"),
        ({"embed_dim": 0}, "embed_dim must be at least 1"),
        ({"slot_dim": 0}, "slot_dim must be at least 1"),
        ({"num_slot_layers": 0}, "num_slot_layers must be at least 1"),
        ({"num_interaction_layers": 0}, "num_interaction_layers must be at least 1"),
        ({"num_attention_heads": 0}, "num_attention_heads must be at least 1"),
        ({"num_attention_heads": 5}, "multiple of num_attention_heads"),
        ({"dropout": 1.5}, r"dropout must lie in \[0, 1\]"),
        ({"description_dropout": -0.1}, r"description_dropout must lie in \[0, 1\]"),
        ({"global_weight": 2.0}, r"global_weight must lie in \[0, 1\]"),
        ({"slot_init_std": -1.0}, "slot_init_std must be finite and not negative"),
        ({"slot_init_std": math.nan}, "slot_init_std must be finite"),
        ({"initial_temperature": 0.0}, "initial_temperature must be positive"),
        ({"initial_temperature": math.inf}, "initial_temperature must be positive and finite"),
        ({"max_logit_scale": 5.0}, "max_logit_scale must be finite and at least 1 / initial_temperature"),
        ({"max_logit_scale": math.nan}, "max_logit_scale must be finite"),
        ({"item_source": "video"}, "item_source must be one of"),
        ({"interaction": "cross"}, "interaction must be one of"),
        ({"image_pooling": "max"}, "image_pooling must be one of"),
        ({"text_pooling": "last"}, "text_pooling must be one of"),
        ({"item_source": "image", "interaction": "dual"}, "no slots that could interact"),
        ({"item_source": "description", "interaction": "v2s"}, "no slots that could interact"),
        ({"vision": "swin"}, "needs a vision tower with a class token"),
        ({"vision": "siglip"}, "needs a vision tower with a class token"),
        ({"vision": "convnextv2"}, "needs a vision tower with a class token"),
    ],
)
def test_a_field_out_of_range_is_refused_with_its_name(fields: dict[str, Any], message: str) -> None:
    """Without the check, K = 0 or a patch taken for a class token trains a useless model in silence."""
    with pytest.raises(Exception, match=message) as caught:
        tiny_config(**fields)
    assert isinstance(caught.value, ValueError) or isinstance(caught.value.__cause__, ValueError)


def test_a_field_of_another_type_is_refused() -> None:
    """A YAML recipe with `num_slots: four` must not reach torch.empty."""
    with pytest.raises(Exception, match="num_slots"):
        tiny_config(num_slots="four")


def test_defaults_are_the_corrected_choices() -> None:
    """A default that drifts to a fault of the released code changes every new model."""
    config = tiny_config()
    assert {name: getattr(config, name) for name in OFFICIAL_CHOICES} == {
        "slot_init_std": 1.0,
        "normalize_slots": True,
        "description_encoder_in_eval_mode": True,
        "max_logit_scale": 100.0,
    }


def test_official_preset_selects_every_official_choice() -> None:
    """A choice left out of the preset would break parity in one place only."""
    config = LeccrConfig.official(vision_config=tiny_vision_config(), text_config=tiny_text_config(), num_slots=2)
    assert {name: getattr(config, name) for name in OFFICIAL_CHOICES} == OFFICIAL_CHOICES
    assert config.num_slots == 2
    for fields in ({"vision_input": "frames"}, {"vision_input": "features", "feature_dim": 512, "slot_dim": 512}):
        preset = LeccrConfig.official(**fields)
        assert preset.frame_positions == "none" and preset.project_features == ("feature_dim" not in fields)


def test_official_preset_refuses_to_be_contradicted() -> None:
    """Half an official model is neither ours nor theirs."""
    with pytest.raises(ValueError, match="official preset fixes"):
        LeccrConfig.official(normalize_slots=True)


def test_config_survives_a_folder(tmp_path: Path) -> None:
    """A nested tower that comes back with default sizes fits no weights."""
    config = tiny_config(num_slots=3, interaction="s2v", image_pooling="mean", vision="swin", description_dropout=0.25)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is LeccrConfig
    assert loaded.vision_config.model_type == "swin"
    assert loaded.vision_config.to_dict() == config.vision_config.to_dict()
    assert loaded.text_config.to_dict() == config.text_config.to_dict()
    ignored = {"transformers_version", "_name_or_path"}
    ours, theirs = (
        {name: value for name, value in each.to_dict().items() if name not in ignored} for each in (config, loaded)
    )
    assert ours == theirs


def test_towers_may_be_given_as_dictionaries() -> None:
    """A YAML recipe holds dictionaries, not configuration objects."""
    config = LeccrConfig(vision_config=tiny_vision_config().to_dict(), text_config=tiny_text_config().to_dict())
    assert isinstance(config.vision_config, CLIPVisionConfig)
    assert config.vision_config.hidden_size == 32
    assert config.text_config.vocab_size == 99


def test_without_images_the_vision_tower_is_not_checked() -> None:
    """The description-only control has no vision tower whose pooling could be wrong."""
    assert not tiny_config(item_source="description", vision="swin").reads_image


@pytest.mark.parametrize(
    ("item_source", "has_slots", "reads_image", "reads_description"),
    [("image_and_description", True, True, True), ("image", False, True, False), ("description", False, False, True)],
)
def test_item_source_says_what_is_read(
    item_source: str, has_slots: bool, reads_image: bool, reads_description: bool
) -> None:
    """The trainer and evaluation decide by these what a batch must hold."""
    config = tiny_config(item_source=item_source)
    assert (config.has_slots, config.reads_image, config.reads_description) == (
        has_slots,
        reads_image,
        reads_description,
    )
