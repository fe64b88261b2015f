"""Train a recipe and its controls, each on the same data with the same budget."""

import copy
import dataclasses
import logging
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate import PartialState
from transformers import set_seed

from modeling_leccr.export import save_for_hub
from modeling_leccr.modeling_cl2cm import Cl2cmModel, CrossLingualModel
from modeling_leccr.training.adapters import count_parameters, keep_base, merge_adapter, prepare_parts
from modeling_leccr.training.arguments import DataArguments, LeccrTrainingArguments, Recipe
from modeling_leccr.training.batches import GlobalBatches
from modeling_leccr.training.building import build_model, feature_width
from modeling_leccr.training.checkpoints import changed_settings
from modeling_leccr.training.sharding import whole_model
from modeling_leccr.training.states import training_states
from modeling_leccr.training.systems import TWO_STAGES
from modeling_leccr.training.trained import load_teacher
from modeling_leccr.training.trainer import LeccrTrainer
from processing.augmentation import RandomResizedCrop
from processing.pairs import CaptionPairs
from processing.processing_leccr import LeccrProcessor
from processing.records import DESCRIPTION_COLUMN
from processing.streaming import ParquetSplit, StreamedPairs
from processing.video_frames_leccr import FrameSampling
from reporting.model_record import ModelRecord, without_descriptions
from reporting.run_record import environment
from retrieval.encode import read_source_captions
from retrieval.evaluation import evaluation_protocol
from retrieval.items import read_column

logger = logging.getLogger(__name__)

TEACHER = "teacher"  # the folder of the network of a first stage


def use_all_cores() -> None:
    """Undo `accelerate launch`'s silent choice of one thread a process where no GPU does the work."""
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ
    if launched and os.environ.get("OMP_NUM_THREADS") == "1" and not torch.cuda.is_available():
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))


@dataclass
class SystemRun:
    """A trained system: its best checkpoint by validation SumR, what it scored and what it cost.

    Args:
        record: what it scored on each split and how that was measured.
        log_history: the trainer's log.
        num_parameters: those that were trained, and all; see `count_parameters`.
        first_stage: the same record of its teacher, where it was trained before it.
    """

    model: Any
    record: ModelRecord
    log_history: list[dict[str, float]]
    is_main_process: bool
    num_parameters: tuple[int, int]
    first_stage: ModelRecord | None = None


def train_system(
    recipe: Recipe,
    splits: Mapping[str, datasets.Dataset],
    processor: LeccrProcessor,
    folder: Path,
    *,
    parts_folder: Path | None = None,
    data_record: Mapping[str, Any] | None = None,
) -> SystemRun:
    """Train one system and evaluate its best checkpoint on every split but the training one.

    Where the recipe has two stages, the first is trained before, unless this run goes on from after it. A model that
    can do without descriptions is also evaluated without them, on the last of these splits.

    Args:
        recipe: what to train.
        splits: from `load_splits`.
        processor: shared by the systems that are compared.
        folder: for the checkpoints; `--resume_from_checkpoint true` continues from the last one there, if any.
        parts_folder: where the network of the first stage is kept as `teacher`, and as `base` the model that an adapter
            is trained on, if `base_model` names none; `folder` by default.
        data_record: fingerprints of the splits, for the record.

    Raises:
        ValueError: the data do not fit the recipe. What only the end of training would need is checked before it.
    """
    args, data = copy.copy(recipe.training), recipe.data
    args.output_dir = str(folder)
    kept = parts_folder or folder
    teacher = _teacher(recipe, splits, processor, folder, kept / TEACHER, data_record)
    # After the first stage: the second draws the same numbers with a teacher from elsewhere.
    set_seed(args.seed)
    languages = data.evaluation_languages or data.target_languages
    model = _starting_model(recipe, processor, teacher, feature_width(splits["validation"]))
    check_texts(model.config, splits)
    if recipe.model.base_model is None:
        _prepare_base(model, processor, args, kept / "base")
    prepare_parts(model, args.tower_training, args.lora)
    num_parameters = count_parameters(model)
    evaluations = _evaluations(model.config, splits)
    protocol = _protocol(recipe, model, splits, evaluations)
    trainer = LeccrTrainer(
        model,
        args,
        processor=processor,
        pairs=training_pairs(recipe, splits["train"], model.config, processor.sampling),
        teacher=teacher,
        validation=splits["validation"],
        languages=languages,
        augmentation=_augmentation(data, processor),
        description_states=training_states(data.description_states, model, processor, splits["train"], args),
        record=_record(recipe, protocol, data_record),
    )
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    seconds = trainer.training_time.seconds
    record = dataclasses.replace(
        trainer.record(),
        metrics={
            name: trainer.retrieval_metrics(splits[split], name=name, use_descriptions=use_descriptions)
            for name, (split, use_descriptions) in evaluations.items()
        },
        protocol=protocol,
        seconds=seconds,
    )
    return SystemRun(
        model=whole_model(trainer),
        record=record,
        log_history=trainer.state.log_history,
        is_main_process=trainer.is_world_process_zero(),
        num_parameters=num_parameters,
        first_stage=ModelRecord.read(kept / TEACHER) if recipe.first_stage is not None else None,
    )


def _record(recipe: Recipe, protocol: Mapping[str, Any], data_record: Mapping[str, Any] | None) -> ModelRecord:
    """What is known of a system before it is trained."""
    languages = (*recipe.data.target_languages, *recipe.data.evaluation_languages)
    return ModelRecord(
        languages=tuple(dict.fromkeys(code.removesuffix("_mt") for code in languages)),
        protocol=protocol,
        settings=recipe.public_settings(),
        data=data_record or {},
        environment=environment(),
    )


def _starting_model(
    recipe: Recipe, processor: LeccrProcessor, teacher: CrossLingualModel | None, feature_dim: int | None = None
) -> Any:
    model = build_model(recipe.model, processor.tokenizer, feature_dim=feature_dim)
    if recipe.model.init_from_teacher and teacher is not None:
        start_from_teacher(model, teacher)
    return model


def _teacher(
    recipe: Recipe,
    splits: Mapping[str, datasets.Dataset],
    processor: LeccrProcessor,
    folder: Path,
    place: Path,
    data_record: Mapping[str, Any] | None,
) -> CrossLingualModel | None:
    """The network that a recipe learns from, if it does; trained here and saved in `place`, unless it is there."""
    if recipe.model.system != TWO_STAGES:
        return None
    stage = recipe.first_stage
    if stage is None:
        return load_teacher(str(recipe.model.teacher), processor)
    if stage.training.resume_from_checkpoint and place.is_dir():
        before, now = ModelRecord.read(place).settings, stage.public_settings()
        logger.info("the first stage of this run is finished: %s", place)
        if changes := changed_settings(before, now):
            logger.warning("%s was trained with other settings: %s", place, "; ".join(changes))
    else:
        logger.info("first stage: %s", stage.title)
        run = train_system(stage, splits, processor, folder / "first_stage", data_record=data_record)
        if run.is_main_process:
            save_for_hub(merge_adapter(run.model), processor, place, record=run.record)
        PartialState().wait_for_everyone()
        logger.info("second stage: %s, taught by %s", recipe.title, place)
    # Read from the disk in either case: what teaches is what was saved, also in processes that hold a part of it.
    return load_teacher(place, processor)


def start_from_teacher(model: Cl2cmModel, teacher: CrossLingualModel) -> None:
    """Give the text tower and its projection the weights of the teacher's, in place.

    Raises:
        ValueError: they have other shapes, or the same numbers would mean something else.
    """
    for name, (own, others) in _reading_of(model, teacher).items():
        if own != others:
            raise ValueError(
                f"init_from_teacher needs a teacher whose text tower reads as that of this model, got another {name} "
                f"than the teacher's {others!r} ({own!r}); set the same, or leave init_from_teacher out."
            )
    for part in ("text_model", "text_projection"):
        own, weights = model.get_submodule(part), teacher.get_submodule(part).state_dict()
        shapes = {
            name: (value.shape, weights.get(name, torch.empty(0)).shape) for name, value in own.state_dict().items()
        }
        if wrong := [name for name, (wanted, found) in shapes.items() if wanted != found]:
            raise ValueError(
                f"init_from_teacher needs a teacher with the same text tower and embed_dim, got other shapes in {part} "
                f"({wrong[:3]}); set the same text_tower, max_length and embed_dim, or leave init_from_teacher out."
            )
        own.load_state_dict(weights)


def _reading_of(*models: Any) -> dict[str, list[Any]]:
    """What weights of one shape mean something else with: name -> its value in each model."""
    towers = ("model_type", "num_attention_heads", "hidden_act")
    found = {name: [getattr(model.config.text_config, name, None) for model in models] for name in towers}
    return {"text_pooling": [model.config.text_pooling for model in models], **found}


def _prepare_base(model: Any, processor: LeccrProcessor, args: LeccrTrainingArguments, base_folder: Path) -> None:
    """Keep the model as it is, if an adapter is to be trained on it; a run that goes on takes the one that it kept."""
    if "lora" not in args.tower_training.values():
        return
    started = base_folder.is_dir() or any(Path(str(args.output_dir)).glob("checkpoint-*"))
    keep_base(model, processor, base_folder, resumed=bool(args.resume_from_checkpoint) and started)


def _augmentation(data: DataArguments, processor: LeccrProcessor) -> RandomResizedCrop | None:
    side = processor.image_processor.size["height"]  # not image_size of the recipe: a base brings its own
    return RandomResizedCrop(side, **data.augmentation) if data.augmentation else None


def training_pairs(
    recipe: Recipe, train: datasets.Dataset | ParquetSplit, config: Any, sampling: FrameSampling | None = None
) -> CaptionPairs | StreamedPairs:
    """The pairs of a training split, or of the share of this process in the stream of one.

    Args:
        recipe: what to train.
        train: the split.
        config: of the model, which says what is read of an item.
        sampling: of the processor: which frames of a video.

    Raises:
        ValueError: there are fewer pairs than a batch takes.
    """
    args, data = recipe.training, recipe.data
    reading: dict[str, Any] = {
        "corrupt_images": data.corrupt_images,
        "read_images": config.reads_image,
        "read_descriptions": config.reads_description,
        **({"vision_input": config.vision_input, "sampling": sampling} if config.reads_image else {}),
    }
    if not isinstance(train, ParquetSplit):
        pairs = CaptionPairs(train, data.target_languages, **reading)
        size, processes = args.per_device_train_batch_size, args.world_size
        # For its check: training itself comes after all descriptions were encoded.
        GlobalBatches(len(pairs), size, seed=0, num_processes=processes, drop_last=args.dataloader_drop_last)
        return pairs
    return StreamedPairs(
        train,
        data.target_languages,
        seed=args.seed if args.data_seed is None else args.data_seed,
        shuffle_buffer=data.shuffle_buffer,
        num_readers=max(1, args.dataloader_num_workers),
        process_index=args.process_index,
        num_processes=args.world_size,
        **reading,
    )


def _evaluations(config: Any, splits: Collection[str]) -> dict[str, tuple[str, bool]]:
    """Name of each evaluation -> its split, and whether it gives the descriptions of the items."""
    evaluations = {name: (name, True) for name in splits if name != "train"}
    if config.reads_description and not config.needs_description:
        last = reported_split(splits)
        evaluations[without_descriptions(last)] = (last, False)
    return evaluations


def _protocol(
    recipe: Recipe, model: Any, splits: Mapping[str, Any], evaluations: Mapping[str, tuple[str, bool]]
) -> dict[str, dict[str, Any]]:
    """Name of each evaluation -> how it is measured."""
    data = recipe.data
    split_names = {"validation": data.validation_split, "test": data.test_split}
    return {
        name: evaluation_protocol(
            model,
            splits[split],
            data.evaluation_languages or data.target_languages,
            scoring=recipe.training.scoring,
            use_descriptions=use_descriptions,
            split_name=split_names[split],
        )
        for name, (split, use_descriptions) in evaluations.items()
    }


def reported_split(splits: Collection[str]) -> str:
    """The split whose numbers a run is known by."""
    return "test" if "test" in splits else "validation"


def check_texts(config: Any, splits: Mapping[str, Any]) -> None:
    """Refuse items without the texts that they are embedded from, before training instead of when one of them comes.

    Args:
        config: of the model.
        splits: name -> split.

    Raises:
        ValueError: descriptions are missing, and the model has no description dropout to learn to do without; or
            evaluated items have no English caption, and are embedded from those.
    """
    if config.captions_are_items:
        for name, split in splits.items():
            if name != "train":  # where such an item makes no pair
                read_source_captions(split)
    if not config.needs_description:
        return
    for name, split in splits.items():
        # A stream is read as it is trained on; its sample shows whether it has descriptions at all.
        rows = split.sample([DESCRIPTION_COLUMN]) if isinstance(split, ParquetSplit) else split
        descriptions = read_column(rows, DESCRIPTION_COLUMN)
        missing = [position for position, text in enumerate(descriptions) if not (text and text.strip())]
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(descriptions)} items of the split {name!r} have no description (first rows: "
                f"{missing[:3]}); run `python -m hub_scripts.describe`, or train with model.description_dropout "
                f"above 0 (item_source is {config.item_source!r}, description_dropout {config.description_dropout})."
            )
