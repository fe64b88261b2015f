"""Ranks by counting in chunks against the full-matrix loops."""

import itertools

import pytest
import torch
from torch.nn.functional import normalize

from retrieval.ranks import rank_texts_and_items, ranks_from_scores
from tests.reference import ranks_by_loops

UNEVEN_OWNERS = torch.tensor([3, 0, 0, 2, 1, 0, 3, 1, 2, 4, 0, 4, 2])  # 4, 2, 3, 2, 2 captions, in no order


def random_vectors(num_items: int, owners: torch.Tensor, num_vectors: int = 3, dim: int = 16):
    composites = normalize(torch.randn(num_items, num_vectors, dim), dim=-1)
    texts = normalize(composites[owners, 0] + torch.randn(len(owners), dim) / 3, dim=-1)
    return composites, texts


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 4, 100])
def test_ranks_from_scores_match_the_loop_oracle_with_any_number_of_captions(chunk_size):
    """A wrong chunk border or a fixed five captions an item shifts ranks silently."""
    scores = torch.randn(5, len(UNEVEN_OWNERS))
    ranks = ranks_from_scores(scores, UNEVEN_OWNERS, chunk_size=chunk_size)
    assert (ranks.i2t.tolist(), ranks.t2i.tolist()) == ranks_by_loops(scores, UNEVEN_OWNERS)


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 4, 100])
def test_ranks_from_vectors_match_the_loop_oracle_on_the_best_vector_scores(chunk_size):
    """The blocked product, the maximum over vectors and the sorting of texts must give the plain matrix's ranks."""
    composites, texts = random_vectors(5, UNEVEN_OWNERS)
    scores = torch.einsum("ikd,td->itk", composites, texts).amax(dim=-1)
    ranks = rank_texts_and_items(composites, texts, UNEVEN_OWNERS, chunk_size=chunk_size)
    assert (ranks.i2t.tolist(), ranks.t2i.tolist()) == ranks_by_loops(scores, UNEVEN_OWNERS)


def test_ranks_of_a_hand_computed_matrix():
    """The oracle could share a mistake with the code: these ranks were counted by hand."""
    scores = torch.tensor([[0.9, 0.1, 0.8], [0.9, 0.3, 0.7]])
    ranks = ranks_from_scores(scores, torch.tensor([0, 1, 1]))
    # Item 0: its 0.9 beats 0.1 and 0.8. Item 1: its best 0.7 loses to 0.9. Text 0 ties 0.9 with item 1: second.
    assert ranks.i2t.tolist() == [1, 2]
    assert ranks.t2i.tolist() == [2, 1, 2]


@pytest.mark.parametrize("chunk_size", [2, 5, 64])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_quantised_ties_count_against_the_model_in_each_dtype(chunk_size, dtype):
    """Half precision ties many scores; a tie won by position inflates recall, and counts in half precision overflow."""
    owners = torch.arange(40).repeat_interleave(2)
    scores = torch.randint(0, 4, (40, 80)).to(dtype)
    ranks = ranks_from_scores(scores, owners, chunk_size=chunk_size)
    assert (ranks.i2t.tolist(), ranks.t2i.tolist()) == ranks_by_loops(scores, owners)


def test_more_ties_than_half_precision_can_count():
    """float16 counts no further than 2048 and bfloat16 no further than 256."""
    ranks = ranks_from_scores(torch.zeros(3000, 3000, dtype=torch.bfloat16), torch.arange(3000))
    assert ranks.i2t.unique().tolist() == ranks.t2i.unique().tolist() == [3000]


@pytest.mark.parametrize("chunk_size", [7, 8, 1024])
def test_a_collapsed_model_ranks_last_and_not_first(chunk_size):
    """Constant scores must not give R@1 = 100, whatever block a pair falls into."""
    owners = torch.arange(37).repeat_interleave(3)
    composites = normalize(torch.randn(1, 2, 24), dim=-1).expand(37, 2, 24)
    texts = normalize(torch.randn(1, 24), dim=-1).expand(111, 24)
    ranks = rank_texts_and_items(composites, texts, owners, chunk_size=chunk_size)
    assert ranks.t2i.unique().tolist() == [37]
    assert ranks.i2t.unique().tolist() == [1 + 111 - 3]


@pytest.mark.parametrize("chunk_size", [16, 50, 333])
def test_duplicate_items_tie_although_they_lie_in_different_blocks(chunk_size):
    """A product adds up in another order at another place of a block; its last bit must not break the tie."""
    owners = torch.randperm(300).repeat(3)
    composites, texts = random_vectors(300, owners, dim=96)
    composites[150:] = composites[:150]
    ranks = rank_texts_and_items(composites, texts, owners, chunk_size=chunk_size)
    assert int(ranks.t2i.min()) == 2


def test_ranks_do_not_depend_on_the_order_of_items_or_texts():
    """A rank that changes with the row order is a tie rule in disguise."""
    owners = torch.arange(30).repeat_interleave(2)
    scores = torch.randint(0, 5, (30, 60)).float()
    ranks = ranks_from_scores(scores, owners, chunk_size=11)
    items, texts = torch.randperm(30), torch.randperm(60)
    position = torch.empty(30, dtype=torch.int64)
    position[items] = torch.arange(30)
    shuffled = ranks_from_scores(scores[items][:, texts], position[owners[texts]], chunk_size=7)
    assert torch.equal(shuffled.i2t, ranks.i2t[items])
    assert torch.equal(shuffled.t2i, ranks.t2i[texts])


def test_ranks_do_not_change_with_a_positive_scale():
    """Ranks from logits and from cosines are the same."""
    scores = torch.randn(12, 24)
    owners = torch.arange(12).repeat(2)
    small, large = ranks_from_scores(scores, owners), ranks_from_scores(scores * 8, owners)
    assert torch.equal(small.i2t, large.i2t)
    assert torch.equal(small.t2i, large.t2i)


def test_a_nan_row_is_named():
    """NaN compares as false, so a diverged model would rank first."""
    scores = torch.randn(6, 6)
    scores[4, 2] = torch.nan
    with pytest.raises(ValueError, match=r"NaN in 1 of 6 item rows \(first: \[4\]\)"):
        ranks_from_scores(scores, torch.arange(6))


def test_infinite_scores_are_ranked_and_not_taken_for_nan():
    """A sum of both infinities is NaN although no score is: the check must look again."""
    scores = torch.randn(4, 4)
    scores[1, 0], scores[1, 2] = torch.inf, -torch.inf
    ranks = ranks_from_scores(scores, torch.arange(4))
    assert (ranks.i2t.tolist(), ranks.t2i.tolist()) == ranks_by_loops(scores, torch.arange(4))


@pytest.mark.parametrize("name", ["composites", "text_embeds"])
def test_vectors_that_are_not_finite_are_named(name):
    """NaN in one vector must stop the evaluation, with the row to look at."""
    vectors = {"composites": torch.randn(4, 2, 8), "text_embeds": torch.randn(4, 8)}
    vectors[name][3] = torch.nan
    with pytest.raises(ValueError, match=rf"{name} has NaN or infinite values in 1 of 4 rows \(first: \[3\]\)"):
        rank_texts_and_items(**vectors, text_to_item=torch.arange(4))


@pytest.mark.parametrize(
    ("num_items", "owners", "message"),
    [
        (0, torch.zeros(0, dtype=torch.int64), "the split is empty"),
        (3, torch.zeros(0, dtype=torch.int64), "the split is empty"),
        (1, torch.tensor([0, 0]), "the split has 1 item"),
        (3, torch.tensor([0, 1, 1]), r"1 items have no caption \(first: items \[2\]\)"),
        (3, torch.tensor([0, 1, 2, 3]), "text 3 to item 3"),
        (3, torch.tensor([0, -1, 2, 1]), "text 1 to item -1"),
        (3, torch.tensor([0.0, 1.0, 2.0]), "text_to_item must be"),
        (3, torch.tensor([[0, 1, 2]]), "text_to_item must be"),
    ],
)
def test_a_map_that_does_not_fit_the_split_is_refused(num_items, owners, message):
    """Recall with a wrong caption map looks plausible; the map is checked before anything is counted."""
    num_texts = owners.numel()
    with pytest.raises(ValueError, match=message):
        ranks_from_scores(torch.randn(num_items, num_texts), owners)
    with pytest.raises(ValueError, match=message):
        rank_texts_and_items(torch.randn(num_items, 2, 8), torch.randn(num_texts, 8), owners)


def test_wrong_shapes_are_refused():
    """A transposed or flat input would broadcast into nonsense."""
    owners = torch.arange(4)
    with pytest.raises(ValueError, match="scores must be"):
        ranks_from_scores(torch.randn(16), owners)
    for composites, texts in itertools.product([torch.randn(4, 8), torch.randn(4, 2, 7)], [torch.randn(4, 8)]):
        with pytest.raises(ValueError, match="composites must be"):
            rank_texts_and_items(composites, texts, owners)
    with pytest.raises(ValueError, match="chunk_size must be at least 1"):
        ranks_from_scores(torch.randn(4, 4), owners, chunk_size=0)
