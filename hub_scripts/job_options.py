"""What the commands that run a resumable job share: their options, and the result that they print."""

import argparse
import json
import logging
from typing import Any

from processing.jobs import UNFINISHED
from processing.manifest import Manifest

logger = logging.getLogger("leccr.job")


def add_job_arguments(parser: argparse.ArgumentParser, *, example_flags: str) -> None:
    """Add the options of the input, the output and the shards.

    Args:
        example_flags: flags that `--redo` may name, for its help.
    """
    parser.add_argument("--dataset", required=True, help="folder or Hub name of a data set")
    parser.add_argument("--config", help="configuration of a data set that has several")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="the data set folder to write")
    parser.add_argument(
        "--redo", nargs="+", default=[], metavar="FLAG", help=f"do rows with such a flag again: {example_flags}"
    )
    parser.add_argument("--rows-per-shard", type=int, default=256, help="rows done at a time (default: %(default)s)")


def format_result(manifest: Manifest, out: str, **more: Any) -> str:
    """The counts of a job as JSON, once it is complete; logs what an unfinished one waits for.

    Args:
        manifest: what `run_job` returned.
        out: the folder that it wrote.
        more: shown before the counts.
    """
    if not manifest.complete:
        logger.info(UNFINISHED)
    counts = dict(manifest.steps[-1].counts) if manifest.complete else {}
    return json.dumps({"out": out, "complete": manifest.complete, **more, **counts}, indent=2, ensure_ascii=False)
