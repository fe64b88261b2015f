"""What is known about a saved model besides its weights: `metrics.json` in its folder, and the source of its card."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from processing.files import write_json_atomic
from processing.traces import without_traces

RECORD_FILE = "metrics.json"


def without_descriptions(split: str) -> str:
    """Name beside that of a split for what a model that reads descriptions scores on it when it gets none."""
    return f"{split} without descriptions"


@dataclass(frozen=True)
class ModelRecord:
    """What was trained and what it scored; everything may be missing.

    Args:
        languages: codes of the languages that captions may have beside English.
        metrics: split -> metrics, in percent; SumR 0 to 600. See `without_descriptions` for a second name of a split.
        protocol: split -> what a reader must know to compare them, see `retrieval.evaluation.evaluation_protocol`.
        checkpoint_choice: how the checkpoint was chosen.
        settings: the recipe.
        data: what it was trained and evaluated on, see `reporting.fingerprints.data_fingerprints`.
        environment: versions and machine, see `reporting.run_record.environment`.
        seconds: of training with its evaluations, all starts of a run together.
        launch: what the recipe does not say of a batch: `num_processes`, `pairs_per_process`,
            `gradient_accumulation_steps`, `mixed_precision`.
        origin: where the weights are from if they were not trained here.
    """

    languages: tuple[str, ...] = ()
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    protocol: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    checkpoint_choice: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    launch: Mapping[str, Any] = field(default_factory=dict)
    origin: str | None = None

    def public(self) -> "ModelRecord":
        """A copy without paths, private addresses and tokens, fit to be published."""
        return ModelRecord(**{**without_traces(asdict(self)), "languages": self.languages})

    def write(self, folder: str | Path) -> Path:
        """Write `metrics.json` into a folder.

        Raises:
            ValueError: a metric is NaN or infinite.
        """
        for split, metrics in self.metrics.items():
            if broken := [name for name, value in metrics.items() if not math.isfinite(value)]:
                raise ValueError(f"metrics must be finite, got NaN or an infinity for {broken[:3]} of {split!r}.")
        return write_json_atomic(Path(folder) / RECORD_FILE, asdict(self))

    @classmethod
    def read(cls, folder: str | Path) -> "ModelRecord":
        """The record of a model folder; an empty one where there is no file.

        Raises:
            ValueError: the file is damaged, or holds a field that no record has or one of another type.
        """
        path = Path(folder) / RECORD_FILE
        if not path.is_file():
            return cls()
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is no record of a model ({error}); delete it or save the model again.") from error
        if not isinstance(content, dict):
            raise ValueError(f"{path} is no record of a model but a {type(content).__name__}; save the model again.")
        known = {entry.name for entry in fields(cls)}
        if unknown := sorted(set(content) - known):
            raise ValueError(f"{path} has unknown fields {unknown}; a record of a model has {sorted(known)}.")
        if wrong := [name for name, value in content.items() if not _has_type_of(value, getattr(cls(), name))]:
            raise ValueError(f"{path} has values of a wrong type in {wrong[:3]}; save the model again.")
        return cls(**{**content, "languages": tuple(content.get("languages", ()))})


def _has_type_of(value: Any, default: Any) -> bool:
    """Whether JSON can be the value of a field: of codes, of a mapping, or of a text or a number."""
    if isinstance(default, tuple):
        return isinstance(value, list) and all(isinstance(code, str) for code in value)
    return isinstance(value, dict) if isinstance(default, dict) else isinstance(value, str | int | float | None)
