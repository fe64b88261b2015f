"""One console command for all scripts: `leccr search ...` is `python -m hub_scripts.search ...`."""

import argparse
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError

# Name of a command → (module with `main(argv)`, one line of help). A module is imported when its command is called.
COMMANDS: dict[str, tuple[str, str]] = {
    "read_dataset": ("hub_scripts.read_dataset", "a benchmark, a table or your pictures as a data set folder"),
    "describe": ("hub_scripts.describe", "descriptions of pictures by a multimodal language model"),
    "translate": ("hub_scripts.translate", "machine translations of the English captions"),
    "inspect_dataset": ("hub_scripts.inspect_dataset", "a report on the quality of a data set"),
    "convert_checkpoint": ("hub_scripts.convert_checkpoint", "a checkpoint of the released code as a model folder"),
    "encode_descriptions": ("hub_scripts.encode_descriptions", "token states of descriptions, for faster training"),
    "push_dataset": ("hub_scripts.push_dataset", "a data set folder to the Hub, with a card"),
    "push_metric": ("hub_scripts.push_metric", "the recalls to the Hub, for evaluate.load"),
    "push_model": ("hub_scripts.push_model", "a saved model or a checkpoint to the Hub, with a card"),
    "draw_alignment": (
        "hub_scripts.draw_alignment",
        "which words of a translation a caption aligns with, as a picture",
    ),
    "draw_slots": ("hub_scripts.draw_slots", "which words of a description each slot attends to, as a picture"),
    "search": ("hub_scripts.search", "search pictures or videos with text in any language of the model"),
    "evaluate": ("hub_scripts.evaluate", "recalls of a saved model on a data set"),
}

# OSError: files, connections, and what the clients of the Hub raise. StrictDataclassError: a malformed config.json.
USER_ERRORS = (ValueError, OSError, StrictDataclassError)


def main(argv: Sequence[str] | None = None) -> None:
    """Hand the rest of the command line to the script that the first word names."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    listing = "\n".join(f"  {name:<18} {help_line}" for name, (_, help_line) in sorted(COMMANDS.items()))
    parser = argparse.ArgumentParser(
        prog="leccr",
        description="Cross-lingual image-text retrieval, from data to search.",
        epilog=f"commands:\n{listing}\n\n`leccr COMMAND --help` shows the options of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=sorted(COMMANDS), metavar="COMMAND", help="one of the commands below")
    command = parser.parse_args(arguments[:1]).command
    try:
        import_module(COMMANDS[command][0]).main(arguments[1:])
    except KeyboardInterrupt:
        raise SystemExit(f"leccr {command}: stopped. What is finished is kept; the same command continues.") from None
    except USER_ERRORS as error:
        # What is wrong is in the message; `python -m hub_scripts.NAME` shows where it was found.
        raise SystemExit(f"leccr {command}: {error}") from error


def origin(error: BaseException) -> str:
    """The innermost line of this project that the error came through, for who looks for a fault of the code."""
    root = Path(__file__).resolve().parents[1]
    places = [(Path(frame.filename).resolve(), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    # An environment may lie in the checkout.
    own = [(place, line) for place, line in places if place.is_relative_to(root) and "site-packages" not in place.parts]
    place, line = own[-1]
    return f"{place.relative_to(root).as_posix()}:{line}"


if __name__ == "__main__":
    main()
