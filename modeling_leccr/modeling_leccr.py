"""LECCR: an image, its description and captions in any language, in one space."""

import contextlib
import os
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, pad
from transformers import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import can_return_tuple

from .configuration_leccr import LeccrConfig
from .matching_leccr import fused_scores
from .outputs_leccr import LeccrImageFeatures, LeccrOutput
from .packing_leccr import text_outputs, text_states
from .pretrained_leccr import LeccrPreTrainedModel, LogitScale
from .slots_leccr import SemanticSlots, VisualSemanticInteraction
from .towers_leccr import (
    build_tower,
    eval_mode,
    frozen_copy,
    load_text_tower,
    load_vision_tower,
    output_width,
    tower_config,
    vision_outputs,
    without_autocast_cache,
)


class LeccrModel(LeccrPreTrainedModel):
    """Two towers with semantic slots between them.

    Paper: arXiv:2409.19961. Official: `LECCR` of the image script. Differs: see `LeccrConfig`; the matching head and
    the text tower of CLIP, which nothing reads, are left out.
    """

    def __init__(self, config: LeccrConfig) -> None:
        super().__init__(config)
        # `LeccrConfig` turns dictionaries into configurations.
        vision_config, text_config = (
            cast(PreTrainedConfig, config.vision_config),
            cast(PreTrainedConfig, config.text_config),
        )
        self.text_model = build_tower(text_config)
        text_dim = text_config.hidden_size
        self.text_projection = nn.Linear(text_dim, config.embed_dim)
        if config.description_encoder == "frozen":
            # Copied, not built: another draw of random numbers would give all parts below other weights.
            self.description_model = frozen_copy(self.text_model)
        if config.reads_image:
            self.vision_model = build_tower(vision_config)
            self.visual_projection = nn.Linear(output_width(vision_config), config.slot_dim, bias=False)
            self.image_projection = nn.Linear(config.slot_dim, config.embed_dim)
        if config.has_slots:
            self.semantic_slots = SemanticSlots(config, text_dim)
            self.interaction = VisualSemanticInteraction(config)
            self.slot_projection = nn.Linear(config.slot_dim, config.embed_dim)
            self.slot_vision_slots = nn.Linear(config.slot_dim, config.slot_dim)
            self.slot_vision_patches = nn.Linear(config.slot_dim, config.slot_dim)
        self.logit_scale = LogitScale(config.initial_logit_scale, config.max_logit_scale)
        self.post_init()
        if config.has_slots and config.aligned_slots and self.device.type != "meta":
            self._align()

    @classmethod
    def from_towers(
        cls,
        vision: str | os.PathLike,
        text: str | os.PathLike,
        *,
        image_size: int | None = None,
        tower_kwargs: dict[str, Any] | None = None,
        **config_kwargs: Any,
    ) -> "LeccrModel":
        """Start a model from two pretrained towers; everything between them is new.

        Args:
            vision: Hub id or folder of a vision encoder, or of a dual encoder such as CLIP whose vision half is taken.
            text: Hub id or folder of a text encoder.
            image_size: pixels a side, when not the size of the checkpoint; its position grid is resized.
            tower_kwargs: arguments of both `from_pretrained` calls, such as `revision`, `token`, `cache_dir`.
            config_kwargs: fields of `LeccrConfig`. Without `slot_dim`, CLIP's own visual projection is taken over.

        Raises:
            ValueError: a field contradicts another (see `LeccrConfig`), or a checkpoint lacks weights of its tower.
            OSError: a tower cannot be found.
        """
        tower_kwargs = tower_kwargs or {}
        vision_config = tower_config(vision, "vision_config", tower_kwargs)
        text_config = tower_config(text, "text_config", tower_kwargs)
        if image_size is not None:
            vision_config.image_size = image_size
        config_kwargs.setdefault("slot_dim", getattr(vision_config, "projection_dim", LeccrConfig.slot_dim))
        model = cls(LeccrConfig(vision_config=vision_config, text_config=text_config, **config_kwargs))
        load_text_tower(model.text_model, text, tower_kwargs)
        if model.config.description_encoder == "frozen":
            model.description_model.load_state_dict(model.text_model.state_dict())
        if model.config.reads_image:
            load_vision_tower(model.vision_model, model.visual_projection, vision, tower_kwargs)
        return model

    def train(self, mode: bool = True) -> "LeccrModel":
        """As any module, but a frozen description encoder stays as it is."""
        super().train(mode)
        if self.config.description_encoder == "frozen":
            # Loading makes new parameters, which learn, and ends with `eval()`, which comes here.
            self.description_model.requires_grad_(False).eval()
        return self

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

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: Tensor | None = None,
        description_input_ids: Tensor | None = None,
        description_attention_mask: Tensor | None = None,
        *,
        description_states: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | list[int] | None = None,
    ) -> LeccrImageFeatures:
        """Embed items: images with their descriptions.

        Args:
            pixel_values: (batch, channels, height, width). Not read when `item_source` is "description".
            description_input_ids: (batch, description_length), or None for items without descriptions.
            description_attention_mask: (batch, description_length), 1 = keep; a row of zeros has no description.
            description_states: (batch, description_length, text_dim) of `get_description_states`, instead of
                `description_input_ids`.
            output_attentions, output_hidden_states: return those of the tower that reads the item (vision, or text
                when `item_source` is "description"); None leaves it to its configuration.

        Returns:
            `LeccrImageFeatures`.

        Raises:
            ValueError: an image or a description that the model needs is missing, or descriptions come both as ids
                and as states, or their states do not fit the model.
        """
        asked = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        if not self.config.reads_image:
            return self._description_features(description_input_ids, description_attention_mask, asked)
        if pixel_values is None:
            raise ValueError(f"item_source={self.config.item_source!r} embeds images, but pixel_values is None.")
        outputs = vision_outputs(self.vision_model, pixel_values, **asked)
        patch_states = self.visual_projection(outputs.last_hidden_state)
        # Convolutional towers have no attentions.
        layers = {"hidden_states": outputs.hidden_states, "attentions": getattr(outputs, "attentions", None)}
        if not self.config.has_slots:
            return LeccrImageFeatures(patch_states, self._image_embeds(patch_states), **layers)
        if description_states is None:
            description_states = self._description_states(description_input_ids, description_attention_mask)
        else:
            self._check_states(description_states, description_input_ids)
            description_states = description_states.to(patch_states.dtype)  # a store holds fp16
        if description_states is not None and description_attention_mask is None:
            description_attention_mask = description_states.new_ones(description_states.shape[:2], dtype=torch.long)
        slots = self.semantic_slots(description_states, description_attention_mask, patch_states.shape[0])
        class_token_only = self.config.image_pooling == "cls"
        enhanced, enhanced_slots = self.interaction(patch_states, slots, first_token_only=class_token_only)
        slot_embeds = self.slot_projection(enhanced_slots).float()
        return LeccrImageFeatures(
            last_hidden_state=patch_states,
            pooler_output=self._image_embeds(enhanced),
            slot_embeds=normalize(slot_embeds, dim=-1) if self.config.normalize_slots else slot_embeds,
            slots=slots,
            **layers,
        )

    @torch.no_grad()
    def get_description_states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """What slots read of descriptions, to be kept and given as `description_states`.

        Args:
            input_ids, attention_mask: (num_descriptions, length), 1 = keep.

        Returns:
            (num_descriptions, length, text_dim) token states; those of padding are arbitrary but finite.
        """
        with eval_mode(self):
            return cast(Tensor, self._description_states(input_ids, attention_mask))

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        description_input_ids: Tensor | None = None,
        description_attention_mask: Tensor | None = None,
        description_states: Tensor | None = None,
        source_input_ids: Tensor | None = None,
        source_attention_mask: Tensor | None = None,
        target_input_ids: Tensor | None = None,
        target_attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | list[int] | None = None,
    ) -> LeccrOutput:
        """Embed items with training pairs (`source_*`, `target_*`) or with any texts (`input_ids`).

        Args: shapes as in `get_image_features` and `get_text_features`.

        Returns:
            `LeccrOutput`: with `input_ids` the logits of all items against all texts, with pairs the embeddings and
            states from which the losses are computed.
        """
        asked = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        items = self.get_image_features(
            pixel_values,
            description_input_ids,
            description_attention_mask,
            description_states=description_states,
            **asked,
            return_dict=True,
        )
        logit_scale = self.logit_scale()
        output = LeccrOutput(image_embeds=items.pooler_output, slot_embeds=items.slot_embeds, logit_scale=logit_scale)
        if source_input_ids is not None:
            output.source_embeds, output.target_embeds = self._pair_embeds(
                (source_input_ids, source_attention_mask), (target_input_ids, target_attention_mask)
            )
            if items.slots is not None:
                output.slots = items.slots
                output.slot_states = self.slot_vision_slots(items.slots)
                output.patch_states = self.slot_vision_patches(items.last_hidden_state)
        if input_ids is not None or inputs_embeds is not None:
            texts = self.get_text_features(
                input_ids, attention_mask, inputs_embeds=inputs_embeds, **asked, return_dict=True
            )
            text_embeds = texts.pooler_output
            weight = self.config.global_weight if items.slot_embeds is not None else 1.0
            # Autocast would compute the logits in bf16, too coarse for a softmax.
            with torch.autocast(text_embeds.device.type, enabled=False):
                scores = fused_scores(items.pooler_output, items.slot_embeds, text_embeds, weight)
                output.logits_per_image = scores * logit_scale.exp()
            output.text_embeds, output.logits_per_text = text_embeds, output.logits_per_image.T
            output.text_model_output = _if_recorded(texts)
        output.vision_model_output = _if_recorded(items)
        return LeccrOutput(**output)  # in the order of the fields, which a tuple keeps: logits first, as from CLIP

    @torch.no_grad()
    def _align(self) -> None:
        """Let slots, and images through them, start as readings of the description in the space of the captions."""
        description_projection = self.semantic_slots.description_projection.weight
        nn.init.orthogonal_(description_projection)
        for block in (*self.semantic_slots.layers, *self.interaction.visual_layers):
            block.start_as_reading()
        for head in (self.slot_projection, self.image_projection):
            head.weight.copy_(self.text_projection.weight @ description_projection.T)

    def _pair_embeds(self, *texts: tuple[Tensor | None, Tensor | None]) -> list[Tensor]:
        """Source and target captions in one forward: half the kernel launches, and one pass a step for DDP."""
        ids_parts = [input_ids for input_ids, _ in texts if input_ids is not None]
        mask_parts = [attention_mask for _, attention_mask in texts if attention_mask is not None]
        if len(ids_parts) < len(texts) or len(mask_parts) < len(texts):
            raise ValueError("training pairs need source_ and target_ input_ids and attention_mask; one is missing.")
        length = max(part.shape[1] for part in ids_parts)
        input_ids, attention_mask = (
            torch.cat([pad(part, (0, length - part.shape[1])) for part in parts]) for parts in (ids_parts, mask_parts)
        )
        embeds = self._text_embeds(text_states(self.text_model, input_ids, attention_mask), attention_mask)
        return list(embeds.chunk(len(texts)))

    def _image_embeds(self, patch_states: Tensor) -> Tensor:
        pooled = patch_states[:, 0] if self.config.image_pooling == "cls" else patch_states.mean(dim=1)
        return normalize(self.image_projection(pooled).float(), dim=-1)

    def _text_embeds(self, states: Tensor, attention_mask: Tensor | None) -> Tensor:
        if self.config.text_pooling == "cls":
            pooled = states[:, 0]
        elif attention_mask is None:
            pooled = states.mean(dim=1)
        else:
            mask = attention_mask.to(states.dtype).unsqueeze(-1)
            pooled = (states * mask).sum(dim=1) / mask.sum(dim=1).clamp_min(1)
        return normalize(self.text_projection(pooled).float(), dim=-1)

    def _description_states(self, input_ids: Tensor | None, attention_mask: Tensor | None) -> Tensor | None:
        if input_ids is None:
            return None
        if self.config.description_encoder == "frozen":
            with torch.no_grad():
                return text_states(self.description_model, input_ids, attention_mask)
        # Dropout would shake the slots (cosine 0.82 between two passes of a tiny model) and nothing learns from it.
        mode = eval_mode if self.config.description_encoder_in_eval_mode else contextlib.nullcontext
        with (
            torch.set_grad_enabled(self.config.train_on_descriptions and torch.is_grad_enabled()),
            without_autocast_cache(input_ids.device),
            mode(self.text_model),
        ):
            return text_states(self.text_model, input_ids, attention_mask)

    def _check_states(self, states: Tensor, input_ids: Tensor | None) -> None:
        width = cast(PreTrainedConfig, self.config.text_config).hidden_size
        if input_ids is not None:
            raise ValueError("give descriptions as description_input_ids or as description_states, got both.")
        if states.ndim != 3 or states.shape[-1] != width:
            raise ValueError(
                f"description_states must be (batch, description_length, {width}), got {tuple(states.shape)}; compute "
                f"them with the model's own `get_description_states`."
            )

    def _description_features(
        self, input_ids: Tensor | None, attention_mask: Tensor | None, asked: dict[str, Any]
    ) -> LeccrImageFeatures:
        if input_ids is None or attention_mask is None or not bool(attention_mask.any(dim=-1).all()):
            raise ValueError(
                "item_source='description' embeds descriptions, but an item has none; make them with "
                "`python -m hub_scripts.describe`."
            )
        return LeccrImageFeatures(**self.get_text_features(input_ids, attention_mask, **asked, return_dict=True))


def _if_recorded(features: Any) -> Any:
    """The features where they hold what was asked for of their tower, else None: most callers want the scores alone."""
    return None if features.hidden_states is None and features.attentions is None else features
