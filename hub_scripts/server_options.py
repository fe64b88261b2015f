"""Options that the commands with a generating model share, and the chat server that they name."""

import argparse
import logging
import os
from collections.abc import Sequence

from processing.chat_server import MAX_CONCURRENCY, ChatServer, ChatSettings

# Options of `add_server_arguments`, by the names that argparse gives them.
SAMPLING_OPTIONS = ("temperature", "top_p", "seed")
SERVER_OPTIONS = ("api_key_variable", "concurrency", "timeout")


def add_server_arguments(parser: argparse.ArgumentParser, *, max_tokens: int) -> None:
    """Add the options of the model, of its sampling, and of a chat server.

    Args:
        max_tokens: default limit of an answer; a description needs more than a translation.
    """
    parser.add_argument("--model", required=True, help="folder or Hub name of a model; with --server its name there")
    parser.add_argument("--max-tokens", type=int, default=max_tokens, help="limit of a text (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default: %(default)s)")
    parser.add_argument("--top-p", type=float, default=1.0, help="share of likely tokens kept (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of sampling (default: %(default)s)")
    server = parser.add_argument_group("chat server")
    server.add_argument("--server", metavar="URL", help="ask an OpenAI-compatible server: http://localhost:8000/v1")
    server.add_argument(
        "--api-key-variable",
        metavar="NAME",
        help="environment variable that holds the key of the server, such as OPENAI_API_KEY or HF_TOKEN; none is sent "
        "without this option",
    )
    server.add_argument(
        "--concurrency",
        type=int,
        default=16,
        help=f"requests in flight, up to {MAX_CONCURRENCY} (default: %(default)s)",
    )
    server.add_argument(
        "--timeout", type=float, default=300.0, help="seconds to wait for an answer (default: %(default)s)"
    )


def refuse_unused(
    parser: argparse.ArgumentParser, options: argparse.Namespace, names: Sequence[str], reason: str
) -> None:
    """End the program if an option was given that has no effect beside the others.

    An option with its default value passes, for leaving it out would change nothing.

    Args:
        parser: which parsed the options.
        names: of options without effect, as argparse calls them, such as "batch_size".
        reason: for the message, such as "without --server".
    """
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(options, name) != parser.get_default(name)]
    if given:
        parser.error(f"{', '.join(given)} would have no effect {reason}; leave it out.")


def server_from_options(options: argparse.Namespace) -> ChatServer:
    """The server that `--server` names. The HTTP library's line of log for each request is silenced.

    Raises:
        ValueError: an option is out of range, or the variable of `--api-key-variable` is not set.
    """
    settings = ChatSettings(
        base_url=options.server,
        model=options.model,
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        seed=options.seed,
        timeout_s=options.timeout,
        concurrency=options.concurrency,
    )
    for library in ("httpx", "httpx2"):
        logging.getLogger(library).setLevel(logging.WARNING)
    return ChatServer(settings, api_key=_read_key(options.api_key_variable))


def _read_key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ValueError(
            f"--api-key-variable names {variable!r}, which is not set or empty; export it, or name another."
        )
    return key
