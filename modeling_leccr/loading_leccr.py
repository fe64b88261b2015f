"""What a checkpoint must be before its weights are used."""

import os
from collections.abc import Collection, Mapping

_MISFITS = ("missing_keys", "unexpected_keys", "mismatched_keys")


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
