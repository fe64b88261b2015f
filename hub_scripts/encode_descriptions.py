"""Compute the token states of the descriptions of a data set once, so that training reads them from disk.

    leccr encode_descriptions --model google-bert/bert-base-multilingual-cased --dataset data/described \\
        --out data/states
    accelerate launch train.py RECIPE.yaml --model.description_encoder frozen --description_states data/states

The model is the text tower of a recipe, by name or folder, or a LECCR model whose description encoder is frozen. A
training run with `description_states` computes by itself what its folder lacks; this command does it before, with its
own batch size and on as many machines as there are. A killed run continues with the same command, and descriptions
that are new or were changed are added by it.

Any number of processes share the work: `accelerate launch -m hub_scripts.encode_descriptions ...`. 768 numbers a token
and 100 tokens a description are 150 kB an item as float16, 75 kB as int8.
"""

import argparse
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from transformers import AutoConfig, AutoTokenizer
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from hub_scripts.model_options import add_model_arguments, load_model
from modeling_leccr.description_encoder import (
    DEFAULT_BATCH_SIZE,
    DEFAULT_DESCRIPTIONS_PER_SHARD,
    DescriptionEncoder,
    fill_store,
)
from modeling_leccr.model_files import MODEL_TYPES
from modeling_leccr.towers_leccr import build_tower, load_text_tower, tower_config
from processing.description_states import DescriptionStates, StatesDtype
from processing.local_models import chosen_device
from processing.processing_leccr import DEFAULT_MAX_LENGTH, LeccrProcessor
from processing.records import DESCRIPTION_COLUMN
from processing.sources import open_splits

logger = logging.getLogger("leccr.encode_descriptions")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        prog="leccr encode_descriptions", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_arguments(
        parser,
        "folder or Hub name of the text tower of a recipe, or of a LECCR model with a frozen description encoder",
    )
    parser.add_argument("--dataset", required=True, help="folder or Hub name of a data set with descriptions")
    parser.add_argument("--config", help="configuration of a data set that has several")
    parser.add_argument(
        "--splits", nargs="+", default=["train"], help="splits whose descriptions are read (default: train)"
    )
    parser.add_argument("--out", required=True, metavar="FOLDER", help="the folder of the states")
    parser.add_argument(
        "--dtype",
        choices=get_args(StatesDtype),
        default="float16",
        help="int8 takes half the disk, and moves a number by at most 1/254 of the largest one of its token "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--max-length",
        type=int,
        help=f"max_length of the recipe, for a text tower (default: {DEFAULT_MAX_LENGTH}); a LECCR model has its own",
    )
    parser.add_argument(
        "--batch-size", type=int, default=DEFAULT_BATCH_SIZE, help="descriptions at a time (default: %(default)s)"
    )
    parser.add_argument(
        "--rows-per-shard",
        type=int,
        default=DEFAULT_DESCRIPTIONS_PER_SHARD,
        help="descriptions in a file (default: %(default)s)",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Encode what is left, print the counts as JSON."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = parse_arguments(argv)
    splits = open_splits(options.dataset, config_name=options.config)
    absent = [name for name in options.splits if name not in splits]
    if absent:
        raise ValueError(f"{options.dataset} has no splits {absent}; name some of {sorted(splits)}.")
    descriptions: list[str | None] = []
    for name in options.splits:
        if DESCRIPTION_COLUMN not in splits[name].column_names:
            raise ValueError(f"the split {name!r} of {options.dataset} has no descriptions; run `leccr describe`.")
        descriptions += splits[name][DESCRIPTION_COLUMN]
    encoder = load_encoder(options)
    store = DescriptionStates.create(options.out, encoder=encoder.identity(), width=encoder.width, dtype=options.dtype)
    added = fill_store(
        store,
        encoder,
        descriptions,
        batch_size=options.batch_size,
        rows_per_shard=options.rows_per_shard,
        process_index=int(os.environ.get("RANK", "0")),
        num_processes=int(os.environ.get("WORLD_SIZE", "1")),
    )
    size = sum(path.stat().st_size for path in Path(options.out).glob("[!.]*"))
    print(json.dumps({"out": options.out, "added": added, "descriptions": len(store), "bytes": size}, indent=2))


def load_encoder(options: argparse.Namespace) -> DescriptionEncoder:
    """The frozen encoder of a LECCR model, or the text tower that a recipe names.

    Raises:
        ValueError: the model reads no descriptions or its encoder learns, or an option does not fit the model.
    """
    settings = {} if options.revision is None else {"revision": options.revision}
    config = AutoConfig.from_pretrained(options.model, **settings)
    if config.model_type in MODEL_TYPES:
        if not config.reads_description:
            raise ValueError(f"{options.model} reads no descriptions and has no states of them; take a LECCR model.")
        if options.max_length is not None:
            raise ValueError(f"max-length is for text towers, and {options.model} has its own; leave it out.")
        model, processor, _ = load_model(options.model, options.revision, options.device)
        if model.config.description_encoder != "frozen":
            raise ValueError(
                f"{options.model} reads descriptions with its text tower, which goes on learning; states can be kept "
                f"of a model with description_encoder 'frozen'."
            )
        return DescriptionEncoder(model.description_model, processor)
    tower: Any = build_tower(tower_config(options.model, "text_config", settings))
    load_text_tower(tower, options.model, settings)
    tokenizer = AutoTokenizer.from_pretrained(options.model, **settings)
    # Its picture half is never asked.
    processor = LeccrProcessor(ViTImageProcessorPil(), tokenizer, max_length=options.max_length)
    return DescriptionEncoder(tower.to(chosen_device(options.device)), processor)


if __name__ == "__main__":
    main()
