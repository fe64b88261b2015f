"""Which slot wins by type of query, on scenes, where the facts of each caption are known."""

import math
import re
from collections.abc import Sequence

import torch
from torch import Tensor

from processing.scenes import ScenesConfig, plan_split
from processing.scenes.world import BACKGROUNDS, COLOURS, PLACES, SHAPES, SIZES, TEXTURES, CaptionFacts

NOT_TOLD = "not told"
TYPES = ("count", "position", "size", "texture", "background", "colour", "shape")
KINDS = ("colour", "shape", "texture", "size", "position", "count", "background", "other")
_AXES = {"left_of": "left / right", "right_of": "left / right", "above": "above / below", "below": "above / below"}
_KIND_OF_WORD = {
    **dict.fromkeys(COLOURS, "colour"),
    **dict.fromkeys(SHAPES, "shape"),
    **dict.fromkeys(TEXTURES, "texture"),
    **dict.fromkeys(SIZES, "size"),
    **dict.fromkeys((*PLACES, "side", "above", "below"), "position"),
    **dict.fromkeys(("single", "two", "three"), "count"),
    **dict.fromkeys(BACKGROUNDS, "background"),
}


def query_types(facts: CaptionFacts) -> dict[str, str]:
    """What a caption says, one word for each of TYPES; colour to size are those of the object that it names first."""
    first = facts.mentions[0]
    axes = list(dict.fromkeys(_AXES[relation] for relation in facts.relations))
    return {
        "colour": first.colour,
        "shape": first.shape,
        "texture": first.texture or NOT_TOLD,
        "size": first.size or NOT_TOLD,
        "position": "both" if len(axes) > 1 else axes[0] if axes else "place",
        "count": str(len(facts.mentions)),
        "background": facts.background or NOT_TOLD,
    }


def types_of_queries(config: ScenesConfig, split: str) -> dict[str, list[str]]:
    """Type -> its word for each human caption of a split, item by item, as `read_captions` has them in any language."""
    found = [query_types(caption.facts) for item in plan_split(config, split) for caption in item.human_captions]
    return {name: [types[name] for types in found] for name in TYPES}


def kind_of_word(word: str) -> str:
    """Which fact a word of a description tells, one of KINDS."""
    return _KIND_OF_WORD.get(re.sub(r"\W", "", word).lower(), "other")


def attention_by_kind(readings: Sequence[tuple[Sequence[str], Tensor]]) -> tuple[Tensor, Tensor]:
    """How the attention of each slot is shared out over the kinds of words.

    Args:
        readings: the words of each description with (num_slots, num_words) weights.

    Returns:
        (num_slots, num_kinds) mean weights, and (num_kinds,) the shares of the words, which equal attention to each
        word would give.
    """
    weights, words = [], []
    for texts, found in readings:
        kinds = torch.tensor([KINDS.index(kind_of_word(word)) for word in texts])
        one_hot = torch.nn.functional.one_hot(kinds, len(KINDS)).to(found.dtype)
        weights.append(found @ one_hot / found.sum(dim=-1, keepdim=True))
        words.append(one_hot.mean(dim=0))
    return torch.stack(weights).mean(dim=0), torch.stack(words).mean(dim=0)


def winner_counts(winners: Tensor, types: Sequence[str], num_slots: int) -> dict[str, list[int]]:
    """Word of a type -> how many of its queries each slot wins."""
    counts = {name: [0] * num_slots for name in sorted(set(types))}
    for winner, name in zip(winners.tolist(), types, strict=True):
        counts[name][winner] += 1
    return counts


def cramers_v(counts: Sequence[Sequence[int]]) -> float:
    """Cramér's V of a table of counts: how far rows and columns depend on each other.

    Returns:
        0 for independent ones, 1 where a row tells the column; 0 for a table with a single row or column in use.
    """
    table = torch.tensor(counts, dtype=torch.float64)
    table = table[table.sum(dim=1) > 0][:, table.sum(dim=0) > 0]
    if min(table.shape) < 2:
        return 0.0
    expected = table.sum(dim=1, keepdim=True) * table.sum(dim=0, keepdim=True) / table.sum()
    chi_squared = float(((table - expected) ** 2 / expected).sum())
    return math.sqrt(chi_squared / (float(table.sum()) * (min(table.shape) - 1)))


def shuffled_cramers_v(
    winners: Tensor, types: Sequence[str], num_slots: int, *, captions_per_item: int, shuffles: int = 200, seed: int = 0
) -> list[float]:
    """Cramér's V when the winners are dealt out at random: what a table of this size shows without any meaning.

    Items exchange the winners of all their captions, because captions of one item share its slots.

    Args:
        winners: (num_queries,) slots, the captions of an item side by side.
        types: word of each query.
        num_slots: columns of the table.
        captions_per_item: as the name says.
        shuffles: how often they are dealt out.
        seed: of the dealing.

    Returns:
        One value a shuffle, in rising order.
    """
    generator = torch.Generator().manual_seed(seed)
    by_item = winners.view(-1, captions_per_item)
    values = []
    for _ in range(shuffles):
        dealt = by_item[torch.randperm(len(by_item), generator=generator)].flatten()
        values.append(cramers_v(list(winner_counts(dealt, types, num_slots).values())))
    return sorted(values)


def agreement(winners: Sequence[Tensor]) -> tuple[float, float]:
    """Share of the queries that the same slot wins in two languages, mean over pairs of languages; and by chance.

    Args:
        winners: of each language, (num_queries,); caption by caption they say the same.

    Raises:
        ValueError: fewer than two languages.
    """
    if len(winners) < 2:
        raise ValueError(f"winners must be of two languages or more, got {len(winners)}.")
    pairs = [(a, b) for position, a in enumerate(winners) for b in winners[position + 1 :]]
    found = [float((a == b).double().mean()) for a, b in pairs]
    chance = []
    for a, b in pairs:
        length = int(max(a.max(), b.max())) + 1
        shares = [torch.bincount(side, minlength=length).double() / len(side) for side in (a, b)]
        chance.append(float(shares[0] @ shares[1]))
    return sum(found) / len(found), sum(chance) / len(chance)
