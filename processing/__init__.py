"""From files on disk to a batch of tensors: readers, translation, description, the schema, processor and collator.

`attach_images` and `attach_videos` join rows with files; everything else is imported from its module.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    # Imported when asked for: whoever loads a model needs neither `datasets` nor the readers.
    if name in ("attach_images", "attach_videos"):
        from processing import media

        return getattr(media, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
