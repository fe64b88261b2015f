"""Push the recalls to the Hub as a Space, from which `evaluate.load` takes them.

    leccr push_metric --repo org/crosslingual_retrieval --dry-run

Without --dry-run it uploads, and prints what it sent.
"""

import argparse
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

import retrieval
from hub_scripts.push_options import add_push_arguments, format_push
from processing.hub_card import check_card
from processing.hub_upload import CARD_FILE, preview, upload_folder

METRIC = "crosslingual_retrieval"
# Where the metric lies here; its texts say so, and name the Space once they are there.
LOCAL_NAME = f"retrieval/evaluate_metric/{METRIC}"
FILES = (CARD_FILE, "app.py", f"{METRIC}.py", "requirements.txt")
REPOSITORY_TYPE = "space"


def push_metric(
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Make a Space equal to the folder of the metric.

    Args:
        repo_id: name on the Hub, `organisation/crosslingual_retrieval`.
        private: make the Space private; one that is there must be.
        revision: branch to push to, made if needed; `evaluate.load(repo_id, revision=...)` reads it.
        token: of the Hub; the one of `hf auth login` by default.
        dry_run: tell what would be sent, and send nothing.

    Returns:
        `repository`, and what was sent, see `upload_folder`; in a dry run what would be, see `preview`, and the
        `card`.

    Raises:
        ValueError: the Space has another name, or the Hub does not take its card.
        ConnectionError: the token is absent or may not write there, or the Hub cannot be reached in a dry run.
        HTTPError, RuntimeError: the Hub refuses for another reason, or fails time after time.
    """
    owner, _, name = repo_id.partition("/")
    if not owner or name != METRIC:
        raise ValueError(
            f"the Space must be called ORG/{METRIC}, because `evaluate.load` looks for a file of the name of its "
            f"repository, got {repo_id!r}."
        )
    with tempfile.TemporaryDirectory(prefix="leccr-push-") as temporary:
        folder = Path(temporary)
        build_space(folder, repo_id)
        if not dry_run:
            settings: dict[str, Any] = {"private": private, "revision": revision, "token": token}
            return {"repository": repo_id} | upload_folder(
                folder, repo_id, repo_type=REPOSITORY_TYPE, is_ours=_is_ours, **settings
            )
        plan = preview(folder, HfApi(token=token), repo_id, REPOSITORY_TYPE, _is_ours, revision)
        return {"repository": repo_id} | plan | {"card": (folder / CARD_FILE).read_text(encoding="utf-8")}


def build_space(folder: Path, repo_id: str) -> None:
    """Copy the metric; in its texts the name of the Space stands for that of the folder.

    Raises:
        ValueError: the Hub does not take the card.
    """
    source = Path(retrieval.__path__[0]) / "evaluate_metric" / METRIC
    for name in FILES:
        text = (source / name).read_text(encoding="utf-8").replace(LOCAL_NAME, repo_id)
        (folder / name).write_text(text, encoding="utf-8")
    check_card((folder / CARD_FILE).read_text(encoding="utf-8"), REPOSITORY_TYPE)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        prog="leccr push_metric", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_push_arguments(parser, repo=f"ORG/{METRIC}")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Compare, send, print."""
    options = parse_arguments(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    settings = {"private": options.private, "revision": options.revision, "dry_run": options.dry_run}
    print(format_push(push_metric(options.repo, **settings)))


def _is_ours(path: str) -> bool:
    """Nothing is deleted: no older push had other files."""
    return False


if __name__ == "__main__":
    main()
