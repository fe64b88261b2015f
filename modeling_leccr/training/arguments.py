"""A recipe: what a YAML file and the command line say about model, data and training."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import HfArgumentParser, TrainingArguments
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.trainer_utils import HubStrategy

from modeling_leccr.training.adapters import LORA_FIELDS, LORA_WORDS, TOWERS, check_parts
from modeling_leccr.training.checkpoints import check_is_checkpoint
from modeling_leccr.training.checks import (
    check_base,
    check_evaluations,
    check_first_stage,
    check_gradient_cache,
    check_metric,
    check_precision,
    check_processes,
    check_same_model,
    check_scoring,
    check_stages,
    check_streaming,
    check_trackers,
    check_visual_settings,
)
from modeling_leccr.training.optimization import GROUPS, check_multipliers
from modeling_leccr.training.reading import read_overrides, read_yaml
from modeling_leccr.training.settings import (
    WITHOUT_EFFECT,
    check_fixed,
    check_section,
    check_values,
    public_settings,
    settings_help,
)
from modeling_leccr.training.states import check_encoder_is_frozen
from modeling_leccr.training.systems import SYSTEMS, TWO_STAGES, System, first_stage, varied, without_meaning
from processing.hub_upload import check_repo_id
from processing.scenes import ScenesConfig
from processing.scenes_video import ScenesVideoConfig
from retrieval.evaluation import Scoring

_RENAMED = {
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
}
TowerTraining = Literal["full", "lora", "frozen"]
USAGE = "train.py RECIPE.yaml [--name value] [--section.name value] ..."


@dataclass
class ModelArguments:
    """What is trained."""

    vision_tower: Any = field(
        default="openai/clip-vit-base-patch32",
        metadata={"help": "Hub id or folder of pretrained weights, or a configuration (with model_type) from scratch."},
    )
    text_tower: Any = field(
        default="google-bert/bert-base-multilingual-cased",
        metadata={"help": "As vision_tower. From scratch, the tokenizer is trained on the training captions."},
    )
    system: Literal["leccr", "cl2cm", "cross_lingual"] = field(
        default="leccr",
        metadata={
            "help": "leccr, also for its baselines without slots; cl2cm, in two stages; cross_lingual, the first of "
            "them alone, which reads no pictures."
        },
    )
    model: dict[str, Any] = field(default_factory=dict, metadata={"help": "Choices of the model."})
    base_model: str | None = field(
        default=None,
        metadata={"help": "Hub id or folder of a trained model to go on from, instead of towers and `model`."},
    )
    cross_lingual: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "Changes of the recipe for the first stage of cl2cm, the cross-lingual network."},
    )
    teacher: str | None = field(
        default=None,
        metadata={"help": "Hub id or folder of a trained cross-lingual network, instead of the first stage of cl2cm."},
    )
    init_from_teacher: bool = field(
        default=False,
        metadata={"help": "Start the text tower of cl2cm as the teacher's; for towers from scratch."},
    )
    image_size: int = field(default=224, metadata={"help": "Pixels a side."})
    num_frames: int | None = field(default=None, metadata={"help": "Most frames of a video; of clips by default 12."})
    frame_rate: float | None = field(default=None, metadata={"help": "Frames for each second of a clip."})
    vocab_size: int = field(default=8000, metadata={"help": "Of a tokenizer that is trained here."})
    max_length: int = field(default=200, metadata={"help": "Tokens of a caption or description; longer are cut."})
    clean_captions: bool = field(default=False, metadata={"help": "Lower-case, strip punctuation, cut at 30 words."})


@dataclass
class DataArguments:
    """What it is trained and evaluated on."""

    dataset: str = field(
        default="scenes", metadata={"help": "'scenes' or 'scenes_video' (embedded), a folder or a Hub id."}
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of a data set with several."})
    images: str | None = field(
        default=None, metadata={"help": "Folder or data set of pictures, joined with a data set of texts by id."}
    )
    videos: str | None = field(default=None, metadata={"help": "Folder of clips, likewise."})
    features: str | None = field(default=None, metadata={"help": "Folder of features of frames, likewise."})
    scenes: dict[str, Any] = field(default_factory=dict, metadata={"help": "Of the embedded pictures (ScenesConfig)."})
    scenes_video: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "Of the embedded clips (ScenesVideoConfig)."}
    )
    target_languages: list[str] = field(
        default_factory=list, metadata={"help": "Trained on, from machine translation."}
    )
    evaluation_languages: list[str] = field(
        default_factory=list,
        metadata={"help": "Languages of human captions, default target_languages; de_mt asks with translations."},
    )
    train_split: str = field(default="train", metadata={"help": "Split that is trained on."})
    validation_split: str = field(default="validation", metadata={"help": "Split that chooses the checkpoint."})
    test_split: str | None = field(default=None, metadata={"help": "Split that is reported once, after training."})
    train_items: int | None = field(default=None, metadata={"help": "Only the first so many items, for a quick look."})
    corrupt_images: Literal["error", "skip"] = field(
        default="error", metadata={"help": "Of clips and features too: 'error' names the item; 'skip' drops it."}
    )
    augmentation: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "Random crops of training pictures or clips; empty: none."}
    )
    streaming: bool = field(
        default=False,
        metadata={"help": "Read the training split shard by shard instead of as a whole; needs max_steps."},
    )
    shuffle_buffer: int = field(default=2000, metadata={"help": "Items among which a stream is shuffled."})
    description_states: str | None = field(
        default=None,
        metadata={
            "help": "Folder from which the states of a frozen model.description_encoder are read instead of being "
            "computed in each step. What it lacks is made before training; `leccr encode_descriptions` does it ahead."
        },
    )


@dataclass
class LeccrTrainingArguments(TrainingArguments):
    """`TrainingArguments` with the objectives of each system; the defaults are the published optimizer settings."""

    output_dir: str | None = field(default="outputs/run", metadata={"help": "Where everything is written."})
    per_device_train_batch_size: int = field(default=128, metadata={"help": "Pairs in one process and step."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Items in one forward pass."})
    learning_rate: float = field(default=1e-5, metadata={"help": "Peak, for groups with multiplier 1."})
    weight_decay: float = field(default=0.01, metadata={"help": "Of weight matrices."})
    adam_beta2: float = field(default=0.98, metadata={"help": "Beta2 of AdamW."})
    warmup_steps: float = field(default=0.1, metadata={"help": "Steps, or below 1 the share of all steps."})
    optim: str = field(default="adamw_torch_fused", metadata={"help": "Optimizer, by its name in transformers."})
    logging_steps: float = field(default=10, metadata={"help": "Steps between log lines."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate on validation."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to write a checkpoint."})
    save_total_limit: int | None = field(
        default=2, metadata={"help": "Checkpoints kept, the best among them; two at least."}
    )
    load_best_model_at_end: bool = field(
        default=True, metadata={"help": "Best by validation SumR; each new best is saved."}
    )
    metric_for_best_model: str | None = field(default="sum_r", metadata={"help": "Validation metric."})
    greater_is_better: bool | None = field(default=True, metadata={"help": "Of metric_for_best_model."})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Whether DDP looks for parameters without gradient in each step."}
    )
    dataloader_drop_last: bool = field(
        default=True, metadata={"help": "Leave out a short last batch, which has fewer negatives."}
    )
    report_to: Any = field(default="none", metadata={"help": "Trackers, such as tensorboard or trackio."})
    hub_strategy: HubStrategy | str = "end"
    hub_license: str | None = field(
        default=None, metadata={"help": "Licence of the weights by its name on the Hub, such as apache-2.0."}
    )
    loss: dict[str, Any] = field(default_factory=dict, metadata={"help": "Weights and temperatures."})
    learning_rate_multipliers: dict[str, float] = field(
        default_factory=dict, metadata={"help": "Factors of learning_rate for parts of the model."}
    )
    vision_training: TowerTraining = field(
        default="full", metadata={"help": "What is trained of the vision tower: full, lora or frozen."}
    )
    text_training: TowerTraining = field(
        default="full", metadata={"help": "What is trained of the text tower: full, lora or frozen."}
    )
    lora: dict[str, Any] = field(
        default_factory=dict, metadata={"help": f"Of the adapters (peft's LoraConfig). Default: {LORA_WORDS}."}
    )
    gradient_cache_chunk_size: int | None = field(
        default=None,
        metadata={"help": "Pairs whose activations are kept at a time: a large batch in the memory of so many."},
    )
    batch_neighbours: int = field(default=1, metadata={"help": "Items in a row that share a batch, as hard negatives."})
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Evaluations without a better validation metric after which training ends."}
    )
    scoring: Scoring = field(
        default="fused", metadata={"help": "Score of validation and test: fused, global, slots or min_max."}
    )
    controls: dict[str, dict[str, Any]] = field(
        default_factory=dict,
        metadata={"help": "Name -> changes of the recipe, trained after it for comparison; null: none."},
    )

    @property
    def tower_training(self) -> dict[str, str]:
        """What is trained of each tower: setting -> full, lora or frozen."""
        return {name: getattr(self, name) for name in TOWERS}

    def __post_init__(self) -> None:
        """Check what the end of training would need.

        Raises:
            ValueError: a setting must stay as it is; the push has no repository or one without organisation; a
                tracker is not installed; training cannot stop early because it is not evaluated; this machine
                cannot train so.
        """
        # Before the parent, whose own texts are long and name neither our settings nor what to do.
        check_evaluations(self)
        check_precision(self)
        for old, new in _RENAMED.items():
            # The documented names, without the warning of the versions that know the new ones.
            if getattr(self, new, False) is None and getattr(self, old) is not None:
                setattr(self, new, getattr(self, old))
        super().__post_init__()
        # Under ZeRO-3 the parent has each model built in parts, whatever zero3_init_flag says; ours loads them whole.
        unset_hf_deepspeed_config()
        check_processes(self.world_size)
        check_fixed(self)
        check_trackers(self.report_to)
        check_gradient_cache(self)
        # The parent's true waits for the device in each step, for a loss that would have ended the run.
        self.logging_nan_inf_filter = False
        # The parent's true would warn in each run without accelerator.
        self.dataloader_pin_memory &= torch.accelerator.is_available()
        if self.push_to_hub and not self.hub_model_id:
            raise ValueError("push_to_hub needs hub_model_id, a name such as organisation/leccr-multi30k; got none.")
        if self.hub_model_id:
            check_repo_id(self.hub_model_id)


@dataclass
class Recipe:
    """One parsed recipe.

    Args:
        settings: what was said, for the record.
        config: of the model, with default towers, and with any `feature_dim` where that is left to the data; of a
            `base_model` it is not known yet.
        first_stage: the recipe of the network that this one learns from, where it is trained before.
    """

    model: ModelArguments
    data: DataArguments
    training: LeccrTrainingArguments
    settings: dict[str, Any]
    config: Any
    first_stage: "Recipe | None" = None

    @property
    def system(self) -> System:
        """What is trained."""
        return SYSTEMS[self.model.system]

    @property
    def title(self) -> str:
        """What it is called in results."""
        return self.system.titles[self.config.item_source]

    def public_settings(self) -> dict[str, Any]:
        """The settings as they may be published."""
        return public_settings(self.settings)


_ARGUMENTS = (ModelArguments, DataArguments, LeccrTrainingArguments)
# Sections whose names nothing further down would check: a typo would train with the default. What `model` and `loss`
# may hold depends on the system.
_SECTIONS: dict[str, frozenset[str]] = {
    "scenes": frozenset(entry.name for entry in dataclasses.fields(ScenesConfig)),
    "scenes_video": frozenset(entry.name for entry in dataclasses.fields(ScenesVideoConfig)),
    "augmentation": frozenset({"scale", "ratio", "flip"}),
    "learning_rate_multipliers": frozenset(GROUPS),
    "lora": LORA_FIELDS,
}
_MAY_BE_EMPTY = frozenset({*_SECTIONS, *SYSTEMS["leccr"].sections, "controls", "cross_lingual"})


def parse_recipe(arguments: Sequence[str]) -> Recipe:
    """Read `RECIPE.yaml --name value --section.name value ...`.

    Raises:
        ValueError: no recipe, an unknown name, or a value that is not allowed.
        FileNotFoundError: the recipe does not exist.
    """
    if not arguments or arguments[0].startswith("-"):
        raise ValueError(f"the first argument is a recipe; usage: {USAGE}")
    path = Path(arguments[0])
    if not path.is_file():
        raise FileNotFoundError(f"there is no recipe {path}; the ones of this project are in configs/.")
    settings = read_yaml(path.read_text(encoding="utf-8"), f"the recipe {path}")
    if not isinstance(settings, dict):
        raise ValueError(f"the recipe {path} must be a mapping of names to values, got {type(settings).__name__}.")
    return build_recipe(varied(settings, read_overrides(arguments[1:])))


def build_recipe(settings: dict[str, Any]) -> Recipe:
    """Turn settings into checked arguments.

    Raises:
        ValueError: a name is unknown or a value is not allowed.
    """
    filled = _filled(settings)
    system = SYSTEMS[filled.get("system", "leccr")]
    parser = HfArgumentParser(_ARGUMENTS)  # type: ignore[arg-type]
    model, data, training = parser.parse_dict(dict(filled))
    if not data.target_languages:
        raise ValueError("target_languages must name at least one language to train on, got none.")
    if data.streaming:
        check_streaming(data, training)
    elif "shuffle_buffer" in filled:
        raise ValueError(f"shuffle_buffer needs streaming, got {data.shuffle_buffer} without it; leave it out.")
    check_metric(training, data.evaluation_languages or data.target_languages)
    if isinstance(training.resume_from_checkpoint, str):
        check_is_checkpoint(training.resume_from_checkpoint)
    losses = system.loss_class.from_dict(training.loss)
    # With default towers: fields that contradict each other, of a control above all, show before hours of training.
    config = system.configured(model.model)
    recipe = Recipe(model, data, training, filled, config)
    if isinstance(training.resume_from_checkpoint, str):
        check_same_model(Path(training.resume_from_checkpoint), config, recipe.title)
    if model.base_model is None:
        check_scoring(training.scoring, config, recipe.title)
        check_visual_settings(model, data, config)
    check_multipliers(training.learning_rate_multipliers)
    check_parts(
        training.tower_training,
        training.lora,
        training.learning_rate_multipliers,
        has_vision_tower=config.has_vision_tower,
    )
    check_base(filled, [entry.name for entry in dataclasses.fields(ModelArguments)])
    check_stages(model, reads_teacher=losses.reads_teacher)
    if data.description_states is not None and model.base_model is None:
        check_encoder_is_frozen(config)
    return dataclasses.replace(recipe, first_stage=_first_stage(filled))


def _filled(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with empty sections for null ones; all names and the type of each value are checked."""
    known = {entry.name for section in _ARGUMENTS for entry in dataclasses.fields(section) if entry.init}
    unknown = sorted(set(settings) - (known - WITHOUT_EFFECT))
    if unknown:
        raise ValueError(f"unknown settings {unknown} in the recipe; see `python train.py --help`.")
    if settings.get("base_model"):
        # From the shell, null takes back what a recipe says of another model.
        own = {entry.name for entry in dataclasses.fields(ModelArguments)}
        settings = {name: value for name, value in settings.items() if value is not None or name not in own}
    # An empty section, or `--controls null` on the command line.
    filled = {name: {} if value is None and name in _MAY_BE_EMPTY else value for name, value in settings.items()}
    system = filled.get("system", "leccr")
    check_values({"system": system}, _ARGUMENTS)  # it tells what the other sections may hold
    if idle := without_meaning(filled, system):
        raise ValueError(f"{idle} have no meaning for system: {system}; leave them out, or set the system.")
    for section, names in {**_SECTIONS, **SYSTEMS[system].sections}.items():
        check_section(section, filled.get(section, {}), names)
    check_values(filled, _ARGUMENTS)
    return filled


def _first_stage(settings: dict[str, Any]) -> Recipe | None:
    """The recipe of the first stage, if this one has one that is still to be trained."""
    if settings.get("system") != TWO_STAGES or settings.get("teacher") is not None:
        return None
    check_first_stage(settings.get("cross_lingual", {}), [entry.name for entry in dataclasses.fields(DataArguments)])
    try:
        return build_recipe(first_stage(settings))
    except ValueError as error:
        raise ValueError(f"the first stage of this recipe (cross_lingual) cannot be trained: {error}") from error


def help_text() -> str:
    """All settings of a recipe, for `--help`."""
    titles = {"Model": ModelArguments, "Data": DataArguments, "Training": LeccrTrainingArguments}
    names = {section: _name_list(known) for section, known in _SECTIONS.items()}
    for section in SYSTEMS["leccr"].sections:
        of_system = {name: _name_list(system.sections[section]) for name, system in SYSTEMS.items()}
        others = (f"With system {name}: {known}" for name, known in of_system.items() if name != "leccr")
        names[section] = " ".join([of_system["leccr"], *others])
    return settings_help(titles, USAGE, names)


def _name_list(names: frozenset[str]) -> str:
    return f"{', '.join(sorted(names))}."
