"""What a checkpoint must be before its weights are used."""

import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PureWindowsPath
from pickle import UnpicklingError
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

_MISFITS = ("missing_keys", "unexpected_keys", "mismatched_keys")
_SAFE_ONLY = (
    "LECCR reads weights as safetensors alone, because files of other formats (pytorch_model.bin) can run code as "
    "they are read"
)


class CheckedLoading(PreTrainedModel):
    """A model that is loaded whole, or not at all."""

    @classmethod
    def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """As `PreTrainedModel.from_pretrained`, but of safetensors alone, and what does not fit is an error.

        Raises:
            ValueError: the checkpoint lacks weights, holds unknown ones, or has some of another shape; such a model
                would embed with random numbers. Or a weight file is damaged or is a pickle, which could run code.
            FileNotFoundError: there are no safetensors, or one of them is missing.
        """
        name = (args[0] if args else kwargs.get("pretrained_model_name_or_path")) or ""
        if kwargs.get("use_safetensors") is False:
            raise ValueError(f"use_safetensors must not be False, for {_SAFE_ONLY}; leave it out.")
        kwargs["use_safetensors"] = True  # None, the default of transformers, takes other formats too
        kwargs["subfolder"] = kwargs.get("subfolder") or ""
        kwargs["ignore_mismatched_sizes"] = True  # `check_loading` names them, transformers' error does not
        with readable_weights(name, kwargs["subfolder"]):
            loaded: Any = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        model, info = loaded
        check_loading(name, info)
        return (model, info) if output_loading_info else model

    @staticmethod
    def _finalize_model_loading(*args: Any) -> Any:
        # Of a model with an adapter, `from_pretrained` is told of the weights of the adapter alone.
        info: Any = PreTrainedModel._finalize_model_loading(*args)
        check_loading(args[0].name_or_path, info.to_dict())
        return info

    def load_adapter(self, peft_model_id: str | None = None, *args: Any, **kwargs: Any) -> Any:
        """As `PreTrainedModel.load_adapter`, but weights that the adapter lacks are an error, not random numbers.

        Raises:
            ValueError: the file of the adapter lacks weights, holds unknown ones, or has some of another shape.
        """
        kwargs["load_config"] = self._with_names_of_dora(kwargs.get("load_config"))
        info = super().load_adapter(peft_model_id, *args, **kwargs)
        check_loading(peft_model_id or "adapter", info.to_dict())
        return info

    def _with_names_of_dora(self, load_config: Any) -> Any:
        # Here, because models without adapter need none of these names, which may be others in other releases.
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightRenaming
        from transformers.modeling_utils import LoadStateDictConfig

        # peft saves `lora_magnitude_vector.weight` without `.weight`, and transformers 5.23 does not add it again.
        load_config = load_config or LoadStateDictConfig()
        mapping = load_config.weight_mapping or get_model_conversion_mapping(self)
        renaming = WeightRenaming(r"(lora_magnitude_vector\.[^\.]+)$", r"\1.weight")
        return replace(load_config, weight_mapping=[*mapping, renaming])


def check_loading(name: str | os.PathLike, info: Mapping[str, Collection]) -> None:
    """Refuse a checkpoint that does not fit its configuration.

    Args:
        name: folder or Hub name, for the message.
        info: what `from_pretrained(output_loading_info=True)` tells.

    Raises:
        ValueError: the checkpoint lacks weights, holds unknown ones, or has some of another shape.
    """
    misfits = {kind: sorted(map(str, info[kind])) for kind in _MISFITS if info[kind]}
    if misfits:
        summary = "; ".join(f"{len(keys)} {kind} (first: {keys[:3]})" for kind, keys in misfits.items())
        raise ValueError(
            f"the checkpoint {str(name)!r} does not fit its configuration: {summary}. "
            f"Load it with the configuration that it was saved with, or convert it first."
        )


@contextmanager
def readable_weights(name: str | os.PathLike, subfolder: str = "") -> Iterator[None]:
    """Say what is wrong with weight files that cannot be read.

    Args:
        name: folder or Hub name that is loaded inside of the block.
        subfolder: where the files are in it.

    Raises:
        ValueError: a file is truncated, is no safetensors file, or lies outside of the folder.
        FileNotFoundError: a file is missing.
    """
    folder = Path(name, subfolder)
    if folder.is_dir():
        for index in sorted(folder.glob("*.safetensors.index.json")):
            _check_index(index)
    try:
        yield
    except SafetensorError as error:
        file = _unreadable_file(folder)
        raise ValueError(
            f"{file or 'a weight file'} of {str(name)!r} is truncated or no safetensors ({error}); "
            f"{'copy it again' if file else 'its author has to push it again'}."
        ) from error
    except UnpicklingError:
        # Without the cause, whose text advises to read the file without protection.
        raise ValueError(f"the weights of {str(name)!r} are a pickle; {_SAFE_ONLY}.") from None
    except OSError as error:
        if ".safetensors" not in str(error):
            raise
        reason = str(error).partition(" Please do not")[0].rstrip(".")
        raise FileNotFoundError(
            f"{reason}; if a copy or download was cut off, do it again to its end. {_SAFE_ONLY}."
        ) from error


def _check_index(index: Path) -> None:
    """The index of a sharded checkpoint names files; transformers would follow a path to anywhere."""
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{index} is damaged: no `weight_map` from weights to files ({error}); copy it again."
        ) from error
    foreign = [name for name in names if PureWindowsPath(name).name != name or not name.endswith(".safetensors")]
    if foreign:
        raise ValueError(f"{index} must name .safetensors files beside it, got {foreign[:3]}; {_SAFE_ONLY}.")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of the {len(names)} weight files that {index} names are missing (first: {missing[:3]}); "
            f"the folder was not copied or written to its end, do it again."
        )


def _unreadable_file(folder: Path) -> str | None:
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt"):
                pass
        except SafetensorError:
            return path.name
    return None
