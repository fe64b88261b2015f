"""The released code's forms of the corrected terms, and what each correction changes."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from modeling_leccr import LeccrOutput
from modeling_leccr.losses_leccr import LeccrCriterion, LossConfig
from modeling_leccr.losses_official_leccr import OFFICIAL_TERMS, official_mean_direction
from tests.reference import (
    contrastive_loss_by_loops,
    cross_entropy_by_loops,
    global_scores_by_loops,
    guidance_by_loops,
    min_max_by_loops,
    official_slot_vision_scores,
    slot_scores_by_loops,
)

IMAGE_IDS = torch.tensor([0, 1, 0, 2])
SCALE = torch.tensor([math.log(14.0)])


def random_output() -> LeccrOutput:
    return LeccrOutput(
        image_embeds=normalize(torch.randn(4, 8), dim=-1).requires_grad_(),
        source_embeds=normalize(torch.randn(4, 8), dim=-1).requires_grad_(),
        target_embeds=normalize(torch.randn(4, 8), dim=-1).requires_grad_(),
        slot_embeds=torch.randn(4, 3, 8, requires_grad=True),
        logit_scale=SCALE,
        slots=torch.randn(4, 3, 12, requires_grad=True),
        slot_states=torch.randn(4, 3, 12, requires_grad=True),
        patch_states=torch.randn(4, 6, 12, requires_grad=True),
    )


def values_of(output: LeccrOutput, form: str | None = "official") -> dict[str, torch.Tensor]:
    criterion = LeccrCriterion(LossConfig(forms=dict.fromkeys(OFFICIAL_TERMS, form) if form else {}))
    return criterion(criterion.summarise(output, IMAGE_IDS), output.logit_scale)


def oracle_values(output: LeccrOutput) -> dict[str, torch.Tensor]:
    image, source, target = output.image_embeds, output.source_embeds, output.target_embeds
    diagonal = torch.arange(4)
    slots_source, slots_target = (slot_scores_by_loops(output.slot_embeds, texts) for texts in (source, target))
    # The released mix: text x image, plus image x text.
    teacher = 0.8 * min_max_by_loops(global_scores_by_loops(source, image)) + 0.2 * min_max_by_loops(slots_source)
    return {
        "slot_contrastive": contrastive_loss_by_loops(slots_source * SCALE.exp(), diagonal)
        + contrastive_loss_by_loops(slots_target * SCALE.exp(), diagonal),
        "slot_vision": cross_entropy_by_loops(
            official_slot_vision_scores(output.slot_states, output.patch_states), IMAGE_IDS
        ),
        "softened": guidance_by_loops(teacher, global_scores_by_loops(target, image)),
    }


@pytest.mark.parametrize("name", list(OFFICIAL_TERMS))
def test_each_official_form_equals_its_loop_oracle(name: str) -> None:
    """An ablation against a wrong "official" form proves nothing."""
    output = random_output()
    assert values_of(output)[name].item() == pytest.approx(oracle_values(output)[name].item(), rel=1e-5)


@pytest.mark.parametrize("name", list(OFFICIAL_TERMS))
def test_each_official_form_differs_from_the_corrected_one(name: str) -> None:
    """A form that is chosen by name but not used would make the ablation vacuous."""
    output = random_output()
    assert abs(values_of(output)[name].item() - values_of(output, form=None)[name].item()) > 1e-4


@pytest.mark.parametrize("name", list(OFFICIAL_TERMS))
def test_each_official_form_has_gradients(name: str) -> None:
    """Parity runs train with these forms."""
    output = random_output()
    values_of(output)[name].backward()
    gradients = [value.grad for value in output.values() if value.grad is not None]
    assert gradients
    assert all(gradient.abs().max() > 0 for gradient in gradients)


def test_forms_are_chosen_term_by_term() -> None:
    """The ablation "which correction pays" is a list of names."""
    output = random_output()
    criterion = LeccrCriterion(LossConfig(forms={"softened": "official"}))
    values = criterion(criterion.summarise(output, IMAGE_IDS), output.logit_scale)
    torch.testing.assert_close(values["softened"], values_of(output)["softened"])
    torch.testing.assert_close(values["slot_vision"], values_of(output, form=None)["slot_vision"])


@pytest.mark.parametrize(
    ("term", "name"),
    [
        ("softened", "teacher_temperature"),
        ("softened", "student_temperature"),
        ("softened", "teacher_global_weight"),
        ("slot_vision", "slot_vision_temperature"),
    ],
)
def test_a_setting_that_an_official_form_does_not_read_is_refused(term: str, name: str) -> None:
    """Rows of a table with other temperatures would all be one training."""
    with pytest.raises(ValueError, match=rf"official form of {term} .* got loss\.{name} 0\.5"):
        LossConfig(forms={term: "official"}, **{name: 0.5})
    other = {"softened": "slot_vision", "slot_vision": "softened"}[term]
    assert getattr(LossConfig(forms={other: "official"}, **{name: 0.5}), name) == 0.5


def test_official_slot_vision_logits_grow_with_the_number_of_tokens() -> None:
    """The documented fault: unit norm over tokens, so that the logits are no cosines."""
    slots, patches = torch.ones(1, 4, 64), torch.ones(1, 4, 64)
    logit = (official_mean_direction(slots) @ official_mean_direction(patches).T).item()
    assert logit == pytest.approx(64 / 4)
    torch.testing.assert_close(
        official_mean_direction(patches) @ official_mean_direction(slots).T, official_slot_vision_scores(slots, patches)
    )
