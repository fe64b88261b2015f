"""LeccrModel in training: no dead parameters, descriptions without gradient, precision, and that it learns."""

from typing import Any

import pytest
import torch
from torch import Tensor

from modeling_leccr import LeccrModel
from modeling_leccr.losses_leccr import LeccrCriterion, LossConfig
from modeling_leccr.matching_leccr import fused_scores
from tests.reference import ranks_by_loops
from tests.tiny import sentence_batch, tiny_items, tiny_model, tiny_pairs, tiny_processor

CONFIGURATIONS: list[dict[str, Any]] = [
    {"interaction": interaction, "image_pooling": pooling}
    for interaction in ("dual", "v2s", "s2v", "co_attention", "none")
    for pooling in ("cls", "mean")
] + [
    {"text_pooling": "mean"},
    {"train_on_descriptions": True},
    {"aligned_slots": True},
    {"item_source": "image"},
    {"item_source": "image", "image_pooling": "mean"},
    {"item_source": "description"},
    {"description_dropout": 0.5},
    {"vision": "swin", "image_pooling": "mean"},
    {"vision": "siglip", "image_pooling": "mean"},
    {"vision": "convnextv2", "image_pooling": "mean"},
    {"vision": "vit"},
    {"text": "xlm-roberta"},
    {"text": "distilbert"},
]


def variant_id(fields: dict[str, Any]) -> str:
    return "-".join(str(value) for value in fields.values())


def total_loss(model: LeccrModel, batch: dict[str, Tensor]) -> Tensor:
    criterion = LeccrCriterion(LossConfig())
    output = model(**batch)
    image_ids = torch.arange(len(batch["source_input_ids"]))
    return criterion.total(criterion(criterion.summarise(output, image_ids), output.logit_scale))


def gradients(model: LeccrModel, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    model.zero_grad()
    total_loss(model, batch).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("fields", CONFIGURATIONS, ids=variant_id)
def test_every_parameter_gets_a_gradient(fields: dict[str, Any]) -> None:
    """A dead parameter stalls distributed training, and says that a part of the model is not used."""
    model = tiny_model(**fields)
    if fields.get("description_dropout"):
        model.train()
    found = gradients(model, tiny_pairs(6))
    assert [name for name, _ in model.named_parameters() if name not in found] == []
    # A key bias shifts all scores of a query alike, which softmax cancels: zero up to round-off, in every model.
    dead = [name for name, grad in found.items() if not grad.abs().max() > 0 and not _is_key_bias(name)]
    assert dead == []


def _is_key_bias(name: str) -> bool:
    return name.endswith(("key.bias", "k_proj.bias", "k_lin.bias"))


@pytest.mark.parametrize("text", ["bert", "xlm-roberta", "distilbert"])
def test_an_empty_description_gives_finite_gradients(text: str) -> None:
    """A masked row whose NaN states are replaced still gives 0 * NaN in the gradient of the projection."""
    model = tiny_model(description_dropout=0.5, text=text).train()
    batch = tiny_pairs(6)
    batch["description_attention_mask"][2:4] = 0
    for name, gradient in gradients(model, batch).items():
        assert torch.isfinite(gradient).all(), name


def test_descriptions_pass_the_encoder_without_gradient() -> None:
    """With gradient the description forward would double the memory of the text tower."""
    model = tiny_model()
    features = model.get_image_features(**tiny_items())
    features.slot_embeds.square().sum().backward()
    assert all(parameter.grad is None for parameter in model.text_model.parameters())
    assert model.semantic_slots.description_projection.weight.grad.abs().max() > 0


def test_train_on_descriptions_lets_gradients_through_but_not_in_evaluation() -> None:
    """A recipe that asks for it must get it, and search must not pay for it."""
    model = tiny_model(train_on_descriptions=True)
    model.get_image_features(**tiny_items()).slot_embeds.square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.text_model.parameters())
    with torch.no_grad():
        assert not model.get_image_features(**tiny_items()).slot_embeds.requires_grad


@pytest.mark.parametrize(("in_eval_mode", "repeatable"), [(True, True), (False, False)])
def test_descriptions_pass_the_encoder_without_dropout_unless_official(in_eval_mode: bool, repeatable: bool) -> None:
    """Dropout shakes the slots, and nothing learns from it."""
    model = tiny_model(description_encoder_in_eval_mode=in_eval_mode, dropout=0.0).train()
    batch = tiny_pairs()
    first, second = (model(**batch).slots for _ in range(2))
    assert torch.equal(first, second) == repeatable
    assert not torch.equal(model(**batch).source_embeds, model(**batch).source_embeds)


def test_modes_of_submodules_are_restored_after_the_description() -> None:
    """`.train()` on the whole encoder would switch the dropout of a frozen layer back on."""
    model = tiny_model().train()
    frozen = model.text_model.encoder.layer[0].eval()
    before = {name: module.training for name, module in model.named_modules()}
    model(**tiny_pairs())
    assert {name: module.training for name, module in model.named_modules()} == before
    assert not frozen.training
    items = tiny_items()
    items["description_input_ids"] += 99
    with pytest.raises(IndexError):  # tokens outside the vocabulary
        model.get_image_features(**items)
    assert {name: module.training for name, module in model.named_modules()} == before


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    """Recomputation with other dropout, or of the wrong part, trains another model."""
    model = tiny_model(dropout=0.0)
    batch = tiny_pairs()
    model.train()
    torch.manual_seed(0)
    plain = gradients(model, batch)
    # Its name in transformers 6; the older one warns there.
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable()
    assert any(getattr(module, "gradient_checkpointing", False) for module in model.semantic_slots.modules())
    torch.manual_seed(0)
    checkpointed = gradients(model, batch)
    assert checkpointed.keys() == plain.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def test_bf16_autocast_gives_finite_close_losses_in_fp32() -> None:
    """Logits or normalisation in bf16 lose the differences between captions."""
    model, batch = tiny_model(), tiny_pairs(6)
    exact = total_loss(model, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(**batch)
        loss = total_loss(model, batch)
    for name in ("image_embeds", "slot_embeds", "source_embeds", "target_embeds", "logit_scale"):
        assert output[name].dtype == torch.float32, name
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert loss.item() == pytest.approx(exact.item(), rel=0.02)
    loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_fp32_embeddings_come_out_of_the_logits_of_autocast() -> None:
    """The zero-shot logits of a bf16 forward must still rank close captions."""
    model, batch = tiny_model(), tiny_pairs()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        output = model(**batch, input_ids=batch["source_input_ids"])
    exact = fused_scores(output.image_embeds, output.slot_embeds, output.text_embeds, model.config.global_weight)
    torch.testing.assert_close(output.logits_per_image.float(), exact * output.logit_scale.exp(), atol=1e-4, rtol=1e-5)


def test_captions_reach_the_text_tower_in_bf16() -> None:
    """Before 2.11, torch hands the weights that autocast cast without gradient, for the descriptions, on to the
    captions, and the text tower learns nothing. Newer ones do not, so the cache is looked at too."""
    model, caches = tiny_model(), []
    model.text_model.register_forward_pre_hook(
        lambda *_: caches.append((torch.is_grad_enabled(), torch.is_autocast_cache_enabled()))
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = total_loss(model, tiny_pairs())
    assert set(caches) == {(False, False), (True, True)}, "descriptions without the cache, captions with it"
    loss.backward()
    without = [name for name, p in model.text_model.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert [name for name in without if not name.endswith("key.bias")] == []  # a softmax does not see those


@pytest.mark.parametrize("interaction", ["dual", "none"])
def test_eight_pairs_overfit_to_recall_100(interaction: str) -> None:
    """The whole chain from pictures and sentences to recalls can learn at all."""
    model = tiny_model(interaction=interaction)  # in evaluation mode: eight pairs are too few to learn under dropout
    batch, image_ids = sentence_batch(tiny_processor()), torch.arange(8)
    before = recall_at_1(model, batch, image_ids)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(70):
        optimizer.zero_grad()
        total_loss(model, batch).backward()
        optimizer.step()
        model.logit_scale.clamp_()
    assert before < 60
    assert recall_at_1(model, batch, image_ids) == 100


def recall_at_1(model: LeccrModel, batch: dict[str, Tensor], image_ids: Tensor) -> float:
    """Percent, mean of both directions, German captions."""
    with torch.no_grad():
        output = model(**batch)
        scores = fused_scores(output.image_embeds, output.slot_embeds, output.target_embeds, model.config.global_weight)
    image_to_text, text_to_image = ranks_by_loops(scores, image_ids)
    return 100 * sum(rank == 1 for rank in image_to_text + text_to_image) / 16
