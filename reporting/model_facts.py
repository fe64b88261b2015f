"""What is known about a saved model, read from the files of its folder; nothing is loaded or run."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from safetensors import safe_open

from processing.hub_card import license_of
from processing.hub_upload import REPO_ID
from processing.sources import EMBEDDED_DATASETS
from processing.traces import is_local_path
from reporting.markdown import one_line
from reporting.methods import LECCR, METHODS, Method
from reporting.model_record import ModelRecord, without_descriptions
from reporting.report import SUM_OF_RECALLS

GOLDEN_INPUTS = "golden/inputs.json"
REPORTED_SPLITS = ("test", "validation")

# What an item is embedded from in the systems whose configuration leaves no choice.
_ITEM_SOURCES = {"cl2cm": "image", "cl2cm_text": "source_captions"}
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class ModelFacts:
    """Everything that a card is written from.

    Args:
        repo_id: name on the Hub, or the folder's own name where it is not pushed yet.
        config: `config.json`.
        processor: `processor_config.json`.
        record: `metrics.json` without what tells of a machine or its user; empty where there is none.
        num_parameters: of all weights.
        dtype: of the weights, such as "float32".
        license_id: identifier of the Hub; None where it was not stated.
        files: paths of all files in the folder, by which the card knows what else it can be used with.
        golden: `golden/inputs.json`: `texts`, and what else the model reads: `images`, `videos`, `features`,
            `descriptions`.
    """

    repo_id: str
    config: Mapping[str, Any]
    processor: Mapping[str, Any]
    record: ModelRecord
    num_parameters: int
    dtype: str
    license_id: str | None = None
    files: frozenset[str] = frozenset()
    golden: Mapping[str, Any] = field(default_factory=dict)

    @property
    def method(self) -> Method:
        """The published method that the model follows."""
        return METHODS.get(self.config.get("model_type", ""), LECCR)

    @property
    def item_source(self) -> str:
        """What items are embedded from, as of the configuration."""
        fixed = _ITEM_SOURCES.get(self.config.get("model_type", ""), "image_and_description")
        return str(self.config.get("item_source", fixed))

    @property
    def is_text_encoder(self) -> bool:
        """Whether it embeds texts alone: its items are English captions."""
        return self.item_source == "source_captions"

    @property
    def reads_image(self) -> bool:
        """Whether items are embedded from their picture, frames or features of frames."""
        return self.item_source in ("image", "image_and_description")

    @property
    def reads_description(self) -> bool:
        """Whether items are embedded from their description."""
        return self.item_source in ("description", "image_and_description")

    @property
    def vision_input(self) -> str:
        """What it sees of an item: "image", "frames" of a clip or "features" of frames."""
        return str(self.config.get("vision_input", "image"))

    @property
    def medium(self) -> str:
        """What an item is, in one word."""
        return "picture" if self.vision_input == "image" else "clip"

    @property
    def has_slots(self) -> bool:
        """Whether items have semantic slots beside their embedding."""
        return self.reads_image and self.reads_description

    @property
    def needs_description(self) -> bool:
        """Whether an item without a description is refused."""
        return self.reads_description and not (self.reads_image and self.config.get("description_dropout"))

    @property
    def split(self) -> str | None:
        """The split whose numbers are reported; None without numbers."""
        return next((name for name in REPORTED_SPLITS if self.record.metrics.get(name)), None)

    @property
    def metrics(self) -> Mapping[str, float]:
        """The numbers of that split."""
        return self.record.metrics[self.split] if self.split else {}

    @property
    def metrics_without_descriptions(self) -> Mapping[str, float]:
        """The same of a model that can do without descriptions, when it gets none; empty where that is not known."""
        return self.record.metrics.get(without_descriptions(self.split), {}) if self.split else {}

    @property
    def protocol(self) -> Mapping[str, Any]:
        """How they were measured."""
        return self.record.protocol.get(self.split, {}) if self.split else {}

    @property
    def evaluated_languages(self) -> list[str]:
        """Languages with numbers, in the order of the record; `de_mt` are machine translations."""
        suffix = f"/{SUM_OF_RECALLS}"
        names = [key.removesuffix(suffix) for key in self.metrics if key.endswith(suffix)]
        return [name for name in names if name != "mean"]

    @property
    def towers(self) -> dict[str, str]:
        """Kind of tower -> name on the Hub, of those that training started from."""
        found: dict[str, str] = {}
        for kind in ("vision", "text"):
            origin = (self.config.get(f"{kind}_config") or {}).get("_name_or_path")
            for name in (origin, self.record.settings.get(f"{kind}_tower")):
                if is_hub_name(name):
                    found.setdefault(kind, str(name))
        return found

    @property
    def base_models(self) -> list[str]:
        """Those and the model that training went on from, if it is on the Hub; each once."""
        names = (self.record.settings.get("base_model"), *self.towers.values())
        return list(dict.fromkeys(str(name) for name in names if is_hub_name(name)))

    @property
    def dataset(self) -> str | None:
        """Name of the data set, on the Hub or not; None where it was not recorded."""
        name = self.record.settings.get("dataset")
        return one_line(name) if isinstance(name, str) else None

    @property
    def is_drawn(self) -> bool:
        """Whether it was trained on an embedded data set, of drawn pictures or clips and captions written by rules."""
        return self.record.settings.get("dataset") in EMBEDDED_DATASETS

    @property
    def hub_dataset(self) -> str | None:
        """Name of the data set if it is on the Hub."""
        name = self.record.settings.get("dataset")
        return name if is_hub_name(name) else None


def is_hub_name(name: Any) -> bool:
    """Whether it is `owner/name`; a name without owner may as well be that of a folder."""
    is_name = isinstance(name, str) and REPO_ID.fullmatch(name) and not is_local_path(name)
    return bool(is_name) and not Path(name).exists()


def read_facts(folder: str | Path, repo_id: str, *, license_id: str | None = None) -> ModelFacts:
    """Read a model folder.

    Args:
        folder: as `save_for_hub` writes it; a README there gives the licence if none is given here.
        repo_id: name on the Hub, or the folder's own name.
        license_id: identifier of the Hub such as "apache-2.0".

    Raises:
        FileNotFoundError: no configuration or no weights.
        ValueError: a file is damaged.
    """
    folder = Path(folder)
    files = frozenset(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    weights = sorted(name for name in files if re.fullmatch(r"model[\w-]*\.safetensors", name))
    if "config.json" not in files or not weights:
        raise FileNotFoundError(f"{folder} holds no config.json or no model*.safetensors; give a saved model.")
    num_parameters, dtype = _count_parameters([folder / name for name in weights])
    return ModelFacts(
        repo_id=repo_id,
        config=_read_json(folder / "config.json"),
        processor=_read_json(folder / "processor_config.json") if "processor_config.json" in files else {},
        record=ModelRecord.read(folder).public(),
        num_parameters=num_parameters,
        dtype=dtype,
        license_id=license_id or _license_of(folder / "README.md"),
        files=files,
        golden=_read_json(folder / GOLDEN_INPUTS) if GOLDEN_INPUTS in files else {},
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); save the model again.") from error


def _license_of(readme: Path) -> str | None:
    """The licence that a card states; None without one."""
    if not readme.is_file():
        return None
    try:
        return license_of(readme.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"the metadata of {readme} cannot be read ({error}); correct or delete it.") from error


def _count_parameters(files: Sequence[Path]) -> tuple[int, str]:
    """Number and types of the weights, from the headers of their files."""
    total, found = 0, set()
    for path in files:
        with safe_open(path, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118  # not a dictionary
                part = weights.get_slice(name)
                if part.get_dtype() in _DTYPES:
                    total += math.prod(part.get_shape())
                    found.add(_DTYPES[part.get_dtype()])
    return total, ", ".join(sorted(found))
