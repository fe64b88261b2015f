"""CL2CM: a network of texts that learns across languages, and one of images and texts that learns from it."""

import os
from typing import Any

from torch import Tensor
from transformers.utils import can_return_tuple

from .configuration_cl2cm import Cl2cmConfig, CrossLingualConfig
from .outputs_cl2cm import Cl2cmOutput, CrossLingualOutput
from .streams_leccr import TextStreamModel, TwoStreamModel
from .towers_leccr import load_text_tower, tower_config


class CrossLingualModel(TextStreamModel):
    """The first stage: English captions and their translations in one space.

    Paper: arXiv:2312.08984, cross-lingual network. No code is published; the shape is that of the text stream of the
    other systems.
    """

    config_class = CrossLingualConfig
    base_model_prefix = "cl2cm_text"
    main_input_name = "input_ids"
    input_modalities = ["text"]  # noqa: RUF012

    def __init__(self, config: CrossLingualConfig) -> None:
        super().__init__(config)
        self._complete()

    @classmethod
    def from_tower(
        cls, text: str | os.PathLike, *, tower_kwargs: dict[str, Any] | None = None, **config_kwargs: Any
    ) -> "CrossLingualModel":
        """Start from a pretrained text tower; projection and temperature are new.

        Args:
            text: Hub id or folder of a text encoder.
            tower_kwargs: arguments of its `from_pretrained`, such as `revision`, `token`, `cache_dir`.
            config_kwargs: fields of `CrossLingualConfig`.

        Raises:
            ValueError: a field is out of range, or the checkpoint lacks weights of the tower.
            OSError: the tower cannot be found.
        """
        tower_kwargs = tower_kwargs or {}
        text_config = tower_config(text, "text_config", tower_kwargs)
        model = cls(CrossLingualConfig(text_config=text_config, **config_kwargs))
        load_text_tower(model.text_model, text, tower_kwargs)
        return model

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        source_input_ids: Tensor | None = None,
        source_attention_mask: Tensor | None = None,
        target_input_ids: Tensor | None = None,
        target_attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | list[int] | None = None,
    ) -> CrossLingualOutput:
        """Embed training pairs (`source_*`, `target_*`), any texts (`input_ids`), or both.

        Args: shapes as in `get_text_features`.

        Returns:
            `CrossLingualOutput`: of texts what `get_text_features` gives, of pairs what the losses need.
        """
        output = CrossLingualOutput(logit_scale=self.logit_scale())
        if source_input_ids is not None:
            states, mask = self._pair_states(
                (source_input_ids, source_attention_mask), (target_input_ids, target_attention_mask)
            )
            output.source_embeds, output.target_embeds = self._text_embeds(states, mask).chunk(2)
            output.source_states, output.target_states = states.chunk(2)
            output.source_mask, output.target_mask = mask.chunk(2)
            if input_ids is None and inputs_embeds is None:
                return output
        texts = self.get_text_features(
            input_ids,
            attention_mask,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        return CrossLingualOutput(**texts, **output)  # in the order of the fields, which a tuple keeps


class Cl2cmModel(TwoStreamModel):
    """The second stage, which is kept: two streams that learn from the first stage as well.

    Paper: arXiv:2312.08984, cross-modal network. The teacher is no part of it: its embeddings come with the batch, as
    labels do.
    """

    config_class = Cl2cmConfig
    base_model_prefix = "cl2cm"

    def __init__(self, config: Cl2cmConfig) -> None:
        super().__init__(config)
        self._complete()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        frame_features: Tensor | None = None,
        frame_mask: Tensor | None = None,
        source_input_ids: Tensor | None = None,
        source_attention_mask: Tensor | None = None,
        target_input_ids: Tensor | None = None,
        target_attention_mask: Tensor | None = None,
        teacher_source_embeds: Tensor | None = None,
        teacher_target_embeds: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | list[int] | None = None,
    ) -> Cl2cmOutput:
        """Embed images with training pairs (`source_*`, `target_*`) or with any texts (`input_ids`).

        Args: shapes as in `get_image_features` and `get_text_features`, and
            teacher_source_embeds, teacher_target_embeds: (batch, teacher_dim) what the cross-lingual network makes of
                the pairs; not read here, but handed to the losses with the rows that they belong to.

        Returns:
            `Cl2cmOutput`: with `input_ids` the logits of all images against all texts, with pairs the embeddings from
            which the losses are computed.
        """
        asked = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        items = self.get_image_features(
            pixel_values, frame_features=frame_features, frame_mask=frame_mask, **asked, return_dict=True
        )
        output = Cl2cmOutput(image_embeds=items.pooler_output, logit_scale=self.logit_scale())
        if source_input_ids is not None:
            output.source_embeds, output.target_embeds = self._pair_embeds(
                (source_input_ids, source_attention_mask), (target_input_ids, target_attention_mask)
            )
            output.teacher_source_embeds, output.teacher_target_embeds = teacher_source_embeds, teacher_target_embeds
        self._add_logits(output, items, input_ids, attention_mask, inputs_embeds, **asked)
        return Cl2cmOutput(**output)  # in the order of the fields, which a tuple keeps: logits first, as from CLIP
