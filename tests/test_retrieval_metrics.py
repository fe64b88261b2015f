"""Recalls, median ranks, and the `evaluate` module that computes the same."""

import shutil

import evaluate
import pytest
import torch

from retrieval.metrics import recall_at, recall_metrics
from retrieval.ranks import RetrievalRanks, ranks_from_scores


def test_recalls_of_hand_counted_ranks():
    """Percent, cut-offs included, and the sum over both directions."""
    ranks = RetrievalRanks(i2t=torch.tensor([1, 5, 6, 11]), t2i=torch.tensor([1, 1, 2, 10, 3]))
    assert recall_metrics(ranks, prefix="de/") == {
        "de/i2t_R@1": 25.0,
        "de/i2t_R@5": 50.0,
        "de/i2t_R@10": 75.0,
        "de/t2i_R@1": 40.0,
        "de/t2i_R@5": 80.0,
        "de/t2i_R@10": 100.0,
        "de/sum_r": 370.0,
        "de/i2t_median_rank": 5.5,
        "de/t2i_median_rank": 2.0,
    }


def test_perfect_ranks_give_600_and_any_other_less():
    """sum_r is 0 to 600."""
    perfect = RetrievalRanks(i2t=torch.ones(3, dtype=torch.int64), t2i=torch.ones(9, dtype=torch.int64))
    worse = RetrievalRanks(i2t=perfect.i2t + 1, t2i=perfect.t2i)
    assert recall_metrics(perfect)["sum_r"] == 600.0
    assert recall_metrics(worse)["sum_r"] == 500.0


def test_ranks_from_0_and_empty_ranks_are_refused():
    """Ranks that start at 0 would shift each recall by one place."""
    with pytest.raises(ValueError, match="ranks start at 1, got 0"):
        recall_at(torch.tensor([0, 1, 2]), 1)
    with pytest.raises(ValueError, match="ranks is empty"):
        recall_at(torch.tensor([]), 1)


@pytest.fixture
def metric_module(root_dir, tmp_path):
    """The `evaluate` module, loaded from a copy of its folder."""
    folder = tmp_path / "crosslingual_retrieval"
    shutil.copytree(root_dir / "retrieval" / "evaluate_metric" / "crosslingual_retrieval", folder)
    return evaluate.load(str(folder), cache_dir=str(tmp_path / "cache"))


def test_the_evaluate_module_loads_offline_and_agrees_with_ours(metric_module):
    """`evaluate.load` parses the imports of the file and copies it; a wrong line shows only when it is loaded."""
    owners = torch.tensor([3, 0, 0, 2, 1, 0, 3, 1, 2, 4])
    for scores in [torch.randn(5, 10), torch.randint(0, 3, (5, 10)).float(), torch.zeros(5, 10)]:
        metrics = metric_module.compute(predictions=scores.T.tolist(), references=owners.tolist())
        assert metrics == pytest.approx(recall_metrics(ranks_from_scores(scores, owners)))


def test_the_evaluate_module_needs_nothing_of_this_repository(root_dir):
    """As a Space the file has no other of our files beside it."""
    source = root_dir / "retrieval" / "evaluate_metric" / "crosslingual_retrieval" / "crosslingual_retrieval.py"
    imports = [line.split()[1] for line in source.read_text().splitlines() if line.startswith(("import ", "from "))]
    assert sorted(imports) == ["datasets", "evaluate", "numpy"]


def test_the_evaluate_module_refuses_what_has_no_rank(metric_module):
    """The same traps as in ours: NaN, an item without text, a text without item, a single candidate."""
    nan = torch.randn(10, 5)
    nan[7] = torch.nan
    owners = [3, 0, 0, 2, 1, 0, 3, 1, 2, 4]
    for scores, references, message in [
        (nan, owners, "NaN, first in text 7"),
        (torch.randn(10, 5), [0] * 10, "4 items have no text"),
        (torch.randn(2, 2), [0, 2], "references must be positions of items"),
        # Python counts -1 from the end, so it would be scored as the last item.
        (torch.randn(3, 2), [0, 1, -1], "references must be positions of items"),
        (torch.randn(2, 1), [0, 0], "2 items or more"),
    ]:
        with pytest.raises(ValueError, match=message):
            metric_module.compute(predictions=scores.tolist(), references=references)
