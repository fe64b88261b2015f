"""Push a data set folder to the Hub: texts keyed by id, a configuration for each target language, a card.

    leccr push_dataset --dataset data/translated --repo org/mine-leccr --license cc-by-4.0 --dry-run

Without --dry-run it uploads, and prints what it sent. Run it again after a failure: what arrived is not sent again. The
repository becomes what the folder is; a language that the folder no longer has is deleted there. A card that somebody
edited on the Hub stays without --replace-card, but for its list of configurations. Pictures stay at home without
--with-images; clips, and features of their frames, always do.
"""

import argparse
import logging
from collections.abc import Sequence
from functools import partial

from hub_scripts.dataset_card import dataset_card, read_quality
from hub_scripts.push_options import add_push_arguments, format_push
from processing.hub_dataset import push_dataset
from processing.hub_upload import DEFAULT_FILES_PER_COMMIT


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        prog="leccr push_dataset", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", required=True, metavar="FOLDER", help="what read, describe or translate wrote")
    add_push_arguments(parser)
    parser.add_argument(
        "--license",
        help="licence of the texts by its name on the Hub, such as cc-by-4.0 (default: that of the card there)",
    )
    parser.add_argument("--replace-card", action="store_true", help="write a new card even if it was edited on the Hub")
    parser.add_argument("--with-images", action="store_true", help="put the pictures inside, once for each language")
    parser.add_argument("--images", metavar="FOLDER", help="the pictures, where the data set has none itself")
    parser.add_argument("--quality", metavar="FOLDER", help="what inspect_dataset wrote (default: --dataset)")
    parser.add_argument("--rows-per-shard", type=int, help="rows of a file (default: 10000; with pictures 1000)")
    parser.add_argument("--files-per-commit", type=int, default=DEFAULT_FILES_PER_COMMIT, help="(default: %(default)s)")
    parser.add_argument("--staging", metavar="FOLDER", help="build the repository here and keep it")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Build, compare, send, print."""
    options = parse_arguments(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    quality = read_quality(options.quality or options.dataset, required=options.quality is not None)
    result = push_dataset(
        options.dataset,
        options.repo,
        write_card=partial(dataset_card, license_id=options.license, quality=quality),
        with_images=options.with_images,
        images=options.images,
        private=options.private,
        revision=options.revision,
        dry_run=options.dry_run,
        staging=options.staging,
        rows_per_shard=options.rows_per_shard,
        files_per_commit=options.files_per_commit,
        replace_card=options.replace_card,
    )
    print(format_push(result))


if __name__ == "__main__":
    main()
