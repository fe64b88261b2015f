"""Which videos of a data set have features."""

from collections.abc import Mapping
from pathlib import Path

import datasets

from processing.missing import MissingReport
from processing.readers.feature_store import NO_FEATURES, NO_FRAME, open_features
from processing.records import VIDEO_ID_COLUMN


def report_features(splits: Mapping[str, datasets.Dataset], folder: str | Path, missing: MissingReport) -> None:
    """Note the videos that have no features, or not for all their frames.

    Args:
        splits: with `video_id`.
        folder: a store, see processing/readers/feature_store.py.
        missing: the report to add to.

    Raises:
        ValueError: the store is malformed, or has features of not one video.
    """
    store = open_features(folder)
    partial = {item for found in store.missing.ids.get(NO_FRAME, {}).values() for item in found}
    any_found = False
    for split, rows in splits.items():
        for item in rows[VIDEO_ID_COLUMN]:
            any_found = any_found or item in store
            if item not in store:
                missing.add(NO_FEATURES, split, item)
            elif item in partial:
                missing.add(NO_FRAME, split, item)
    if not any_found:
        raise ValueError(f"{folder} has features of not one video; its ids begin with {store.ids[:3]}.")
