"""Describe the pictures or videos of a data set, with a vision-language model in this process or a chat server.

    leccr describe --dataset data/mine --images pictures --out data/described \\
        --model HuggingFaceTB/SmolVLM-Instruct --dtype bfloat16
    accelerate launch -m hub_scripts.describe --dataset data/mine --images pictures --out data/described \\
        --model HuggingFaceTB/SmolVLM-Instruct --dtype bfloat16
    leccr describe --dataset data/mine --videos clips --out data/described \\
        --server http://localhost:8000/v1 --model Qwen/Qwen2.5-VL-7B-Instruct

Adds `description` and `description_flag`; with `--prompt captions-v1` captions for the pictures that have none, as
`caption_en`. Refusals, empty and cut answers are asked again; the counts are printed as JSON and kept in the manifest.
A data set folder is made by `leccr read_dataset`, also from nothing but pictures.

Any number of processes may run the same command at the same time and share the work: `accelerate launch`, a job array,
or several shells. A killed run continues with the same command. Only a launcher gives each process a GPU of its own;
in a shell, name it: CUDA_VISIBLE_DEVICES=1 leccr describe ...
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import datasets

from hub_scripts.job_options import add_job_arguments, format_result
from hub_scripts.server_options import SERVER_OPTIONS, add_server_arguments, refuse_unused, server_from_options
from processing.description import (
    DEFAULT_ATTEMPTS,
    DEFAULT_FRAMES,
    Describer,
    PictureDescriber,
    description_job,
    media_column,
    writes_captions,
)
from processing.description_models import ImageTextToText
from processing.jobs import run_job
from processing.languages import SOURCE_LANGUAGE
from processing.media import attach_images, attach_videos
from processing.missing import MissingReport
from processing.prompts import PROMPTS, read_prompt
from processing.records import VIDEO_COLUMN, caption_column
from processing.sources import is_data_set, open_manifest, open_splits

logger = logging.getLogger("leccr.describe")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        prog="leccr describe", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_job_arguments(parser, example_flags="error refusal")
    media = parser.add_mutually_exclusive_group()
    media.add_argument("--images", metavar="FOLDER", help="its pictures, where the data set does not hold them")
    media.add_argument("--videos", metavar="FOLDER", help="its clips")
    parser.add_argument("--skip-missing", action="store_true", help="leave rows without a picture or clip out")
    add_server_arguments(parser, max_tokens=256)
    parser.add_argument(
        "--prompt",
        metavar="ID",
        help=f"{', '.join(name for name in PROMPTS if not name.startswith('translate'))}, or a text file (default: "
        f"image-v1, for videos video-v1)",
    )
    parser.add_argument(
        "--max-attempts",
        type=int,
        default=DEFAULT_ATTEMPTS,
        help="times a picture is asked about (default: %(default)s)",
    )
    parser.add_argument("--num-frames", type=int, default=DEFAULT_FRAMES, help="of a video (default: %(default)s)")
    local = parser.add_argument_group("model in this process")
    local.add_argument("--revision", help="branch, tag or commit of --model on the Hub")
    local.add_argument("--batch-size", type=int, default=8, help="pictures at a time (default: %(default)s)")
    local.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto", help="of the weights"
    )
    options = parser.parse_args(argv)
    if options.server:
        refuse_unused(parser, options, ["revision", "batch_size", "dtype"], "with --server")
    else:
        refuse_unused(parser, options, SERVER_OPTIONS, "without --server")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Describe what is left, print the counts."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = parse_arguments(argv)
    splits, missing = open_media(options)
    shows_videos = any(media_column(rows.column_names) == VIDEO_COLUMN for rows in splits.values())
    prompt = read_prompt(options.prompt or ("video-v1" if shows_videos else "image-v1"))
    generator = make_generator(options)
    job = description_job(
        splits,
        generator,
        prompt,
        max_attempts=options.max_attempts,
        num_frames=options.num_frames,
        missing=missing,
        rows_per_shard=options.rows_per_shard,
    )
    replaced = [name for name in job.features if any(name in rows.column_names for rows in splits.values())]
    if writes_captions(prompt) and caption_column(SOURCE_LANGUAGE) in replaced:
        # Captions of people stay; only pictures without any are asked about.
        replaced.remove(caption_column(SOURCE_LANGUAGE))
        logger.info("%s is filled where it is empty", caption_column(SOURCE_LANGUAGE))
    if replaced:
        logger.warning("the columns %s of %s are replaced", replaced, options.dataset)
    manifest = run_job(
        job,
        splits,
        options.out,
        lambda: PictureDescriber(generator, prompt, max_attempts=options.max_attempts, num_frames=options.num_frames),
        source_steps=open_manifest(options.dataset).steps,
        redo=options.redo,
    )
    print(format_result(manifest, options.out, missing=missing.counts()))


def open_media(options: argparse.Namespace) -> tuple[datasets.DatasetDict, MissingReport]:
    """The splits with their pictures or clips, and what has none.

    Raises:
        ValueError: the folder is no data set, or rows lack a file and `--skip-missing` is not given.
    """
    path = Path(options.dataset)
    if path.is_dir() and not is_data_set(path):
        raise ValueError(
            f"{path} is no data set; make one of a folder of pictures first: leccr read_dataset folder --root {path} "
            f"--out data/mine, and then --dataset data/mine --images {path}."
        )
    splits = open_splits(options.dataset, config_name=options.config)
    if options.images:
        splits, missing = attach_images(splits, options.images)
    elif options.videos:
        splits, missing = attach_videos(splits, options.videos)
    else:
        return splits, MissingReport()
    for line in missing.lines():
        logger.warning("%s", line)
    if missing and not options.skip_missing:
        raise ValueError(f"{'; '.join(missing.lines())}. Add the files, or leave such rows out with --skip-missing.")
    return splits, missing


def make_generator(options: argparse.Namespace) -> Describer:
    """The back end that the options name."""
    if options.server:
        return server_from_options(options)
    return ImageTextToText(
        options.model,
        revision=options.revision,
        dtype=options.dtype,
        max_new_tokens=options.max_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        seed=options.seed,
        batch_size=options.batch_size,
    )


if __name__ == "__main__":
    main()
