"""The interval of a difference: against loops, for systems of which the answer is known, and its coverage."""

import random

import pytest
import torch

from reporting.bootstrap import paired_bootstrap
from retrieval.metrics import recall_metrics
from retrieval.ranks import RetrievalRanks

# Items 0 to 3 have 2, 1, 3 and 1 texts, not in their order.
OWNERS = [2, 0, 1, 2, 3, 0, 2]


def random_ranks(generator: torch.Generator, owners: list[int], *, highest: int = 15) -> RetrievalRanks:
    i2t = torch.randint(1, highest, (max(owners) + 1,), generator=generator)
    return RetrievalRanks(i2t=i2t, t2i=torch.randint(1, highest, (len(owners),), generator=generator))


def sum_r(seeds: list[RetrievalRanks], owners: list[int], items: list[int]) -> float:
    """SumR of drawn items, the mean over seeds, by writing out the queries of the draw."""
    total = 0.0
    for ranks in seeds:
        texts = [text for item in items for text, owner in enumerate(owners) if owner == item]
        drawn = RetrievalRanks(i2t=ranks.i2t[torch.tensor(items)], t2i=ranks.t2i[torch.tensor(texts)])
        total += recall_metrics(drawn)["sum_r"]
    return total / len(seeds)


def test_the_interval_equals_the_loop_oracle():
    """A wrong owner, a text counted once for an item drawn twice, or seeds that are mixed show only in the interval."""
    generator = torch.Generator().manual_seed(3)
    owners = {"de": OWNERS, "zh": [3, 2, 1, 0]}
    ours = [{code: random_ranks(generator, owners[code]) for code in owners} for _ in range(3)]
    theirs = [{code: random_ranks(generator, owners[code]) for code in owners} for _ in range(2)]
    found = paired_bootstrap(ours, theirs, owners, draws=700, confidence=0.8, seed=5)

    def difference(items: list[int]) -> float:
        by_language = [
            sum_r([seed[code] for seed in ours], owners[code], items)
            - sum_r([seed[code] for seed in theirs], owners[code], items)
            for code in owners
        ]
        return sum(by_language) / len(by_language)

    drawing = torch.Generator().manual_seed(5)
    draws = torch.cat([torch.randint(4, (size, 4), generator=drawing) for size in (500, 200)])
    expected = torch.tensor([difference(items) for items in draws.tolist()], dtype=torch.float64)
    low, high = expected.quantile(torch.tensor([0.1, 0.9], dtype=torch.float64)).tolist()
    assert (found.difference, found.low, found.high) == pytest.approx((difference([0, 1, 2, 3]), low, high))
    assert found.low < found.difference < found.high


def test_identical_systems_differ_by_nothing_and_a_better_one_is_seen():
    """Paired, the difficulty of the queries cancels: unpaired, identical systems would get a wide interval."""
    generator = torch.Generator().manual_seed(0)
    owners = {"de": [item for item in range(100) for _ in range(2)]}
    ours = {"de": random_ranks(generator, owners["de"], highest=30)}
    same = paired_bootstrap([ours], [ours, ours], owners, draws=200)
    assert (same.difference, same.low, same.high) == (0, 0, 0) and not same.excludes_zero
    worse = {"de": RetrievalRanks(i2t=ours["de"].i2t + 4, t2i=ours["de"].t2i + 4)}
    better = paired_bootstrap([ours], [worse], owners, draws=200)
    assert better.excludes_zero and 0 < better.low < better.difference < better.high
    reverse = paired_bootstrap([worse], [ours], owners, draws=200)
    assert (reverse.low, reverse.high) == pytest.approx((-better.high, -better.low)) and reverse.excludes_zero


def test_known_answer_where_every_item_says_the_same():
    """A difference that no query doubts has no width: 100 points of R@1 in both directions."""
    first, second = (RetrievalRanks(i2t=torch.full((5,), rank), t2i=torch.full((7,), rank)) for rank in (1, 2))
    found = paired_bootstrap([{"de": first}], [{"de": second}], {"de": [0, 1, 2, 3, 4, 0, 1]}, draws=50)
    assert (found.difference, found.low, found.high) == pytest.approx((200, 200, 200))


def test_the_interval_holds_the_true_difference_about_as_often_as_it_says():
    """Texts drawn one by one would give too narrow intervals, for the texts of an item succeed or fail together."""
    draw = random.Random(1)
    owners = [item for item in range(60) for _ in range(4)]
    hits = 0
    repeats = 200
    for repeat in range(repeats):
        # An item has rank 1 (else 20) with probability 0.6 for ours and 0.4 for theirs, and all of its texts too.
        systems = []
        for chance in (0.6, 0.4):
            ranks = torch.tensor([1 if draw.random() < chance else 20 for _ in range(60)])
            systems.append({"de": RetrievalRanks(i2t=ranks, t2i=ranks[torch.tensor(owners)])})
        found = paired_bootstrap([systems[0]], [systems[1]], {"de": owners}, draws=300, confidence=0.9, seed=repeat)
        hits += found.low <= 600 * (0.6 - 0.4) <= found.high
    assert 0.84 <= hits / repeats <= 0.95


def test_what_cannot_be_compared_is_refused():
    """Ranks of two splits would give a number, and a meaningless one."""
    generator = torch.Generator().manual_seed(0)
    ranks, other = random_ranks(generator, OWNERS), random_ranks(generator, [0, 1, 2, 3, 4])
    de = {"de": ranks}
    for ours, theirs, owners in (([], [de], {"de": OWNERS}), ([de], [], {"de": OWNERS}), ([de], [de], {})):
        with pytest.raises(ValueError, match="needs a seed of each system and a language"):
            paired_bootstrap(ours, theirs, owners)
    for options in ({"draws": 0}, {"confidence": 1.0}):
        with pytest.raises(ValueError, match="draws must be at least 1"):
            paired_bootstrap([de], [de], {"de": OWNERS}, **options)
    with pytest.raises(ValueError, match=r"lack: \['zh'\]"):
        paired_bootstrap([de], [de], {"de": OWNERS, "zh": OWNERS})
    with pytest.raises(ValueError, match="must have the same queries"):
        paired_bootstrap([de], [{"de": other}], {"de": OWNERS})
    with pytest.raises(ValueError, match="must have the same queries"):
        paired_bootstrap([de], [de], {"de": OWNERS[:-1]})
    with pytest.raises(ValueError, match="must name each of the 4 items"):
        paired_bootstrap([de], [de], {"de": [0, 0, 1, 2, 2, 1, 0]})
