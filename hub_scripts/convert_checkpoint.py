"""Turn a checkpoint of the released LECCR code (`.pth`, image or video form) into a model folder of this library.

    leccr convert_checkpoint --checkpoint checkpoint_best.pth --out models/leccr-multi30k-de

The file is read without running anything in it. Each of its weights is converted, or dropped because the released
code never reads it; a missing, unknown or mis-shaped one is an error, and then nothing is written. Form and sizes are
read off the weights; the text tower gives its tokenizer and its number of attention heads. A model of the video form
reads frame features. Prints a report as JSON: the form, the sizes, what was dropped and why, and the sha256 of the
file. `leccr push_model` sends the folder to the Hub.
"""

import argparse
import json
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, CLIPImageProcessorPil, PreTrainedConfig, PreTrainedTokenizerBase

from modeling_leccr import LeccrModel
from modeling_leccr.export import save_for_hub
from modeling_leccr.official_checkpoint import (
    OfficialSizes,
    check_official_state,
    convert_official_state,
    drop_reason,
    official_config,
    official_sizes,
)
from modeling_leccr.official_file import read_official_file
from processing.files import file_sha256
from processing.languages import LANGUAGES, SOURCE_LANGUAGE
from processing.processing_leccr import DEFAULT_MAX_LENGTH, LeccrProcessor
from reporting.model_record import ModelRecord

logger = logging.getLogger("leccr.convert_checkpoint")

_TEXT_TOWER = "google-bert/bert-base-multilingual-cased"


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        prog="leccr convert_checkpoint", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--checkpoint", required=True, metavar="FILE", help=".pth of the released code, or .safetensors with its names"
    )
    parser.add_argument("--out", required=True, metavar="FOLDER", help="the model folder to write")
    parser.add_argument(
        "--text-tower",
        default=_TEXT_TOWER,
        metavar="NAME",
        help="folder or Hub name of the text tower that it was trained from (default: %(default)s)",
    )
    parser.add_argument(
        "--vision-heads",
        type=int,
        metavar="N",
        help="attention heads of the vision tower, image form alone (default: one for each 64 channels, as in CLIP)",
    )
    parser.add_argument(
        "--languages",
        nargs="+",
        default=[],
        choices=sorted(set(LANGUAGES) - {SOURCE_LANGUAGE}),
        metavar="CODE",
        help="what it was trained for beside English, such as de, for the card",
    )
    parser.add_argument(
        "--license", help="licence of the weights by its name on the Hub, for the card; unknown if left out"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Read, check, convert, save, report."""
    options = parse_arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    text_config, tokenizer = load_text_tower(options.text_tower)
    logger.info("reading %s", options.checkpoint)
    try:
        state = read_official_file(options.checkpoint)
        sizes = official_sizes(state)
        check_official_state(state, sizes)
        config = official_config(sizes, text_config, vision_heads=options.vision_heads)
        processor = official_processor(sizes, tokenizer)
    except ValueError as error:
        raise ValueError(f"{options.checkpoint}: {error}") from error
    converted, dropped = convert_official_state(state)
    logger.info("converting %d weights, dropping %d", len(state) - len(dropped), len(dropped))
    model = LeccrModel(config)
    model.load_state_dict(converted, strict=True)
    logger.info("saving %s", options.out)
    name, sha256 = Path(options.checkpoint).name, file_sha256(options.checkpoint)
    origin = f"converted from {name}, a checkpoint of the released code of LECCR (sha256 {sha256})"
    record = ModelRecord(languages=tuple(options.languages), origin=origin)
    save_for_hub(model.eval(), processor, options.out, record=record, license_id=options.license)
    report = {
        "checkpoint": name,
        "sha256": sha256,
        "out": options.out,
        "form": sizes.form,
        "sizes": asdict(sizes),
        "converted": len(state) - len(dropped),
        "dropped": _by_reason(dropped),
    }
    print(json.dumps(report, indent=2, ensure_ascii=False))


def load_text_tower(name: str) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """Configuration and tokenizer of a text tower; its weights are not needed.

    Raises:
        FileNotFoundError: there is no such tower, or the Hub cannot be reached; the message tells.
    """
    try:
        return AutoConfig.from_pretrained(name), AutoTokenizer.from_pretrained(name)
    except OSError as error:
        reason = " ".join(str(error).split())
        raise FileNotFoundError(f"the text tower {name!r} cannot be read: {reason}") from error


def official_processor(sizes: OfficialSizes, tokenizer: PreTrainedTokenizerBase) -> LeccrProcessor:
    """The preprocessing of the released code at test time: square pictures, cleaned captions of at most 30 words.

    Frame features pass through whole; the video form never reads pictures.

    Raises:
        ValueError: the tokenizer has tokens that the checkpoint has no embedding for.
    """
    if len(tokenizer) > sizes.vocab_size:
        raise ValueError(
            f"the tokenizer of the text tower has {len(tokenizer)} tokens and the checkpoint embeds "
            f"{sizes.vocab_size}; name the text tower that it was trained from."
        )
    sizes_of_pictures = {}
    if sizes.vision is not None:
        side = {"height": sizes.vision.image_size, "width": sizes.vision.image_size}
        sizes_of_pictures = {"size": side, "crop_size": side}
    return LeccrProcessor(
        # CLIP's own means and bicubic resize are the defaults; its centre crop is not part of the released code.
        CLIPImageProcessorPil(do_center_crop=False, **sizes_of_pictures),
        tokenizer,
        max_length=min(DEFAULT_MAX_LENGTH, int(tokenizer.model_max_length), sizes.max_positions),
        clean_captions=True,
        max_words=30,
    )


def _by_reason(dropped: Sequence[str]) -> dict[str, list[str]]:
    reasons: dict[str, Any] = defaultdict(list)
    for key in dropped:
        reasons[str(drop_reason(key))].append(key)
    return dict(reasons)


if __name__ == "__main__":
    main()
