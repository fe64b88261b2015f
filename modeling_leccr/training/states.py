"""The store of description states that a run reads instead of encoding descriptions in each step."""

from pathlib import Path
from typing import Any

import datasets
from accelerate import PartialState
from transformers import TrainingArguments

from modeling_leccr.description_encoder import DescriptionEncoder, fill_store
from modeling_leccr.modeling_leccr import LeccrModel
from processing.description_states import DescriptionStates
from processing.processing_leccr import LeccrProcessor
from processing.records import DESCRIPTION_COLUMN
from processing.streaming import ParquetSplit
from retrieval.items import read_column


def check_encoder_is_frozen(config: Any) -> None:
    """Refuse a store for a model that has no use for one.

    Args:
        config: a `LeccrConfig`.

    Raises:
        ValueError: what reads descriptions learns with the model, or nothing reads them.
    """
    if config.description_encoder != "frozen":
        raise ValueError(
            f"description_states needs a model whose description encoder does not change as it learns, got "
            f"description_encoder={config.description_encoder!r}; set model.description_encoder: frozen, or leave "
            f"description_states out."
        )


def training_states(
    folder: str | Path | None,
    model: LeccrModel,
    processor: LeccrProcessor,
    train: datasets.Dataset | ParquetSplit,
    args: TrainingArguments,
) -> DescriptionStates | None:
    """Open the store of a run, if it has one; all processes fill it with what it lacks, and go on together.

    Args:
        folder: absent, or a store of the model's encoder; None for a run without.
        model: with a frozen description encoder.
        processor: its processor.
        train: whose descriptions are wanted. Those of a stream are not read before their turn: one that lacks states
            stops the run by its name.
        args: of the run.

    Raises:
        ValueError: the description encoder of the model learns, the store is of another one or damaged, or it lacks
            what other processes added.
    """
    if folder is None:
        return None
    check_encoder_is_frozen(model.config)
    tower: Any = model.description_model
    encoder = DescriptionEncoder(tower.to(args.device), processor)
    if isinstance(train, ParquetSplit):
        return DescriptionStates(folder, encoder=encoder.identity())
    store = DescriptionStates.create(folder, encoder=encoder.identity(), width=encoder.width)
    descriptions = read_column(train, DESCRIPTION_COLUMN)
    fill_store(
        store,
        encoder,
        descriptions,
        process_index=args.process_index,
        num_processes=args.world_size,
        progress=not args.disable_tqdm and args.process_index == 0,
    )
    PartialState().wait_for_everyone()
    store.reload()
    if absent := len(store.missing(descriptions)):
        raise ValueError(
            f"description_states must be a folder that all machines share: {absent} descriptions have no states in "
            f"{folder} after every process has added its part; name one on a shared disk, or run "
            f"`leccr encode_descriptions` on each machine first."
        )
    return store
