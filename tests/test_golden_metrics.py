"""Ranks and recalls against those of the official evaluation code, on stored score matrices."""

import json

import pytest
import torch
from safetensors.torch import load_file

from modeling_leccr.matching_leccr import min_max
from retrieval.evaluation import MIN_MAX_GLOBAL_WEIGHT, item_composites, min_max_weight
from retrieval.metrics import recall_metrics
from retrieval.ranks import rank_texts_and_items, ranks_from_scores
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


VIDEO_SCORES = "eval.video_scores_i2t_one"


@pytest.fixture(scope="module")
def video_scores(golden_dir):
    """Scores of the released video script: its weight of the global half -> (num_items, num_texts)."""
    tensors = load_file(golden_dir / "eval.safetensors")
    if VIDEO_SCORES not in tensors:
        pytest.skip(f"{golden_dir} has no evaluation of videos")
    found = {
        float(name.removeprefix(f"{VIDEO_SCORES}_alpha") or MIN_MAX_GLOBAL_WEIGHT): scores
        for name, scores in tensors.items()
        if name.startswith(f"{VIDEO_SCORES}_alpha")
    }
    return found | {MIN_MAX_GLOBAL_WEIGHT: tensors[VIDEO_SCORES]}


def as_vectors(scores):
    """Items and texts whose dot products are the scores."""
    return scores, torch.eye(scores.shape[1])


def test_the_released_video_scores_are_stretched_over_the_whole_matrix(video_scores):
    """Stretched for each query they would rank the items of a query alike, but not the captions of an item."""
    assert {0.0, 0.5, 0.9, 1.0} <= set(video_scores)
    only_slots, only_global = video_scores[0.0], video_scores[1.0]
    for weight, scores in video_scores.items():
        # The released script ranks by minus a distance, hence the 1.
        expected = weight * min_max(only_global) + (1 - weight) * min_max(only_slots) - 1
        torch.testing.assert_close(scores, expected, atol=1e-6, rtol=0)
    assert only_global.amax(dim=0).min() < -1e-3 and only_global.amax(dim=1).min() < -1e-3


@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_min_max_ranks_equal_those_of_the_released_video_script(video_scores, scale):
    """Slots that are not of unit norm have other scores than the image embedding; the weight makes up for it."""
    image_embeds, text_embeds = as_vectors(video_scores[1.0])
    slot_embeds = scale * video_scores[0.0].unsqueeze(1)
    owners = torch.arange(len(text_embeds))
    for weight, scores in video_scores.items():
        chosen = min_max_weight(image_embeds, slot_embeds, text_embeds, weight, chunk_size=4)
        composites = item_composites(image_embeds, slot_embeds, scoring="fused", global_weight=chosen)
        ours = composites[:, 0] @ text_embeds.T
        torch.testing.assert_close(min_max(ours), min_max(scores), atol=1e-5, rtol=0)
        ranks = rank_texts_and_items(composites, text_embeds, owners)
        expected = ranks_from_scores(scores, owners)
        assert torch.equal(ranks.i2t, expected.i2t) and torch.equal(ranks.t2i, expected.t2i), weight


def test_min_max_recalls_equal_the_recorded_ones(golden_dir, video_scores):
    """R@k of the released evaluation at its own weight."""
    recorded = json.loads((golden_dir / "eval.json").read_text())["video_metrics_one"]
    scores = video_scores[MIN_MAX_GLOBAL_WEIGHT]
    metrics = recall_metrics(ranks_from_scores(scores, torch.arange(scores.shape[1])))
    for ours, official in DIRECTIONS.items():
        for cutoff in (1, 5, 10):
            assert metrics[f"{ours}_R@{cutoff}"] == pytest.approx(recorded[f"{official}_r{cutoff}"], abs=1e-9)
