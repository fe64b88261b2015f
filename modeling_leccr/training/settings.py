"""The settings of a recipe as such: their types, those that would do nothing, and the text of `--help`."""

import dataclasses
import re
import textwrap
from collections.abc import Collection, Mapping, Sequence
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from transformers import TrainingArguments

from processing.traces import without_traces

# Fields of TrainingArguments that nothing here reads: the losses, the evaluation and the pushes are our own, and a loss
# that is not finite ends the run.
WITHOUT_EFFECT = frozenset(
    {
        "average_tokens_across_devices",
        "batch_eval_metrics",
        "bf16_full_eval",
        "dataloader_in_order",
        "do_eval",
        "do_predict",
        "do_train",
        "eval_accumulation_steps",
        "eval_do_concat_batches",
        "eval_use_gather_object",
        "fp16_full_eval",
        "hub_always_push",
        "include_for_metrics",
        "label_names",
        "label_smoothing_factor",
        "length_column_name",
        "logging_nan_inf_filter",
        "prediction_loss_only",
        "remove_unused_columns",
        "restore_callback_states_from_checkpoint",
    }
)
# Fields of TrainingArguments with one value that is right here: name -> it, and why no other.
FIXED: dict[str, tuple[Any, str]] = {
    "auto_find_batch_size": (
        False,
        "it would take negatives away without a word; set gradient_cache_chunk_size, which keeps them, or lower "
        "per_device_train_batch_size",
    ),
    "hub_strategy": (
        "end",
        "others would send optimizer states and half-trained models; push a checkpoint with "
        "`leccr push_model --model CHECKPOINT`",
    ),
    "ignore_data_skip": (
        False,
        "a resumed run would begin its epoch anew, and end as another than the uninterrupted one; leave it out",
    ),
    "train_sampling_strategy": ("random", "pairs of like length would be easy negatives for each other"),
}
# The least value of numbers that nothing further down would check before the work starts.
_MINIMA = {
    "image_size": 1,
    "vocab_size": 1,
    "max_length": 1,
    "num_frames": 1,
    "train_items": 1,
    "shuffle_buffer": 1,
    "per_device_train_batch_size": 2,
    "batch_neighbours": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "gradient_cache_chunk_size": 1,
}
# Fields of TrainingArguments that people change, with our words.
_OFTEN_CHANGED = {
    "num_train_epochs": "Passes over the training pairs.",
    "max_steps": "Updates, instead of num_train_epochs; -1: by epochs.",
    "gradient_accumulation_steps": "Batches whose gradients one update averages; adds no negatives.",
    "eval_steps": "Updates between evaluations, with eval_strategy: steps.",
    "save_steps": "Updates between checkpoints, with save_strategy: steps.",
    "lr_scheduler_type": "Course of the learning rate, such as linear, cosine or constant_with_warmup.",
    "max_grad_norm": "Longer gradients are cut to this norm.",
    "bf16": "Compute in bfloat16 where it is safe.",
    "gradient_checkpointing": "Recompute activations in the backward pass: less memory, more time.",
    "torch_compile": "Compile the model before training.",
    "dataloader_num_workers": "Processes that read and augment pictures or clips ahead.",
    "seed": "Of weights, order, augmentation and dropout.",
    "resume_from_checkpoint": "true: go on from the newest intact checkpoint; or the folder of one.",
    "push_to_hub": "Push the model at the end; needs hub_model_id.",
    "hub_model_id": "organisation/name on the Hub.",
    "hub_private_repo": "Make a new repository private.",
    "use_cpu": "Train on the CPU even where there is an accelerator.",
    "disable_tqdm": "Log lines instead of progress bars.",
}
_PLACES = frozenset(
    {
        "dataset",
        "images",
        "videos",
        "features",
        "description_states",
        "vision_tower",
        "text_tower",
        "base_model",
        "teacher",
    }
)
_PRIVATE_SETTINGS = re.compile(r"output_dir|logging_dir|run_name|resume_from_checkpoint|push_to_hub|hub_.*|.*_token")
_SCALARS: dict[Any, tuple[type, ...]] = {int: (int,), float: (int, float), str: (str,), NoneType: (NoneType,)}


def check_values(settings: Mapping[str, Any], sections: Sequence[type]) -> None:
    """Refuse values of a wrong type, which would fail somewhere inside, or be taken for true; and too small numbers.

    Args:
        settings: name -> value.
        sections: dataclasses with these names as fields.

    Raises:
        ValueError: a value has another type than its setting, or is too small for it.
    """
    hints = {name: hint for section in sections for name, hint in get_type_hints(section).items()}
    hints |= {"resume_from_checkpoint": bool | str | None} | dict.fromkeys(("vision_tower", "text_tower"), str | dict)
    for name, value in settings.items():
        if not _fits(value, hints[name]):
            raise ValueError(f"{name} must be {_words(hints[name])}, got {value!r}, a {type(value).__name__}.")
        if name in _MINIMA and value is not None and value < _MINIMA[name]:
            null = ", or null for none" if NoneType in get_args(hints[name]) else ""
            raise ValueError(f"{name} must be at least {_MINIMA[name]}{null}, got {value}.")


def check_section(section: str, values: Any, names: Collection[str]) -> None:
    """Refuse a section of a recipe with names that nothing reads.

    Raises:
        ValueError: it has one, or is no mapping.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{section} must be a mapping of names to values, got {values!r}.")
    unknown = sorted(set(values) - set(names))
    if unknown:
        raise ValueError(f"unknown settings {unknown} in {section}; the known ones are {sorted(names)}.")


def check_fixed(args: TrainingArguments) -> None:
    """Refuse the values that this trainer cannot work with, or would give another result with.

    Raises:
        ValueError: a field has such a value.
    """
    for name, (value, reason) in FIXED.items():
        found = getattr(args, name)
        if found != value:
            raise ValueError(f"{name} must be {_shown(value)}, got {_shown(found)}: {reason}.")


def public_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings as they may be published: no folder of this machine, no token, no place of the results."""
    public = _without_places(settings)
    if changes := public.get("cross_lingual"):
        public["cross_lingual"] = _without_places(changes)
    if controls := public.get("controls"):
        public["controls"] = {name: _without_places(changes) for name, changes in controls.items()}
    return without_traces(public)


def _without_places(settings: Mapping[str, Any]) -> dict[str, Any]:
    public = {name: value for name, value in settings.items() if not _PRIVATE_SETTINGS.fullmatch(name)}
    for name in _PLACES & public.keys():
        # A relative folder looks like a name on the Hub, and is nobody's business.
        if isinstance(public[name], str) and Path(public[name]).exists():
            public[name] = Path(public[name]).resolve().name
    return public


def settings_help(sections: Mapping[str, type], usage: str, names: Mapping[str, str]) -> str:
    """All settings of a recipe: those of this project and the often changed ones explained, the others named.

    Args:
        sections: title -> dataclass.
        usage: the form of the command.
        names: setting that is a mapping -> the names that it may hold, in words.
    """
    parents = {entry.name for entry in dataclasses.fields(TrainingArguments)}
    lines = [f"usage: {usage}"]
    others: list[str] = []
    for title, section in sections.items():
        lines += ["", f"{title}:"]
        own = set(section.__annotations__)
        for entry in dataclasses.fields(section):
            if entry.name in WITHOUT_EFFECT or entry.name in FIXED:
                continue
            text = _OFTEN_CHANGED.get(entry.name) or (entry.metadata.get("help", "") if entry.name in own else None)
            if text is not None:
                known = f" Names: {names[entry.name]}" if entry.name in names else ""
                lines += _help_lines(entry, text + known)
            elif entry.init and entry.name in parents:
                others.append(entry.name)
    lines += ["", "Further settings, explained with transformers' TrainingArguments:"]
    lines += textwrap.wrap(", ".join(sorted(others)), 110, initial_indent="  ", subsequent_indent="  ")
    return "\n".join(lines)


def _help_lines(entry: dataclasses.Field, text: str) -> list[str]:
    default: Any = entry.default
    if entry.default_factory is not dataclasses.MISSING:
        default = entry.default_factory()
    default = default.value if isinstance(default, Enum) else default
    shown = "" if default is None or default in ({}, [], "") else f" Default: {_yaml_word(default)}."
    words = textwrap.wrap(text + shown, 80)
    head = f"  --{entry.name}"
    indent = " " * 32
    first = [head.ljust(32) + words[0]] if len(head) < 31 else [head, indent + words[0]]
    return first + [indent + word for word in words[1:]]


def _shown(value: Any) -> str:
    value = value.value if isinstance(value, Enum) else value
    return repr(value) if isinstance(value, str) else _yaml_word(value)


def _yaml_word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _fits(value: Any, hint: Any) -> bool:
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    if hint is Any:
        return True
    if origin is Literal:
        return value in get_args(hint)
    if hint is bool:
        return isinstance(value, bool)
    if hint in _SCALARS:
        return isinstance(value, _SCALARS[hint]) and not isinstance(value, bool)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return isinstance(value, str | hint)
    container = origin or hint
    return not isinstance(container, type) or isinstance(value, container)


def _words(hint: Any) -> str:
    """A type in the words of YAML."""
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", NoneType: "null"}
    names |= {list: "a list such as [a, b]", dict: "a mapping"}
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(dict.fromkeys(_words(option) for option in get_args(hint)))
    if get_origin(hint) is Literal:
        return f"one of {list(get_args(hint))}"
    return names.get(get_origin(hint) or hint, "a text")
