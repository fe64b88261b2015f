"""From a recipe to its parts: splits, processor, model."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import torch
from huggingface_hub import is_offline_mode
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from modeling_leccr.modeling_cl2cm import CrossLingualModel
from modeling_leccr.streams_leccr import TwoStreamModel
from modeling_leccr.training.arguments import DataArguments, ModelArguments
from modeling_leccr.training.sharding import has_adapter
from modeling_leccr.training.systems import FIRST_STAGE, SYSTEMS
from processing.media import attach_images
from processing.processing_leccr import LeccrProcessor
from processing.records import (
    DESCRIPTION_COLUMN,
    ID_COLUMN,
    IMAGE_COLUMN,
    SOURCE_LANGUAGE,
    caption_column,
    check_columns,
)
from processing.scenes import ScenesConfig, load_scenes
from processing.sources import NoDataSetError, open_splits
from processing.streaming import ParquetSplit, find_parquet_split
from processing.tokenizer import train_tokenizer
from retrieval.items import drop_unreadable, find_unreadable

logger = logging.getLogger(__name__)


def load_splits(data: DataArguments, *, read_images: bool = True) -> dict[str, Any]:
    """The splits of a recipe under the names "train", "validation" and, where there is one, "test".

    Each is a `datasets.Dataset`, but for the training split of a stream, which is a `ParquetSplit`.

    Args:
        data: what the recipe says of them.
        read_images: False for what learns from texts: pictures are neither needed, nor looked at, nor in the splits.

    Raises:
        ValueError: a split is absent or empty.
        NoDataSetError: there is no such data set.
    """
    try:
        return _streamed_splits(data, read_images) if data.streaming else _whole_splits(data, read_images)
    except NoDataSetError as error:
        raise NoDataSetError(
            f"{error} The comments at the top of a recipe in configs/ tell how its data set is made."
        ) from error


def _whole_splits(data: DataArguments, read_images: bool) -> dict[str, Any]:
    if data.dataset == "scenes":
        loaded = load_scenes(ScenesConfig(**data.scenes))
    else:
        loaded = open_splits(data.dataset, config_name=data.dataset_config)
    splits: dict[str, datasets.Dataset] = {}
    for role, name in _split_names(data).items():
        if name not in loaded or len(loaded[name]) == 0:
            raise ValueError(
                f"{role}_split={name!r} is absent from {data.dataset!r} or empty; it has "
                f"{ {found: len(split) for found, split in loaded.items()} }."
            )
        splits[role] = loaded[name]
    if not read_images:
        splits = {role: _texts_alone(split) for role, split in splits.items()}
    elif data.images is not None:
        splits = _with_images(splits, data.images)
    elif IMAGE_COLUMN not in splits["train"].column_names:
        raise ValueError(
            f"the data set {data.dataset!r} holds texts alone; give the folder of its pictures as `images`."
        )
    for role in _evaluated(data) if read_images else ():
        splits[role] = _readable(splits[role], role, data.corrupt_images)
    if data.train_items is not None:
        splits["train"] = splits["train"].select(range(min(data.train_items, len(splits["train"]))))
    return splits


def _split_names(data: DataArguments) -> dict[str, str]:
    names = {"train": data.train_split, "validation": data.validation_split}
    return names if data.test_split is None else {**names, "test": data.test_split}


def _evaluated(data: DataArguments) -> list[str]:
    # In one order: processes share the reading of each split out, and a set has another order in each of them.
    return [role for role in _split_names(data) if role != "train"]


def _streamed_splits(data: DataArguments, read_images: bool) -> dict[str, Any]:
    """Of the training split the list of its files; the evaluated ones as a whole, and nothing of any other."""
    found = {
        role: find_parquet_split(data.dataset, name, config_name=data.dataset_config)
        for role, name in _split_names(data).items()
    }
    evaluated = {role: found[role].load() for role in _evaluated(data)}
    for role, split in evaluated.items():
        evaluated[role] = _readable(split, role, data.corrupt_images) if read_images else _texts_alone(split)
    return {"train": found["train"], **evaluated}


def _texts_alone(split: datasets.Dataset) -> datasets.Dataset:
    return split.remove_columns([IMAGE_COLUMN]) if IMAGE_COLUMN in split.column_names else split


def _with_images(splits: dict[str, datasets.Dataset], images: str) -> dict[str, datasets.Dataset]:
    joined, missing = attach_images(datasets.DatasetDict(splits), images)
    for line in missing.lines():
        logger.warning("%s; they are left out", line)
    empty = sorted(role for role, split in joined.items() if len(split) == 0)
    if empty:
        raise ValueError(f"images={images!r} holds no picture of the splits {empty}; see the warnings for their ids.")
    return dict(joined)


def _readable(split: datasets.Dataset, role: str, corrupt_images: str) -> datasets.Dataset:
    """A damaged picture of an evaluated split would stop the run at its first evaluation, an epoch later."""
    if corrupt_images == "skip":
        return drop_unreadable(split, shared=True)
    unreadable = [split[ID_COLUMN][position] for position in find_unreadable(split, shared=True)]
    if unreadable:
        raise ValueError(
            f"the {role} split has {len(unreadable)} pictures that cannot be read (first: {unreadable[:3]}); replace "
            f"them, or set corrupt_images: skip."
        )
    return split


def build_processor(
    arguments: ModelArguments, train: datasets.Dataset | ParquetSplit, target_languages: Sequence[str]
) -> LeccrProcessor:
    """Image processor and tokenizer that belong to the towers.

    A text tower from scratch gets a tokenizer that is trained here, or that of the teacher whose name the recipe has:
    both stages read the same tokens.

    Raises:
        OSError: what is named is neither here nor on the Hub.
    """
    if arguments.base_model is not None:
        with _explained_absence(base_model=arguments.base_model):
            return LeccrProcessor.from_pretrained(arguments.base_model)
    tokenizer: PreTrainedTokenizerBase
    if isinstance(arguments.text_tower, dict) and arguments.teacher is not None:
        with _explained_absence(teacher=arguments.teacher):
            tokenizer = LeccrProcessor.from_pretrained(arguments.teacher).tokenizer
    elif isinstance(arguments.text_tower, dict):
        tokenizer = train_tokenizer(
            training_texts(train, target_languages), arguments.vocab_size, max_length=arguments.max_length
        )
    else:
        with _explained_absence(text_tower=arguments.text_tower):
            tokenizer = AutoTokenizer.from_pretrained(arguments.text_tower)
    return LeccrProcessor(
        _image_processor(arguments),
        tokenizer,
        max_length=arguments.max_length,
        clean_captions=arguments.clean_captions,
    )


def training_texts(train: datasets.Dataset | ParquetSplit, target_languages: Sequence[str]) -> Iterator[str]:
    """All texts that training sees: English captions, their translations and the descriptions; of a stream a sample."""
    columns = [caption_column(SOURCE_LANGUAGE)]
    columns += [caption_column(language, translated=True) for language in target_languages]
    check_columns(train.column_names, columns, split="train")
    # Without descriptions too: some systems read none, and the others refuse such a split by themselves.
    read = [*columns, *({DESCRIPTION_COLUMN} & set(train.column_names))]
    for row in train.sample(read) if isinstance(train, ParquetSplit) else train.select_columns(read):
        for column in columns:
            yield from (caption for caption in row[column] if caption is not None)
        if row.get(DESCRIPTION_COLUMN):
            yield row[DESCRIPTION_COLUMN]


def build_model(arguments: ModelArguments, tokenizer: PreTrainedTokenizerBase) -> Any:
    """A trained model by name, pretrained towers by name, or towers from scratch by configuration.

    Args:
        arguments: of the recipe; their `system` says which model.
        tokenizer: of the run.

    Raises:
        ValueError: one tower is a name and the other a configuration, a field is not allowed, or `base_model` is an
            adapter.
        OSError: what is named is neither here nor on the Hub.
    """
    if arguments.base_model is not None:
        with _explained_absence(base_model=arguments.base_model):
            return _trained_model(arguments.base_model, SYSTEMS[arguments.system].model_class, "base_model")
    system, text = SYSTEMS[arguments.system], arguments.text_tower
    towers = {"text_tower": text}
    if has_image_stream := issubclass(system.model_class, TwoStreamModel):
        towers = {"vision_tower": arguments.vision_tower, **towers}
    if len({isinstance(tower, dict) for tower in towers.values()}) > 1:
        raise ValueError("vision_tower and text_tower must both be names or both be configurations from scratch.")
    if not isinstance(text, dict):
        with _explained_absence(**towers):
            if not has_image_stream:
                return system.model_class.from_tower(text, **arguments.model)
            return system.model_class.from_towers(*towers.values(), image_size=arguments.image_size, **arguments.model)
    fields = dict(arguments.model)
    if has_image_stream:
        fields["vision_config"] = _scratch_config(arguments.vision_tower, image_size=arguments.image_size)
    fields["text_config"] = _scratch_config(
        text,
        vocab_size=len(tokenizer),
        max_position_embeddings=arguments.max_length,
        pad_token_id=tokenizer.pad_token_id,
    )
    return system.model_class(system.config_class(**fields))


def load_teacher(name: str | Path, processor: LeccrProcessor) -> CrossLingualModel:
    """A trained cross-lingual network, as it is asked in the second stage: nothing of it learns or drops out.

    Args:
        name: its folder or Hub id.
        processor: of the second stage, whose tokens the teacher reads too.

    Raises:
        ValueError: it is something else, or reads other tokens, other captions or shorter texts.
        OSError: it is neither here nor on the Hub.
    """
    with _explained_absence(teacher=str(name)):
        teacher: CrossLingualModel = _trained_model(str(name), CrossLingualModel, "teacher")
        reads_with = LeccrProcessor.from_pretrained(name)
    tokenizer = reads_with.tokenizer
    if tokenizer.get_vocab() != processor.tokenizer.get_vocab():
        raise ValueError(
            f"teacher must read with the tokenizer of this run, got {str(name)!r} with {len(tokenizer)} tokens where "
            f"the run has {len(processor.tokenizer)}, not all the same; train both stages with one text tower."
        )
    if reads_with.clean_captions != processor.clean_captions:
        raise ValueError(
            f"teacher must read captions as this run does, got {str(name)!r} with clean_captions "
            f"{str(reads_with.clean_captions).lower()}; set the same here."
        )
    if tokenizer.model_max_length < processor.max_length:
        raise ValueError(
            f"teacher must read texts of max_length {processor.max_length} tokens, got {str(name)!r} for at most "
            f"{tokenizer.model_max_length}; lower max_length."
        )
    return teacher.requires_grad_(False).eval()


def _trained_model(name: str, model_class: Any, setting: str) -> Any:
    wanted = model_class.config_class.model_type
    found = PreTrainedConfig.get_config_dict(name)[0].get("model_type", wanted)
    if found != wanted:
        fitting = [title for title, system in SYSTEMS.items() if system.config_class.model_type == found]
        hint = f" To go on from it, set system: {fitting[0]}." if fitting and setting == "base_model" else ""
        raise ValueError(f"{setting} must be a model of type {wanted!r}, got {name!r} of type {found!r}.{hint}")
    model = model_class.from_pretrained(name, dtype=torch.float32)  # bf16 weights would lose small steps
    if has_adapter(model):
        raise ValueError(
            f"{setting} must be a whole model, got the adapter {name!r}; give the folder `model` of its run, in which "
            f"it is merged."
        )
    # An adapter that is trained on it finds it by this name from anywhere.
    model.name_or_path = str(Path(name).resolve()) if Path(name).is_dir() else name
    return model


def _scratch_config(tower: dict[str, Any], **defaults: Any) -> PreTrainedConfig:
    if "model_type" not in tower:
        raise ValueError(f"a tower from scratch needs a model_type such as vit or bert, got {tower}.")
    fields = {**defaults, **tower}
    model_type = fields.pop("model_type")
    known = AutoConfig.for_model(model_type)
    # A configuration keeps any name that it is given, so a typo would train with the default.
    unknown = sorted(name for name in tower if not hasattr(known, name))
    if unknown:
        raise ValueError(f"unknown settings {unknown} for a tower of model_type {model_type!r}.")
    return AutoConfig.for_model(model_type, **fields)


def _image_processor(arguments: ModelArguments) -> Any:
    size = {"height": arguments.image_size, "width": arguments.image_size}
    # A network of texts alone has one that nothing reads, for the sake of the class.
    if isinstance(arguments.vision_tower, dict) or arguments.system == FIRST_STAGE:
        return ViTImageProcessorPil(size=size)
    # The published protocol resizes to a square; CLIP's own centre crop would cut what captions mention.
    with _explained_absence(vision_tower=arguments.vision_tower):
        return AutoImageProcessor.from_pretrained(
            Path(arguments.vision_tower) if Path(arguments.vision_tower).is_dir() else arguments.vision_tower,
            backend="pil",
            size=size,
            do_center_crop=False,
        )


@contextmanager
def _explained_absence(**names: str) -> Iterator[None]:
    """Say which setting names what is not found; transformers' own words send an offline user to a page of the Hub.

    Args:
        names: setting -> the folder or name on the Hub that the block loads.

    Raises:
        OSError: the block found no such thing.
    """
    try:
        yield
    except OSError as error:
        absent = {setting: name for setting, name in names.items() if not Path(name).is_dir()}
        if error.errno is not None or not absent:  # a full disk, or a folder with something missing
            raise
        reason = str(error).partition("\n")[0]
        named = " or ".join(f"{setting} {name!r}" for setting, name in absent.items())
        elsewhere = (
            "the Hub is offline (HF_HUB_OFFLINE), and not all of it is in the cache; go online once, or give a folder"
            if is_offline_mode()
            else "the Hub has none of this name, or cannot be reached; check the name and the connection"
        )
        raise OSError(f"{named} is no folder here, and {elsewhere}. ({reason})") from error
