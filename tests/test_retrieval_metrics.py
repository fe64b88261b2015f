"""Recalls, median ranks, and the `evaluate` module that computes the same."""

import json
import os
import shutil
import subprocess
import sys

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


METRIC_FOLDER = "retrieval/evaluate_metric/crosslingual_retrieval"
METRIC_SCRIPT = """
import json, sys
import evaluate
metric = evaluate.load(sys.argv[1], cache_dir=sys.argv[2])
given = json.load(sys.stdin)
for scores, owners in given["good"]:
    print(json.dumps(metric.compute(predictions=scores, references=owners)))
for scores, owners in given["bad"]:
    try:
        metric.compute(predictions=scores, references=owners)
    except ValueError as error:
        print(json.dumps(str(error)))
"""


def test_the_evaluate_module_loads_offline_and_agrees_with_ours(root_dir, tmp_path):
    """`evaluate.load` parses the imports of the file and copies it; a wrong line shows only when it is loaded."""
    owners = torch.tensor([3, 0, 0, 2, 1, 0, 3, 1, 2, 4])
    matrices = [torch.randn(5, 10), torch.randint(0, 3, (5, 10)).float(), torch.zeros(5, 10)]
    broken = torch.randn(10, 5)
    broken[7] = torch.nan
    given = {
        "good": [(scores.T.tolist(), owners.tolist()) for scores in matrices],
        "bad": [
            (broken.tolist(), owners.tolist()),
            (torch.randn(10, 5).tolist(), [0] * 10),
            (torch.randn(2, 2).tolist(), [0, 2]),
            (torch.randn(2, 1).tolist(), [0, 0]),
        ],
    }
    # Copied away, so that nothing of this repository is importable beside it.
    shutil.copytree(root_dir / METRIC_FOLDER, tmp_path / "crosslingual_retrieval")
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", METRIC_SCRIPT, str(tmp_path / "crosslingual_retrieval"), str(tmp_path / "cache")],
        input=json.dumps(given), cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *computed, nan, without, outside, single = map(json.loads, done.stdout.splitlines())
    for scores, metrics in zip(matrices, computed, strict=True):
        assert metrics == pytest.approx(recall_metrics(ranks_from_scores(scores, owners)))
    assert "NaN, first in text 7" in nan
    assert "4 items have no text" in without
    assert "references must be positions of items" in outside
    assert "2 items or more" in single
