"""The pretrained halves: any vision encoder and any text encoder of transformers, reduced to their tokens."""

import contextlib
import copy
import inspect
import math
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from transformers import AutoConfig, AutoModel, CLIPVisionModelWithProjection, PreTrainedConfig, PreTrainedModel

# These encoders return their tokens before the final layer norm (named here) and apply it to the pooled token alone.
TOWERS_WITH_POOLED_NORM_ONLY = {
    "chinese_clip_vision_model": "post_layernorm",
    "clip_vision_model": "post_layernorm",
    "mlcd_vision_model": "post_layernorm",
    "convnext": "layernorm",
    "convnextv2": "layernorm",
}


def build_tower(config: PreTrainedConfig) -> PreTrainedModel:
    """A tower with random weights and without pooling head, whose parameters nothing would read.

    Its weights are of torch's default type, as those of all other parts, whatever type a checkpoint of it is stored in.

    Raises:
        ValueError: transformers has no encoder of this type that stands alone.
    """
    return AutoModel.from_config(config, dtype=torch.get_default_dtype(), **_without_pooling(config))


def freeze_mask_tokens(model: nn.Module) -> None:
    """Let what stands for hidden patches in pretraining not learn, in place: nothing reads it, which stalls DDP."""
    for name, parameter in model.named_parameters():
        if name.endswith(".mask_token"):
            parameter.requires_grad_(False)


def frozen_copy(tower: PreTrainedModel) -> PreTrainedModel:
    """The tower as it is now, never to change: without gradient and without dropout."""
    return copy.deepcopy(tower).requires_grad_(False).eval()


@contextlib.contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Switch dropout off for a while, and restore each submodule's own mode afterwards."""
    in_training = [part for part in module.modules() if part.training]
    for part in in_training:
        part.training = False
    try:
        yield
    finally:
        for part in in_training:
            part.training = True


def without_autocast_cache(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Autocast as it is, but the weights that it casts are forgotten.

    Until 2.10, torch hands weights that were cast without gradient to a later pass that has one, and nothing reaches
    the parameters (pytorch issue 158232).
    """
    if not torch.is_autocast_enabled(device.type):
        return contextlib.nullcontext()
    return torch.autocast(device.type, cache_enabled=False)


def visual_tokens(tower: PreTrainedModel, pixel_values: Tensor) -> Tensor:
    """All tokens of a vision encoder after its final layer norm.

    Args:
        tower: any vision encoder.
        pixel_values: (batch, channels, height, width).

    Returns:
        (batch, num_patches, hidden_size); the class token, where there is one, comes first.
    """
    return vision_outputs(tower, pixel_values).last_hidden_state


def vision_outputs(tower: PreTrainedModel, pixel_values: Tensor, **options: Any) -> Any:
    """`visual_tokens` as `last_hidden_state` of the encoder's own output, with what else it is asked for.

    Args:
        tower, pixel_values: as in `visual_tokens`.
        options: arguments of the encoder, such as `output_hidden_states` and `output_attentions`; None leaves them to
            its configuration.
    """
    options = {name: value for name, value in options.items() if value is not None}
    # A processor gives fp32, and not every encoder casts it to the type of its weights.
    outputs = tower(pixel_values=pixel_values.to(tower.dtype), **options)
    states = outputs.last_hidden_state
    if states.ndim == 4:  # convolutional towers return a map (batch, channels, height, width)
        states = states.flatten(2).transpose(1, 2)
    norm = TOWERS_WITH_POOLED_NORM_ONLY.get(tower.config.model_type)
    outputs.last_hidden_state = states if norm is None else tower.get_submodule(norm)(states)
    return outputs


def output_width(vision_config: PreTrainedConfig) -> int:
    """Width of the tokens that a vision encoder returns."""
    hidden_sizes = getattr(vision_config, "hidden_sizes", None)  # convolutional towers: one a stage
    return vision_config.hidden_size if hidden_sizes is None else hidden_sizes[-1]


def tower_config(name: str | os.PathLike, half: str, tower_kwargs: dict[str, Any]) -> PreTrainedConfig:
    """Configuration of a pretrained tower; of a dual encoder, the half ("vision_config", "text_config") asked for.

    It keeps where the tower comes from, of which `LeccrConfig` forgets folders of this machine.
    """
    config = AutoConfig.from_pretrained(name, **tower_kwargs)
    tower = getattr(config, half, config)
    tower.name_or_path = str(name)
    return tower


def load_text_tower(tower: PreTrainedModel, name: str | os.PathLike, tower_kwargs: dict[str, Any]) -> None:
    """Fill a text tower with pretrained weights.

    Raises:
        ValueError: the checkpoint lacks weights of the tower.
    """
    pretrained = _from_pretrained(AutoModel, name, tower.config, tower_kwargs)
    tower.load_state_dict(pretrained.state_dict())


def load_vision_tower(
    tower: PreTrainedModel, projection: nn.Linear, name: str | os.PathLike, tower_kwargs: dict[str, Any]
) -> None:
    """Fill a vision tower with pretrained weights, and the projection too where the checkpoint has a fitting one.

    Raises:
        ValueError: the checkpoint lacks weights of the tower, or its position grid cannot be resized.
    """
    checkpoint_config = tower_config(name, "vision_config", tower_kwargs)
    if checkpoint_config.model_type == "clip_vision_model":
        clip = _from_pretrained(CLIPVisionModelWithProjection, name, checkpoint_config, tower_kwargs)
        state = clip.get_submodule("vision_model").state_dict()
        projection_state = clip.get_submodule("visual_projection").state_dict()
        if projection_state["weight"].shape == projection.weight.shape:
            projection.load_state_dict(projection_state)
    else:
        state = _from_pretrained(AutoModel, name, checkpoint_config, tower_kwargs).state_dict()
    for key, parameter in tower.named_parameters():
        if "position_embedding" in key and key in state and state[key].shape != parameter.shape:
            state[key] = resize_position_grid(state[key], parameter.shape[-2])
    tower.load_state_dict(state)


def resize_position_grid(table: Tensor, num_rows: int) -> Tensor:
    """Stretch the learned positions of a square patch grid to another grid, for images of another size.

    Args:
        table: (..., 1 + grid * grid, hidden_size); the first row belongs to the class token and stays.
        num_rows: 1 + new_grid * new_grid.

    Returns:
        (..., num_rows, hidden_size), bicubic.

    Raises:
        ValueError: a number of rows is not one more than a square.
    """
    old_grid, new_grid = (math.isqrt(max(rows - 1, 0)) for rows in (table.shape[-2], num_rows))
    if old_grid**2 + 1 != table.shape[-2] or new_grid**2 + 1 != num_rows or not old_grid or not new_grid:
        raise ValueError(
            f"a position table holds one class row and a square grid, got {table.shape[-2]} rows to turn into "
            f"{num_rows}; choose an image_size that is a multiple of the patch size."
        )
    class_row, grid = table[..., :1, :], table[..., 1:, :]
    grid = grid.reshape(1, old_grid, old_grid, -1).permute(0, 3, 1, 2)
    grid = interpolate(grid, size=(new_grid, new_grid), mode="bicubic", align_corners=False)
    grid = grid.permute(0, 2, 3, 1).reshape(*class_row.shape[:-2], new_grid**2, -1)
    return torch.cat([class_row, grid], dim=-2)


def _without_pooling(config: PreTrainedConfig) -> dict[str, bool]:
    for name in ("vision_use_head", "use_head"):
        if getattr(config, name, False):
            setattr(config, name, False)
    if type(config) not in AutoModel._model_mapping:
        raise ValueError(
            f"a tower must be an encoder that transformers builds alone, got one of model_type {config.model_type!r}, "
            f"which it only knows as a part of another model; name another tower."
        )
    model_class: Any = AutoModel._model_mapping[type(config)]
    accepts = "add_pooling_layer" in inspect.signature(model_class).parameters
    return {"add_pooling_layer": False} if accepts else {}


def _from_pretrained(
    model_class: Any, name: str | os.PathLike, config: PreTrainedConfig, tower_kwargs: dict[str, Any]
) -> PreTrainedModel:
    options = {"dtype": torch.float32, **(_without_pooling(config) if model_class is AutoModel else {}), **tower_kwargs}
    model, info = model_class.from_pretrained(name, config=config, output_loading_info=True, **options)
    missing = sorted(info["missing_keys"])
    if missing:
        raise ValueError(
            f"the checkpoint {str(name)!r} lacks {len(missing)} weights of its {config.model_type} tower "
            f"(first: {missing[:3]}); it may hold another architecture than its configuration says."
        )
    return model
