"""Recall and median rank from ranks: pure functions, no model."""

from torch import Tensor

from retrieval.ranks import RetrievalRanks

RECALL_CUTOFFS = (1, 5, 10)


def recall_at(ranks: Tensor, cutoff: int) -> float:
    """Percent (0 to 100) of queries whose first correct candidate ranks at `cutoff` or better.

    Args:
        ranks: (num_queries,), 1 is the best.

    Raises:
        ValueError: `ranks` is empty or starts below 1.
    """
    if ranks.numel() == 0:
        raise ValueError("ranks is empty; a recall needs at least one query.")
    if int(ranks.min()) < 1:
        raise ValueError(f"ranks start at 1, got {int(ranks.min())}; add 1 to ranks that start at 0.")
    return 100.0 * (ranks <= cutoff).double().mean().item()


def recall_metrics(ranks: RetrievalRanks, *, prefix: str = "") -> dict[str, float]:
    """The usual numbers of a retrieval table.

    Args:
        prefix: put before each key, such as `de/`.

    Returns:
        `i2t_R@1`, `i2t_R@5`, `i2t_R@10`, `t2i_...` in percent (0 to 100), `i2t_median_rank` and `t2i_median_rank`
        (1 is the best; the mean of the middle two for an even number of queries), and `sum_r`, the sum of the six
        recalls (0 to 600).
    """
    metrics: dict[str, float] = {}
    for direction, values in (("i2t", ranks.i2t), ("t2i", ranks.t2i)):
        for cutoff in RECALL_CUTOFFS:
            metrics[f"{prefix}{direction}_R@{cutoff}"] = recall_at(values, cutoff)
    metrics[f"{prefix}sum_r"] = sum(metrics.values())
    metrics[f"{prefix}i2t_median_rank"] = ranks.i2t.double().quantile(0.5).item()
    metrics[f"{prefix}t2i_median_rank"] = ranks.t2i.double().quantile(0.5).item()
    return metrics
