"""Translate the English captions of a data set, with a model in this process or a chat server.

    leccr translate --dataset data/mine --languages de fr --out data/translated \\
        --model facebook/nllb-200-distilled-600M --num-beams 4
    accelerate launch -m hub_scripts.translate --dataset data/mine --languages de --out data/translated \\
        --model "Helsinki-NLP/opus-mt-en-{language}" --back-translation "Helsinki-NLP/opus-mt-{language}-en"
    leccr translate --dataset data/mine --languages de --out data/translated \\
        --server http://localhost:8000/v1 --model Qwen/Qwen2.5-7B-Instruct

Models in this process: Marian (opus-mt), NLLB, M2M100, mBART-50, MADLAD. Adds `caption_<language>_mt`, its flags, and
with --back-translation its similarity to the English caption. A translation that is empty, cut off, copied, refused, in
a wrong script or language, of several lines or of an unlikely length becomes null; the counts are printed as JSON and
kept in the manifest.

Any number of processes may run the same command at the same time and share the work: `accelerate launch`, a job array,
or several shells. A killed run continues with the same command. Only a launcher gives each process a GPU of its own;
in a shell, name it: CUDA_VISIBLE_DEVICES=1 leccr translate ...
"""

import argparse
import logging
from collections.abc import Sequence

from hub_scripts.job_options import add_job_arguments, format_result
from hub_scripts.server_options import (
    SAMPLING_OPTIONS,
    SERVER_OPTIONS,
    add_server_arguments,
    refuse_unused,
    server_from_options,
)
from processing.jobs import run_job
from processing.prompts import read_prompt
from processing.sources import open_manifest, open_splits
from processing.translation import CaptionTranslator, ServerTranslators, Translators, translation_job
from processing.translation_models import LocalTranslators


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        prog="leccr translate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_job_arguments(parser, example_flags="error")
    parser.add_argument("--languages", nargs="+", required=True, metavar="CODE", help="target languages, such as de fr")
    add_server_arguments(parser, max_tokens=128)
    parser.add_argument("--prompt", default="translate-v1", help="id or file, for a server (default: %(default)s)")
    parser.add_argument("--keep-flagged", action="store_true", help="keep the text of flagged translations")
    local = parser.add_argument_group(
        "model in this process",
        "`{language}` in the name of a model stands for the language code; a model that uses another code "
        "(opus-mt-en-jap) needs a run of its own.",
    )
    local.add_argument("--revision", help="branch, tag or commit of --model on the Hub")
    local.add_argument("--num-beams", type=int, default=1, help="1 is greedy (default: %(default)s)")
    local.add_argument("--batch-size", type=int, default=32, help="captions at a time (default: %(default)s)")
    local.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of the weights")
    local.add_argument("--back-translation", metavar="MODEL", help="translate back into English and compare")
    options = parser.parse_args(argv)
    if not options.server:
        refuse_unused(parser, options, [*SERVER_OPTIONS, *SAMPLING_OPTIONS, "prompt"], "without --server")
    elif options.back_translation:
        refuse_unused(parser, options, ["revision"], "with --server")
    else:
        names = ["revision", "num_beams", "batch_size", "dtype"]
        refuse_unused(parser, options, names, "with --server and no --back-translation")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Translate what is left, print the counts."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = parse_arguments(argv)
    splits = open_splits(options.dataset, config_name=options.config)
    translators = make_translators(options)
    back = None
    if options.back_translation == options.model and not options.server:
        back = translators
    elif options.back_translation:
        back = local_translators(options, options.back_translation, revision=None)
    job = translation_job(
        splits,
        options.languages,
        translators,
        back_translators=back,
        keep_flagged=options.keep_flagged,
        rows_per_shard=options.rows_per_shard,
    )
    manifest = run_job(
        job,
        splits,
        options.out,
        lambda: CaptionTranslator(
            translators, options.languages, back_translators=back, keep_flagged=options.keep_flagged
        ),
        source_steps=open_manifest(options.dataset).steps,
        redo=options.redo,
    )
    print(format_result(manifest, options.out))


def make_translators(options: argparse.Namespace) -> Translators:
    """The back end that the options name."""
    if options.server:
        return ServerTranslators(server_from_options(options), read_prompt(options.prompt))
    return local_translators(options, options.model, revision=options.revision)


def local_translators(options: argparse.Namespace, name: str, *, revision: str | None) -> LocalTranslators:
    """Models in this process, with the decoding that the options name."""
    return LocalTranslators(
        name,
        options.languages,
        revision=revision,
        dtype=options.dtype,
        num_beams=options.num_beams,
        max_new_tokens=options.max_tokens,
        batch_size=options.batch_size,
    )


if __name__ == "__main__":
    main()
