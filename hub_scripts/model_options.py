"""What the commands that run a saved model share: their options, and its loading."""

import argparse
from pathlib import Path
from typing import Any

from transformers import AutoModel, AutoProcessor
from transformers.utils import find_adapter_config_file

import modeling_leccr  # noqa: F401 - registers the Auto classes
from processing.local_models import chosen_device, resolve_revision


def add_model_arguments(parser: argparse.ArgumentParser, what: str = "folder or Hub name of a saved model") -> None:
    """Add the options of the model.

    Args:
        parser: that gets them.
        what: the models that the command takes, for the help.
    """
    parser.add_argument("--model", required=True, help=what)
    parser.add_argument("--revision", help="commit, branch or tag of a model on the Hub (default: its main branch)")
    parser.add_argument("--device", help="where the model runs: cpu, cuda, cuda:1 (default: a GPU if there is one)")


def add_split_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which items of a data set are meant, see `open_items`."""
    parser.add_argument("--split", default="test", help="split of a data set (default: %(default)s)")
    parser.add_argument("--config", help="configuration of a data set that has several")
    for name, what in (("images", "pictures"), ("videos", "clips"), ("features", "features of the clips")):
        parser.add_argument(f"--{name}", metavar="FOLDER", help=f"folder of the {what} of a data set of texts")


def add_description_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option for descriptions that a folder of files does not hold, see `read_description_file`."""
    parser.add_argument(
        "--description-file",
        metavar="FILE",
        help="descriptions of a folder: JSON lines with image_id (or video_id) and description, or what `leccr "
        "describe` made of it",
    )


def source_of(options: argparse.Namespace, model: Any, location: str) -> dict[str, Any]:
    """Arguments of `open_items`: which items of a place the options of `add_split_arguments` mean for a model."""
    return {
        "location": location,
        "split": options.split,
        "config_name": options.config,
        # A network of texts has none, and sees nothing.
        "vision_input": getattr(model.config, "vision_input", "image"),
        "images": options.images,
        "videos": options.videos,
        "features": options.features,
    }


def load_model(name: str, revision: str | None = None, device: str | None = None) -> tuple[Any, Any, str | None]:
    """A saved model and its processor, both of one commit.

    Args:
        name: folder, or name on the Hub.
        revision: commit, branch or tag on the Hub.
        device: see `chosen_device`.

    Returns:
        Model, processor, and the commit of a model on the Hub; None for a folder.

    Raises:
        ValueError: it is an adapter, a revision is given for a folder, or this machine has no such device.
        FileNotFoundError: there is no such model.
    """
    place = chosen_device(device)
    if _is_adapter(name, revision):
        raise ValueError(
            f"{name} holds an adapter, and this command takes whole models; load the adapter, merge it into its model "
            f"with `merge_and_unload()`, save that with `modeling_leccr.export.save_for_hub`, and give its folder."
        )
    commit = None if Path(name).is_dir() and revision is None else resolve_revision(name, revision)
    model = AutoModel.from_pretrained(name, revision=commit).to(place)
    return model, AutoProcessor.from_pretrained(name, revision=commit), commit


def _is_adapter(name: str, revision: str | None) -> bool:
    try:
        return find_adapter_config_file(name, revision=revision) is not None
    except OSError:  # in several lines; `resolve_revision` says in one what is wrong with the name or the revision
        return False
