"""Recall of cross-lingual retrieval as an `evaluate` module; it stands alone, so the folder can be a Space.

The project itself ranks in chunks (`retrieval.ranks`) and tests that both agree. This module wants the whole score
matrix, one row for each text.
"""

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """\
Recall at 1, 5 and 10 in both directions, sum of recalls and median rank for image-text retrieval with any number of
captions an item. Ties count against the model, ranks start at 1, a NaN is an error.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: for each text, its scores against all items, higher is better: (num_texts, num_items).
    references: for each text, the position of its item.

Returns:
    `i2t_R@1`, `i2t_R@5`, `i2t_R@10`, `t2i_R@1`, ... in percent (0 to 100), `sum_r` (0 to 600), `i2t_median_rank` and
    `t2i_median_rank` (1 is the best).

Examples:
    >>> metric = evaluate.load("retrieval/evaluate_metric/crosslingual_retrieval")
    >>> metric.compute(predictions=[[0.9, 0.1], [0.2, 0.7]], references=[0, 1])["sum_r"]
    600.0
"""


class CrosslingualRetrieval(evaluate.Metric):
    """Recalls of a score matrix, see the description."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {"predictions": datasets.Sequence(datasets.Value("float64")), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions: list, references: list) -> dict[str, float]:
        scores = np.asarray(predictions, dtype=np.float64)
        owners = np.asarray(references)
        _check(scores, owners)
        metrics = {}
        ranks = {"i2t": _item_ranks(scores, owners), "t2i": _text_ranks(scores, owners)}
        for direction, values in ranks.items():
            for cutoff in (1, 5, 10):
                metrics[f"{direction}_R@{cutoff}"] = 100.0 * float(np.mean(values <= cutoff))
        metrics["sum_r"] = sum(metrics.values())
        for direction, values in ranks.items():
            metrics[f"{direction}_median_rank"] = float(np.median(values))
        return metrics


def _check(scores: np.ndarray, owners: np.ndarray) -> None:
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise ValueError(f"predictions must be (num_texts, num_items) with 2 items or more, got {scores.shape}.")
    if np.isnan(scores).any():
        raise ValueError(f"predictions has NaN, first in text {int(np.isnan(scores).any(axis=1).argmax())}.")
    if owners.min() < 0 or owners.max() >= scores.shape[1]:
        raise ValueError(
            f"references must be positions of items, 0 to {scores.shape[1] - 1}; got {owners.tolist()[:9]}."
        )
    without = sorted(set(range(scores.shape[1])) - set(owners.tolist()))
    if without:
        raise ValueError(f"{len(without)} items have no text in references (first: {without[:3]}).")


def _text_ranks(scores: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """The correct item reaches its own score, which stands for the 1 that ranks start at."""
    correct = scores[np.arange(len(owners)), owners]
    return (scores >= correct[:, None]).sum(axis=1)


def _item_ranks(scores: np.ndarray, owners: np.ndarray) -> np.ndarray:
    own = owners[:, None] == np.arange(scores.shape[1])
    best = np.where(own, scores, -np.inf).max(axis=0)
    return 1 + ((scores >= best) & ~own).sum(axis=0)
