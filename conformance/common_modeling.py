"""The common tests of models, made to fit ours: what those of all systems share."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from parameterized import parameterized
from torch import Tensor
from transformers_tests.test_modeling_common import ModelTesterMixin

from modeling_leccr.configuration_streams_leccr import TextStreamConfig
from modeling_leccr.streams_leccr import TextStreamModel
from tests.tiny import VOCAB_SIZE, tiny_pairs, tiny_texts, with_videos

BATCH_SIZE = 3
# The common test of resizing takes this many rows off the table of tokens.
NUM_REMOVED_TOKENS = 15


class WithLoss:
    """Our losses are computed outside of the models; the common tests of training look for one in the output."""

    criterion: Any

    def forward(self, **inputs: Any) -> Any:
        output = super().forward(**inputs)  # type: ignore[misc]  # of the model beside which this class stands
        rows = self.criterion.summarise(output, torch.arange(BATCH_SIZE))
        output.loss = self.criterion.total(self.criterion(rows, output.logit_scale))
        return output


@contextmanager
def unchecked_loading(model_class: type[TextStreamModel]) -> Iterator[None]:
    """`from_pretrained` of our models refuses a checkpoint without weights; some common tests look at what it refuses.

    Of models outside of its package, transformers passes over modules without weights of their own, such as
    CLIPAttention, which initialises its children. Ours have their towers initialised when they are built.
    """
    with (
        patch("modeling_leccr.loading_leccr.check_loading"),
        patch.object(model_class, "is_custom_code", return_value=False),
    ):
        yield


class StreamTester:
    """Configurations and inputs, by the names under which the common tests look for them.

    Args:
        make_config: makes a tiny configuration of the fields.
        fields: of the configuration; `vision_input` among them makes the items videos.
        item_inputs: what `get_image_features` reads; nothing for a model of texts alone.
        other_inputs: what `forward` reads beside that and texts.
    """

    batch_size = BATCH_SIZE
    is_training = True
    num_hidden_layers = num_attention_heads = 2
    hidden_size = 32
    seq_length = tiny_texts()[0].shape[1]

    def __init__(
        self,
        make_config: Callable[..., TextStreamConfig],
        fields: Mapping[str, Any],
        item_inputs: Sequence[str],
        other_inputs: Mapping[str, Tensor],
    ) -> None:
        self.get_config = partial(make_config, **fields)
        self.vision_input = fields.get("vision_input", "image")
        self.item_inputs, self.other_inputs = item_inputs, other_inputs
        self.vision_model_tester = self._half(*item_inputs)
        self.text_model_tester = self._half("input_ids", "attention_mask")

    def prepare_config_and_inputs_for_common(self) -> tuple[Any, dict[str, Tensor]]:
        input_ids, attention_mask = tiny_texts(BATCH_SIZE)
        pairs = tiny_pairs(BATCH_SIZE)
        pairs = pairs if self.vision_input == "image" else with_videos(pairs, self.vision_input)
        read = [name for name in pairs if name.startswith(("source", "target")) or name in self.item_inputs]
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask} | {name: pairs[name] for name in read}
        inputs |= {name: value.clone() for name, value in self.other_inputs.items()}
        for name, value in inputs.items():
            if name.endswith("input_ids"):
                value.clamp_(max=VOCAB_SIZE - NUM_REMOVED_TOKENS - 1)
        return self.get_config(), inputs

    def _half(self, *names: str) -> SimpleNamespace:
        """The tester of one tower, which the tests of `get_text_features` and `get_image_features` ask."""

        def prepare() -> tuple[Any, dict[str, Tensor]]:
            config, inputs = self.prepare_config_and_inputs_for_common()
            return config, {name: inputs[name] for name in names}

        return SimpleNamespace(num_hidden_layers=self.num_hidden_layers, prepare_config_and_inputs_for_common=prepare)


class CommonModelTests(ModelTesterMixin):
    """The common tests; a method here stands for the one of the same name there, and says why."""

    test_can_init_all_missing_weights_before_2023 = True
    _is_composite = True
    with_loss: type[Any]
    make_config: Callable[..., TextStreamConfig]
    fields: dict[str, Any] = {}  # noqa: RUF012
    item_inputs: tuple[str, ...] = ()
    other_inputs: dict[str, Tensor] = {}  # noqa: RUF012

    @property
    def model_class(self) -> type[Any]:
        return self.all_model_classes[0]

    def tester(self, **fields: Any) -> StreamTester:
        return StreamTester(type(self).make_config, self.fields | fields, self.item_inputs, self.other_inputs)

    def setUp(self) -> None:
        self.model_tester = self.tester()

    # The losses are not in the models.

    def test_training(self) -> None:
        with patch.object(self, "all_model_classes", (self.with_loss,)):
            super().test_training()

    def check_training_gradient_checkpointing(self, gradient_checkpointing_kwargs: dict | None = None) -> None:
        with patch.object(self, "all_model_classes", (self.with_loss,)):
            super().check_training_gradient_checkpointing(gradient_checkpointing_kwargs)

    def test_enable_input_require_grads_with_gradient_checkpointing(self) -> None:
        with patch.object(self, "all_model_classes", (self.with_loss,)):
            super().test_enable_input_require_grads_with_gradient_checkpointing()

    # Our models refuse the checkpoints of these two, which lack weights.

    def test_can_init_all_missing_weights(self) -> None:
        with pytest.raises(ValueError, match="missing_keys"):
            self.model_class.from_pretrained(None, config=self.model_tester.get_config(), state_dict={})
        with unchecked_loading(self.model_class):
            super().test_can_init_all_missing_weights()

    def test_model_weights_reload_no_missing_tied_weights(self) -> None:
        with pytest.raises(ValueError, match="missing_keys"):
            super().test_model_weights_reload_no_missing_tied_weights()
        with unchecked_loading(self.model_class):
            super().test_model_weights_reload_no_missing_tied_weights()


def seen_pictures(inputs: Mapping[str, Tensor]) -> Tensor:
    """What the vision tower reads: the pictures, or the real frames of the videos."""
    pictures = inputs["pixel_values"]
    return pictures[inputs["frame_mask"].bool()] if "frame_mask" in inputs else pictures


class TwoTowerTests(CommonModelTests):
    """Of models of images or videos and texts."""

    # As in CLIP, what the layers give is in the output of each tower, not in one list.

    def test_hidden_states_output(self) -> None:
        self._check_layers("hidden_states", self.model_tester.num_hidden_layers + 1)

    def test_attention_outputs(self) -> None:
        self._check_layers("attentions", self.model_tester.num_hidden_layers)

    def _check_layers(self, kind: str, num_layers: int) -> None:
        """Each tower gives its layers when the call or the configuration asks, and the same as it gives alone."""
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        config._attn_implementation = "eager"
        model = self.model_class(copy.deepcopy(config)).eval()
        asked = {f"output_{kind}": True}
        towers = {}
        with torch.no_grad():
            towers["text_model_output"] = model.text_model(
                inputs["input_ids"], attention_mask=inputs["attention_mask"], **asked
            )
            if config.has_vision_tower:
                towers["vision_model_output"] = model.vision_model(seen_pictures(inputs), **asked)
            silent = model(**inputs)
            by_call = model(**inputs, **asked)
            self._set_subconfig_attributes(model.config, f"output_{kind}", True)
            by_config = model(**inputs)
        assert silent.text_model_output is None and silent.vision_model_output is None
        for output in (by_call, by_config):
            torch.testing.assert_close(output.logits_per_image, silent.logits_per_image)
            assert {name for name in output if name.endswith("model_output")} == set(towers)
            for name, expected in towers.items():
                assert len(output[name][kind]) == num_layers
                torch.testing.assert_close(output[name][kind], expected[kind])

    def test_retain_grad_hidden_states_attentions(self) -> None:
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        config._attn_implementation = "eager"
        output = self.model_class(config)(**inputs, output_hidden_states=True, output_attentions=True)
        halves = [output[name] for name in output if name.endswith("model_output")]
        assert len(halves) == 1 + config.has_vision_tower
        first_layers = [half[kind][0] for half in halves for kind in ("hidden_states", "attentions")]
        for states in first_layers:
            states.retain_grad()
        output[0].flatten()[0].backward()
        assert all(states.grad is not None and states.grad.abs().sum() > 0 for states in first_layers)


class FeatureTests(TwoTowerTests):
    """Of models of frame features, which have no vision tower: nothing sees, and no layers of it can be given."""

    @parameterized.expand([True, False, None])
    def test_get_image_features_output(self, return_dict: bool | None) -> None:
        """The shapes, which the common test looks up in the configuration of a vision tower."""
        config, inputs = self.model_tester.vision_model_tester.prepare_config_and_inputs_for_common()
        if return_dict is not None:
            config.return_dict = return_dict
        output = self.model_class(config).eval().get_image_features(**inputs)
        assert isinstance(output, tuple) == (return_dict is False)
        states, embeds = (output[0], output[1]) if isinstance(output, tuple) else output.to_tuple()[:2]
        assert states.shape == (*inputs["frame_features"].shape[:2], config.visual_width)
        assert embeds.shape == (BATCH_SIZE, config.embed_dim)

    def test_get_image_features_hidden_states(self) -> None:
        self._check_no_layers("hidden_states")

    def test_get_image_features_attentions(self) -> None:
        self._check_no_layers("attentions")

    def _check_no_layers(self, kind: str) -> None:
        config, inputs = self.model_tester.vision_model_tester.prepare_config_and_inputs_for_common()
        features = self.model_class(config).eval().get_image_features(**inputs, **{f"output_{kind}": True})
        assert kind not in features and features.pooler_output.shape == (BATCH_SIZE, config.embed_dim)
