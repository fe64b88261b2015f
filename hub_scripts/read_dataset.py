"""Read a public benchmark, a table or a folder of pictures into a data set folder of texts.

    leccr read_dataset folder --root pictures --validation 0.1 --out data/mine
    leccr read_dataset multi30k --root multi30k --task 2 --languages de --out data/multi30k

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
from processing.readers.mscoco import read_mscoco
from processing.readers.msrvtt_cn import read_msrvtt_cn
from processing.readers.multi30k import read_multi30k
from processing.readers.official import read_official_layout
from processing.readers.saving import save_corpus
from processing.readers.table import read_table
from processing.readers.vatex import read_vatex

logger = logging.getLogger("leccr.read_dataset")

_SPLITS = ("train", "validation", "test")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        prog="leccr read_dataset", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="reader", required=True, metavar="READER")
    for name, (content, example, add_options) in _READERS.items():
        command = commands.add_parser(
            name,
            help=content,
            description=f"Read {content}.",
            epilog=f"example: leccr read_dataset {name} {example}",
        )
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


def _reading(reader: Callable[..., Corpus], *names: str) -> Callable[[argparse.Namespace], Corpus]:
    """The call of a reader with the options of these names."""
    return lambda options: reader(options.root, **{name: getattr(options, name) for name in names})


def _add_root(parser: argparse.ArgumentParser, content: str) -> None:
    parser.add_argument("--root", required=True, metavar="FOLDER", help=content)


def _add_benchmark(parser: argparse.ArgumentParser, content: str, *, media: str) -> None:
    _add_root(parser, content)
    parser.add_argument(f"--{media}", metavar="FOLDER", help=f"where the {media} lie, to report those without a file")
    parser.add_argument(
        "--no-check-counts", dest="check_counts", action="store_false", help="read a part, or another edition, as well"
    )


def _add_multi30k(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], Corpus]:
    _add_benchmark(parser, "the folder of the distributed text, with data/task1 and data/task2", media="images")
    parser.add_argument(
        "--task", type=int, required=True, choices=(1, 2), help="1: one caption, translated; 2: five captions"
    )
    parser.add_argument("--languages", nargs="+", required=True, help="de, fr, cs")
    parser.add_argument("--test", default="test_2016_flickr", help="which test set (default: %(default)s)")
    return _reading(read_multi30k, "task", "languages", "test", "images", "check_counts")


def _add_mscoco(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], Corpus]:
    _add_benchmark(parser, "the folder of the caption files; see processing/readers/mscoco.py", media="images")
    parser.add_argument("--languages", nargs="+", default=[], help="zh (COCO-CN, its splits) or ja (STAIR)")
    parser.add_argument("--official-splits", action="store_true", help="of the annotations instead of Karpathy's")
    parser.add_argument("--translated-test", action="store_true", help="zh: test on manual translations")
    return _reading(read_mscoco, "languages", "official_splits", "translated_test", "images", "check_counts")


def _add_vatex(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], Corpus]:
    _add_benchmark(parser, "the folder of the JSON files", media="clips")
    parser.add_argument("--features", metavar="FOLDER", help="I3D features, to report clips without")
    parser.add_argument("--test-ids", metavar="FILE", help="validation clips to test on, one id a line")
    parser.add_argument("--untrimmed", action="store_true", help="clips are whole videos, named after the YouTube id")
    return _reading(read_vatex, "test_ids", "features", "clips", "untrimmed", "check_counts")


def _add_release(parser: argparse.ArgumentParser, *, media: str) -> None:
    """What the two layouts of the released code share."""
    _add_benchmark(parser, "the folder with TextData", media=media)
    parser.add_argument("--languages", nargs="+", help="captions to read besides English (default: all)")
    parser.add_argument("--collection", help="name that the files of one data set begin with, where there are several")
    parser.add_argument("--descriptions", metavar="FOLDER", help="descriptions, ID.txt for each item")


def _add_msrvtt_cn(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], Corpus]:
    _add_release(parser, media="clips")
    parser.add_argument("--features", metavar="FOLDER", help="frame features, to report clips without")
    names = ("languages", "collection", "descriptions", "features", "clips", "check_counts")
    return _reading(read_msrvtt_cn, *names)


def _add_official(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], Corpus]:
    _add_release(parser, media="images")
    return _reading(read_official_layout, "languages", "collection", "descriptions", "images", "check_counts")


def _add_folder(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], Corpus]:
    _add_root(parser, "the folder; captions in metadata.jsonl or .csv, or in NAME.txt beside each file")
    parser.add_argument("--videos", action="store_true", help="read clips instead of pictures")
    parser.add_argument("--validation", type=float, default=0.0, help="share of the items (default: %(default)s)")
    parser.add_argument("--test", type=float, default=0.0, help="share of the items (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the division (default: %(default)s)")
    return _reading(read_folder, "videos", "validation", "test", "seed")


def _add_table(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], Corpus]:
    for split in _SPLITS:
        parser.add_argument(f"--{split}", metavar="FILE", help=f".jsonl, .csv or .tsv of the {split} split")
    parser.add_argument(
        "--columns", nargs="+", required=True, metavar="SCHEMA=TABLE", help="such as image_id=file caption_en=comment"
    )
    parser.add_argument("--caption-rows", action="store_true", help="the table has a row for each caption")
    parser.add_argument("--delimiter", help="between cells (default: by suffix)")
    return _read_table


def _read_table(options: argparse.Namespace) -> Corpus:
    files = {split: getattr(options, split) for split in _SPLITS if getattr(options, split)}
    columns = column_map(options.columns)
    return read_table(files, columns, caption_rows=options.caption_rows, delimiter=options.delimiter)


# Name of a reader -> what it reads, an example of its options, and what declares them and gives the call.
_READERS: dict[str, tuple[str, str, Callable[[argparse.ArgumentParser], Callable[[argparse.Namespace], Corpus]]]] = {
    "folder": ("your own pictures or videos", "--root pictures --validation 0.1 --out data/mine", _add_folder),
    "table": (
        "JSON lines, CSV or TSV with a column map",
        "--train train.csv --test test.csv --columns image_id=file caption_en=comment --out data/mine",
        _add_table,
    ),
    "multi30k": (
        "Multi30K, task 1 or 2, in German, French, Czech",
        "--root multi30k --task 2 --languages de --out data/multi30k",
        _add_multi30k,
    ),
    "mscoco": (
        "MSCOCO with COCO-CN (Chinese) or STAIR captions (Japanese)",
        "--root mscoco --languages ja --out data/mscoco",
        _add_mscoco,
    ),
    "vatex": ("VATEX videos in Chinese", "--root vatex --out data/vatex", _add_vatex),
    "msrvtt_cn": (
        "MSR-VTT-CN videos in Chinese, in the released text layout",
        "--root msrvtt10kcn --out data/msrvtt_cn",
        _add_msrvtt_cn,
    ),
    "official": (
        "image data sets in the layout of the released LECCR code",
        "--root multi30k_release --languages de --out data/multi30k",
        _add_official,
    ),
}


if __name__ == "__main__":
    main()
