"""Push a model to the Hub: weights, configuration, processor, the code that they need, what it scored, a card.

    python -m hub_scripts.push_model --model outputs/demo/model --repo org/leccr-demo --license apache-2.0 --dry-run

The folder is a saved model, or a checkpoint of its training such as outputs/demo/checkpoints/LECCR/checkpoint-80, of
which only the model is sent. Without --dry-run it uploads, with the token of `hf auth login` or of the variable
HF_TOKEN, and prints what it sent. It is one commit, whose name in the result pins this version for good
(`from_pretrained(..., revision=COMMIT)`). Run it again after a failure: what arrived is not sent again.
"""

import argparse
import json
import logging
from collections.abc import Sequence

from modeling_leccr.export import DEFAULT_SHARD_SIZE
from modeling_leccr.publishing import push_model


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        prog="leccr push_model", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, metavar="FOLDER", help="a saved model, or a checkpoint")
    parser.add_argument("--repo", required=True, metavar="ORG/NAME", help="name on the Hub; made if needed")
    parser.add_argument(
        "--license", help="licence of the weights by its name on the Hub (default: that of the card in the folder)"
    )
    parser.add_argument("--private", action="store_true", help="only those with a token of yours can read it")
    parser.add_argument("--revision", metavar="BRANCH", help="push to a branch, made if needed")
    parser.add_argument("--max-shard-size", default=DEFAULT_SHARD_SIZE, help="of one file (default: %(default)s)")
    parser.add_argument("--staging", metavar="FOLDER", help="build the repository here and keep it")
    parser.add_argument("--dry-run", action="store_true", help="print what would be sent, and send nothing")
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
    )
    print(json.dumps(result, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
