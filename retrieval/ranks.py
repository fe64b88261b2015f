"""Ranks of the first correct candidate, by counting: no sorting, and never the full score matrix.

A rank is 1 + the number of wrong candidates whose score is at least that of the correct one. So ties are broken
against the model (a collapsed model, whose scores are all equal, gets the last rank and not the first), and the
result does not depend on the order of the items.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

DEFAULT_CHUNK_SIZE = 1024
# A matrix product adds up in another order at another place of a block, so equal vectors get cosines that differ by
# up to about 3e-7. Closer scores than this, for vectors of norm 1, are ties: otherwise the last bit would decide
# between duplicates, and a collapsed model would win by chance.
ROUNDING_MARGIN = 1e-6

# Scores of a run of items against a run of texts.
ScoreBlock = Callable[[slice, slice], Tensor]


@dataclass(frozen=True)
class RetrievalRanks:
    """Ranks in both directions; 1 is the best.

    Attributes:
        i2t: (num_items,) int64, rank of the best caption of each item among all texts but its other captions.
        t2i: (num_texts,) int64, rank of each text's item among all items.
    """

    i2t: Tensor
    t2i: Tensor


def rank_texts_and_items(
    composites: Tensor, text_embeds: Tensor, text_to_item: Tensor, *, chunk_size: int = DEFAULT_CHUNK_SIZE
) -> RetrievalRanks:
    """Ranks of a whole split from its vectors, with memory bounded by the chunk.

    The score of an item and a text is the largest dot product of the text with the item's composite vectors. Each
    block of scores is used for both directions and then dropped: about 3 * chunk_size² float32 values are alive.
    Scores closer than `ROUNDING_MARGIN` (relative to the norms) are ties.

    Args:
        composites: (num_items, num_vectors, embed_dim), see `matching_leccr.composite_vectors`.
        text_embeds: (num_texts, embed_dim).
        text_to_item: (num_texts,) int64, position of each text's item. Any number of texts an item, in any order.
        chunk_size: items, and texts, in one block of scores.

    Raises:
        ValueError: a shape does not fit, the split is empty or has one item only, an item has no text, a text points
            to no item, or a vector is not finite.
    """
    if composites.ndim != 3 or text_embeds.ndim != 2 or composites.shape[-1] != text_embeds.shape[-1]:
        raise ValueError(
            "composites must be (num_items, num_vectors, embed_dim) and text_embeds (num_texts, embed_dim), got "
            f"{tuple(composites.shape)} and {tuple(text_embeds.shape)}."
        )
    _check_chunk_size(chunk_size)
    owners = _checked_owners(text_to_item, composites.shape[0], text_embeds.shape[0]).to(text_embeds.device)
    check_finite(composites, "composites")
    check_finite(text_embeds, "text_embeds")
    score_block = _score_block(composites, text_embeds)
    margin = _rounding_margin(composites, text_embeds)
    text_scores = correct_scores(composites, text_embeds, owners, chunk_size)
    return _count_ranks(score_block, owners, text_scores - margin, composites.shape[0], chunk_size)


def score_spread(composites: Tensor, text_embeds: Tensor, *, chunk_size: int = DEFAULT_CHUNK_SIZE) -> float:
    """Distance from the lowest to the highest score of all items with all texts, with memory bounded by the chunk.

    Args: as `rank_texts_and_items`.

    Returns:
        0 where the scores differ by no more than rounding.

    Raises:
        ValueError: `chunk_size` is below 1, there is no score, or a vector is not finite.
    """
    _check_chunk_size(chunk_size)
    if not len(composites) or not len(text_embeds):
        raise ValueError(f"scores need items and texts, got {len(composites)} and {len(text_embeds)}.")
    check_finite(composites, "composites")
    check_finite(text_embeds, "text_embeds")
    score_block = _score_block(composites, text_embeds)
    ranges = [torch.aminmax(score_block(*part)) for part in _blocks(len(composites), len(text_embeds), chunk_size)]
    spread = float(max(high for _, high in ranges) - min(low for low, _ in ranges))
    return spread if spread > _rounding_margin(composites, text_embeds) else 0.0


def _score_block(composites: Tensor, text_embeds: Tensor) -> ScoreBlock:
    """How to compute a block of the score matrix, as in `rank_texts_and_items`."""
    vectors = composites.float().transpose(0, 1).contiguous()  # (K, num_items, D)
    texts = text_embeds.float().T.contiguous()  # (D, num_texts)

    def score_block(item_slice: slice, text_slice: slice) -> Tensor:
        scores = vectors[0, item_slice] @ texts[:, text_slice]
        for k in range(1, vectors.shape[0]):
            torch.maximum(scores, vectors[k, item_slice] @ texts[:, text_slice], out=scores)
        return scores

    return score_block


def _rounding_margin(composites: Tensor, text_embeds: Tensor) -> float:
    longest_pair = composites.float().norm(dim=-1).max() * text_embeds.float().norm(dim=-1).max()
    return ROUNDING_MARGIN * float(longest_pair)


def ranks_from_scores(scores: Tensor, text_to_item: Tensor, *, chunk_size: int = DEFAULT_CHUNK_SIZE) -> RetrievalRanks:
    """Ranks of a whole split from its score matrix.

    Args:
        scores: (num_items, num_texts), higher is better.
        text_to_item: (num_texts,) int64, position of each text's item. Any number of texts an item, in any order.
        chunk_size: items, and texts, in one block of scores.

    Raises:
        ValueError: a shape does not fit, the split is empty or has one item only, an item has no text, a text points
            to no item, or a score is NaN.
    """
    if scores.ndim != 2:
        raise ValueError(f"scores must be (num_items, num_texts), got {tuple(scores.shape)}.")
    _check_chunk_size(chunk_size)
    owners = _checked_owners(text_to_item, *scores.shape).to(scores.device)
    # A comparison with NaN is never true, so a row of NaN would count as rank 1. A sum is NaN if a part of it is.
    suspects = scores.sum(dim=1).isnan().nonzero().flatten()
    nan_rows = suspects[scores[suspects].isnan().any(dim=1)].tolist()
    if nan_rows:
        raise ValueError(
            f"scores has NaN in {len(nan_rows)} of {scores.shape[0]} item rows (first: {nan_rows[:3]}); "
            "a NaN has no rank: look at the embeddings of these items."
        )
    text_scores = scores[owners, torch.arange(scores.shape[1], device=scores.device)]
    return _count_ranks(lambda items, texts: scores[items, texts], owners, text_scores, scores.shape[0], chunk_size)


def check_finite(embeds: Tensor, name: str) -> None:
    """Refuse vectors with NaN or infinity before they turn into ranks.

    Raises:
        ValueError: names the first rows that are not finite.
    """
    bad_rows = (~torch.isfinite(embeds.flatten(1)).all(dim=1)).nonzero().flatten().tolist()
    if bad_rows:
        raise ValueError(
            f"{name} has NaN or infinite values in {len(bad_rows)} of {embeds.shape[0]} rows (first: {bad_rows[:3]}); "
            "scores of these rows have no rank: look at their inputs, or at a diverged checkpoint."
        )


def _checked_owners(text_to_item: Tensor, num_items: int, num_texts: int) -> Tensor:
    """`text_to_item` as int64; refuses an empty split and a map that does not fit it."""
    if num_items == 0 or num_texts == 0:
        raise ValueError(f"the split is empty: {num_items} items and {num_texts} texts; nothing can be ranked.")
    if num_items == 1:
        raise ValueError("the split has 1 item: with a single candidate each recall is 100; rank at least 2 items.")
    if text_to_item.shape != (num_texts,) or text_to_item.is_floating_point():
        raise ValueError(
            f"text_to_item must be ({num_texts},) integers, one position of an item for each text, "
            f"got {tuple(text_to_item.shape)} of {text_to_item.dtype}."
        )
    outside = ((text_to_item < 0) | (text_to_item >= num_items)).nonzero().flatten().tolist()
    if outside:
        raise ValueError(
            f"text_to_item: {len(outside)} texts point to no item (first: text {outside[0]} to item "
            f"{int(text_to_item[outside[0]])}); positions must be 0 to {num_items - 1}."
        )
    without = (torch.bincount(text_to_item.cpu(), minlength=num_items) == 0).nonzero().flatten().tolist()
    if without:
        raise ValueError(
            f"{len(without)} items have no caption (first: items {without[:3]}) and so no i2t rank; "
            "caption them or leave them out of the split."
        )
    return text_to_item.to(torch.int64)


def _check_chunk_size(chunk_size: int) -> None:
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}.")


def correct_scores(composites: Tensor, text_embeds: Tensor, owners: Tensor, chunk_size: int) -> Tensor:
    """Score of each text with the item that `owners` names, vectors as in `rank_texts_and_items`: (num_texts,)."""
    chunks = zip(owners.split(chunk_size), text_embeds.split(chunk_size), strict=True)
    return torch.cat(
        [
            torch.einsum("tkd,td->tk", composites[chunk_owners].float(), texts.float()).amax(dim=1)
            for chunk_owners, texts in chunks
        ]
    )


def _blocks(num_items: int, num_texts: int, chunk_size: int) -> Iterator[tuple[slice, slice]]:
    """Blocks of the score matrix as runs of items and of texts."""
    for item_start in range(0, num_items, chunk_size):
        for text_start in range(0, num_texts, chunk_size):
            yield (
                slice(item_start, min(item_start + chunk_size, num_items)),
                slice(text_start, min(text_start + chunk_size, num_texts)),
            )


def _count_ranks(
    score_block: ScoreBlock, owners: Tensor, text_thresholds: Tensor, num_items: int, chunk_size: int
) -> RetrievalRanks:
    """Count in one sweep over the blocks, each block for both directions.

    `text_thresholds` is what a wrong item must reach to stand before the item of each text. That of an item is the
    highest of its texts.
    """
    item_thresholds = text_thresholds.new_full((num_items,), -torch.inf)
    item_thresholds.scatter_reduce_(0, owners, text_thresholds, reduce="amax")
    i2t = torch.ones(num_items, dtype=torch.int64, device=owners.device)
    t2i = torch.ones(owners.shape[0], dtype=torch.int64, device=owners.device)
    for items, texts in _blocks(num_items, owners.shape[0], chunk_size):
        scores = score_block(items, texts)
        correct_pairs = _correct_pairs(owners, items, texts)
        i2t[items] += _count_at_least(scores, item_thresholds[items, None], correct_pairs, dim=1)
        t2i[texts] += _count_at_least(scores, text_thresholds[None, texts], correct_pairs, dim=0)
    return RetrievalRanks(i2t=i2t.cpu(), t2i=t2i.cpu())


def _correct_pairs(owners: Tensor, items: slice, texts: slice) -> tuple[Tensor, Tensor]:
    """Rows and columns, inside a block, of the texts with their own items."""
    rows = owners[texts] - items.start
    columns = ((rows >= 0) & (rows < items.stop - items.start)).nonzero().flatten()
    return rows[columns], columns


def _count_at_least(scores: Tensor, thresholds: Tensor, correct_pairs: tuple[Tensor, Tensor], *, dim: int) -> Tensor:
    """How many wrong candidates of the block reach the threshold of each query: (queries,) int64.

    Counted as a product with a vector of ones: exact in float32 up to 2²⁴ candidates a block, and several times
    faster than the sum of a boolean matrix.
    """
    reached = torch.ge(scores, thresholds, out=torch.empty_like(scores, dtype=torch.float32))
    reached[correct_pairs] = 0.0
    ones = reached.new_ones(scores.shape[dim])
    counts = reached.mv(ones) if dim == 1 else ones @ reached
    return counts.round().to(torch.int64)
