"""What the models of CL2CM return, with the shape of each field."""

from dataclasses import dataclass

from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput

from .outputs_leccr import LeccrImageFeatures


@dataclass
class CrossLingualOutput(BaseModelOutputWithPooling):
    """Embedded texts, as of any text encoder, and what the losses of the cross-lingual network need of training pairs.

    Of `input_ids`, `pooler_output` (num_texts, embed_dim) are the embeddings, unit norm, and `last_hidden_state`
    (num_texts, length, text_dim) the token states; `hidden_states` and `attentions` are those of the text tower, when
    asked for.

    Args:
        source_embeds: (batch, embed_dim), unit norm; of the English captions.
        target_embeds: (batch, embed_dim), unit norm; of their translations.
        source_states: (batch, length, text_dim) token states of the English captions.
        target_states: (batch, length, text_dim) token states of their translations, padded to the same length.
        source_mask, target_mask: (batch, length), 1 = keep.
        logit_scale: (1,), the learned logarithm of the inverse temperature, clamped.
    """

    source_embeds: Tensor | None = None
    target_embeds: Tensor | None = None
    source_states: Tensor | None = None
    target_states: Tensor | None = None
    source_mask: Tensor | None = None
    target_mask: Tensor | None = None
    logit_scale: Tensor | None = None


@dataclass
class Cl2cmOutput(ModelOutput):
    """What the losses of the cross-modal network, evaluation and the zero-shot pipeline need of a batch.

    Args:
        logits_per_image: (num_items, num_texts) scores times `logit_scale.exp()`; only when `input_ids` is given.
        logits_per_text: its transpose.
        image_embeds: (batch, embed_dim), unit norm.
        text_embeds: (num_texts, embed_dim), unit norm; of `input_ids`.
        source_embeds: (batch, embed_dim), unit norm; of the English captions.
        target_embeds: (batch, embed_dim), unit norm; of their translations.
        teacher_source_embeds, teacher_target_embeds: (batch, teacher_dim), unit norm; as they came in.
        logit_scale: (1,), the learned logarithm of the inverse temperature, clamped.
        text_model_output: what `get_text_features` gives for `input_ids`; only when `output_hidden_states` or
            `output_attentions` is asked for.
        vision_model_output: what `get_image_features` gives, likewise.
    """

    logits_per_image: Tensor | None = None
    logits_per_text: Tensor | None = None
    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    source_embeds: Tensor | None = None
    target_embeds: Tensor | None = None
    teacher_source_embeds: Tensor | None = None
    teacher_target_embeds: Tensor | None = None
    logit_scale: Tensor | None = None
    text_model_output: BaseModelOutputWithPooling | None = None
    vision_model_output: LeccrImageFeatures | None = None
