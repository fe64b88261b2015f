"""From what a reader found to a data set folder that says what is missing."""

import datetime
from pathlib import Path
from typing import Any

from processing.files import write_json_atomic
from processing.manifest import Step
from processing.readers.base import Corpus
from processing.sources import write_splits

MISSING_FILE = "missing.json"


def save_corpus(corpus: Corpus, folder: str | Path, *, overwrite: bool = False) -> dict[str, Any]:
    """Write the splits, the manifest and, where something is missing, `missing.json` with all ids.

    Args:
        corpus: from a reader.
        folder: where; must be absent or empty unless `overwrite`.
        overwrite: replace a data set that is there.

    Returns:
        The counts, for JSON: `rows` by split and `missing` by reason and split.

    Raises:
        ValueError: a split is empty, or the folder holds something that is not to be replaced.
    """
    counts = {"rows": {name: len(split) for name, split in corpus.splits.items()}, "missing": corpus.missing.counts()}
    step = Step("read", corpus.settings, counts, datetime.date.today().isoformat())
    write_splits(corpus.splits, folder, steps=[step], overwrite=overwrite)
    if corpus.missing:
        write_json_atomic(Path(folder) / MISSING_FILE, corpus.missing.to_dict())
    return counts
