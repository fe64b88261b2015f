"""Read a public benchmark, a table or a folder of pictures into a data set folder of texts.

    python -m hub_scripts.read_dataset folder --root pictures --validation 0.1 --out data/mine
    python -m hub_scripts.read_dataset multi30k --root multi30k --task 2 --languages de --out data/multi30k

Writes `data/<split>-*.parquet`, `manifest.json` and, if something is missing, `missing.json` with the ids. Pictures
stay where they are; `describe`, `train.py` and the others join them by id. Malformed files are an error that names
file and line, and then nothing is written.
"""

import argparse
import json
import logging
from collections.abc import Callable, Sequence

from processing.readers.base import Corpus
from processing.readers.folder import read_folder
from processing.readers.saving import save_corpus
from processing.readers.table import read_table

logger = logging.getLogger("leccr.read_dataset")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        prog="leccr read_dataset", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="reader", required=True, metavar="READER")
    for name, (help_line, add_options) in _READERS.items():
        command = commands.add_parser(name, help=help_line, description=help_line)
        command.set_defaults(read=add_options(command))
        command.add_argument("--out", required=True, metavar="FOLDER", help="the data set folder to write")
        command.add_argument("--overwrite", action="store_true", help="replace a data set folder that is there")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Read, write, and say what is missing."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = parse_arguments(argv)
    corpus: Corpus = options.read(options)
    counts = save_corpus(corpus, options.out, overwrite=options.overwrite)
    for line in corpus.missing.lines():
        logger.warning("%s", line)
    print(json.dumps({"out": options.out, **counts}, indent=2, ensure_ascii=False))


def column_map(entries: Sequence[str]) -> dict[str, str]:
    """`["image_id=id", "caption_en"]` as column of the schema -> column of the table.

    Raises:
        ValueError: a column of the schema is named twice.
    """
    pairs = [(schema, given or schema) for schema, _, given in (entry.partition("=") for entry in entries)]
    if len(dict(pairs)) != len(pairs):
        raise ValueError(f"--columns must name each column of the schema once, got {list(entries)}.")
    return dict(pairs)


def _add_folder(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], Corpus]:
    parser.add_argument("--root", required=True, help="the folder; captions in metadata.jsonl/.csv or NAME.txt beside")
    parser.add_argument("--videos", action="store_true", help="read clips instead of pictures")
    parser.add_argument("--validation", type=float, default=0.0, help="share of the items (default: %(default)s)")
    parser.add_argument("--test", type=float, default=0.0, help="share of the items (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the division (default: %(default)s)")
    return lambda options: read_folder(
        options.root, videos=options.videos, validation=options.validation, test=options.test, seed=options.seed
    )


def _add_table(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], Corpus]:
    for split in ("train", "validation", "test"):
        parser.add_argument(f"--{split}", metavar="FILE", help=f".jsonl, .csv or .tsv of the {split} split")
    parser.add_argument(
        "--columns", nargs="+", required=True, metavar="SCHEMA=TABLE", help="such as image_id=file caption_en=comment"
    )
    parser.add_argument("--caption-rows", action="store_true", help="the table has a row for each caption")
    parser.add_argument("--delimiter", help="between cells (default: by suffix)")
    return lambda options: read_table(
        {split: getattr(options, split) for split in ("train", "validation", "test") if getattr(options, split)},
        column_map(options.columns),
        caption_rows=options.caption_rows,
        delimiter=options.delimiter,
    )


# Name of a reader -> one line of help, and what declares its options and gives the call.
_READERS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], Callable[[argparse.Namespace], Corpus]]]] = {
    "folder": ("your own pictures or videos", _add_folder),
    "table": ("JSON lines, CSV or TSV with a column map", _add_table),
}


if __name__ == "__main__":
    main()
