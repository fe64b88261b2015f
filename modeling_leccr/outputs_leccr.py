"""What the model returns, with the shape of each field."""

from dataclasses import dataclass

from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput


@dataclass
class LeccrImageFeatures(BaseModelOutputWithPooling):
    """An embedded batch of items.

    `pooler_output` (batch, embed_dim) is the image embedding, unit norm; `slot_embeds` (batch, num_slots, embed_dim)
    are its slots in the same space, or None without slots; `last_hidden_state` (batch, num_patches, slot_dim) are the
    projected visual tokens, of a video one a frame, and `slots` (batch, num_slots, slot_dim) the slots, both before the
    interaction. `patch_mask` (batch, num_frames) tells the frames of a video from padding; None for images.
    `hidden_states` and `attentions` are those of the vision tower, when asked for.
    """

    # Always set; the parent's fields are optional, and a default must stand before those that are.
    last_hidden_state: Tensor = None  # type: ignore[assignment]
    pooler_output: Tensor = None  # type: ignore[assignment]
    slot_embeds: Tensor | None = None
    slots: Tensor | None = None
    patch_mask: Tensor | None = None


@dataclass
class LeccrOutput(ModelOutput):
    """What the losses, evaluation and the zero-shot pipeline need of a batch.

    Args:
        logits_per_image: (num_items, num_texts) fused scores times `logit_scale.exp()`; only when `input_ids` is given.
        logits_per_text: its transpose.
        image_embeds: (batch, embed_dim), unit norm.
        slot_embeds: (batch, num_slots, embed_dim), unit norm (official: raw); None without slots.
        text_embeds: (num_texts, embed_dim), unit norm; of `input_ids`.
        source_embeds: (batch, embed_dim), unit norm; of the English captions.
        target_embeds: (batch, embed_dim), unit norm; of their translations.
        logit_scale: (1,), the learned logarithm of the inverse temperature, clamped.
        slots: (batch, num_slots, slot_dim) before the interaction, for `slot_diversity`.
        slot_states: (batch, num_slots, slot_dim) slots through the head of `slot_vision`.
        patch_states: (batch, num_patches, slot_dim) visual tokens through the head of `slot_vision`.
        patch_mask: (batch, num_frames), 1 = keep, of a video; None for images.
        text_model_output: what `get_text_features` gives for `input_ids`; only when `output_hidden_states` or
            `output_attentions` is asked for.
        vision_model_output: what `get_image_features` gives, likewise.
    """

    logits_per_image: Tensor | None = None
    logits_per_text: Tensor | None = None
    image_embeds: Tensor | None = None
    slot_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    source_embeds: Tensor | None = None
    target_embeds: Tensor | None = None
    logit_scale: Tensor | None = None
    slots: Tensor | None = None
    slot_states: Tensor | None = None
    patch_states: Tensor | None = None
    patch_mask: Tensor | None = None
    text_model_output: BaseModelOutputWithPooling | None = None
    vision_model_output: LeccrImageFeatures | None = None
