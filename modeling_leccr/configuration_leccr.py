"""Configuration of LECCR: two towers, the semantic slots between them and the matching."""

import math
from typing import Any

from huggingface_hub.dataclasses import strict

from .configuration_streams_leccr import TwoStreamConfig

ITEM_SOURCES = ("image_and_description", "image", "description")
INTERACTIONS = ("dual", "v2s", "s2v", "co_attention", "none")
DESCRIPTION_ENCODERS = ("shared", "frozen")

# What the released code does and we correct (a field each); `LeccrConfig.official` selects them all.
OFFICIAL_CHOICES: dict[str, Any] = {
    "slot_init_std": 0.0,
    "normalize_slots": False,
    "description_encoder_in_eval_mode": False,
    "max_logit_scale": None,
}
# `vision_input` -> the same of its video form, which reads features alone.
OFFICIAL_VIDEO_CHOICES: dict[str, dict[str, Any]] = {
    "frames": {"frame_positions": "none"},
    "features": {"frame_positions": "none", "project_features": False},
}


@strict
class LeccrConfig(TwoStreamConfig):
    r"""
    Everything that shapes a [`LeccrModel`]; it checks itself.

    Paper: arXiv:2409.19961. Differs: the defaults are the corrected choices; `LeccrConfig.official(...)` gives the
    ones of the released code.

    Args:
        vision_config, vision_input, image_pooling, feature_dim, project_features, num_frame_layers, frame_positions:
            see `TwoStreamConfig`. Not used when `item_source` is `"description"`.
        text_config: configuration of any text encoder of transformers; multilingual where queries are.
        item_source: what an item is embedded from. `"image_and_description"` is LECCR; `"image"` is the two-stream
            baseline without slots; `"description"` compares captions with the description alone. A video counts as an
            image here.
        embed_dim: width of the space in which items and captions are compared.
        slot_dim: width of the visual tokens after projection, of the slots and of the blocks between them.
        num_slots: semantic slots an item.
        num_slot_layers: cross-attention blocks from the description to the slots.
        num_interaction_layers: cross-attention blocks between slots and visual tokens.
        num_attention_heads: heads of these blocks, and of those over the frames of a video.
        dropout: dropout of these blocks, likewise.
        interaction: `"v2s"` visual tokens attend to slots, `"s2v"` slots attend to visual tokens, `"dual"` both,
            `"co_attention"` self-attention over both, `"none"` neither.
        text_pooling: the same for captions; `"mean"` leaves padding out. Published: `"cls"`, which suits BERT; an
            encoder from scratch or one trained with mean pooling learns faster with `"mean"`.
        global_weight: weight a of the global score in the fused score a * global + (1 - a) * best slot.
        description_dropout: share of the items in training whose description is replaced with the learned null
            description. Above 0 the model also works for items without a description.
        description_encoder: what reads descriptions. `"shared"` (published) is the text tower as it learns; `"frozen"`
            is a copy of it as it was before training, saved with the model. A frozen one gives a description the same
            token states for ever, so that training can read them from a store instead of computing them each step.
        slot_init_std: standard deviation of the slot queries at the start. Official: 0, which leaves all slots equal.
        normalize_slots: unit-norm slot embeddings, as for images and captions. Official: raw.
        description_encoder_in_eval_mode: no dropout in the text encoder while it reads descriptions. Official: dropout.
        train_on_descriptions: let the losses of the slots reach the text encoder through the descriptions as well.
            Published: no. A pretrained encoder reads descriptions as it is; one from scratch has to learn it.
        aligned_slots: start the blocks from the description to slots and image near the identity, and their heads as
            the text head behind them, so that an item begins as a reading of its description in the space of the
            captions instead of at random. For encoders from scratch.
        initial_temperature: softmax temperature at the start (the learned `logit_scale` is the log of its inverse).
        max_logit_scale: upper bound of `logit_scale.exp()`. Official: none.
    """

    model_type = "leccr"
    choices = TwoStreamConfig.choices | {
        "item_source": ITEM_SOURCES,
        "interaction": INTERACTIONS,
        "description_encoder": DESCRIPTION_ENCODERS,
    }
    sizes = (*TwoStreamConfig.sizes, "slot_dim", "num_slot_layers", "num_interaction_layers")
    visual_width_field = "slot_dim"

    item_source: str = "image_and_description"
    slot_dim: int = 512
    num_slots: int = 4
    num_slot_layers: int = 3
    num_interaction_layers: int = 2
    interaction: str = "dual"
    global_weight: float | int = 0.8
    description_dropout: float | int = 0.0
    description_encoder: str = "shared"
    slot_init_std: float | int = 1.0
    normalize_slots: bool = True
    description_encoder_in_eval_mode: bool = True
    train_on_descriptions: bool = False
    aligned_slots: bool = False

    @classmethod
    def official(cls, **kwargs: Any) -> "LeccrConfig":
        """The model choices of the released code, faults included: for parity and for ablations.

        Raises:
            ValueError: a keyword argument contradicts one of these choices.
        """
        fixed = OFFICIAL_CHOICES | OFFICIAL_VIDEO_CHOICES.get(kwargs.get("vision_input", "image"), {})
        contradicted = {name: kwargs[name] for name in fixed if name in kwargs}
        if contradicted:
            raise ValueError(f"the official preset fixes {sorted(contradicted)}; use LeccrConfig(...) to set them.")
        return cls(**fixed, **kwargs)

    @property
    def needs_description(self) -> bool:
        """Whether an item without a description is refused: unless there are slots, and training left some out."""
        return self.reads_description and not (self.has_slots and self.description_dropout > 0)

    def validate_architecture(self) -> None:
        """As of the parent.

        Raises:
            ValueError: a field is out of range, or two fields exclude each other.
        """
        super().validate_architecture()
        self._check_ranges()
        if not self.has_slots and self.interaction != "none":
            raise ValueError(
                f"item_source={self.item_source!r} has no slots that could interact; "
                f"set interaction='none' (got {self.interaction!r})."
            )
        if self.description_encoder == "frozen":
            self._check_frozen_encoder()

    def _check_frozen_encoder(self) -> None:
        if not self.has_slots:
            raise ValueError(
                f"description_encoder='frozen' reads descriptions for slots, which item_source={self.item_source!r} "
                f"does not have; set description_encoder='shared'."
            )
        if self.train_on_descriptions or not self.description_encoder_in_eval_mode:
            raise ValueError(
                f"description_encoder='frozen' neither learns nor drops out, got train_on_descriptions="
                f"{self.train_on_descriptions} and description_encoder_in_eval_mode="
                f"{self.description_encoder_in_eval_mode}; leave both out, or set description_encoder='shared'."
            )

    def _check_ranges(self) -> None:
        if self.num_slots < 1:
            raise ValueError(
                f"num_slots must be at least 1, got {self.num_slots}; "
                f"for a model without slots set item_source='image' and interaction='none'."
            )
        for name in ("description_dropout", "global_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}.")
        if not 0 <= self.slot_init_std < math.inf:  # refuses NaN as well
            raise ValueError(f"slot_init_std must be finite and not negative, got {self.slot_init_std}.")
