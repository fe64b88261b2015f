"""Scores between items and captions, against loops."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from modeling_leccr.matching_leccr import composite_vectors, fused_scores, global_scores, min_max, slot_scores
from tests.reference import fused_scores_by_loops, global_scores_by_loops, min_max_by_loops, slot_scores_by_loops

WEIGHTS = [0.0, 0.3, 0.8, 1.0]


def unit(*shape: int) -> Tensor:
    return normalize(torch.randn(*shape), dim=-1)


def test_global_scores_match_the_loop_oracle_on_a_non_square_batch() -> None:
    """Square batches hide a swapped (image, text) axis."""
    images, texts = unit(3, 8), unit(5, 8)
    torch.testing.assert_close(global_scores(images, texts), global_scores_by_loops(images, texts))


def test_slot_scores_match_the_loop_oracle_on_a_non_square_batch() -> None:
    """Square batches hide a swapped (image, text) axis."""
    slots, texts = unit(3, 4, 8), unit(5, 8)
    torch.testing.assert_close(slot_scores(slots, texts), slot_scores_by_loops(slots, texts))


def test_slot_scores_of_a_hand_computed_case() -> None:
    """The oracle could share a mistake with the code."""
    slots = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.6, 0.8], [-1.0, 0.0]]])
    texts = torch.tensor([[1.0, 0.0], [-0.6, 0.8]])
    torch.testing.assert_close(slot_scores(slots, texts), torch.tensor([[1.0, 0.8], [0.6, 0.6]]))


@pytest.mark.parametrize("weight", WEIGHTS)
def test_fused_scores_equal_the_sum_of_both_levels(weight: float) -> None:
    """The identity behind the index: ranking by composites is ranking by the fused score."""
    images, slots, texts = unit(4, 8), unit(4, 3, 8), unit(6, 8)
    expected = fused_scores_by_loops(images, slots, texts, weight)
    torch.testing.assert_close(fused_scores(images, slots, texts, weight), expected)


@pytest.mark.parametrize("weight", WEIGHTS)
def test_best_composite_vector_gives_the_fused_score(weight: float) -> None:
    """An index built from other vectors would search by another score than evaluation."""
    images, slots, texts = unit(4, 8), unit(4, 3, 8), unit(6, 8)
    composites = composite_vectors(images, slots, weight)
    by_search = torch.einsum("ikd,td->itk", composites, texts).amax(dim=-1)
    torch.testing.assert_close(by_search, fused_scores_by_loops(images, slots, texts, weight))


def test_scores_ignore_the_order_of_the_slots() -> None:
    """A slot has no rank: position must not matter."""
    slots, texts = unit(3, 4, 8), unit(5, 8)
    torch.testing.assert_close(slot_scores(slots[:, [2, 0, 3, 1]], texts), slot_scores(slots, texts))


def test_composites_are_one_vector_an_item_when_slots_do_not_count() -> None:
    """K equal vectors would make the index K times larger for nothing."""
    images = unit(4, 8)
    torch.testing.assert_close(composite_vectors(images, unit(4, 3, 8), 1.0), images[:, None])
    torch.testing.assert_close(composite_vectors(images, None, 1), images[:, None])


def test_min_max_matches_the_loop_oracle() -> None:
    """Stretching rows instead of the matrix would change the teacher."""
    scores = torch.randn(3, 5)
    torch.testing.assert_close(min_max(scores), min_max_by_loops(scores))
    assert min_max(scores).min() == 0
    assert min_max(scores).max() == 1


def test_min_max_is_the_same_after_a_shift_and_a_scale() -> None:
    """Raw slot scores and cosines have other ranges; mm makes them comparable."""
    scores = torch.randn(4, 4)
    torch.testing.assert_close(min_max(3 * scores - 7), min_max(scores), atol=1e-5, rtol=1e-5)


def test_min_max_of_a_constant_matrix_is_zero_and_not_nan() -> None:
    """The released code divides by zero here, and the weights become NaN."""
    scores = torch.full((3, 3), 0.4, requires_grad=True)
    stretched = min_max(scores)
    assert torch.equal(stretched, torch.zeros(3, 3))
    stretched.sum().backward()
    assert torch.isfinite(scores.grad).all()


def test_min_max_of_one_cell_is_refused() -> None:
    """A batch of one has no range: the released code gives NaN."""
    with pytest.raises(ValueError, match="at least two scores"):
        min_max(torch.tensor([[0.3]]))


def test_widths_that_differ_are_refused() -> None:
    """A broadcast would score something else."""
    with pytest.raises(ValueError, match="one embed_dim"):
        global_scores(unit(3, 8), unit(5, 4))
    with pytest.raises(ValueError, match="slot_embeds must be"):
        slot_scores(unit(3, 2, 8), unit(5, 4))
    with pytest.raises(ValueError, match="slot_embeds must be"):
        slot_scores(unit(3, 8), unit(5, 8))
    with pytest.raises(ValueError, match="slot_embeds must be"):
        composite_vectors(unit(3, 8), unit(4, 2, 8), 0.5)


@pytest.mark.parametrize("weight", [-0.1, 1.1])
def test_global_weight_out_of_range_is_refused(weight: float) -> None:
    """An extrapolated score ranks by the opposite of one level."""
    with pytest.raises(ValueError, match=r"global_weight must lie in \[0, 1\]"):
        composite_vectors(unit(3, 8), unit(3, 2, 8), weight)


def test_slot_scoring_without_slots_is_refused() -> None:
    """Ranking by the image alone, while the caller asked for slots, would report another number."""
    with pytest.raises(ValueError, match="there are none"):
        fused_scores(unit(3, 8), None, unit(5, 8), 0.8)
