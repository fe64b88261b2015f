"""The common tests of configurations, on each system with each kind of tower."""

import json
import unittest
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from transformers_tests.test_configuration_common import ConfigTester

from modeling_leccr.configuration_streams_leccr import TOWER_CONFIGS
from tests.tiny import tiny_cl2cm_config, tiny_config, tiny_cross_lingual_config

TOWERS: list[dict[str, Any]] = [
    {"vision": "clip"},
    {"vision": "vit"},
    {"vision": "swin", "image_pooling": "mean"},
    {"vision": "siglip", "image_pooling": "mean"},
    {"text": "xlm-roberta"},
]
# Other values than the defaults, which a configuration that forgets would give back.
LECCR = {"num_slots": 3, "embed_dim": 16, "slot_dim": 32, "global_weight": 0.5, "image_pooling": "mean"}
CL2CM = {"embed_dim": 16, "visual_dim": 32, "image_pooling": "mean", "text_pooling": "mean"}
CROSS_LINGUAL = {"embed_dim": 16, "text_pooling": "mean", "initial_temperature": 0.1}


def check(make_config: Callable[..., Any], fields: dict[str, Any], changed: dict[str, Any]) -> None:
    parent: Any = unittest.TestCase()
    parent.model_tester = SimpleNamespace(get_config=lambda: make_config(**fields))
    written = json.loads(make_config(**fields).to_json_string())
    towers = {name: written[name] for name in TOWER_CONFIGS if name in written}
    tester = ConfigTester(
        parent,
        config_class=type(make_config(**fields)),
        has_text_modality=False,
        common_properties=list(changed),
        **changed,
        **towers,
    )
    tester.run_common_tests()


@pytest.mark.parametrize("fields", TOWERS, ids=lambda fields: next(iter(fields.values())))
def test_config(fields: dict[str, Any]) -> None:
    check(tiny_config, fields, LECCR)


@pytest.mark.parametrize("fields", TOWERS, ids=lambda fields: next(iter(fields.values())))
def test_config_of_cl2cm(fields: dict[str, Any]) -> None:
    check(tiny_cl2cm_config, fields, CL2CM)


@pytest.mark.parametrize("text", ["bert", "xlm-roberta"])
def test_config_of_the_cross_lingual_network(text: str) -> None:
    check(tiny_cross_lingual_config, {"text": text}, CROSS_LINGUAL)
