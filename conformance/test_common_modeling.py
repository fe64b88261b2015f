"""The common tests of models, on each system with each kind of tower."""

import unittest
from typing import ClassVar

import torch
from torch.nn.functional import normalize

from conformance.common_modeling import BATCH_SIZE, CommonModelTests, FeatureTests, TwoTowerTests, WithLoss
from modeling_leccr import Cl2cmModel, CrossLingualModel, LeccrModel
from modeling_leccr.losses_cl2cm import Cl2cmCriterion, Cl2cmLossConfig, CrossLingualCriterion, CrossLingualLossConfig
from modeling_leccr.losses_leccr import LeccrCriterion, LossConfig
from tests.tiny import VIDEO_FIELDS, tiny_cl2cm_config, tiny_config, tiny_cross_lingual_config

DESCRIPTIONS = ("description_input_ids", "description_attention_mask")
FRAMES, FEATURES = ("pixel_values", "frame_mask"), ("frame_features", "frame_mask")


class LeccrWithLoss(WithLoss, LeccrModel):
    criterion = LeccrCriterion(LossConfig())


class Cl2cmWithLoss(WithLoss, Cl2cmModel):
    criterion = Cl2cmCriterion(Cl2cmLossConfig())


class CrossLingualWithLoss(WithLoss, CrossLingualModel):
    criterion = CrossLingualCriterion(CrossLingualLossConfig())


class LeccrTests(TwoTowerTests):
    all_model_classes = (LeccrModel,)
    with_loss = LeccrWithLoss
    make_config = staticmethod(tiny_config)
    item_inputs: tuple[str, ...] = ("pixel_values", *DESCRIPTIONS)
    additional_model_inputs = ("input_ids", *DESCRIPTIONS)

    def check_training_gradient_checkpointing(self, gradient_checkpointing_kwargs: dict | None = None) -> None:
        # A pass in evaluation mode keeps nothing, so it is not checkpointed; the common test expects every pass to be.
        self.model_tester = self.tester(description_encoder_in_eval_mode=False)
        super().check_training_gradient_checkpointing(gradient_checkpointing_kwargs)


class Cl2cmTests(TwoTowerTests):
    all_model_classes = (Cl2cmModel,)
    with_loss = Cl2cmWithLoss
    make_config = staticmethod(tiny_cl2cm_config)
    item_inputs: tuple[str, ...] = ("pixel_values",)
    # As of a teacher whose embeddings are wider than those of its pupil.
    other_inputs: ClassVar = {
        name: normalize(torch.randn(BATCH_SIZE, 24, generator=torch.Generator().manual_seed(seed)), dim=-1)
        for seed, name in enumerate(("teacher_source_embeds", "teacher_target_embeds"))
    }
    additional_model_inputs = ("input_ids",)


class CrossLingualTests(CommonModelTests):
    all_model_classes = (CrossLingualModel,)
    with_loss = CrossLingualWithLoss
    make_config = staticmethod(tiny_cross_lingual_config)


class ClipBertTest(LeccrTests, unittest.TestCase):
    """The default."""


class VitBertTest(LeccrTests, unittest.TestCase):
    fields = {"vision": "vit"}  # noqa: RUF012


class SwinBertTest(LeccrTests, unittest.TestCase):
    # The common test expects the width of the first stage, 16; ours is `slot_dim`, whatever the tower.
    fields = {"vision": "swin", "image_pooling": "mean", "slot_dim": 16}  # noqa: RUF012

    def test_image_features_are_as_wide_as_the_slots(self) -> None:
        config, inputs = self.model_tester.vision_model_tester.prepare_config_and_inputs_for_common()
        states = LeccrModel(config).eval().get_image_features(**inputs).last_hidden_state
        num_patches = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
        assert states.shape == (BATCH_SIZE, num_patches // 4, config.slot_dim)  # one stage merges 2 x 2 patches


class SiglipBertTest(LeccrTests, unittest.TestCase):
    fields = {"vision": "siglip", "image_pooling": "mean"}  # noqa: RUF012


class ClipXlmRobertaTest(LeccrTests, unittest.TestCase):
    fields = {"text": "xlm-roberta"}  # noqa: RUF012


class FrozenDescriptionsTest(LeccrTests, unittest.TestCase):
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


class FramesTest(LeccrTests, unittest.TestCase):
    fields = VIDEO_FIELDS["frames"]
    item_inputs = (*FRAMES, *DESCRIPTIONS)


class FeaturesTest(FeatureTests, LeccrTests, unittest.TestCase):
    fields = VIDEO_FIELDS["features"]
    item_inputs = (*FEATURES, *DESCRIPTIONS)


class Cl2cmClipBertTest(Cl2cmTests, unittest.TestCase):
    """The default."""


class Cl2cmSwinXlmRobertaTest(Cl2cmTests, unittest.TestCase):
    # As of `SwinBertTest`.
    fields = {"vision": "swin", "text": "xlm-roberta", "image_pooling": "mean", "visual_dim": 16}  # noqa: RUF012


class Cl2cmFramesTest(Cl2cmTests, unittest.TestCase):
    fields = VIDEO_FIELDS["frames"]
    item_inputs = FRAMES


class Cl2cmFeaturesTest(FeatureTests, Cl2cmTests, unittest.TestCase):
    fields = VIDEO_FIELDS["features"]
    item_inputs = FEATURES


class CrossLingualBertTest(CrossLingualTests, unittest.TestCase):
    """The default."""


class CrossLingualXlmRobertaTest(CrossLingualTests, unittest.TestCase):
    fields = {"text": "xlm-roberta", "text_pooling": "mean"}  # noqa: RUF012
