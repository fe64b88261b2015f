"""What all systems share: a stream of texts, and one of images beside it, into one space."""

import os
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, pad
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import can_return_tuple

from .configuration_streams_leccr import TextStreamConfig, TwoStreamConfig
from .frames_leccr import FrameEncoder
from .matching_leccr import fused_scores
from .outputs_leccr import LeccrImageFeatures
from .packing_leccr import text_outputs, text_states
from .pooling_leccr import masked_mean
from .pretrained_leccr import LogitScale, StreamPreTrainedModel
from .slots_leccr import IdentityLinear
from .towers_leccr import build_tower, load_text_tower, load_vision_tower, output_width, tower_config, vision_outputs


class TextStreamModel(StreamPreTrainedModel):
    """A text tower and its projection: captions of any language in one space."""

    def __init__(self, config: TextStreamConfig) -> None:
        super().__init__(config)
        # The configuration turns dictionaries into configurations.
        text_config = cast(PreTrainedConfig, config.text_config)
        self.text_model = build_tower(text_config)
        self.text_projection = nn.Linear(text_config.hidden_size, config.embed_dim)

    def _complete(self) -> None:
        """To be called at the end of `__init__`, when all parts are there."""
        self.logit_scale = LogitScale(self.config.initial_logit_scale, self.config.max_logit_scale)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The token embeddings of the text tower."""
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embeddings of the text tower."""
        self.text_model.set_input_embeddings(value)

    @can_return_tuple
    def get_text_features(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | list[int] | None = None,
    ) -> BaseModelOutputWithPooling:
        """Embed captions or queries.

        Args:
            input_ids: (num_texts, length).
            attention_mask: (num_texts, length), 1 = keep.
            token_type_ids: not read: a caption is one segment. Tokenizers give them.
            inputs_embeds: (num_texts, length, text_dim) token embeddings instead of `input_ids`.
            output_attentions, output_hidden_states: return those of the text tower; None leaves it to its
                configuration.

        Returns:
            `pooler_output` (num_texts, embed_dim), unit norm, and `last_hidden_state` (num_texts, length, text_dim).
        """
        outputs = text_outputs(
            self.text_model,
            input_ids,
            attention_mask,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )
        return BaseModelOutputWithPooling(
            last_hidden_state=outputs.last_hidden_state,
            pooler_output=self._text_embeds(outputs.last_hidden_state, attention_mask),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _pair_states(self, *texts: tuple[Tensor | None, Tensor | None]) -> tuple[Tensor, Tensor]:
        """Source and target captions in one forward: half the kernel launches, and one pass a step for DDP.

        Returns:
            Token states (num_texts * batch, length, text_dim) and mask (num_texts * batch, length), sources first.
        """
        ids_parts = [input_ids for input_ids, _ in texts if input_ids is not None]
        mask_parts = [attention_mask for _, attention_mask in texts if attention_mask is not None]
        if len(ids_parts) < len(texts) or len(mask_parts) < len(texts):
            raise ValueError("training pairs need source_ and target_ input_ids and attention_mask; one is missing.")
        length = max(part.shape[1] for part in ids_parts)
        input_ids, attention_mask = (
            torch.cat([pad(part, (0, length - part.shape[1])) for part in parts]) for parts in (ids_parts, mask_parts)
        )
        return text_states(self.text_model, input_ids, attention_mask), attention_mask

    def _pair_embeds(self, *texts: tuple[Tensor | None, Tensor | None]) -> list[Tensor]:
        states, attention_mask = self._pair_states(*texts)
        return list(self._text_embeds(states, attention_mask).chunk(len(texts)))

    def _text_embeds(self, states: Tensor, attention_mask: Tensor | None) -> Tensor:
        pooled = states[:, 0] if self.config.text_pooling == "cls" else masked_mean(states, attention_mask)
        return normalize(self.text_projection(pooled).float(), dim=-1)


class TwoStreamModel(TextStreamModel):
    """A stream of images or videos beside the text tower, in the space of the captions."""

    def __init__(self, config: TwoStreamConfig) -> None:
        super().__init__(config)
        if not config.reads_image:
            return
        if config.vision_input == "features":
            self.main_input_name = "frame_features"
        width, token_width = config.visual_width, config.feature_dim
        if config.has_vision_tower:
            vision_config = cast(PreTrainedConfig, config.vision_config)
            self.vision_model = build_tower(vision_config)
            token_width = output_width(vision_config)
        if config.project_features:
            self.visual_projection = nn.Linear(cast(int, token_width), width, bias=False)
        if config.has_frames:
            self.frame_encoder = FrameEncoder(config)
        self.image_projection = nn.Linear(width, config.embed_dim)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, IdentityLinear):
            init.eye_(module.weight)

    @classmethod
    def from_towers(
        cls,
        vision: str | os.PathLike | None,
        text: str | os.PathLike,
        *,
        image_size: int | None = None,
        tower_kwargs: dict[str, Any] | None = None,
        **config_kwargs: Any,
    ) -> Any:
        """Start a model from two pretrained towers; everything between them is new.

        Args:
            vision: Hub id or folder of a vision encoder, or of a dual encoder such as CLIP whose vision half is taken.
                None for a model of frame features.
            text: Hub id or folder of a text encoder.
            image_size: pixels a side, when not the size of the checkpoint; its position grid is resized.
            tower_kwargs: arguments of both `from_pretrained` calls, such as `revision`, `token`, `cache_dir`.
            config_kwargs: fields of the configuration. Without the width of the visual tokens, CLIP's own visual
                projection is taken over.

        Raises:
            ValueError: a field contradicts another (see the configuration), `vision` is None for a model of pixels, or
                a checkpoint lacks weights of its tower.
            OSError: a tower cannot be found.
        """
        tower_kwargs = tower_kwargs or {}
        config_class: Any = cls.config_class
        if vision is not None:
            vision_config = tower_config(vision, "vision_config", tower_kwargs)
            if image_size is not None:
                vision_config.image_size = image_size
            if (width := getattr(vision_config, "projection_dim", None)) is not None:
                config_kwargs.setdefault(config_class.visual_width_field, width)
            config_kwargs["vision_config"] = vision_config
        text_config = tower_config(text, "text_config", tower_kwargs)
        config = config_class(text_config=text_config, **config_kwargs)
        if vision is None and config.has_vision_tower:
            raise ValueError("vision must name a vision encoder, got None; only vision_input='features' has none.")
        model: Any = cls(config)
        model._load_towers(vision, text, tower_kwargs)
        return model

    def _load_towers(
        self, vision: str | os.PathLike | None, text: str | os.PathLike, tower_kwargs: dict[str, Any]
    ) -> None:
        load_text_tower(self.text_model, text, tower_kwargs)
        if self.config.has_vision_tower and vision is not None:
            load_vision_tower(self.vision_model, self.visual_projection, vision, tower_kwargs)

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: Tensor | None = None,
        *,
        frame_features: Tensor | None = None,
        frame_mask: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | list[int] | None = None,
    ) -> LeccrImageFeatures:
        """Embed images or videos, whichever `config.vision_input` names.

        Args:
            pixel_values: (batch, channels, height, width); of frames (batch, num_frames, channels, height, width).
            frame_features: (batch, num_frames, feature_dim).
            frame_mask: (batch, num_frames), 1 = keep, of frames or their features; None keeps all.
            output_attentions, output_hidden_states: return those of the vision tower; None leaves it to its
                configuration.

        Returns:
            `LeccrImageFeatures` without slots.

        Raises:
            ValueError: what the model reads is missing or of another shape, or a video has no frames.
        """
        asked = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        patch_states, patch_mask, layers = self._visual_states(pixel_values, frame_features, frame_mask, **asked)
        embeds = self._image_embeds(patch_states, patch_mask)
        return LeccrImageFeatures(patch_states, embeds, patch_mask=patch_mask, **layers)

    def _visual_states(
        self, pixel_values: Tensor | None, frame_features: Tensor | None, frame_mask: Tensor | None, **asked: Any
    ) -> tuple[Tensor, Tensor | None, dict[str, Any]]:
        """Visual tokens (batch, num_patches or num_frames, width), their mask, and what was asked for of the tower."""
        config = cast(TwoStreamConfig, self.config)
        inputs = frame_features if config.vision_input == "features" else pixel_values
        check_visual_inputs(config, inputs, frame_mask)
        visual = cast(Tensor, inputs)
        if not config.has_frames:
            tokens, layers = self._tower_tokens(visual, **asked)
            return self.visual_projection(tokens), None, layers
        mask = visual.new_ones(visual.shape[:2], dtype=torch.long) if frame_mask is None else frame_mask
        real = mask.bool()
        if config.vision_input == "frames":
            # Padding does not go through the tower: it would take time, and move the statistics of a batch norm.
            tokens, layers = self._tower_tokens(visual[real], **asked)
            pooled = tokens[:, 0] if config.image_pooling == "cls" else tokens.mean(dim=1)
            states = pooled.new_zeros(*mask.shape, pooled.shape[-1]).index_put((real,), pooled)
        else:
            # Whatever the padding holds: a NaN would reach the other frames even at a weight of zero.
            visual = visual.masked_fill(~real.unsqueeze(-1), 0)
            states, layers = visual.to(self.image_projection.weight.dtype), {}
        if config.project_features:
            states = self.visual_projection(states)
        return self.frame_encoder(states, mask), mask, layers

    def _tower_tokens(self, pixel_values: Tensor, **asked: Any) -> tuple[Tensor, dict[str, Any]]:
        outputs = vision_outputs(self.vision_model, pixel_values, **asked)
        # Convolutional towers have no attentions.
        layers = {"hidden_states": outputs.hidden_states, "attentions": getattr(outputs, "attentions", None)}
        return outputs.last_hidden_state, layers

    def _add_logits(
        self,
        output: Any,
        items: LeccrImageFeatures,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        inputs_embeds: Tensor | None,
        **asked: Any,
    ) -> None:
        """Score texts that are no training pairs against the items, and put what was asked for into the output."""
        output.vision_model_output = _if_recorded(items)
        if input_ids is None and inputs_embeds is None:
            return
        texts = self.get_text_features(
            input_ids, attention_mask, inputs_embeds=inputs_embeds, **asked, return_dict=True
        )
        text_embeds = texts.pooler_output
        weight = self.config.global_weight if items.slot_embeds is not None else 1.0
        # Autocast would compute the logits in bf16, too coarse for a softmax.
        with torch.autocast(text_embeds.device.type, enabled=False):
            scores = fused_scores(items.pooler_output, items.slot_embeds, text_embeds, weight)
            output.logits_per_image = scores * output.logit_scale.exp()
        output.text_embeds, output.logits_per_text = text_embeds, output.logits_per_image.T
        output.text_model_output = _if_recorded(texts)

    def _image_embeds(self, patch_states: Tensor, patch_mask: Tensor | None) -> Tensor:
        class_token_only = self.config.image_pooling == "cls" and not self.config.has_frames
        pooled = patch_states[:, 0] if class_token_only else masked_mean(patch_states, patch_mask)
        return normalize(self.image_projection(pooled).float(), dim=-1)


def check_visual_inputs(config: TwoStreamConfig, inputs: Tensor | None, frame_mask: Tensor | None) -> None:
    """Refuse visual inputs that the model cannot read.

    Args:
        config: of the model.
        inputs: the frame features where `config.vision_input` names them, else the pixel values.
        frame_mask: (batch, num_frames) or None.

    Raises:
        ValueError: they are missing or of another shape than `config.vision_input` takes, or a video has no frames.
    """
    name = "frame_features" if config.vision_input == "features" else "pixel_values"
    shape = {
        "image": "(batch, channels, height, width)",
        "frames": "(batch, num_frames, channels, height, width)",
        "features": f"(batch, num_frames, {config.feature_dim})",
    }[config.vision_input]
    if inputs is None:
        raise ValueError(f"vision_input={config.vision_input!r} reads {name} {shape}, but it is None.")
    wrong_width = config.vision_input == "features" and inputs.shape[-1] != config.feature_dim
    if inputs.ndim != shape.count(",") + 1 or 0 in inputs.shape[1:] or wrong_width:
        raise ValueError(
            f"vision_input={config.vision_input!r} reads {name} {shape}, got {tuple(inputs.shape)}; give what the "
            f"model's own processor makes of your files."
        )
    if frame_mask is None:
        return
    if not config.has_frames or frame_mask.shape != inputs.shape[:2]:
        raise ValueError(
            f"frame_mask must be (batch, num_frames) beside the frames of videos, got {tuple(frame_mask.shape)} with "
            f"{name} {tuple(inputs.shape)}."
        )
    if not torch.compiler.is_compiling() and not bool(frame_mask.any(dim=-1).all()):
        empty = (~frame_mask.bool().any(dim=-1)).nonzero().flatten().tolist()
        raise ValueError(f"each video must have a frame, got none in rows {empty[:3]} of the batch; leave them out.")


def _if_recorded(features: Any) -> Any:
    """The features where they hold what was asked for of their tower, else None: most callers want the scores alone."""
    return None if features.hidden_states is None and features.attentions is None else features
