"""LECCR: an image, its description and captions in any language, in one space."""

import contextlib
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.utils import can_return_tuple

from .configuration_leccr import LeccrConfig
from .outputs_leccr import LeccrImageFeatures, LeccrOutput
from .packing_leccr import text_states
from .slots_leccr import SemanticSlots, VisualSemanticInteraction
from .streams_leccr import TwoStreamModel
from .towers_leccr import eval_mode, frozen_copy, without_autocast_cache


class LeccrModel(TwoStreamModel):
    """Two towers with semantic slots between them.

    Paper: arXiv:2409.19961. Official: `LECCR` of the image script. Differs: see `LeccrConfig`; the matching head and
    the text tower of CLIP, which nothing reads, are left out.
    """

    config_class = LeccrConfig
    base_model_prefix = "leccr"
    _no_split_modules = ["CrossAttentionBlock"]  # noqa: RUF012

    def __init__(self, config: LeccrConfig) -> None:
        super().__init__(config)
        if config.description_encoder == "frozen":
            # Copied, not built: another draw of random numbers would give all parts below other weights.
            self.description_model = frozen_copy(self.text_model)
        if config.has_slots:
            self.semantic_slots = SemanticSlots(config, self.text_projection.in_features)
            self.interaction = VisualSemanticInteraction(config)
            self.slot_projection = nn.Linear(config.slot_dim, config.embed_dim)
            self.slot_vision_slots = nn.Linear(config.slot_dim, config.slot_dim)
            self.slot_vision_patches = nn.Linear(config.slot_dim, config.slot_dim)
        self._complete()
        if config.has_slots and config.aligned_slots and self.device.type != "meta":
            self._align()

    def _load_towers(self, *args: Any) -> None:
        super()._load_towers(*args)
        if self.config.description_encoder == "frozen":
            self.description_model.load_state_dict(self.text_model.state_dict())

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, SemanticSlots):
            init.normal_(module.slot_queries, mean=0.0, std=self.config.slot_init_std)
            if module.null_description is not None:
                init.normal_(module.null_description, mean=0.0, std=self.config.slot_dim**-0.5)

    def train(self, mode: bool = True) -> "LeccrModel":
        """As any module, but a frozen description encoder stays as it is."""
        super().train(mode)
        if self.config.description_encoder == "frozen":
            # Loading makes new parameters, which learn, and ends with `eval()`, which comes here.
            self.description_model.requires_grad_(False).eval()
        return self

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: Tensor | None = None,
        description_input_ids: Tensor | None = None,
        description_attention_mask: Tensor | None = None,
        *,
        frame_features: Tensor | None = None,
        frame_mask: Tensor | None = None,
        description_states: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | list[int] | None = None,
    ) -> LeccrImageFeatures:
        """Embed items: images or videos with their descriptions.

        Args:
            pixel_values, frame_features, frame_mask: see `TwoStreamModel.get_image_features`. Not read when
                `item_source` is "description".
            description_input_ids: (batch, description_length), or None for items without descriptions.
            description_attention_mask: (batch, description_length), 1 = keep; a row of zeros has no description.
            description_states: (batch, description_length, text_dim) of `get_description_states`, instead of
                `description_input_ids`.
            output_attentions, output_hidden_states: return those of the tower that reads the item (vision, or text
                when `item_source` is "description"); None leaves it to its configuration.

        Returns:
            `LeccrImageFeatures`.

        Raises:
            ValueError: an image or a description that the model needs is missing or of another shape, a video has no
                frames, or descriptions come both as ids and as states, or their states do not fit the model.
        """
        asked = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        if not self.config.reads_image:
            return self._description_features(description_input_ids, description_attention_mask, asked)
        patch_states, patch_mask, layers = self._visual_states(pixel_values, frame_features, frame_mask, **asked)
        layers["patch_mask"] = patch_mask
        if not self.config.has_slots:
            return LeccrImageFeatures(patch_states, self._image_embeds(patch_states, patch_mask), **layers)
        if description_states is None:
            description_states = self._description_states(description_input_ids, description_attention_mask)
        else:
            self._check_states(description_states, description_input_ids)
            description_states = description_states.to(patch_states.dtype)  # a store holds fp16
        if description_states is not None and description_attention_mask is None:
            description_attention_mask = description_states.new_ones(description_states.shape[:2], dtype=torch.long)
        slots = self.semantic_slots(description_states, description_attention_mask, patch_states.shape[0])
        class_token_only = self.config.image_pooling == "cls" and not self.config.has_frames
        enhanced, enhanced_slots = self.interaction(patch_states, slots, patch_mask, first_token_only=class_token_only)
        slot_embeds = self.slot_projection(enhanced_slots).float()
        return LeccrImageFeatures(
            last_hidden_state=patch_states,
            pooler_output=self._image_embeds(enhanced, patch_mask),
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
        frame_features: Tensor | None = None,
        frame_mask: Tensor | None = None,
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
            frame_features=frame_features,
            frame_mask=frame_mask,
            description_states=description_states,
            **asked,
            return_dict=True,
        )
        output = LeccrOutput(
            image_embeds=items.pooler_output, slot_embeds=items.slot_embeds, logit_scale=self.logit_scale()
        )
        if source_input_ids is not None:
            output.source_embeds, output.target_embeds = self._pair_embeds(
                (source_input_ids, source_attention_mask), (target_input_ids, target_attention_mask)
            )
            if items.slots is not None:
                output.slots = items.slots
                output.slot_states = self.slot_vision_slots(items.slots)
                output.patch_states = self.slot_vision_patches(items.last_hidden_state)
                output.patch_mask = items.patch_mask
        self._add_logits(output, items, input_ids, attention_mask, inputs_embeds, **asked)
        return LeccrOutput(**output)  # in the order of the fields, which a tuple keeps: logits first, as from CLIP

    @torch.no_grad()
    def _align(self) -> None:
        """Let slots, and images through them, start in the space of the captions; their blocks start as readings."""
        description_projection = self.semantic_slots.description_projection.weight
        nn.init.orthogonal_(description_projection)
        for head in (self.slot_projection, self.image_projection):
            head.weight.copy_(self.text_projection.weight @ description_projection.T)

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
