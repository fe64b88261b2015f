"""Which parameter learns how fast, and which decays."""

from collections.abc import Mapping
from typing import Any

from torch import nn

GROUPS = ("vision", "text", "heads")


def check_multipliers(multipliers: Mapping[str, Any]) -> None:
    """Refuse factors of the learning rate that are none.

    Args:
        multipliers: as in `parameter_groups`.

    Raises:
        ValueError: a group is unknown or a factor is not positive.
    """
    wrong = {
        name: factor
        for name, factor in multipliers.items()
        if name not in GROUPS or isinstance(factor, bool) or not isinstance(factor, int | float) or not factor > 0
    }
    if wrong:
        raise ValueError(f"learning_rate_multipliers takes positive factors for {GROUPS}, got {wrong}.")


def parameter_groups(
    model: nn.Module, *, learning_rate: float, weight_decay: float, multipliers: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Optimizer groups: towers and heads at their own learning rates, decay on weight matrices alone.

    Paper: arXiv:2409.19961. Differs: the released code never applies its multiplier, and decays norms, position
    tables, queries and the temperature.

    Args:
        model: a LECCR model.
        learning_rate: of a group whose multiplier is 1.
        weight_decay: of matrices. Norms, biases, embedding tables, slot queries and the scale do not decay: for a
            table, decay would pull the rows of all words that a batch lacks towards zero.
        multipliers: group ("vision", "text", "heads": everything between the towers) -> factor; 1 where absent.

    Returns:
        Groups for a torch optimizer; none is empty.

    Raises:
        ValueError: a group is unknown or not trained, or a factor is not positive.
    """
    check_multipliers(multipliers)
    tables = {id(table.weight) for table in model.modules() if isinstance(table, nn.Embedding)}
    members: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            # Not `ndim`: the gain of ConvNeXt V2's response normalisation is a (1, 1, 1, width) vector.
            is_matrix = sum(size > 1 for size in parameter.shape) >= 2
            decays = name.endswith("weight") and is_matrix and id(parameter) not in tables
            members.setdefault((_group(name), decays), []).append(parameter)
    if idle := sorted(set(multipliers) - {group for group, _ in members}):
        raise ValueError(f"learning_rate_multipliers has factors for {idle}, of which the model trains nothing.")
    return [
        {
            "params": parameters,
            "lr": learning_rate * multipliers.get(group, 1.0),
            "weight_decay": weight_decay if decays else 0.0,
        }
        for (group, decays), parameters in members.items()
    ]


def _group(name: str) -> str:
    if "vision_model." in name:
        return "vision"
    return "text" if "text_model." in name else "heads"
