"""Names, shapes and sizes of the released code's checkpoints, and what their weights are called here."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, PreTrainedConfig

from modeling_leccr.configuration_leccr import LeccrConfig

# Parameters of the released models that their forward never reads, and what they are.
_DROPPED = (
    (
        r"clip_encoder\.(transformer\.|token_embedding\.|positional_embedding$|ln_final\.|text_projection$|logit_scale$)",
        "text tower of CLIP, which nothing reads",
    ),
    (r"text_encoder\.pooler\.", "pooler of the text tower, which nothing reads"),
    (r"text_encoder\.embeddings\.position_ids$", "row numbers, no weights"),
    (r"itm_head\.", "matching head, which nothing reads"),
    (
        r"(crossattn(_query|2)?|vid_encoder)\.layers\.\d+\.norm1\.",
        "first layer norm of each block, which nothing reads",
    ),
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
    (r"^vid_encoder\.", "frame_encoder."),
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

_VISUAL = "clip_encoder.visual"
_TEXT = "text_encoder"
_FRAMES = "vid_encoder"
_CLIP_HEAD_WIDTH = 64
_MAX_NAMED = 3

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class OfficialVisionSizes:
    """Sizes of the vision tower of a released image model."""

    image_size: int
    patch_size: int
    width: int
    layers: int
    intermediate: int


@dataclass(frozen=True)
class OfficialSizes:
    """Every size of a released model that its weights tell; numbers of attention heads are not among them.

    Args:
        vision: of the vision tower, which the video form does not have.
        num_frame_layers: blocks over the frames, which the image form does not have.
        slot_dim: width of the slots and of the visual tokens; in the video form, of the frame features.
    """

    vision: OfficialVisionSizes | None
    num_frame_layers: int
    vocab_size: int
    max_positions: int
    type_vocab_size: int
    text_width: int
    text_layers: int
    text_intermediate: int
    slot_dim: int
    embed_dim: int
    num_slots: int
    num_slot_layers: int
    num_interaction_layers: int

    @property
    def form(self) -> str:
        """Which of the released models it is."""
        return "video" if self.vision is None else "image"


def drop_reason(key: str) -> str | None:
    """Why a weight of a released checkpoint is left out, or None for one that is converted."""
    return next((reason for pattern, reason in _DROPPED if re.match(pattern, key)), None)


def official_sizes(state: Mapping[str, Tensor]) -> OfficialSizes:
    """Read the sizes of a released model off its weights; the blocks over frames tell that it is the video form.

    Raises:
        ValueError: a weight that tells a size is absent or has another number of axes.
    """
    has_frames = any(key.startswith(f"{_FRAMES}.") for key in state)
    vision = None if has_frames else _vision_sizes(state)
    vocab_size, text_width = _shape(state, f"{_TEXT}.embeddings.word_embeddings.weight", 2)
    num_slots, _, slot_dim = _shape(state, "queries", 3)
    return OfficialSizes(
        vision=vision,
        num_frame_layers=_num_layers(state, f"{_FRAMES}.layers") if has_frames else 0,
        vocab_size=vocab_size,
        max_positions=_shape(state, f"{_TEXT}.embeddings.position_embeddings.weight", 2)[0],
        type_vocab_size=_shape(state, f"{_TEXT}.embeddings.token_type_embeddings.weight", 2)[0],
        text_width=text_width,
        text_layers=_num_layers(state, f"{_TEXT}.encoder.layer"),
        text_intermediate=_shape(state, f"{_TEXT}.encoder.layer.0.intermediate.dense.weight", 2)[0],
        slot_dim=slot_dim,
        embed_dim=_shape(state, "text_proj.weight", 2)[0],
        num_slots=num_slots,
        num_slot_layers=_num_layers(state, "crossattn_query.layers"),
        num_interaction_layers=max(_num_layers(state, f"{name}.layers") for name in ("crossattn", "crossattn2")),
    )


def _vision_sizes(state: Mapping[str, Tensor]) -> OfficialVisionSizes:
    width, _, patch_size, _ = _shape(state, f"{_VISUAL}.conv1.weight", 4)
    num_positions, _ = _shape(state, f"{_VISUAL}.positional_embedding", 2)
    return OfficialVisionSizes(
        image_size=patch_size * max(math.isqrt(num_positions - 1), 1),
        patch_size=patch_size,
        width=width,
        layers=_num_layers(state, f"{_VISUAL}.transformer.resblocks"),
        intermediate=_shape(state, f"{_VISUAL}.transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
    )


def _shape(state: Mapping[str, Tensor], key: str, num_axes: int) -> tuple[int, ...]:
    if key not in state:
        raise ValueError(f"key {key!r} is missing, so this is no complete checkpoint of the image or the video form.")
    shape = tuple(state[key].shape)
    if len(shape) != num_axes or 0 in shape:
        raise ValueError(f"key {key!r} must have {num_axes} axes, none of them empty, got the shape {shape}.")
    return shape


def _num_layers(state: Mapping[str, Tensor], prefix: str) -> int:
    """One more than the highest number, so that a lost layer in between is missed later."""
    found = (re.match(rf"{re.escape(prefix)}\.(\d+)\.", key) for key in state)
    return 1 + max((int(match[1]) for match in found if match), default=0)


def check_official_state(state: Mapping[str, Tensor], sizes: OfficialSizes) -> None:
    """Make sure that a released checkpoint has all weights of a model of these sizes, and no others.

    Raises:
        ValueError: keys are missing, unknown, of another shape, or hold values that no model can have.
    """
    expected = official_shapes(sizes)
    shared = sorted(set(expected) & set(state))
    problems = {
        "missing": sorted(set(expected) - set(state)),
        "unknown": sorted(key for key in set(state) - set(expected) if drop_reason(key) is None),
        "of another shape": [
            f"{key} is {tuple(state[key].shape)} instead of {expected[key]}"
            for key in shared
            if tuple(state[key].shape) != expected[key]
        ],
        "not finite": [key for key in shared if not state[key].isfinite().all()],
    }
    found = [f"{len(keys)} {kind} ({_listed(keys)})" for kind, keys in problems.items() if keys]
    if found:
        raise ValueError(
            f"its keys are not those of the {sizes.form} form: {'; '.join(found)}. Give an unchanged checkpoint of "
            f"the released {sizes.form} code."
        )
    if not state["temp"] > 0:
        raise ValueError(f"key 'temp' is a temperature and must be above 0, got {float(state['temp'])}.")


def _listed(keys: list[str]) -> str:
    return ", ".join(keys[:_MAX_NAMED]) + (", ..." if len(keys) > _MAX_NAMED else "")


def official_shapes(sizes: OfficialSizes) -> Shapes:
    """Names and shapes of all weights that a released model of these sizes reads."""
    width, embed_dim, text_width = sizes.slot_dim, sizes.embed_dim, sizes.text_width
    shapes: Shapes = {"queries": (sizes.num_slots, 1, width), "temp": ()}
    shapes |= _linear("caption_proj", width, text_width) | _linear("caption_proj1", embed_dim, width)
    shapes |= _linear("cproj", width, width) | _linear("vproj", width, width)
    shapes |= _linear("text_proj", embed_dim, text_width) | _linear("vision_proj", embed_dim, width)
    depths = {
        _FRAMES: sizes.num_frame_layers,
        "crossattn_query": sizes.num_slot_layers,
        "crossattn": sizes.num_interaction_layers,
        "crossattn2": sizes.num_interaction_layers,
    }
    for block in (f"{name}.layers.{layer}" for name, depth in depths.items() for layer in range(depth)):
        shapes |= _attention(f"{block}.multihead_attn", width) | _norm(f"{block}.norm2", width)
        shapes |= _linear(f"{block}.linear1", width, width) | _linear(f"{block}.linear2", width, width)
    vision_shapes = {} if sizes.vision is None else _vision_shapes(sizes.vision, width)
    return shapes | vision_shapes | _text_shapes(sizes)


def _vision_shapes(sizes: OfficialVisionSizes, slot_dim: int) -> Shapes:
    width, inner, patch = sizes.width, sizes.intermediate, sizes.patch_size
    shapes: Shapes = {
        f"{_VISUAL}.class_embedding": (width,),
        f"{_VISUAL}.positional_embedding": (1 + (sizes.image_size // patch) ** 2, width),
        f"{_VISUAL}.conv1.weight": (width, 3, patch, patch),
        f"{_VISUAL}.proj": (width, slot_dim),
    }
    shapes |= _norm(f"{_VISUAL}.ln_pre", width) | _norm(f"{_VISUAL}.ln_post", width)
    for block in (f"{_VISUAL}.transformer.resblocks.{layer}" for layer in range(sizes.layers)):
        shapes |= _attention(f"{block}.attn", width) | _norm(f"{block}.ln_1", width) | _norm(f"{block}.ln_2", width)
        shapes |= _linear(f"{block}.mlp.c_fc", inner, width) | _linear(f"{block}.mlp.c_proj", width, inner)
    return shapes


def _text_shapes(sizes: OfficialSizes) -> Shapes:
    width, inner = sizes.text_width, sizes.text_intermediate
    tables = {
        "word_embeddings": sizes.vocab_size,
        "position_embeddings": sizes.max_positions,
        "token_type_embeddings": sizes.type_vocab_size,
    }
    shapes: Shapes = {f"{_TEXT}.embeddings.{name}.weight": (rows, width) for name, rows in tables.items()}
    shapes |= _norm(f"{_TEXT}.embeddings.LayerNorm", width)
    for block in (f"{_TEXT}.encoder.layer.{layer}" for layer in range(sizes.text_layers)):
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            shapes |= _linear(f"{block}.attention.{part}", width, width)
        shapes |= _linear(f"{block}.intermediate.dense", inner, width) | _linear(f"{block}.output.dense", width, inner)
        shapes |= _norm(f"{block}.attention.output.LayerNorm", width) | _norm(f"{block}.output.LayerNorm", width)
    return shapes


def _linear(name: str, out_width: int, in_width: int) -> Shapes:
    return {f"{name}.weight": (out_width, in_width), f"{name}.bias": (out_width,)}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _attention(name: str, width: int) -> Shapes:
    stacked: Shapes = {f"{name}.in_proj_weight": (3 * width, width), f"{name}.in_proj_bias": (3 * width,)}
    return stacked | _linear(f"{name}.out_proj", width, width)


def official_config(
    sizes: OfficialSizes, text_config: PreTrainedConfig, *, vision_heads: int | None = None
) -> LeccrConfig:
    """The official preset for a released model of these sizes.

    Args:
        text_config: of the text tower that the model was trained from; it tells what weights cannot.
        vision_heads: attention heads of the vision tower. None takes one for each 64 channels, as all CLIP models do.

    Raises:
        ValueError: `text_config` belongs to another tower, the width is no multiple of `vision_heads`, or the video
            form, which has no vision tower, was given some.
    """
    fields = {
        "vocab_size": sizes.vocab_size,
        "hidden_size": sizes.text_width,
        "num_hidden_layers": sizes.text_layers,
        "intermediate_size": sizes.text_intermediate,
        "max_position_embeddings": sizes.max_positions,
        "type_vocab_size": sizes.type_vocab_size,
    }
    other = [
        f"{name} {getattr(text_config, name, None)} instead of {size}"
        for name, size in fields.items()
        if getattr(text_config, name, None) != size
    ]
    if other:
        raise ValueError(
            f"the text tower is not the one that the checkpoint was trained with: it has {', '.join(other)}; "
            f"name the right one."
        )
    # The released script ranks images by the global score alone, and videos by `scoring: min_max` with its weight.
    visual: dict[str, Any]
    if sizes.vision is not None:
        visual = {"vision_config": _vision_config(sizes.vision, sizes.slot_dim, vision_heads), "global_weight": 1.0}
    elif vision_heads is None:
        visual = {"vision_input": "features", "feature_dim": sizes.slot_dim, "global_weight": 0.9}
        visual["num_frame_layers"] = sizes.num_frame_layers
    else:
        raise ValueError(
            f"the video form reads frame features and has no vision tower, got {vision_heads} attention heads for it; "
            f"leave them out."
        )
    return LeccrConfig.official(
        **visual,
        text_config=text_config,
        slot_dim=sizes.slot_dim,
        embed_dim=sizes.embed_dim,
        num_slots=sizes.num_slots,
        num_slot_layers=sizes.num_slot_layers,
        num_interaction_layers=sizes.num_interaction_layers,
    )


def _vision_config(sizes: OfficialVisionSizes, slot_dim: int, heads: int | None) -> CLIPVisionConfig:
    heads = max(sizes.width // _CLIP_HEAD_WIDTH, 1) if heads is None else heads
    if heads < 1 or sizes.width % heads:
        raise ValueError(
            f"the width {sizes.width} of the vision tower must be a multiple of its number of heads, got {heads}; "
            f"give the number that it was trained with."
        )
    return CLIPVisionConfig(
        hidden_size=sizes.width,
        intermediate_size=sizes.intermediate,
        num_hidden_layers=sizes.layers,
        num_attention_heads=heads,
        image_size=sizes.image_size,
        patch_size=sizes.patch_size,
        projection_dim=slot_dim,
    )


def convert_official_state(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Rename, split and reshape the weights of a released checkpoint.

    Args:
        state: the checkpoint's `["model"]`.

    Returns:
        The weights under the names of `LeccrModel`, and the names of those that were dropped because nothing reads
        them.
    """
    converted: dict[str, Tensor] = {}
    dropped = [key for key in state if drop_reason(key) is not None]
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
