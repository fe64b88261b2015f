"""Ranks and recalls against those of the official evaluation code, on stored score matrices."""

import json

import pytest
import torch
from safetensors.torch import load_file

from retrieval.metrics import recall_metrics
from retrieval.ranks import ranks_from_scores
from tests.reference import ranks_by_loops

DIRECTIONS = {"i2t": "txt", "t2i": "img"}


@pytest.fixture(scope="module")
def golden_cases(golden_dir):
    """(name, recorded numbers, score matrix, item of each text) of each case in the folder."""
    recorded = json.loads((golden_dir / "metrics.json").read_text())
    matrices = load_file(golden_dir / "metrics.safetensors")
    cases = []
    for name, numbers in recorded.items():
        scores = matrices[f"{name}.scores_i2t"]
        owners = torch.arange(scores.shape[1]) // numbers["captions_per_image"]
        cases.append((name, numbers, scores, owners))
    return cases


def without_nan(cases):
    return [case for case in cases if not case[2].isnan().any()]


def without_ties(cases):
    return [case for case in without_nan(cases) if case[1]["t2i_ranks_optimistic"] == case[1]["t2i_ranks_pessimistic"]
            and case[1]["i2t_ranks_optimistic"] == case[1]["i2t_ranks_stable"]]  # fmt: skip


def test_tie_free_ranks_equal_the_official_ones(golden_cases):
    """Ours start at 1, the official ones at 0; nothing else may differ."""
    cases = without_ties(golden_cases)
    assert cases
    for name, numbers, scores, owners in cases:
        for chunk_size in (7, 1024):
            ranks = ranks_from_scores(scores, owners, chunk_size=chunk_size)
            assert (ranks.i2t - 1).tolist() == numbers["i2t_ranks_reference"], name
            assert (ranks.t2i - 1).tolist() == numbers["t2i_ranks_reference"], name


def test_tie_free_recalls_equal_the_official_ones(golden_cases):
    """R@k and the sum of recalls, in percent, from the official evaluation of the same matrix."""
    cases = without_ties(golden_cases)
    assert cases
    for name, numbers, scores, owners in cases:
        metrics = recall_metrics(ranks_from_scores(scores, owners))
        for ours, official in DIRECTIONS.items():
            for cutoff in (1, 5, 10):
                expected = numbers["itm_eval"][f"{official}_r{cutoff}"]
                assert metrics[f"{ours}_R@{cutoff}"] == pytest.approx(expected, abs=1e-9), name
        assert metrics["sum_r"] == pytest.approx(numbers["itm_eval"]["sumr_sum"], abs=1e-6), name


def test_tied_ranks_are_the_recorded_pessimistic_ones(golden_cases):
    """With ties ours is the worst rank, whatever order a sort would have given."""
    for name, numbers, scores, owners in without_nan(golden_cases):
        ranks = ranks_from_scores(scores, owners, chunk_size=16)
        assert (ranks.t2i - 1).tolist() == numbers["t2i_ranks_pessimistic"], name
        assert (ranks.i2t.tolist(), ranks.t2i.tolist()) == ranks_by_loops(scores, owners), name


def test_constant_scores_have_no_recall_at_1(golden_cases):
    """The official order gives a collapsed model a recall; ours gives it none."""
    constant = [case for case in without_nan(golden_cases) if case[2].unique().numel() == 1]
    for name, _, scores, owners in constant:
        metrics = recall_metrics(ranks_from_scores(scores, owners))
        assert metrics["i2t_R@1"] == metrics["t2i_R@1"] == 0.0, name


def test_golden_nan_scores_are_an_error(golden_cases):
    """The official order ranks NaN first; here it stops the evaluation."""
    broken = [case for case in golden_cases if case[2].isnan().any()]
    for name, _, scores, owners in broken:
        with pytest.raises(ValueError, match="NaN"):
            ranks_from_scores(scores, owners)
            pytest.fail(name)
