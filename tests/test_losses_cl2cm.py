"""The objectives of CL2CM: loop oracles, hand values, invariants, bad input, and gradients that reach each term."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.functional import normalize

from modeling_leccr import (
    Cl2cmConfig,
    Cl2cmModel,
    Cl2cmOutput,
    CrossLingualConfig,
    CrossLingualModel,
    CrossLingualOutput,
)
from modeling_leccr.losses_cl2cm import (
    CL2CM_TERMS,
    CROSS_LINGUAL_TERMS,
    TEACHER_TERMS,
    WORD_TERMS,
    Cl2cmCriterion,
    Cl2cmLossConfig,
    Cl2cmRows,
    CrossLingualCriterion,
    CrossLingualLossConfig,
    CrossLingualRows,
    alignment_cross_entropy,
)
from modeling_leccr.training.gradient_cache import cached_backward
from tests.reference import (
    alignment_cross_entropy_by_loops,
    contrastive_loss_by_loops,
    cosine,
    global_scores_by_loops,
    guidance_by_loops,
    marginal_error_by_loops,
    sinkhorn_by_loops,
)
from tests.tiny import tiny_pairs, tiny_text_config, tiny_vision_config
from tests.training_parts import text_config_without_dropout

IDS = torch.tensor([3, 7, 1, 3, 9])  # rows 0 and 3 are one item
SCALE = torch.tensor([math.log(10.0)])
SOURCE_LENGTHS, TARGET_LENGTHS = (6, 3, 2, 5, 4), (4, 5, 2, 3, 5)
ALL_TERMS = {"relational_transfer": 0.7, "feature_distillation": 0.3}


def mask_of(lengths: tuple[int, ...]) -> Tensor:
    return (torch.arange(max(lengths) + 1) < torch.tensor(lengths)[:, None]).long()


def unit(*shape: int) -> Tensor:
    return normalize(torch.randn(shape), dim=-1).requires_grad_()


def cross_lingual_output() -> CrossLingualOutput:
    """As the network gives it, with gradients."""
    source_mask, target_mask = mask_of(SOURCE_LENGTHS), mask_of(TARGET_LENGTHS)
    return CrossLingualOutput(
        source_embeds=unit(5, 8),
        target_embeds=unit(5, 8),
        source_states=torch.randn(*source_mask.shape, 12, requires_grad=True),
        target_states=torch.randn(*target_mask.shape, 12, requires_grad=True),
        source_mask=source_mask,
        target_mask=target_mask,
        logit_scale=SCALE.clone().requires_grad_(),
    )


def cl2cm_output(teacher_dim: int = 8) -> Cl2cmOutput:
    """As the cross-modal network gives it; the teacher's embeddings have gradients, so that a leak would show."""
    return Cl2cmOutput(
        image_embeds=unit(5, 8),
        source_embeds=unit(5, 8),
        target_embeds=unit(5, 8),
        teacher_source_embeds=unit(5, teacher_dim),
        teacher_target_embeds=unit(5, teacher_dim),
        logit_scale=SCALE.clone().requires_grad_(),
    )


def criterion_of(output: Any, **settings: Any) -> CrossLingualCriterion | Cl2cmCriterion:
    if isinstance(output, CrossLingualOutput):
        return CrossLingualCriterion(CrossLingualLossConfig(**settings))
    return Cl2cmCriterion(Cl2cmLossConfig(**{**ALL_TERMS, **settings}))


def term_values(output: Any, ids: Tensor = IDS, **settings: Any) -> dict[str, Tensor]:
    criterion = criterion_of(output, **settings)
    return criterion(criterion.summarise(output, ids), output.logit_scale)


def word_oracles(output: CrossLingualOutput, config: CrossLingualLossConfig) -> dict[str, Tensor]:
    """The terms of words, each pair cut to its real tokens."""
    costs, alignments, errors = [], [], []
    sizes = zip(SOURCE_LENGTHS, TARGET_LENGTHS, strict=True)
    for source, target, (rows, columns) in zip(output.source_states, output.target_states, sizes, strict=True):
        cosines = torch.stack([torch.stack([cosine(s, t) for t in target[:columns]]) for s in source[:rows]])
        plan = sinkhorn_by_loops((1 - cosines).detach(), config.transport_epsilon, config.transport_iterations)
        costs.append(sum(plan[i, j] * (1 - cosines[i, j]) for i in range(rows) for j in range(columns)))
        alignments.append(alignment_cross_entropy_by_loops(plan, cosines, config.alignment_temperature))
        errors.append(torch.tensor(marginal_error_by_loops(plan)))
    return {
        "word_transport": torch.stack(costs).mean(),
        "word_alignment": torch.stack(alignments).mean(),
        "marginal_error": torch.stack(errors).max(),
    }


def oracle_values(output: Any) -> dict[str, Tensor]:
    """Every term from the formula in its documentation."""
    scale = output.logit_scale.exp()

    def contrast(left: Tensor, right: Tensor) -> Tensor:
        return contrastive_loss_by_loops(global_scores_by_loops(left, right) * scale, IDS)

    values = {"cross_lingual": contrast(output.source_embeds, output.target_embeds)}
    if isinstance(output, CrossLingualOutput):
        return values | word_oracles(output, CrossLingualLossConfig())
    config = Cl2cmLossConfig()
    image, target = output.image_embeds, output.target_embeds
    teacher_source, teacher_target = output.teacher_source_embeds.detach(), output.teacher_target_embeds.detach()
    teacher = global_scores_by_loops(teacher_source, teacher_target) / config.teacher_temperature
    student = global_scores_by_loops(image, target) / config.student_temperature
    distances = [1 - (own * other).sum() for own, other in zip(target, teacher_target, strict=True)]
    return values | {
        "source_contrastive": contrast(image, output.source_embeds),
        "target_contrastive": contrast(image, target),
        "relational_transfer": (guidance_by_loops(teacher, student) + guidance_by_loops(teacher.T, student.T)) / 2,
        "feature_distillation": torch.stack(distances).mean(),
    }


STAGES = {"first": cross_lingual_output, "second": cl2cm_output}
CASES = [("first", name) for name in CROSS_LINGUAL_TERMS] + [("second", name) for name in CL2CM_TERMS]
TRAINED = [(stage, name) for stage, name in CASES if name != "marginal_error"]


@pytest.mark.parametrize(("stage", "name"), CASES)
def test_each_term_equals_its_loop_oracle(stage: str, name: str):
    """A transposed matrix, a mean over padding or a divergence the wrong way gives a plausible number."""
    output = STAGES[stage]()
    assert term_values(output)[name].item() == pytest.approx(oracle_values(output)[name].item(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(("stage", "name"), TRAINED)
def test_each_term_has_the_gradient_of_its_oracle(stage: str, name: str):
    """A detach in the wrong place leaves the value right and the training wrong."""
    ours = STAGES[stage]()
    copies = {key: value.detach().clone() for key, value in ours.items()}
    theirs = type(ours)(**{key: v.requires_grad_() if v.is_floating_point() else v for key, v in copies.items()})
    term_values(ours)[name].backward()
    oracle_values(theirs)[name].backward()
    for key, value in ours.items():
        if value.grad is None:
            assert theirs[key].grad is None or not theirs[key].grad.any(), key
        else:
            torch.testing.assert_close(value.grad, theirs[key].grad, atol=1e-5, rtol=1e-3, msg=f"{name}: {key}")


@pytest.mark.parametrize(
    ("stage", "name", "reached"),
    [
        ("first", "cross_lingual", {"source_embeds", "target_embeds", "logit_scale"}),
        ("first", "word_transport", {"source_states", "target_states"}),
        ("first", "word_alignment", {"source_states", "target_states"}),
        ("second", "source_contrastive", {"image_embeds", "source_embeds", "logit_scale"}),
        ("second", "target_contrastive", {"image_embeds", "target_embeds", "logit_scale"}),
        ("second", "cross_lingual", {"source_embeds", "target_embeds", "logit_scale"}),
        ("second", "relational_transfer", {"image_embeds", "target_embeds"}),
        ("second", "feature_distillation", {"target_embeds"}),
    ],
)
def test_each_term_trains_exactly_what_it_should(stage: str, name: str, reached: set[str]):
    """The teacher must stay as it is, and padding must have no say."""
    output = STAGES[stage]()
    term_values(output)[name].backward()
    with_gradient = {key for key, value in output.items() if value.grad is not None and value.grad.abs().max() > 1e-4}
    assert with_gradient == reached
    for key, mask in (("source_states", "source_mask"), ("target_states", "target_mask")):
        if key in reached:
            assert not output[key].grad[output[mask] == 0].any()
            assert (output[key].grad[output[mask] == 1].abs().amax(dim=-1) > 0).all()


@pytest.mark.parametrize(("stage", "name"), CASES)
def test_terms_do_not_depend_on_the_order_of_the_batch(stage: str, name: str):
    """Ids or a teacher out of step with their rows show up as a change under permutation."""
    output, order = STAGES[stage](), torch.tensor([4, 2, 0, 1, 3])
    rows = {key: value if key == "logit_scale" else value[order] for key, value in output.items()}
    torch.testing.assert_close(term_values(type(output)(**rows), IDS[order])[name], term_values(output)[name])


@pytest.mark.parametrize("name", WORD_TERMS)
def test_words_do_not_depend_on_padding(name: str):
    """One long caption in a batch would change the loss of all others."""
    output = cross_lingual_output()
    longer = CrossLingualOutput(**output)
    for side in ("source", "target"):
        states, mask = output[f"{side}_states"], output[f"{side}_mask"]
        longer[f"{side}_states"] = torch.cat([states, torch.full((5, 3, 12), 9.0)], dim=1)
        longer[f"{side}_mask"] = torch.cat([mask, torch.zeros(5, 3, dtype=mask.dtype)], dim=1)
    torch.testing.assert_close(term_values(longer)[name], term_values(output)[name])


def test_words_that_are_copies_cost_nothing_and_align():
    """Known answers: the same words in another order; the soft alignment is as sure as its temperature allows."""
    output = cross_lingual_output()
    words = torch.eye(12)[:4].expand(5, 4, 12)
    output.source_states, output.target_states = words, words[:, [2, 0, 3, 1]]
    output.source_mask = output.target_mask = torch.ones(5, 4)
    values = term_values(output, transport_epsilon=0.02, alignment_temperature=0.5)
    assert values["word_transport"].item() == pytest.approx(0, abs=1e-6)
    assert values["word_alignment"].item() == pytest.approx(math.log(1 + 3 * math.exp(-2)), rel=1e-5)
    assert values["marginal_error"].item() == pytest.approx(0, abs=1e-6)


def test_the_plan_of_an_alignment_is_a_target():
    """With a gradient, the plan would come to meet the soft alignment, and both could be vague together."""
    plan, cosines = torch.rand(1, 3, 3, requires_grad=True), torch.randn(1, 3, 3, requires_grad=True)
    mask = torch.ones(1, 3)
    alignment_cross_entropy(plan, cosines, mask, mask, temperature=0.1).sum().backward()
    assert plan.grad is None and cosines.grad.abs().max() > 0


def test_relations_that_are_the_same_cost_nothing():
    """Known answer: an image that lies where its English caption lies for the teacher has nothing to learn."""
    output = cl2cm_output()
    output.image_embeds, output.target_embeds = output.teacher_source_embeds, output.teacher_target_embeds
    values = term_values(output, teacher_temperature=0.2, student_temperature=0.2)
    assert values["relational_transfer"].item() == pytest.approx(0, abs=1e-6)
    assert values["feature_distillation"].item() == pytest.approx(0, abs=1e-6)
    assert term_values(output, teacher_temperature=0.1, student_temperature=0.2)["relational_transfer"] > 1e-2


def test_the_teacher_may_have_another_width():
    """Relations are numbers of items by items; embeddings of another width have no distance."""
    output = cl2cm_output(teacher_dim=6)
    assert term_values(output, feature_distillation=0.0)["relational_transfer"] > 0
    with pytest.raises(ValueError, match=r"feature_distillation needs a teacher .* got 6 and 8"):
        term_values(output)


def test_total_is_the_weighted_sum_and_the_marginal_error_only_a_reading():
    """A diagnosis in the total would train Sinkhorn's iterations instead of the words."""
    terms = {name: torch.tensor(float(2**i)) for i, name in enumerate(CROSS_LINGUAL_TERMS)}
    config = CrossLingualLossConfig(word_transport=0.5, word_alignment=0.25)
    assert CrossLingualCriterion(config).total(terms).item() == pytest.approx(1 + 0.5 * 2 + 0.25 * 4)
    terms = {name: torch.tensor(float(2**i)) for i, name in enumerate(CL2CM_TERMS)}
    total = Cl2cmCriterion(Cl2cmLossConfig(**ALL_TERMS)).total(terms)
    assert total.item() == pytest.approx(1 + 2 + 4 + 0.7 * 8 + 0.3 * 16)
    assert not term_values(cross_lingual_output())["marginal_error"].requires_grad


@pytest.mark.parametrize(
    ("stage", "settings", "absent"),
    [
        ("first", {}, set()),
        ("first", {"word_transport": 0.0}, {"word_transport"}),
        ("first", {"without": ["word_alignment", "marginal_error"]}, {"word_alignment", "marginal_error"}),
        ("first", {"word_transport": 0.0, "word_alignment": 0.0}, {*WORD_TERMS, "marginal_error"}),
        ("first", {"without": list(WORD_TERMS)}, {*WORD_TERMS, "marginal_error"}),
        ("second", {}, set()),
        ("second", {"feature_distillation": 0.0}, {"feature_distillation"}),
        ("second", {"relational_transfer": 0.0, "without": ["feature_distillation"]}, set(TEACHER_TERMS)),
    ],
)
def test_a_term_without_weight_is_absent(stage: str, settings: dict[str, Any], absent: set[str]):
    """It would cost its time, and a teacher that nobody has."""
    output = STAGES[stage]()
    if absent >= set(TEACHER_TERMS):
        output.teacher_source_embeds = output.teacher_target_embeds = None
    if absent >= set(WORD_TERMS):
        output.source_states = output.target_states = None
    known = CROSS_LINGUAL_TERMS if stage == "first" else CL2CM_TERMS
    assert set(term_values(output, **settings)) == set(known) - absent


def test_by_default_the_second_stage_transfers_relations_alone():
    """Distillation of features is an option, and binds the width of the student to that of the teacher."""
    assert "feature_distillation" not in Cl2cmCriterion(Cl2cmLossConfig()).terms
    assert "relational_transfer" in Cl2cmCriterion(Cl2cmLossConfig()).terms


@pytest.mark.parametrize("stage", list(STAGES))
def test_losses_stay_in_fp32_under_autocast(stage: str):
    """bf16 steps near a cosine of 1 are 1/256, and the cost of a transport is what is left to 1."""
    output = STAGES[stage]()
    plain = term_values(output)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = term_values(output)
    for name, value in values.items():
        assert value.dtype == torch.float32, name
        torch.testing.assert_close(value, plain[name], msg=name)


def test_states_in_bf16_give_losses_in_fp32():
    """A tower under autocast may hand its states over as they are."""
    output = cross_lingual_output()
    output.source_states, output.target_states = output.source_states.bfloat16(), output.target_states.bfloat16()
    values = term_values(output)
    output.source_states, output.target_states = output.source_states.float(), output.target_states.float()
    for name, value in term_values(output).items():
        torch.testing.assert_close(values[name], value, msg=name)


@pytest.mark.parametrize(
    ("config_class", "settings", "message"),
    [
        (CrossLingualLossConfig, {"word_transport": -0.1}, "loss.word_transport must not be negative"),
        (CrossLingualLossConfig, {"word_alignment": float("nan")}, "loss.word_alignment must not be negative"),
        (CrossLingualLossConfig, {"transport_epsilon": 0.0}, "loss.transport_epsilon must be positive"),
        (CrossLingualLossConfig, {"transport_iterations": 0}, "loss.transport_iterations must be a whole number"),
        (CrossLingualLossConfig, {"transport_iterations": 2.5}, "loss.transport_iterations must be a whole number"),
        (CrossLingualLossConfig, {"alignment_temperature": 0.0}, "loss.alignment_temperature must be positive"),
        (CrossLingualLossConfig, {"without": ["softened"]}, "loss.without names"),
        (CrossLingualLossConfig, {"guidance": 0.5}, "unknown loss settings"),
        (Cl2cmLossConfig, {"relational_transfer": -1.0}, "loss.relational_transfer must not be negative"),
        (Cl2cmLossConfig, {"feature_distillation": -1.0}, "loss.feature_distillation must not be negative"),
        (Cl2cmLossConfig, {"teacher_temperature": 0.0}, "loss.teacher_temperature must be positive"),
        (Cl2cmLossConfig, {"student_temperature": -0.1}, "loss.student_temperature must be positive"),
        (Cl2cmLossConfig, {"without": list(CL2CM_TERMS)}, "loss.without names"),
        (Cl2cmLossConfig, {"word_transport": 0.5}, "unknown loss settings"),
    ],
)
def test_loss_settings_out_of_range_are_refused(config_class: Any, settings: dict[str, Any], message: str):
    """A negative weight maximises what should be minimised; a setting of the other stage would do nothing."""
    assert config_class.from_dict({}) == config_class()
    with pytest.raises(ValueError, match=message):
        config_class.from_dict(settings)


def test_batches_that_teach_nothing_are_refused():
    """One row, one item with many captions, ids of another length, no teacher, an empty caption."""
    for output in (cross_lingual_output(), cl2cm_output()):
        with pytest.raises(ValueError, match="at least 2 items"):
            term_values(output, torch.full((5,), 3))
        with pytest.raises(ValueError, match="image_ids must be"):
            term_values(output, torch.tensor([1]))
    output = cl2cm_output()
    rows = Cl2cmRows(**{key: value[:1] for key, value in output.items() if key != "logit_scale"}, image_ids=IDS[:1])
    with pytest.raises(ValueError, match="at least 2 items"):
        CL2CM_TERMS["relational_transfer"](rows, SCALE, Cl2cmLossConfig())
    output.teacher_target_embeds = None
    with pytest.raises(ValueError, match="name a teacher"):
        term_values(output)
    output = cross_lingual_output()
    output.target_mask = output.target_mask * (torch.arange(5) != 2)[:, None]
    with pytest.raises(ValueError, match=r"target_mask must keep at least one token .* rows \[2\]"):
        term_values(output)


def test_a_term_whose_rows_were_not_made_says_so():
    """Rows of another criterion would read None as a tensor."""
    output = cross_lingual_output()
    rows = CrossLingualRows(IDS, output.source_embeds, output.target_embeds)
    with pytest.raises(ValueError, match="word_transport is None"):
        CrossLingualCriterion(CrossLingualLossConfig())(rows, SCALE)


def first_stage(*, dropout: bool = True) -> tuple[nn.Module, dict[str, Tensor], Any]:
    """A tiny cross-lingual network, a batch, and its criterion."""
    text_config = tiny_text_config() if dropout else text_config_without_dropout()
    model = CrossLingualModel(CrossLingualConfig(text_config=text_config, embed_dim=16)).train()
    pairs = {name: value for name, value in tiny_pairs(5).items() if name.startswith(("source", "target"))}
    return model, pairs, CrossLingualCriterion(CrossLingualLossConfig(word_transport=1.0, word_alignment=1.0))


def second_stage(*, dropout: bool = True) -> tuple[nn.Module, dict[str, Tensor], Any]:
    """A tiny cross-modal network, a batch with what its teacher made of it, and its criterion."""
    text_config = tiny_text_config() if dropout else text_config_without_dropout()
    towers = {"text_config": text_config, "vision_config": tiny_vision_config()}
    model = Cl2cmModel(Cl2cmConfig(**towers, visual_dim=32, embed_dim=16)).train()
    pairs = {name: value for name, value in tiny_pairs(5).items() if not name.startswith("description")}
    pairs |= {f"teacher_{side}_embeds": normalize(torch.randn(5, 16), dim=-1) for side in ("source", "target")}
    return model, pairs, Cl2cmCriterion(Cl2cmLossConfig(**ALL_TERMS))


NETWORKS: dict[str, Callable[..., Any]] = {"first": first_stage, "second": second_stage}


@pytest.mark.parametrize(
    ("stage", "name", "modules"),
    [
        ("first", "cross_lingual", {"text_model", "text_projection", "logit_scale"}),
        ("first", "word_transport", {"text_model"}),
        ("first", "word_alignment", {"text_model"}),
        ("second", "relational_transfer", {"vision_model", "image_projection", "text_model", "text_projection"}),
        ("second", "feature_distillation", {"text_model", "text_projection"}),
    ],
)
def test_each_term_reaches_the_model(stage: str, name: str, modules: set[str]):
    """A term on detached embeddings is logged and trains nothing."""
    model, inputs, criterion = NETWORKS[stage]()
    output = model(**inputs)
    criterion(criterion.summarise(output, IDS), output.logit_scale)[name].backward()
    parameters = model.named_parameters()
    reached = {key.split(".")[0] for key, value in parameters if value.grad is not None and value.grad.abs().max() > 0}
    assert modules <= reached
    assert reached <= modules | {"visual_projection"}


@pytest.mark.parametrize("stage", list(NETWORKS))
def test_the_gradient_cache_has_the_gradients_of_the_whole_batch(stage: str):
    """Rows of a stage that lose a field on their way through the chunks train without a term."""
    model, inputs, criterion = NETWORKS[stage](dropout=False)
    output = model(**inputs)
    loss = criterion.total(criterion(criterion.summarise(output, IDS), output.logit_scale))
    loss.backward()
    expected = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    model.zero_grad()
    cached_loss = cached_backward(
        model,
        inputs,
        IDS,
        num_chunks=3,
        summarise=criterion.summarise,
        loss_of=lambda rows, scale: criterion.total(criterion(rows, scale)),
        accelerator=Accelerator(cpu=True),
    )
    torch.testing.assert_close(cached_loss, loss.detach())
    found = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert max(float(value.abs().max()) for value in found.values()) > 1e-2
