"""The common tests of configurations, on LECCR with each kind of tower."""

import json
import unittest
from types import SimpleNamespace
from typing import Any

import pytest
from transformers_tests.test_configuration_common import ConfigTester

from modeling_leccr import LeccrConfig
from tests.tiny import tiny_config

TOWERS: list[dict[str, Any]] = [
    {"vision": "clip"},
    {"vision": "vit"},
    {"vision": "swin", "image_pooling": "mean"},
    {"vision": "siglip", "image_pooling": "mean"},
    {"text": "xlm-roberta"},
]


@pytest.mark.parametrize("fields", TOWERS, ids=lambda fields: next(iter(fields.values())))
def test_config(fields: dict[str, Any]) -> None:
    """With other values than the defaults, which a configuration that forgets would give back."""
    parent: Any = unittest.TestCase()
    parent.model_tester = SimpleNamespace(get_config=lambda: tiny_config(**fields))
    changed = {"num_slots": 3, "embed_dim": 16, "slot_dim": 32, "global_weight": 0.5, "image_pooling": "mean"}
    written = json.loads(tiny_config(**fields).to_json_string())
    towers = {name: written[name] for name in ("vision_config", "text_config")}
    tester = ConfigTester(
        parent, config_class=LeccrConfig, has_text_modality=False, common_properties=list(changed), **changed, **towers
    )
    tester.run_common_tests()
