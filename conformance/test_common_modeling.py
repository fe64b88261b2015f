"""The common tests of models, on LECCR with each kind of tower."""

import copy
import unittest
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from transformers_tests.test_modeling_common import ModelTesterMixin

from modeling_leccr import LeccrConfig, LeccrModel, LeccrOutput
from modeling_leccr.losses_leccr import LeccrCriterion, LossConfig
from tests.tiny import VOCAB_SIZE, tiny_config, tiny_pairs, tiny_texts

BATCH_SIZE = 3
# The common test of resizing takes this many rows off the table of tokens.
NUM_REMOVED_TOKENS = 15


class LeccrWithLoss(LeccrModel):
    """Our loss is computed outside of the model; the common tests of training look for it in the output."""

    def forward(self, **inputs: Any) -> LeccrOutput:
        output = super().forward(**inputs)
        criterion = LeccrCriterion(LossConfig())
        batch = criterion.summarise(output, torch.arange(BATCH_SIZE))
        output.loss = criterion.total(criterion(batch, output.logit_scale))
        return output


@contextmanager
def unchecked_loading() -> Iterator[None]:
    """`LeccrModel.from_pretrained` refuses a checkpoint without weights; some common tests look at what it refuses.

    Of models outside of its package, transformers passes over modules without weights of their own, such as
    CLIPAttention, which initialises its children. Ours have their towers initialised when they are built.
    """
    with (
        patch("modeling_leccr.loading_leccr.check_loading"),
        patch.object(LeccrModel, "is_custom_code", return_value=False),
    ):
        yield


class LeccrModelTester:
    """Configurations and inputs, by the names under which the common tests look for them."""

    batch_size = BATCH_SIZE
    is_training = True
    num_hidden_layers = 2

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = fields
        self.vision_model_tester = self._half("pixel_values", "description_input_ids", "description_attention_mask")
        self.text_model_tester = self._half("input_ids", "attention_mask")

    def get_config(self) -> LeccrConfig:
        return tiny_config(**self.fields)

    def prepare_config_and_inputs_for_common(self) -> tuple[LeccrConfig, dict[str, Tensor]]:
        input_ids, attention_mask = tiny_texts(BATCH_SIZE)
        inputs = {**tiny_pairs(BATCH_SIZE), "input_ids": input_ids, "attention_mask": attention_mask}
        for name, value in inputs.items():
            if name.endswith("input_ids"):
                value.clamp_(max=VOCAB_SIZE - NUM_REMOVED_TOKENS - 1)
        return self.get_config(), inputs

    def _half(self, *names: str) -> SimpleNamespace:
        """The tester of one tower, which the tests of `get_text_features` and `get_image_features` ask."""

        def prepare() -> tuple[LeccrConfig, dict[str, Tensor]]:
            config, inputs = self.prepare_config_and_inputs_for_common()
            return config, {name: inputs[name] for name in names}

        return SimpleNamespace(num_hidden_layers=self.num_hidden_layers, prepare_config_and_inputs_for_common=prepare)


class CommonModelTests(ModelTesterMixin):
    """The common tests; a method here stands for the one of the same name there, and says why."""

    all_model_classes = (LeccrModel,)
    additional_model_inputs = ("input_ids", "description_input_ids", "description_attention_mask")
    test_can_init_all_missing_weights_before_2023 = True
    _is_composite = True
    fields: dict[str, Any] = {}  # noqa: RUF012

    def setUp(self) -> None:
        self.model_tester = LeccrModelTester(self.fields)

    # The loss comes from `LeccrCriterion`.

    def test_training(self) -> None:
        with patch.object(self, "all_model_classes", (LeccrWithLoss,)):
            super().test_training()

    def check_training_gradient_checkpointing(self, gradient_checkpointing_kwargs: dict | None = None) -> None:
        # A pass in evaluation mode keeps nothing, so it is not checkpointed; the common test expects every pass to be.
        self.model_tester = LeccrModelTester({**self.fields, "description_encoder_in_eval_mode": False})
        with patch.object(self, "all_model_classes", (LeccrWithLoss,)):
            super().check_training_gradient_checkpointing(gradient_checkpointing_kwargs)

    def test_enable_input_require_grads_with_gradient_checkpointing(self) -> None:
        with patch.object(self, "all_model_classes", (LeccrWithLoss,)):
            super().test_enable_input_require_grads_with_gradient_checkpointing()

    # `LeccrModel` refuses the checkpoints of these two, which lack weights.

    def test_can_init_all_missing_weights(self) -> None:
        with pytest.raises(ValueError, match="missing_keys"):
            LeccrModel.from_pretrained(None, config=self.model_tester.get_config(), state_dict={})
        with unchecked_loading():
            super().test_can_init_all_missing_weights()

    def test_model_weights_reload_no_missing_tied_weights(self) -> None:
        with pytest.raises(ValueError, match="missing_keys"):
            super().test_model_weights_reload_no_missing_tied_weights()
        with unchecked_loading():
            super().test_model_weights_reload_no_missing_tied_weights()

    # As in CLIP, what the layers give is in the output of each tower, not in one list.

    def test_hidden_states_output(self) -> None:
        self._check_layers("hidden_states", self.model_tester.num_hidden_layers + 1)

    def test_attention_outputs(self) -> None:
        self._check_layers("attentions", self.model_tester.num_hidden_layers)

    def _check_layers(self, kind: str, num_layers: int) -> None:
        """Both towers give their layers when the call or the configuration asks, and the same as they give alone."""
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        config._attn_implementation = "eager"
        model = LeccrModel(copy.deepcopy(config)).eval()
        asked = {f"output_{kind}": True}
        with torch.no_grad():
            text = model.text_model(inputs["input_ids"], attention_mask=inputs["attention_mask"], **asked)
            vision = model.vision_model(inputs["pixel_values"], **asked)
            silent = model(**inputs)
            by_call = model(**inputs, **asked)
            self._set_subconfig_attributes(model.config, f"output_{kind}", True)
            by_config = model(**inputs)
        assert silent.text_model_output is None and silent.vision_model_output is None
        for output in (by_call, by_config):
            torch.testing.assert_close(output.logits_per_image, silent.logits_per_image)
            assert len(output.text_model_output[kind]) == len(output.vision_model_output[kind]) == num_layers
            torch.testing.assert_close(output.text_model_output[kind], text[kind])
            torch.testing.assert_close(output.vision_model_output[kind], vision[kind])

    def test_retain_grad_hidden_states_attentions(self) -> None:
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        config._attn_implementation = "eager"
        output = LeccrModel(config)(**inputs, output_hidden_states=True, output_attentions=True)
        halves = (output.text_model_output, output.vision_model_output)
        first_layers = [half[kind][0] for half in halves for kind in ("hidden_states", "attentions")]
        for states in first_layers:
            states.retain_grad()
        output[0].flatten()[0].backward()
        assert all(states.grad is not None and states.grad.abs().sum() > 0 for states in first_layers)


class ClipBertTest(CommonModelTests, unittest.TestCase):
    """The default."""


class VitBertTest(CommonModelTests, unittest.TestCase):
    fields = {"vision": "vit"}  # noqa: RUF012


class SwinBertTest(CommonModelTests, unittest.TestCase):
    # The common test expects the width of the first stage, 16; ours is `slot_dim`, whatever the tower.
    fields = {"vision": "swin", "image_pooling": "mean", "slot_dim": 16}  # noqa: RUF012

    def test_image_features_are_as_wide_as_the_slots(self) -> None:
        config, inputs = self.model_tester.vision_model_tester.prepare_config_and_inputs_for_common()
        states = LeccrModel(config).eval().get_image_features(**inputs).last_hidden_state
        num_patches = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
        assert states.shape == (BATCH_SIZE, num_patches // 4, config.slot_dim)  # one stage merges 2 x 2 patches


class SiglipBertTest(CommonModelTests, unittest.TestCase):
    fields = {"vision": "siglip", "image_pooling": "mean"}  # noqa: RUF012


class ClipXlmRobertaTest(CommonModelTests, unittest.TestCase):
    fields = {"text": "xlm-roberta"}  # noqa: RUF012


class FrozenDescriptionsTest(CommonModelTests, unittest.TestCase):
    fields = {"description_encoder": "frozen"}  # noqa: RUF012

    def check_training_gradient_checkpointing(self, gradient_checkpointing_kwargs: dict | None = None) -> None:
        # The common test expects every pass to be checkpointed, and the frozen encoder never leaves evaluation mode.
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        gradients = []
        for checkpointed in (False, True):
            torch.manual_seed(0)
            model = LeccrWithLoss(config).train()
            if checkpointed:
                model.gradient_checkpointing_enable(gradient_checkpointing_kwargs)
            torch.manual_seed(1)
            model(**inputs).loss.backward()
            gradients.append({name: value.grad for name, value in model.named_parameters() if value.requires_grad})
        torch.testing.assert_close(gradients[1], gradients[0])
