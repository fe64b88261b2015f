"""Weights that are split over processes (FSDP2, DeepSpeed): what the defaults would break, and the whole model."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from transformers import Trainer, TrainerCallback
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from modeling_leccr.streams_leccr import TextStreamModel

# FSDP puts the weights together for `forward` alone; evaluation calls these.
_EMBEDDING_METHODS = ("get_image_features", "get_text_features")


class EmbedWithSplitWeights(TrainerCallback):
    """Lets evaluation embed with a model whose weights are split; every process must embed equally many batches."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the trainer once the weights are split, with the model among the keywords."""
        for name in _EMBEDDING_METHODS:
            if not hasattr(kwargs["model"], name):
                continue  # a network of texts embeds no images
            register_fsdp_forward_method(kwargs["model"], name)  # without effect on other models


def is_split(model: torch.nn.Module) -> bool:
    """Whether each process holds a part of the weights."""
    return isinstance(model, FSDPModule)


def prepare_splitting(model: TextStreamModel, plugin: Any) -> None:
    """Adapt accelerate's settings of FSDP, before it splits the weights.

    Args:
        model: as it is given to the trainer.
        plugin: accelerate's `FullyShardedDataParallelPlugin`; it is changed.

    Raises:
        ValueError: a setting would train something else, or leave checkpoints that are no models.
    """
    _check_settings(model, plugin)
    layers = {type(part).__name__ for part in model.modules()} & set(model._no_split_modules or ())
    # Towers name their embeddings too, and layers of their other half; accelerate makes a unit of the embeddings.
    plugin.transformer_cls_names_to_wrap = sorted(name for name in layers if "Embeddings" not in name)
    if plugin.mixed_precision_policy is None:
        return
    # accelerate would round the embeddings to bf16 on their way to the losses, and sum the gradients in bf16.
    plugin.mixed_precision_policy = MixedPrecisionPolicy(
        param_dtype=plugin.mixed_precision_policy.param_dtype, reduce_dtype=torch.float32, output_dtype=None
    )
    # A unit of its own in fp32: bf16 has no number between 14.25 and 14.3125 for the inverse temperature.
    fully_shard(model.logit_scale, offload_policy=plugin.cpu_offload)


def prepare_deepspeed(model: TextStreamModel, plugin: Any) -> None:
    """As `prepare_splitting`, for DeepSpeed.

    Args:
        model: as it is given to the trainer.
        plugin: accelerate's `DeepSpeedPlugin`.

    Raises:
        ValueError: as there.
    """
    # transformers would split each model that is built from here on; the main process builds some alone.
    unset_hf_deepspeed_config()
    if plugin.deepspeed_config.get("bf16", {}).get("enabled") is True:
        raise ValueError(
            "DeepSpeed's own bf16 must be off, for it rounds the temperature, the embeddings that losses compare and "
            "the checkpoints; leave `--bf16` and `--mixed_precision` out and set torch_autocast as in "
            "configs/accelerate/deepspeed_zero2.json."
        )
    if plugin.zero_stage != 3:
        return
    if not plugin.deepspeed_config["zero_optimization"].get("stage3_gather_16bit_weights_on_model_save"):
        raise ValueError(
            "stage3_gather_16bit_weights_on_model_save must be true: a checkpoint must be a model; see "
            "configs/accelerate/deepspeed_zero3.json."
        )
    _refuse_adapters(model, "ZeRO-3")


def clamp_temperature(model: TextStreamModel) -> None:
    """`model.logit_scale.clamp_()`, also where DeepSpeed's optimizer updates a copy; every process must call."""
    scale = model.logit_scale
    if scale.max_log is None or not (hasattr(scale.value, "ds_id") or hasattr(scale.value, "_hp_mapping")):
        scale.clamp_()
        return
    import deepspeed  # the model bears its traces

    updated = deepspeed.utils.safe_get_full_fp32_param(scale.value)
    if float(updated) <= scale.max_log:
        return
    if not hasattr(scale.value, "ds_id"):
        deepspeed.utils.safe_set_full_fp32_param(scale.value, updated.clamp(max=scale.max_log))
        scale.clamp_()
        return
    # ZeRO-3 cannot set the whole of a parameter that is smaller than the number of processes.
    own = deepspeed.utils.safe_get_local_fp32_param(scale.value)
    deepspeed.utils.safe_set_local_fp32_param(scale.value, own.clamp(max=scale.max_log))
    with deepspeed.zero.GatheredParameters([scale.value], modifier_rank=0):
        scale.clamp_()


def whole_model(trainer: Trainer) -> TextStreamModel:
    """The model of a trainer. Where its weights are split, every process must call, and the main one gets it whole."""
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    if is_split(model):
        return _whole_copy(model, trainer.accelerator.get_state_dict(model))
    deepspeed = trainer.accelerator.state.deepspeed_plugin if trainer.is_deepspeed_enabled else None
    if deepspeed is not None and deepspeed.zero_stage == 3:
        return _whole_copy(model, trainer.accelerator.get_state_dict(trainer.model_wrapped))
    return model


@contextmanager
def saved_whole(trainer: Trainer, state: Mapping[str, Tensor] | None) -> Iterator[None]:
    """Let the trainer save a model of the usual class: the one with split weights would be saved under another name.

    Args:
        state: all weights in the main process, as accelerate collects them.
    """
    split: Any = trainer.model
    if state and is_split(split):
        trainer.model = _whole_copy(split, state)
    try:
        yield
    finally:
        trainer.model = split


def has_adapter(model: torch.nn.Module) -> bool:
    """Whether the model was given an adapter by `add_adapter` or `load_adapter`."""
    return bool(getattr(model, "_hf_peft_config_loaded", False))


def usual_class(model: torch.nn.Module) -> type[TextStreamModel]:
    """The class of a model before its weights were split."""
    # `fully_shard` derives a class from (FSDPModule, the usual class).
    return cast(type[TextStreamModel], type(model).__bases__[1] if is_split(model) else type(model))


def fill(model: torch.nn.Module, state: Mapping[str, Tensor]) -> None:
    """`load_state_dict` for a model whose weights may be split; each process has the whole `state`."""
    if is_split(model):
        set_model_state_dict(model, dict(state), options=StateDictOptions(full_state_dict=True))
    else:
        model.load_state_dict(state)


def _whole_copy(model: torch.nn.Module, state: Mapping[str, Tensor]) -> TextStreamModel:
    """In processes that hold no `state`, the model as it is."""
    if not state:
        return cast(TextStreamModel, model)
    with torch.random.fork_rng(devices=[]):  # random weights, which are replaced, must not change what comes after
        whole = usual_class(model)(cast(Any, model.config))
    whole.load_state_dict(state)
    return whole.train(model.training)


def _check_settings(model: TextStreamModel, plugin: Any) -> None:
    rules = {
        "fsdp_version": (plugin.fsdp_version == 2, "2: with 1 the towers' weights are not found in evaluation"),
        "fsdp_state_dict_type": (
            "FULL_STATE_DICT" in str(plugin.state_dict_type),
            "FULL_STATE_DICT: a checkpoint must be a model",
        ),
        "fsdp_cpu_ram_efficient_loading": (
            not plugin.cpu_ram_efficient_loading,
            "false: each process loads the towers itself",
        ),
    }
    for name, (holds, rule) in rules.items():
        if not holds:
            raise ValueError(f"{name} must be {rule}; see configs/accelerate/fsdp2.yaml.")
    _refuse_adapters(model, "FSDP")


def _refuse_adapters(model: TextStreamModel, name: str) -> None:
    if has_adapter(model):
        raise ValueError(
            f"{name} splits the weights of whole models, not of adapters; train vision_training or text_training: "
            f"lora with configs/accelerate/ddp.yaml."
        )
