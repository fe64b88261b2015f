"""From a recipe to its parts: splits, processor, model."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import datasets
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from modeling_leccr.configuration_leccr import LeccrConfig
from modeling_leccr.streams_leccr import TwoStreamModel
from modeling_leccr.training.arguments import DataArguments, ModelArguments
from modeling_leccr.training.systems import FIRST_STAGE, SYSTEMS, leaves_width_to_data
from modeling_leccr.training.trained import explained_absence, trained_model
from processing.media import attach_images, attach_videos
from processing.processing_leccr import LeccrProcessor
from processing.readers.feature_store import attach_features, warn_of_missing
from processing.records import (
    DESCRIPTION_COLUMN,
    FEATURES_COLUMN,
    MEDIA_COLUMNS,
    SOURCE_LANGUAGE,
    caption_column,
    check_columns,
)
from processing.scenes import ScenesConfig, load_scenes
from processing.scenes_video import ScenesVideoConfig, load_scenes_video
from processing.sources import NoDataSetError, open_splits
from processing.streaming import ParquetSplit, find_parquet_split
from processing.tokenizer import train_tokenizer
from processing.video_frames_leccr import FrameSampling
from processing.visual_rows import COLUMN_OF, VisualReader, VisualRows
from retrieval.items import SEEN_WORDS, drop_unreadable, find_unreadable, read_ids

# In these towers the first position is the one behind that of padding, so the table of positions is so much longer.
_TOWERS_THAT_COUNT_FROM_PADDING = frozenset(
    {"camembert", "data2vec-text", "ibert", "longformer", "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta"}
    | {"xlm-roberta-xl", "xmod"}
)


def load_splits(
    data: DataArguments, config: Any | None = None, sampling: FrameSampling | None = None
) -> dict[str, Any]:
    """The splits of a recipe under the names "train", "validation" and, where there is one, "test".

    Each is a `datasets.Dataset`, but for the training split of a stream, which is a `ParquetSplit`.

    Args:
        data: what the recipe says of them.
        config: of the model; None stands for one that sees pictures. What it sees must be in the splits. Where it
            learns from captions alone, nothing that can be seen is looked at or kept.
        sampling: see `frame_sampling`.

    Raises:
        ValueError: a split is absent or empty, what the model sees is in none of its items, or cannot be read of an
            evaluated one.
        NoDataSetError: there is no such data set.
    """
    config = LeccrConfig() if config is None else config
    try:
        splits = _streamed_splits(data) if data.streaming else _whole_splits(data)
    except NoDataSetError as error:
        raise NoDataSetError(
            f"{error} The comments at the top of a recipe in configs/ tell how its data set is made."
        ) from error
    if config.reads_image:
        VisualReader(config.vision_input).columns(splits["train"].column_names)
    for role, split in splits.items():
        if config.captions_are_items and not isinstance(split, ParquetSplit):
            splits[role] = split.remove_columns([name for name in MEDIA_COLUMNS if name in split.column_names])
        elif role != "train":
            splits[role] = _readable(split, role, data.corrupt_images, config, sampling)
    return splits


def _whole_splits(data: DataArguments) -> dict[str, Any]:
    loaded = _all_splits(data)
    splits: dict[str, datasets.Dataset] = {}
    for role, name in _split_names(data).items():
        if name not in loaded or len(loaded[name]) == 0:
            raise ValueError(
                f"{role}_split={name!r} is absent from {data.dataset!r} or empty; it has "
                f"{ {found: len(split) for found, split in loaded.items()} }."
            )
        splits[role] = loaded[name]
    splits = _joined(splits, data)
    if data.train_items is not None:
        splits["train"] = splits["train"].select(range(min(data.train_items, len(splits["train"]))))
    return splits


def _all_splits(data: DataArguments) -> datasets.DatasetDict:
    if data.dataset == "scenes":
        return load_scenes(ScenesConfig(**data.scenes))
    if data.dataset == "scenes_video":
        return load_scenes_video(ScenesVideoConfig(**data.scenes_video))
    return open_splits(data.dataset, config_name=data.dataset_config)


def _split_names(data: DataArguments) -> dict[str, str]:
    # In one order: processes share the reading of each split out, and a set has another order in each of them.
    names = {"train": data.train_split, "validation": data.validation_split}
    return names if data.test_split is None else {**names, "test": data.test_split}


def _streamed_splits(data: DataArguments) -> dict[str, Any]:
    """Of the training split the list of its files; the evaluated ones as a whole, and nothing of any other."""
    found = {
        role: find_parquet_split(data.dataset, name, config_name=data.dataset_config)
        for role, name in _split_names(data).items()
    }
    return {role: split if role == "train" else split.load() for role, split in found.items()}


def _joined(splits: dict[str, datasets.Dataset], data: DataArguments) -> dict[str, datasets.Dataset]:
    """The splits with the pictures, clips or features that a recipe names."""
    for setting, attach in (("images", attach_images), ("videos", attach_videos), ("features", attach_features)):
        place = getattr(data, setting)
        if place is None:
            continue
        joined, missing = attach(datasets.DatasetDict(splits), place)
        warn_of_missing(missing)
        if empty := sorted(role for role, split in joined.items() if len(split) == 0):
            raise ValueError(
                f"{setting}={place!r} holds nothing for the splits {empty}; see the warnings for their ids."
            )
        splits = dict(joined)
    return splits


def _readable(
    split: datasets.Dataset, role: str, corrupt_images: str, config: Any, sampling: FrameSampling | None
) -> datasets.Dataset:
    """A damaged picture or clip of an evaluated split would stop the run at its first evaluation, an epoch later."""
    if COLUMN_OF[config.vision_input] not in split.column_names and not config.reads_image:
        return split
    reading: dict[str, Any] = {"vision_input": config.vision_input, "sampling": sampling, "shared": True}
    if corrupt_images == "skip":
        return drop_unreadable(split, **reading)
    if positions := find_unreadable(split, **reading):
        names = [read_ids(split)[position] for position in positions[:3]]
        raise ValueError(
            f"the {role} split has {len(positions)} {SEEN_WORDS[config.vision_input]} that cannot be read (first: "
            f"{names}); replace them, or set corrupt_images: skip."
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
        with explained_absence(base_model=arguments.base_model):
            return LeccrProcessor.from_pretrained(arguments.base_model)
    tokenizer: PreTrainedTokenizerBase
    if isinstance(arguments.text_tower, dict) and arguments.teacher is not None:
        with explained_absence(teacher=arguments.teacher):
            tokenizer = LeccrProcessor.from_pretrained(arguments.teacher).tokenizer
    elif isinstance(arguments.text_tower, dict):
        tokenizer = train_tokenizer(
            training_texts(train, target_languages), arguments.vocab_size, max_length=arguments.max_length
        )
    else:
        with explained_absence(text_tower=arguments.text_tower):
            tokenizer = AutoTokenizer.from_pretrained(arguments.text_tower)
    config = SYSTEMS[arguments.system].configured(arguments.model)
    sampling = frame_sampling(arguments, config)
    return LeccrProcessor(
        _image_processor(arguments, config),
        tokenizer,
        max_length=arguments.max_length,
        clean_captions=arguments.clean_captions,
        num_frames=None if sampling is None else sampling.num_frames,
        frame_rate=None if sampling is None else sampling.frame_rate,
    )


def frame_sampling(arguments: ModelArguments, config: Any) -> FrameSampling | None:
    """Which frames, or features of frames, are read of a video; None for all features, and for pictures.

    Args:
        arguments: of the recipe.
        config: of the model.

    Raises:
        OSError: the `base_model`, which knows it, is neither here nor on the Hub.
    """
    if arguments.base_model is not None:
        with explained_absence(base_model=arguments.base_model):
            return LeccrProcessor.from_pretrained(arguments.base_model).sampling
    if not config.has_frames or (config.vision_input == "features" and arguments.num_frames is None):
        return None
    return FrameSampling(arguments.num_frames or FrameSampling.num_frames, arguments.frame_rate)


def feature_width(split: datasets.Dataset) -> int | None:
    """Width of the frame features of a split; None where it has none."""
    if FEATURES_COLUMN not in split.column_names:
        return None
    return VisualRows(split, "features").read(0)["features"].shape[1]


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


def build_model(
    arguments: ModelArguments, tokenizer: PreTrainedTokenizerBase, *, feature_dim: int | None = None
) -> Any:
    """A trained model by name, pretrained towers by name, or towers from scratch by configuration.

    Args:
        arguments: of the recipe; their `system` says which model.
        tokenizer: of the run.
        feature_dim: of the data, see `feature_width`; taken where the recipe reads features and names no width.

    Raises:
        ValueError: one tower is a name and the other a configuration, a field is not allowed, `base_model` is an
            adapter, or the model reads features of another width than the data have.
        OSError: what is named is neither here nor on the Hub.
    """
    model = _base_or_new_model(arguments, tokenizer, feature_dim)
    wanted = getattr(model.config, "feature_dim", None)
    if None not in (wanted, feature_dim) and wanted != feature_dim:
        raise ValueError(
            f"feature_dim must be the width of the frame features of the data, {feature_dim}, got {wanted}; leave "
            f"model.feature_dim out, or take the features that the model was trained on."
        )
    return model


def _base_or_new_model(arguments: ModelArguments, tokenizer: PreTrainedTokenizerBase, feature_dim: int | None) -> Any:
    system, text = SYSTEMS[arguments.system], arguments.text_tower
    if arguments.base_model is not None:
        with explained_absence(base_model=arguments.base_model):
            return trained_model(arguments.base_model, system.model_class, "base_model")
    fields = dict(arguments.model)
    if leaves_width_to_data(fields):
        fields["feature_dim"] = feature_dim
    reads_features = fields.get("vision_input") == "features"
    towers = {"text_tower": text}
    if has_image_stream := issubclass(system.model_class, TwoStreamModel) and not reads_features:
        towers = {"vision_tower": arguments.vision_tower, **towers}
    if len({isinstance(tower, dict) for tower in towers.values()}) > 1:
        raise ValueError("vision_tower and text_tower must both be names or both be configurations from scratch.")
    if not isinstance(text, dict):
        with explained_absence(**towers):
            if not issubclass(system.model_class, TwoStreamModel):
                return system.model_class.from_tower(text, **fields)
            return system.model_class.from_towers(
                towers.get("vision_tower"), text, image_size=arguments.image_size, **fields
            )
    if has_image_stream:
        fields["vision_config"] = _scratch_config(arguments.vision_tower, image_size=arguments.image_size)
    pad_token_id = cast(int, tokenizer.pad_token_id)
    # MPNet counts from 1, whatever the tokenizer says.
    counts_from_padding = text.get("model_type") in _TOWERS_THAT_COUNT_FROM_PADDING
    first_position = max(pad_token_id, 1) + 1 if counts_from_padding else 0
    fields["text_config"] = _scratch_config(
        text,
        vocab_size=len(tokenizer),
        max_position_embeddings=first_position + arguments.max_length,
        pad_token_id=pad_token_id,
    )
    return system.model_class(system.config_class(**fields))


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


def _image_processor(arguments: ModelArguments, config: Any) -> Any:
    size = {"height": arguments.image_size, "width": arguments.image_size}
    # Where neither pictures nor frames are read, there is one that nothing asks, for the sake of the class.
    without = arguments.system == FIRST_STAGE or config.vision_input == "features"
    if isinstance(arguments.vision_tower, dict) or without:
        return ViTImageProcessorPil(size=size)
    # The published protocol resizes to a square; CLIP's own centre crop would cut what captions mention.
    with explained_absence(vision_tower=arguments.vision_tower):
        return AutoImageProcessor.from_pretrained(
            Path(arguments.vision_tower) if Path(arguments.vision_tower).is_dir() else arguments.vision_tower,
            backend="pil",
            size=size,
            do_center_crop=False,
        )
