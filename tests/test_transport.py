"""The transport plan: the loop oracle, POT, marginals, padding, gradients, and bad input."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from modeling_leccr.transport_cl2cm import marginal_error, transport_plan
from tests.reference import marginal_error_by_loops, sinkhorn_by_loops

SOURCE_LENGTHS, TARGET_LENGTHS = (5, 3, 1, 4), (4, 6, 2, 1)


def mask_of(lengths: tuple[int, ...], padding: int = 2) -> Tensor:
    return (torch.arange(max(lengths) + padding) < torch.tensor(lengths)[:, None]).long()


SOURCE_MASK, TARGET_MASK = mask_of(SOURCE_LENGTHS), mask_of(TARGET_LENGTHS)


def random_cost(dtype: torch.dtype = torch.float64) -> Tensor:
    """1 - cosine of random tokens, also at padding."""
    source = normalize(torch.randn(*SOURCE_MASK.shape, 8, dtype=dtype), dim=-1)
    target = normalize(torch.randn(*TARGET_MASK.shape, 8, dtype=dtype), dim=-1)
    return 1 - source @ target.transpose(1, 2)


def plan_of(cost: Tensor, *, epsilon: float = 0.1, iterations: int = 50) -> Tensor:
    return transport_plan(cost, SOURCE_MASK, TARGET_MASK, epsilon=epsilon, iterations=iterations)


@pytest.mark.parametrize("iterations", [1, 3, 50])
def test_the_plan_equals_the_loop_oracle_after_any_number_of_iterations(iterations: int):
    """At convergence a wrong order of scaling, or padding that weighs a little, could no longer be seen."""
    cost = random_cost()
    plans = plan_of(cost, iterations=iterations)
    for plan, own, rows, columns in zip(plans, cost, SOURCE_LENGTHS, TARGET_LENGTHS, strict=True):
        expected = sinkhorn_by_loops(own[:rows, :columns], 0.1, iterations)
        torch.testing.assert_close(plan[:rows, :columns].float(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("epsilon", [0.5, 0.1, 0.03])
def test_the_plan_equals_that_of_an_independent_library(epsilon: float):
    """An oracle of our own shares our reading of the formula."""
    ot = pytest.importorskip("ot", reason="POT is not installed: pip install pot")
    cost = random_cost()
    plans = plan_of(cost, epsilon=epsilon, iterations=5000)
    for plan, own, rows, columns in zip(plans, cost, SOURCE_LENGTHS, TARGET_LENGTHS, strict=True):
        masses = own.new_full((rows,), 1 / rows), own.new_full((columns,), 1 / columns)
        settings: dict[str, Any] = {"reg": epsilon, "method": "sinkhorn_log", "numItermax": 5000, "stopThr": 1e-9}
        expected = ot.sinkhorn(*masses, own[:rows, :columns], **settings)
        torch.testing.assert_close(plan[:rows, :columns], expected, rtol=0, atol=1e-5)


def test_a_sharp_plan_links_each_token_to_its_copy():
    """Known answer: shuffled tokens are found again, each with its whole mass."""
    order = torch.tensor([2, 0, 3, 1])
    tokens = torch.eye(4)
    mask = torch.ones(1, 4)
    plan = transport_plan((1 - tokens @ tokens[order].T)[None], mask, mask, epsilon=0.02, iterations=20)
    torch.testing.assert_close(plan[0], torch.eye(4)[:, order] / 4)


def test_equal_costs_give_equal_shares():
    """Known answer: nothing to choose from is no reason to leave a token out."""
    plan = transport_plan(torch.ones(1, 2, 5), torch.ones(1, 2), torch.ones(1, 5), epsilon=0.1, iterations=1)
    torch.testing.assert_close(plan, torch.full((1, 2, 5), 0.1))


def test_rows_and_columns_have_uniform_mass_and_padding_none():
    """Mass on padding, or the mass of padding on words, changes with the longest sentence of the batch."""
    plan = plan_of(random_cost(), iterations=500)
    for sums, mask in ((plan.sum(dim=2), SOURCE_MASK), (plan.sum(dim=1), TARGET_MASK)):
        torch.testing.assert_close(sums, (mask / mask.sum(dim=1, keepdim=True)).double(), atol=1e-6, rtol=0)
    assert not plan[(SOURCE_MASK[:, :, None] * TARGET_MASK[:, None, :]) == 0].any()


def test_more_padding_and_other_costs_there_change_nothing():
    """A pair alone and in a batch of longer ones must have one loss."""
    cost = random_cost()
    keep = (SOURCE_MASK[:, :, None] * TARGET_MASK[:, None, :]).bool()
    other = torch.where(keep, cost, 1e4 * torch.randn_like(cost))
    torch.testing.assert_close(plan_of(other), plan_of(cost), rtol=0, atol=0)
    for row, (rows, columns) in enumerate(zip(SOURCE_LENGTHS, TARGET_LENGTHS, strict=True)):
        own = cost[row : row + 1, :rows, :columns]
        alone = transport_plan(own, torch.ones(1, rows), torch.ones(1, columns), epsilon=0.1, iterations=50)
        torch.testing.assert_close(plan_of(cost)[row, :rows, :columns], alone[0])


@pytest.mark.parametrize("epsilon", [1.0, 0.05, 1e-4])
def test_gradients_are_finite_reach_words_and_never_padding(epsilon: float):
    """-inf - -inf at padding is NaN in backward, also where forward masks it."""
    cost = random_cost(torch.float32).requires_grad_()
    plan = plan_of(cost, epsilon=epsilon)
    (plan * cost.detach()).sum().backward()
    assert torch.isfinite(plan).all() and torch.isfinite(cost.grad).all()
    keep = (SOURCE_MASK[:, :, None] * TARGET_MASK[:, None, :]).bool()
    assert not cost.grad[~keep].any()
    if epsilon > 1e-3:  # a plan of ones and zeros does not move
        assert cost.grad[:2][keep[:2]].abs().max() > 1e-4


def test_the_gradient_through_the_iterations_is_that_of_small_steps():
    """A scale that is detached, or masked in the wrong place, leaves the plan right and its gradient wrong."""
    cost = random_cost().requires_grad_()
    assert torch.autograd.gradcheck(lambda own: plan_of(own, iterations=4), (cost,), atol=1e-6)


def test_the_plan_is_fp32_for_halves_and_under_autocast():
    """bf16 has 8 bits: after fifty iterations the marginals would be off by more than a word's mass."""
    cost = random_cost(torch.float32)
    expected = plan_of(cost.bfloat16().float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plan = plan_of(cost.bfloat16())
    assert plan.dtype == torch.float32
    torch.testing.assert_close(plan, expected)


def test_the_marginal_error_equals_its_loop_oracle_and_falls():
    """A sum over padding, or of rows alone, which are exact, would always report 0."""
    cost, errors = random_cost(), []
    for iterations in (1, 10, 500):
        plan = plan_of(cost.requires_grad_(), epsilon=0.05, iterations=iterations)
        found = marginal_error(plan, SOURCE_MASK, TARGET_MASK)
        assert not found.requires_grad
        pairs = zip(plan, SOURCE_LENGTHS, TARGET_LENGTHS, strict=True)
        expected = [marginal_error_by_loops(own[:rows, :columns]) for own, rows, columns in pairs]
        assert found.tolist() == pytest.approx(expected, abs=1e-6)
        swapped = marginal_error(plan.transpose(1, 2), TARGET_MASK, SOURCE_MASK)
        torch.testing.assert_close(swapped, found)
        errors.append(float(found.max()))
    assert errors[0] > 0.01 and errors[0] > errors[1] > errors[2] and errors[2] < 1e-5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epsilon": 0.0}, "epsilon must be positive"),
        ({"epsilon": float("nan")}, "epsilon must be positive"),
        ({"iterations": 0}, "iterations must be at least 1"),
        ({"source_mask": torch.tensor([[1, 1, 1], [0, 0, 0]])}, r"source_mask must keep .* rows \[1\]"),
        ({"target_mask": torch.zeros(2, 4)}, r"target_mask must keep .* rows \[0, 1\]"),
        ({"cost": torch.ones(2, 4, 3)}, "cost must be"),
        ({"cost": torch.ones(3, 4)}, "cost must be"),
        ({"source_mask": torch.ones(1, 3)}, "cost must be"),
    ],
)
def test_what_has_no_plan_is_refused(changes: dict[str, Any], message: str):
    """Masks that are swapped broadcast for square batches; an empty sentence divides by zero."""
    arguments: dict[str, Any] = {
        "cost": torch.ones(2, 3, 4),
        "source_mask": torch.ones(2, 3),
        "target_mask": torch.ones(2, 4),
        "epsilon": 0.1,
        "iterations": 5,
    }
    transport_plan(**arguments)
    with pytest.raises(ValueError, match=message):
        transport_plan(**{**arguments, **changes})


def test_a_plan_whose_masks_do_not_fit_is_refused():
    """As above, for the check itself."""
    with pytest.raises(ValueError, match="plan must be"):
        marginal_error(torch.ones(2, 3, 4), torch.ones(2, 4), torch.ones(2, 3))
