"""Names and shapes of the released code's checkpoints, and what they are called here."""

import re

import torch
from torch import Tensor

# Parameters of the released image model that its forward never reads.
_DROPPED = (
    r"clip_encoder\.(?!visual\.)",
    r"text_encoder\.pooler\.",
    r"text_encoder\.embeddings\.position_ids$",
    r"itm_head\.",
    r"crossattn(_query|2)?\.layers\.\d+\.norm1\.",
)
_RENAMED = (
    (r"^text_encoder\.", "text_model."),
    (r"^text_proj\.", "text_projection."),
    (r"^vision_proj\.", "image_projection."),
    (r"^queries$", "semantic_slots.slot_queries"),
    (r"^caption_proj\.", "semantic_slots.description_projection."),
    (r"^caption_proj1\.", "slot_projection."),
    (r"^cproj\.", "slot_vision_slots."),
    (r"^vproj\.", "slot_vision_patches."),
    (r"^crossattn_query\.", "semantic_slots."),
    (r"^crossattn\.layers\.", "interaction.visual_layers."),
    (r"^crossattn2\.layers\.", "interaction.slot_layers."),
    (r"\.multihead_attn\.", "."),
    (r"\.linear1\.", ".up_proj."),
    (r"\.linear2\.", ".down_proj."),
    (r"\.norm2\.", ".norm."),
    (r"^temp$", "logit_scale.value"),
    (r"^clip_encoder\.visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^clip_encoder\.visual\.positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^clip_encoder\.visual\.conv1\.", "vision_model.embeddings.patch_embedding."),
    (r"^clip_encoder\.visual\.proj$", "visual_projection.weight"),
    (r"^clip_encoder\.visual\.ln_pre\.", "vision_model.pre_layrnorm."),
    (r"^clip_encoder\.visual\.ln_post\.", "vision_model.post_layernorm."),
    (r"^clip_encoder\.visual\.transformer\.resblocks\.", "vision_model.encoder.layers."),
    (r"\.attn\.", ".self_attn."),
    (r"\.ln_(\d)\.", r".layer_norm\1."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)


def convert_official_state(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Rename, split and reshape the weights of a released image checkpoint.

    Args:
        state: the checkpoint's `["model"]`.

    Returns:
        The weights under the names of `LeccrModel`, and the names of those that were dropped because nothing reads
        them.
    """
    converted: dict[str, Tensor] = {}
    dropped = [key for key in state if any(re.match(pattern, key) for pattern in _DROPPED)]
    for key in sorted(set(state) - set(dropped)):
        for name, value in _split_attention(_rename(key), state[key]):
            converted[name] = _reshape(name, value)
    return converted, sorted(dropped)


def _rename(key: str) -> str:
    for pattern, replacement in _RENAMED:
        key = re.sub(pattern, replacement, key)
    return key


def _split_attention(name: str, value: Tensor) -> list[tuple[str, Tensor]]:
    """torch stacks query, key and value weights; transformers keeps them apart."""
    if ".in_proj_" not in name:
        return [(name, value)]
    parts = zip(("q_proj", "k_proj", "v_proj"), value.chunk(3), strict=True)
    return [(name.replace("in_proj_", f"{part}."), chunk) for part, chunk in parts]


def _reshape(name: str, value: Tensor) -> Tensor:
    if name == "semantic_slots.slot_queries":
        return value.squeeze(1)
    if name == "visual_projection.weight":
        return value.T.contiguous()
    if name == "logit_scale.value":
        return -torch.log(value).reshape(1)  # there a temperature that divides, here the log of its inverse
    return value.contiguous()
