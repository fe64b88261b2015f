"""The manifest of a data set folder: which steps made it, with which settings, and what happened on the way.

`manifest.json` lies beside the `data` folder. Each command copies the steps of its input and adds its own, so a card
can say who wrote the descriptions and who translated the captions.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from processing.files import write_json_atomic

MANIFEST_FILE = "manifest.json"
FORMAT = 1


@dataclass(frozen=True)
class Step:
    """One step of the making of a data set.

    Attributes:
        kind: "read", "describe" or "translate".
        settings: what decides the result: reader or model, revision, prompt, decoding, seed.
        counts: what came of it: rows, flags, faults, missing items.
        created: ISO date of its start.
        job: how a resumable job is cut: columns, rows per shard, fingerprint of its input; see processing/jobs.py.
    """

    kind: str
    settings: Mapping[str, Any]
    counts: Mapping[str, Any] = field(default_factory=dict)
    created: str = ""
    job: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """The steps that made a data set, and its splits.

    Attributes:
        steps: in order.
        splits: name -> number of rows.
        complete: False while a job still writes shards.
    """

    steps: tuple[Step, ...] = ()
    splits: Mapping[str, int] = field(default_factory=dict)
    complete: bool = True

    def write(self, folder: str | Path) -> Path:
        """Write `manifest.json` into the folder; a reader sees the old one or the new one, never a part."""
        return write_json_atomic(Path(folder) / MANIFEST_FILE, {"format": FORMAT, **asdict(self)})


def read_manifest(folder: str | Path) -> Manifest:
    """The manifest of a folder; an empty one where there is none, as for a data set from elsewhere.

    Raises:
        ValueError: the file is damaged or of another format.
    """
    path = Path(folder) / MANIFEST_FILE
    if not path.is_file():
        return Manifest()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']!r} is not {FORMAT}")
        steps = tuple(Step(**step) for step in content["steps"])
        return Manifest(steps, {name: int(rows) for name, rows in content["splits"].items()}, content["complete"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a manifest of this package ({error}); make the data set again.") from error
