"""How sure a difference between two systems is, given the queries that they were asked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from retrieval.metrics import RECALL_CUTOFFS
from retrieval.ranks import RetrievalRanks

DRAWS = 10_000
CONFIDENCE = 0.95
# Draws whose positions are in memory at a time.
_CHUNK = 500


@dataclass(frozen=True)
class Interval:
    """A difference of SumR (-600 to 600) and the interval around it.

    Args:
        difference: on all queries, as they are.
        low, high: percentiles of the differences on resampled queries.
    """

    difference: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the sign of the difference is sure as far as the choice of queries goes."""
        return self.low > 0 or self.high < 0


def paired_bootstrap(
    ours: Sequence[Mapping[str, RetrievalRanks]],
    theirs: Sequence[Mapping[str, RetrievalRanks]],
    text_items: Mapping[str, Sequence[int]],
    *,
    draws: int = DRAWS,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Interval:
    """Difference of SumR between two systems that were asked the same queries, with its percentile interval.

    Resampled are the items of the split, with replacement, as many as there are. An item that is drawn brings its
    query of image to text and all of its texts, the queries of text to image, in every language: texts of one picture
    are no independent witnesses. Both systems, and all seeds of each, are asked the same draw, and in each draw SumR is
    the mean over languages and over seeds. The seeds are not resampled: what another seed would change is told by the
    deviation over seeds, not by this interval. Nor are the candidates: ranks stay those among all of the split.

    Args:
        ours: a mapping for each seed: language -> ranks.
        theirs: the same of the system to compare with; any number of seeds.
        text_items: language -> the item of each text. Its languages are those that are compared.
        draws: number of resamplings.
        confidence: share of the draws inside the interval, between 0 and 1.
        seed: of the draws.

    Returns:
        `ours` minus `theirs`: positive where ours are better.

    Raises:
        ValueError: no seed, no language, numbers of queries that differ, or an option out of range.
    """
    if not ours or not theirs or not text_items:
        raise ValueError(
            f"a comparison needs a seed of each system and a language, got {len(ours)} and {len(theirs)} seeds and the "
            f"languages {list(text_items)}."
        )
    if draws < 1 or not 0 < confidence < 1:
        raise ValueError(f"draws must be at least 1 and confidence in (0, 1), got {draws} and {confidence}.")
    owners = {language: torch.as_tensor(items) for language, items in text_items.items()}
    num_items = _num_items(ours, theirs, owners)
    # What each item adds to SumR, ours less theirs: of its own query, and of its texts. (num_items,) each
    image_part = torch.zeros(num_items, dtype=torch.float64)
    text_parts, text_counts = [], []
    for language, items in owners.items():
        image_part += _hits([seed_[language].i2t for seed_ in ours]) - _hits([seed_[language].i2t for seed_ in theirs])
        of_texts = _hits([seed_[language].t2i for seed_ in ours]) - _hits([seed_[language].t2i for seed_ in theirs])
        text_parts.append(torch.zeros(num_items, dtype=torch.float64).index_add(0, items, of_texts))
        text_counts.append(torch.bincount(items, minlength=num_items).double())

    def difference(positions: Tensor) -> Tensor:
        total = image_part[positions].mean(dim=-1)
        for part, count in zip(text_parts, text_counts, strict=True):
            total = total + part[positions].sum(dim=-1) / count[positions].sum(dim=-1)
        return 100 * total / len(owners)

    generator = torch.Generator().manual_seed(seed)
    sizes = [min(_CHUNK, draws - start) for start in range(0, draws, _CHUNK)]
    found = torch.cat([difference(torch.randint(num_items, (size, num_items), generator=generator)) for size in sizes])
    low, high = found.quantile(torch.tensor([(1 - confidence) / 2, (1 + confidence) / 2], dtype=torch.float64)).tolist()
    return Interval(float(difference(torch.arange(num_items))), low, high)


def _hits(ranks: Sequence[Tensor]) -> Tensor:
    """How many of the cutoffs each query's rank reaches, the mean over seeds: (num_queries,), 0 to 3."""
    cutoffs = torch.tensor(RECALL_CUTOFFS)
    return (torch.stack(list(ranks))[..., None] <= cutoffs).sum(dim=-1).double().mean(dim=0)


def _num_items(
    ours: Sequence[Mapping[str, RetrievalRanks]],
    theirs: Sequence[Mapping[str, RetrievalRanks]],
    owners: Mapping[str, Tensor],
) -> int:
    """The number of items; the same for all systems, seeds and languages."""
    absent = sorted({language for language in owners for seed in (*ours, *theirs) if language not in seed})
    if absent:
        raise ValueError(f"text_items names languages that some ranks lack: {absent}; compare those that all have.")
    counts = {len(seed[language].i2t) for seed in (*ours, *theirs) for language in owners}
    texts = {(language, len(seed[language].t2i)) for seed in (*ours, *theirs) for language in owners}
    if len(counts) > 1 or texts != {(language, len(items)) for language, items in owners.items()}:
        raise ValueError(
            f"all systems, seeds and languages must have the same queries, got {sorted(counts)} items and texts "
            f"{sorted(texts)}; compare results of one split."
        )
    num_items = counts.pop()
    for language, items in owners.items():
        if items.unique().tolist() != list(range(num_items)):
            raise ValueError(f"text_items of {language!r} must name each of the {num_items} items, by its position.")
    return num_items
