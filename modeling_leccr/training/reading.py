"""Settings from YAML files and from the words of a command line."""

import re
from collections.abc import Sequence
from typing import Any

import yaml


class _RecipeLoader(yaml.SafeLoader):
    """YAML 1.1 reads 1e-5 as a string and `no`, as in `eval_strategy: no`, as false; people mean neither."""


_RecipeLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_RecipeLoader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(true|True|false|False)$"), list("tTfF"))
_RecipeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """`--a.b 1 --c=x` as {"a": {"b": 1}, "c": "x"}; values are YAML.

    Raises:
        ValueError: a word that is neither a name nor the value of one.
    """
    words = [part for word in arguments for part in (word.split("=", 1) if word.startswith("--") else [word])]
    overrides: dict[str, Any] = {}
    for position in range(0, len(words), 2):
        name = words[position]
        if not name.startswith("--"):
            raise ValueError(f"overrides come as `--name value`, got {' '.join(words[position : position + 2])!r}.")
        if position + 1 == len(words) or words[position + 1].startswith("--"):
            raise ValueError(
                f"overrides come as `--name value`, got {name!r} without a value; a switch is turned on with "
                f"`{name} true`."
            )
        value: Any = read_yaml(words[position + 1], f"the value of {name}")
        for key in reversed(name[2:].split(".")):
            value = {key: value}
        overrides = merged(overrides, value)
    return overrides


def read_yaml(text: str, place: str) -> Any:
    """The value of YAML as recipes have it, in which 1e-5 is a number and `no` is a text.

    Raises:
        ValueError: the text at this place is no YAML.
    """
    try:
        return yaml.load(text, _RecipeLoader)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{place} must be YAML, got an error: {reason}.") from error


def merged(settings: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Settings with changes applied; mappings are merged, everything else is replaced."""
    result = dict(settings)
    for name, value in changes.items():
        both_mappings = isinstance(value, dict) and isinstance(result.get(name), dict)
        result[name] = merged(result[name], value) if both_mappings else value
    return result
