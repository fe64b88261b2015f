"""What of a model is trained: whole towers, small adapters in them (LoRA), or what lies between them alone."""

import logging
import re
import types
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from accelerate import PartialState
from torch import nn
from transformers.utils import is_peft_available

from modeling_leccr.export import save_for_hub
from modeling_leccr.streams_leccr import TextStreamModel
from modeling_leccr.towers_leccr import freeze_mask_tokens
from modeling_leccr.training.sharding import has_adapter
from modeling_leccr.training.weights import load_weights
from processing.files import atomic_folder, write_text_atomic
from processing.processing_leccr import LeccrProcessor

logger = logging.getLogger(__name__)

# Setting -> part of the model. Everything else that learns is a head.
TOWERS = {"vision_training": "vision_model", "text_training": "text_model"}
_NEVER_TRAINED = "description_model"
LORA_DEFAULTS: dict[str, Any] = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.05}
LORA_WORDS = (
    ", ".join(f"{name} {value}" for name, value in LORA_DEFAULTS.items()) + ", target_modules queries and values"
)
# Of peft's LoraConfig, what concerns the matrices alone. `bias` would train frozen parts, and some ways of
# `init_lora_weights` change the base, so that the adapter would fit no other copy of it.
LORA_FIELDS = frozenset({*LORA_DEFAULTS, "use_dora", "use_rslora", "target_modules", "rank_pattern", "alpha_pattern"})
# What the encoders of transformers call the matrices that make queries and values, or all of attention at once.
QUERY_AND_VALUE: tuple[str, ...] = ("query", "value", "q_proj", "v_proj", "q_lin", "v_lin", "query_proj", "value_proj")
QUERY_AND_VALUE += ("q", "v", "qkv", "Wqkv", "qkv_proj", "query_key_value", "in_proj", "c_attn")
_CARD = """---
library_name: peft{base_model}
---

# Adapter

```python
from peft import PeftModel
from transformers import AutoModel

base = AutoModel.from_pretrained("{base}", trust_remote_code=True)
model = PeftModel.from_pretrained(base, "{name}")
whole = model.merge_and_unload()  # without adapter: saved and searched like any other model
```

`AutoModel.from_pretrained("{name}", trust_remote_code=True)` finds the base itself, by the name or folder in
`adapter_config.json`. The processor is that of the base.
"""


def check_parts(
    training: Mapping[str, str], lora: Mapping[str, Any], multipliers: Collection[str], *, has_vision_tower: bool
) -> None:
    """Refuse settings that would do nothing.

    Args:
        training: "vision_training" and "text_training" -> "full", "lora" or "frozen".
        lora: fields of LoraConfig.
        multipliers: the groups with a learning rate of their own.
        has_vision_tower: whether the model has one: of frame features and of texts there is none.

    Raises:
        ValueError: a setting concerns a part that is absent or is not trained, or peft is missing.
    """
    if not has_vision_tower and training["vision_training"] != "full":
        raise ValueError(
            f"vision_training must be left out where neither pictures nor frames are read, for there is no vision "
            f"tower; got {training['vision_training']!r}."
        )
    adapted = [name for name, how in training.items() if how == "lora"]
    if lora and not adapted:
        raise ValueError(f"lora ({sorted(lora)}) needs vision_training: lora or text_training: lora; got neither.")
    if adapted and not is_peft_available():
        raise ValueError(f"{adapted[0]}: lora needs the package peft; install it with `pip install peft`.")
    if not has_vision_tower and "vision" in multipliers:
        raise ValueError(
            "learning_rate_multipliers must have no factor for 'vision' where neither pictures nor frames are read, "
            "for there is no vision tower; leave it out."
        )
    for name, how in training.items():
        if how == "frozen" and (group := name.removesuffix("_training")) in multipliers:
            raise ValueError(
                f"learning_rate_multipliers has a factor for {group!r}, which does not learn ({name}: frozen); leave "
                f"one of them out."
            )


def prepare_parts(model: TextStreamModel, training: Mapping[str, str], lora: Mapping[str, Any]) -> None:
    """Make the parts of a model trainable as asked, in place.

    Adapters come into the towers that say "lora". All heads and the towers that say "full" are then trained and saved
    with them as copies (peft's `modules_to_save`), beside which the originals stay in memory. Towers that say "frozen"
    get no gradient and no dropout.

    Args:
        model: without adapter.
        training: "vision_training" and "text_training" -> "full", "lora" or "frozen".
        lora: fields of LoraConfig over LORA_DEFAULTS; `target_modules` names matrices of the adapted towers.

    Raises:
        ValueError: a tower is absent, or has none of the matrices.
    """
    check_parts(training, lora, (), has_vision_tower=model.config.has_vision_tower)
    parts = {tower: training[name] for name, tower in TOWERS.items() if hasattr(model, tower)}
    if adapted := [tower for tower, how in parts.items() if how == "lora"]:
        from peft import LoraConfig

        others = [name for name, _ in model.named_children() if name not in parts and name != _NEVER_TRAINED]
        whole = [*others, *(tower for tower, how in parts.items() if how == "full")]
        targets = [name for tower in adapted for name in _targets(model, tower, lora.get("target_modules"))]
        settings = {**LORA_DEFAULTS, **lora, "target_modules": targets, "modules_to_save": whole}
        model.add_adapter(LoraConfig(**settings))
    for tower, how in parts.items():
        if how == "frozen":
            module = model.get_submodule(tower)
            module.requires_grad_(False)
            # The trainer switches the whole model to training before each step.
            module.train = types.MethodType(_stay_in_evaluation, module)  # type: ignore[method-assign]
            module.eval()
    freeze_mask_tokens(model)
    trainable, total = count_parameters(model)
    logger.info("%s parameters of %s are trained (%.2f %%)", f"{trainable:,}", f"{total:,}", 100 * trainable / total)


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Trained parameters, and those of the model as it is used: with its adapter, without unused originals."""
    used = [value for name, value in model.named_parameters() if ".original_module." not in f".{name}"]
    return sum(value.numel() for value in used if value.requires_grad), sum(value.numel() for value in used)


def merge_adapter(model: TextStreamModel) -> TextStreamModel:
    """Add an adapter into the matrices that it changes, in place; without adapter nothing happens.

    Returns:
        The model, whole: it is saved, searched and pushed like any other.
    """
    if not has_adapter(model):
        return model
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)
            model.set_submodule(name, module.get_base_layer())
        elif isinstance(module, ModulesToSaveWrapper):
            model.set_submodule(name, module.modules_to_save[module.active_adapters[0]])
    del model.peft_config
    model._hf_peft_config_loaded = False
    return model


def keep_base(model: TextStreamModel, processor: LeccrProcessor, folder: str | Path, *, resumed: bool) -> None:
    """Save the model that an adapter is about to be trained on: without it, the adapter is nothing.

    A resumed run takes the weights from there, because another version of torch draws other random ones.

    Args:
        model: without adapter; only the first process saves it.
        processor: its processor.
        folder: of the base; the adapter finds it by its path.
        resumed: whether the run goes on from a checkpoint.

    Raises:
        ValueError: `folder` holds something else.
        FileNotFoundError: a resumed run finds no base.
    """
    target = Path(folder)
    if resumed and not target.is_dir():
        raise FileNotFoundError(
            f"the checkpoint is an adapter, and the model that it was trained on is not in {target}; put that folder "
            f"back, or start anew without resume_from_checkpoint."
        )
    if resumed:
        load_weights(model, target)
    elif PartialState().is_main_process:
        save_for_hub(model, processor, target)
    model.name_or_path = str(target.resolve())


def save_adapter(model: TextStreamModel, folder: str | Path) -> Path:
    """Write the adapter alone: small, to be loaded over its base by peft or transformers.

    Args:
        model: with an adapter, whose base has the name or the folder `model.name_or_path`.
        folder: replaced whole.

    Returns:
        `folder`.
    """
    target, base = Path(folder), str(model.name_or_path)
    # The path of a folder would tell of this machine.
    name, line = ("PATH/TO/base", "") if Path(base).is_dir() else (base, f"\nbase_model: {base}")
    with atomic_folder(target) as fresh:
        model.save_pretrained(fresh)
        for path in fresh.glob("*.py"):
            path.unlink()  # the code is loaded with the base
        write_text_atomic(fresh / "README.md", _CARD.format(base_model=line, base=name, name=target.name))
    return target


def _targets(model: TextStreamModel, tower: str, wanted: str | Collection[str] | None) -> list[str]:
    """Full names of the matrices of a tower that get an adapter."""
    matrices = [name for name, module in model.get_submodule(tower).named_modules() if isinstance(module, nn.Linear)]
    if wanted == "all-linear":
        chosen = matrices
    elif isinstance(wanted, str):
        chosen = [name for name in matrices if re.fullmatch(wanted, f"{tower}.{name}")]
    else:
        ends = tuple(f".{end}" for end in (QUERY_AND_VALUE if wanted is None else wanted))
        chosen = [name for name in matrices if f".{name}".endswith(ends)]
    if not chosen:
        last_names = sorted({name.rpartition(".")[2] for name in matrices})
        raise ValueError(
            f"lora.target_modules: no matrix of the {tower} is called {wanted or 'as queries and values often are'}; "
            f"name some of {last_names}, or train this tower full or frozen."
        )
    return [f"{tower}.{name}" for name in chosen]


def _stay_in_evaluation(module: nn.Module, mode: bool = True) -> nn.Module:
    """In the place of `train`: dropout in a tower that cannot learn is noise."""
    return type(module).train(module, False)
