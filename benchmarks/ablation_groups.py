"""The groups of benchmarks/ablations.yaml: what is varied, and which variants share a training."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from modeling_leccr.training.reading import merged, read_yaml

# The training without changes, which the groups share.
BASE = "base"


@dataclass(frozen=True)
class Variant:
    """A row of a table.

    Args:
        name: in the table.
        changes: of the recipe; in a group that is not trained, options of `retrieval_ranks`.
        line: of the picture, if the group is drawn over an axis.
        place: on that axis.
    """

    name: str
    changes: dict[str, Any]
    line: str = ""
    place: float = 0.0


@dataclass(frozen=True)
class Group:
    """A table and a picture.

    Args:
        name: short, for files and marks.
        title: of the picture.
        text: what a reader has to know of the rows.
        reference: name of the variant that the others are compared with.
        variants: the rows.
        axis: what the places of the variants are; empty where they have none.
        logarithmic: whether that axis is.
        trained: whether each variant is a training of its own; else the base's models are evaluated in other ways.
        measures: names of ablation_measures.MEASURES, further columns.
    """

    name: str
    title: str
    text: str
    reference: str
    variants: tuple[Variant, ...]
    axis: str = ""
    logarithmic: bool = False
    trained: bool = True
    measures: tuple[str, ...] = ()


def read_groups(path: Path) -> tuple[dict[str, Any], dict[str, Group]]:
    """The base recipe and the groups of a file.

    Raises:
        ValueError: the file lacks a part, has an unknown one, or a reference that is no variant.
    """
    found = read_yaml(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(found, dict) or set(found) != {"base", "groups"}:
        raise ValueError(f"{path} must have the two parts base and groups, got {list(found or ())}.")
    return found["base"], {name: _group(name, content) for name, content in found["groups"].items()}


def _group(name: str, content: Mapping[str, Any]) -> Group:
    known = {entry.name for entry in fields(Group)} - {"name"} | {"curves"}
    unknown = sorted(set(content) - known)
    if unknown or ("curves" in content) == ("variants" in content) or ("curves" in content) != ("axis" in content):
        raise ValueError(
            f"the group {name!r} must have either variants, or curves and an axis, beside some of {sorted(known)}, "
            f"got {sorted(content)}."
        )
    settings = {key: value for key, value in content.items() if key not in ("variants", "curves")}
    variants = _points(content["curves"]) if "curves" in content else _bars(content["variants"])
    names = [variant.name for variant in variants]
    settings |= {"reference": str(content.get("reference")), "measures": tuple(content.get("measures", ()))}
    if settings["reference"] not in names or len(set(names)) < len(names):
        raise ValueError(
            f"the reference of the group {name!r} must be one of its variants, which differ in name, got "
            f"{settings['reference']!r} and {names}."
        )
    return Group(name=name, variants=tuple(variants), **settings)


def _bars(variants: Mapping[Any, dict[str, Any]]) -> list[Variant]:
    return [Variant(str(name), changes) for name, changes in variants.items()]


def _points(curves: Mapping[Any, Mapping[float, dict[str, Any]]]) -> list[Variant]:
    return [
        Variant(f"{line} at {place:g}" if len(curves) > 1 else f"{place:g}", changes, str(line), float(place))
        for line, points in curves.items()
        for place, changes in points.items()
    ]


def trainings(base: Mapping[str, Any], groups: Sequence[Group]) -> dict[tuple[str, str], str]:
    """Which training each variant needs; those with equal settings share one.

    Args:
        base: settings of the base recipe.
        groups: all of the file, so that the names stay whichever of them are asked for.

    Returns:
        (group, variant) -> name of its training.
    """
    names = {_key(base, {}): BASE}
    return {
        (group.name, variant.name): names.setdefault(
            _key(base, changes_of(group, variant)), f"{group.name} {variant.name}"
        )
        for group in groups
        for variant in group.variants
    }


def changes_of(group: Group, variant: Variant) -> dict[str, Any]:
    """The changes of the recipe with which a variant is trained."""
    return variant.changes if group.trained else {}


def _key(base: Mapping[str, Any], changes: dict[str, Any]) -> str:
    return json.dumps(merged(dict(base), changes), sort_keys=True)
