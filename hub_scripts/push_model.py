"""Push a model to the Hub: weights, configuration, processor, the code that they need, what it scored, a card.

    leccr push_model --model outputs/demo/model --repo org/leccr-demo --license apache-2.0 --dry-run

The folder is a saved model, or a checkpoint of its training such as outputs/demo/checkpoints/LECCR/checkpoint-80, of
which only the model is sent. Without --dry-run it uploads, and prints what it sent. It is one commit, whose name in the
result pins this version for good (`from_pretrained(..., revision=COMMIT)`). Run it again after a failure: what arrived
is not sent again. A card that somebody edited on the Hub stays without --replace-card.

The model is saved anew in the temporary folder of this machine (TMPDIR, or --staging), which needs room for it. A push
that is killed leaves it there, as leccr-push-*; remove it then.
"""

import argparse
import logging
from collections.abc import Sequence

from hub_scripts.push_options import add_push_arguments, format_push
from modeling_leccr.export import DEFAULT_SHARD_SIZE
from modeling_leccr.publishing import DEFAULT_MESSAGE, push_model


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        prog="leccr push_model", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, metavar="FOLDER", help="a saved model, or a checkpoint")
    add_push_arguments(parser)
    parser.add_argument(
        "--license",
        help="licence of the weights by its name on the Hub (default: that of the card in the folder, or on the Hub)",
    )
    parser.add_argument("--replace-card", action="store_true", help="write a new card even if it was edited on the Hub")
    parser.add_argument("--message", default=DEFAULT_MESSAGE, help="title of the commit (default: %(default)s)")
    parser.add_argument("--max-shard-size", default=DEFAULT_SHARD_SIZE, help="of one file (default: %(default)s)")
    parser.add_argument("--staging", metavar="FOLDER", help="build the repository here instead, and keep it")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Load, build, compare, send, print."""
    options = parse_arguments(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    result = push_model(
        options.model,
        options.repo,
        license_id=options.license,
        private=options.private,
        revision=options.revision,
        dry_run=options.dry_run,
        staging=options.staging,
        max_shard_size=options.max_shard_size,
        message=options.message,
        replace_card=options.replace_card,
    )
    print(format_push(result))


if __name__ == "__main__":
    main()
