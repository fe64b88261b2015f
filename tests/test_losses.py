"""The objectives: hand values, loop oracles, invariants, bad input, and gradients that reach each term."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from modeling_leccr import LeccrModel, LeccrOutput
from modeling_leccr.losses_leccr import (
    SLOT_TERMS,
    TERMS,
    LeccrCriterion,
    LossConfig,
    MatchingBatch,
    contrastive_loss,
    mean_direction,
    mean_slot_similarity,
    shared_targets,
    soft_cross_entropy,
)
from tests.reference import (
    contrastive_loss_by_loops,
    cross_entropy_by_loops,
    global_scores_by_loops,
    guidance_by_loops,
    min_max_by_loops,
    slot_diversity_by_loops,
    slot_scores_by_loops,
    slot_vision_scores_by_loops,
)
from tests.tiny import tiny_model, tiny_pairs

IMAGE_IDS = torch.tensor([3, 7, 1, 3, 9])  # rows 0 and 3 show one image
SCALE = torch.tensor([math.log(10.0)])


def random_output(batch_size: int = 5, num_slots: int = 3, num_patches: int = 6) -> LeccrOutput:
    """Embeddings and states as a model would give them, with gradients."""
    names = {
        "image_embeds": (batch_size, 8),
        "source_embeds": (batch_size, 8),
        "target_embeds": (batch_size, 8),
        "slot_embeds": (batch_size, num_slots, 8),
    }
    embeds = {name: normalize(torch.randn(shape), dim=-1).requires_grad_() for name, shape in names.items()}
    return LeccrOutput(
        **embeds,
        logit_scale=SCALE.clone().requires_grad_(),
        slots=torch.randn(batch_size, num_slots, 12, requires_grad=True),
        slot_states=torch.randn(batch_size, num_slots, 12, requires_grad=True),
        patch_states=torch.randn(batch_size, num_patches, 12, requires_grad=True),
    )


def term_values(output: LeccrOutput, image_ids: Tensor = IMAGE_IDS, **settings: Any) -> dict[str, Tensor]:
    criterion = LeccrCriterion(LossConfig(**settings))
    return criterion(criterion.summarise(output, image_ids), output.logit_scale)


def oracle_values(output: LeccrOutput, config: LossConfig) -> dict[str, Tensor]:
    """Every term from the formula in its documentation."""
    image, source, target = output.image_embeds, output.source_embeds, output.target_embeds
    scale = output.logit_scale.exp()
    slots_source, slots_target = (slot_scores_by_loops(output.slot_embeds, texts) for texts in (source, target))
    slot_vision = slot_vision_scores_by_loops(output.slot_states, output.patch_states) / config.slot_vision_temperature
    weight = config.teacher_global_weight
    global_teacher = min_max_by_loops(global_scores_by_loops(source, image).detach())
    teacher = weight * global_teacher + (1 - weight) * min_max_by_loops(slots_source.T.detach())
    student = global_scores_by_loops(target, image) / config.student_temperature
    return {
        "source_contrastive": contrastive_loss_by_loops(global_scores_by_loops(image, source) * scale, IMAGE_IDS),
        "target_contrastive": contrastive_loss_by_loops(global_scores_by_loops(image, target) * scale, IMAGE_IDS),
        "cross_lingual": contrastive_loss_by_loops(global_scores_by_loops(source, target) * scale, IMAGE_IDS),
        "slot_contrastive": contrastive_loss_by_loops(slots_source * scale, IMAGE_IDS)
        + contrastive_loss_by_loops(slots_target * scale, IMAGE_IDS),
        "slot_vision": cross_entropy_by_loops(slot_vision, IMAGE_IDS),
        "slot_diversity": slot_diversity_by_loops(output.slots),
        "softened": guidance_by_loops(teacher / config.teacher_temperature, student),
    }


@pytest.mark.parametrize("name", list(TERMS))
def test_each_term_equals_its_loop_oracle(name: str) -> None:
    """A transposed matrix, a one-sided average or a diagonal target gives a plausible number."""
    output, config = random_output(), LossConfig()
    assert term_values(output)[name].item() == pytest.approx(oracle_values(output, config)[name].item(), rel=1e-5)


@pytest.mark.parametrize("name", list(TERMS))
def test_each_term_has_the_gradient_of_its_oracle(name: str) -> None:
    """A detach in the wrong place leaves the value right and the training wrong."""
    ours, theirs = random_output(), LeccrOutput()
    theirs = LeccrOutput(**{key: value.detach().clone().requires_grad_() for key, value in ours.items()})
    term_values(ours)[name].backward()
    oracle_values(theirs, LossConfig())[name].backward()
    reached = [key for key in ours if theirs[key].grad is not None]
    assert reached
    for key in reached:
        torch.testing.assert_close(ours[key].grad, theirs[key].grad, atol=1e-5, rtol=1e-4, msg=f"{name}: {key}")


@pytest.mark.parametrize(
    ("name", "reached"),
    [
        ("source_contrastive", {"image_embeds", "source_embeds", "logit_scale"}),
        ("target_contrastive", {"image_embeds", "target_embeds", "logit_scale"}),
        ("cross_lingual", {"source_embeds", "target_embeds", "logit_scale"}),
        ("softened", {"image_embeds", "target_embeds"}),
        ("slot_contrastive", {"slot_embeds", "source_embeds", "target_embeds", "logit_scale"}),
        ("slot_vision", {"slot_states", "patch_states"}),
        ("slot_diversity", {"slots"}),
    ],
)
def test_each_term_trains_exactly_what_it_should(name: str, reached: set[str]) -> None:
    """English guidance must not train the English side; a contrastive term must train both."""
    output = random_output()
    term_values(output)[name].backward()
    with_gradient = {key for key, value in output.items() if value.grad is not None and value.grad.abs().max() > 0}
    assert with_gradient == reached


def test_contrastive_loss_of_a_hand_computed_case() -> None:
    """-log of the softmax of the diagonal: [[2, 0], [0, 2]] gives log(1 + e^-2) in each direction."""
    loss = contrastive_loss(2 * torch.eye(2), torch.eye(2))
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-2)))


def test_uninformative_scores_cost_log_of_the_batch() -> None:
    """The chance level that a curve is read against."""
    assert contrastive_loss(torch.zeros(8, 8), torch.eye(8)).item() == pytest.approx(math.log(8))


def test_two_captions_of_one_image_are_both_positives() -> None:
    """A diagonal target would punish the second caption of an image."""
    targets = shared_targets(IMAGE_IDS)
    torch.testing.assert_close(targets[0], torch.tensor([0.5, 0, 0, 0.5, 0]))
    torch.testing.assert_close(targets[1], torch.tensor([0.0, 1, 0, 0, 0]))
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(5))
    perfect = 50 * (IMAGE_IDS[:, None] == IMAGE_IDS[None, :]).float()
    assert contrastive_loss(perfect, targets).item() == pytest.approx(2 / 5 * math.log(2), abs=1e-6)


@pytest.mark.parametrize("name", list(TERMS))
def test_terms_do_not_depend_on_the_order_of_the_batch(name: str) -> None:
    """Ids out of step with their rows show up as a change under permutation."""
    output, order = random_output(), torch.tensor([4, 2, 0, 1, 3])
    shuffled = LeccrOutput(**{key: value if key == "logit_scale" else value[order] for key, value in output.items()})
    torch.testing.assert_close(term_values(shuffled, IMAGE_IDS[order])[name], term_values(output)[name])


def test_slot_vision_means_equal_the_full_block() -> None:
    """The means of unit vectors stand for the K x P block of cosines of each pair."""
    slots, patches = torch.randn(3, 4, 16), torch.randn(3, 7, 16)
    by_means = mean_direction(slots) @ mean_direction(patches).T
    torch.testing.assert_close(by_means, slot_vision_scores_by_loops(slots, patches), atol=1e-6, rtol=1e-5)


def test_slot_vision_does_not_grow_with_the_number_of_patches() -> None:
    """The released logits do, so that a model at 384 pixels had another temperature than at 224."""
    output = random_output()
    doubled = LeccrOutput(**{**output, "patch_states": output.patch_states.repeat(1, 2, 1)})
    torch.testing.assert_close(term_values(doubled)["slot_vision"], term_values(output)["slot_vision"])


def test_slot_diversity_of_equal_and_of_orthogonal_slots() -> None:
    """Hand values: K equal slots give (K² - K) / K², orthogonal ones give 0."""
    equal = torch.randn(2, 1, 8).expand(2, 4, 8)
    torch.testing.assert_close(mean_slot_similarity(equal), torch.full((2,), 12 / 16))
    torch.testing.assert_close(mean_slot_similarity(torch.eye(4).expand(2, 4, 4)), torch.zeros(2))


def test_softened_is_zero_when_both_languages_match_alike() -> None:
    """Guidance that still pushes a perfect student would blur it."""
    output = random_output()
    output.target_embeds = output.source_embeds
    scores = (output.source_embeds @ output.image_embeds.T).detach()
    span = float(scores.max() - scores.min())
    values = term_values(output, teacher_global_weight=1.0, teacher_temperature=1.0, student_temperature=span)
    assert values["softened"].item() == pytest.approx(0, abs=1e-6)


def test_softened_works_for_a_model_without_slots() -> None:
    """The two-stream control with guidance has no slot matrix to mix in."""
    output = random_output()
    output.slot_embeds = None
    values = term_values(output)
    assert set(values) == set(TERMS) - set(SLOT_TERMS)
    assert all(torch.isfinite(value) for value in values.values())


def test_total_is_the_weighted_sum() -> None:
    """lambda splits the target term; the other weights multiply theirs."""
    config = LossConfig(guidance=0.3, slot_contrastive=0.2, slot_vision=0.1, slot_diversity=0.05)
    terms = {name: torch.tensor(float(2**i)) for i, name in enumerate(TERMS)}
    weights = dict(zip(TERMS, (1.0, 0.7, 1.0, 0.3, 0.2, 0.1, 0.05), strict=True))
    expected = sum(weights[name] * float(value) for name, value in terms.items())
    assert LeccrCriterion(config).total(terms).item() == pytest.approx(expected)


def test_batch_map_applies_to_every_tensor_and_keeps_what_is_absent() -> None:
    """A tensor that the gather forgets makes the terms of one process mix with those of all."""
    criterion = LeccrCriterion(LossConfig())
    doubled = criterion.summarise(random_output(), IMAGE_IDS).map(lambda value: torch.cat([value, value]))
    assert {value.shape[0] for value in vars(doubled).values()} == {10}
    without = MatchingBatch(IMAGE_IDS, torch.ones(5, 2), torch.ones(5, 2), torch.ones(5, 2)).map(torch.clone)
    assert without.slot_embeds is None


def test_losses_stay_in_fp32_under_autocast() -> None:
    """bf16 steps near a logit of 10 are 1/16: too coarse for a softmax."""
    output = random_output()
    plain = term_values(output)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = term_values(output)
    for name, value in values.items():
        assert value.dtype == torch.float32, name
        torch.testing.assert_close(value, plain[name], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", [name for name in TERMS if name != "slot_diversity"])
def test_one_row_is_refused(name: str) -> None:
    """With no negative a contrastive loss is 0 whatever the model does, and min-max has no range."""
    output = random_output(batch_size=1)
    criterion = LeccrCriterion(LossConfig())
    batch = criterion.summarise(output, torch.tensor([1]))
    with pytest.raises(ValueError, match="at least"):
        criterion.terms[name](batch, output.logit_scale, criterion.config)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guidance": 1.5}, "loss.guidance must lie"),
        ({"teacher_global_weight": -0.1}, "loss.teacher_global_weight must lie"),
        ({"slot_contrastive": -1.0}, "loss.slot_contrastive must not be negative"),
        ({"slot_vision": -1.0}, "loss.slot_vision must not be negative"),
        ({"slot_diversity": -1.0}, "loss.slot_diversity must not be negative"),
        ({"teacher_temperature": 0.0}, "loss.teacher_temperature must be positive"),
        ({"student_temperature": 0.0}, "loss.student_temperature must be positive"),
        ({"slot_vision_temperature": -0.1}, "loss.slot_vision_temperature must be positive"),
    ],
)
def test_loss_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    """A negative weight maximises what should be minimised."""
    with pytest.raises(ValueError, match=message):
        LossConfig(**settings)


def test_a_misspelt_loss_setting_is_refused() -> None:
    """A typo in a recipe would train with the default."""
    with pytest.raises(ValueError, match="unknown loss settings"):
        LossConfig.from_dict({"slot_visoin": 0.1})
    assert LossConfig.from_dict({"slot_vision": 0.1}).slot_vision == 0.1


@pytest.mark.parametrize("forms", [{"slot_visoin": "official"}, {"slot_vision": "offical"}])
def test_an_unknown_form_is_refused(forms: dict[str, str]) -> None:
    """A typo in an ablation would compare the corrected form with itself."""
    with pytest.raises(ValueError, match=r"loss\.forms takes"):
        LeccrCriterion(LossConfig(forms=forms))


@pytest.mark.parametrize("without", [["slot_visoin"], "softened", list(TERMS)])
def test_leaving_out_an_unknown_term_or_all_of_them_is_refused(without: Any) -> None:
    """A typo would train with the term in a row of a table that says without it."""
    with pytest.raises(ValueError, match=r"loss\.without names"):
        LossConfig(without=without)
    output = random_output()
    output.slot_embeds = None
    with pytest.raises(ValueError, match="leaves no term"):
        term_values(output, without=sorted(set(TERMS) - set(SLOT_TERMS)))


@pytest.mark.parametrize("name", list(TERMS))
def test_a_term_left_out_is_neither_computed_nor_part_of_the_total(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A term of weight zero costs its time and can still be NaN; and the other weights must stay."""
    output = random_output()
    everything = term_values(output)
    monkeypatch.setitem(TERMS, name, lambda *arguments: pytest.fail(f"{name} was computed"))
    terms = term_values(output, without=[name])
    assert terms == {other: value for other, value in everything.items() if other != name}
    config = LossConfig()
    total = sum(config.weights()[other] * value for other, value in terms.items())
    torch.testing.assert_close(LeccrCriterion(LossConfig(without=[name])).total(terms), total)


def test_parameters_of_terms_left_out_have_a_gradient_of_zero() -> None:
    """DDP waits for the gradient of each parameter: the run would stand still at its second step."""
    gradients = []
    for without in ([], [*SLOT_TERMS, "source_contrastive", "target_contrastive", "cross_lingual"]):
        model = tiny_model()
        output = model(**tiny_pairs(4))
        criterion = LeccrCriterion(LossConfig(without=without))
        terms = criterion(criterion.summarise(output, torch.arange(4)), output.logit_scale)
        criterion.total(terms).backward()
        gradients.append({key: value.grad for key, value in model.named_parameters() if value.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    moved = [{key for key, value in found.items() if value.abs().max() > 0} for found in gradients]
    assert "slot_projection.weight" in moved[0] - moved[1]


def test_shapes_that_would_broadcast_are_refused() -> None:
    """Ids of another length, or targets of another shape, broadcast to a plausible loss."""
    with pytest.raises(ValueError, match="image_ids must be"):
        LeccrCriterion(LossConfig()).summarise(random_output(), torch.tensor([1]))
    with pytest.raises(ValueError, match="must be one square"):
        contrastive_loss(torch.zeros(3, 3), torch.eye(4))
    with pytest.raises(ValueError, match="must be one square"):
        contrastive_loss(torch.zeros(3, 4), torch.zeros(3, 4))


def test_soft_cross_entropy_matches_the_loop_oracle() -> None:
    """The mean runs over rows, not over cells."""
    logits = torch.randn(5, 5)
    ours = soft_cross_entropy(logits, shared_targets(IMAGE_IDS))
    torch.testing.assert_close(ours, cross_entropy_by_loops(logits, IMAGE_IDS))


def parameters_with_gradient(model: LeccrModel, term: str) -> set[str]:
    model.zero_grad()
    output = model(**tiny_pairs(4))
    criterion = LeccrCriterion(LossConfig())
    criterion(criterion.summarise(output, torch.arange(4)), output.logit_scale)[term].backward()
    return {
        name.split(".")[0]
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().max() > 0
    }


@pytest.mark.parametrize(
    ("term", "module"),
    [
        ("source_contrastive", "image_projection"),
        ("target_contrastive", "text_projection"),
        ("cross_lingual", "text_model"),
        ("softened", "vision_model"),
        ("slot_contrastive", "slot_projection"),
        ("slot_vision", "slot_vision_patches"),
        ("slot_diversity", "semantic_slots"),
    ],
)
def test_each_term_reaches_the_model(term: str, module: str) -> None:
    """A term on detached embeddings is logged and trains nothing."""
    assert module in parameters_with_gradient(tiny_model(), term)


def test_a_batch_with_one_item_is_refused_however_many_captions_it_has():
    """Five captions of one image have no negative: every target is uniform and the loss cannot fall."""
    embeds = torch.nn.functional.normalize(torch.randn(5, 8), dim=-1)
    batch = MatchingBatch(torch.zeros(5, dtype=torch.int64), embeds, embeds, embeds)
    with pytest.raises(ValueError, match="at least 2 items"):
        LeccrCriterion(LossConfig())(batch, torch.tensor([2.0]))
