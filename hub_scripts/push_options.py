"""What the commands that push to the Hub share: their options, and the result that they print."""

import argparse
import json
from collections.abc import Mapping
from typing import Any


def add_push_arguments(parser: argparse.ArgumentParser, *, repo: str = "ORG/NAME") -> None:
    """Add the options of the repository.

    Args:
        repo: what its name looks like, for the help.
    """
    parser.add_argument("--repo", required=True, metavar=repo, help="name on the Hub; made if needed")
    parser.add_argument("--private", action="store_true", help="only those with a token of yours can read it")
    parser.add_argument("--revision", metavar="BRANCH", help="push to a branch, made if needed")
    parser.add_argument("--dry-run", action="store_true", help="print what would be sent, and send nothing")
    parser.epilog = (
        "The token is the one of `hf auth login`, or of the variable HF_TOKEN; there is no option for it, because\n"
        "other users of a machine see its command lines."
    )


def format_push(result: Mapping[str, Any]) -> str:
    """What was sent, or would be, as JSON; then the card of a dry run as it is."""
    text = json.dumps({key: value for key, value in result.items() if key != "card"}, indent=2, ensure_ascii=False)
    return f"{text}\n\n{result['card']}" if "card" in result else text
