"""Towers that are trained whole, by adapters (LoRA) or not at all: who learns, and what is refused."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import BertConfig, CLIPVisionConfig

from modeling_leccr import LeccrConfig, LeccrModel
from modeling_leccr.losses_leccr import LeccrCriterion, LossConfig
from modeling_leccr.training.adapters import TOWERS, count_parameters, merge_adapter, prepare_parts
from modeling_leccr.training.arguments import build_recipe
from modeling_leccr.training.optimization import parameter_groups
from modeling_leccr.training.sharding import has_adapter
from tests.test_peft import embeds
from tests.tiny import tiny_model, tiny_pairs
from tests.training_parts import tiny_recipe

HOW = ("full", "lora", "frozen")
# Every term counts, so that every head has work to do.
LOSS = LossConfig(guidance=0.5, slot_contrastive=0.7, slot_vision=0.3, slot_diversity=0.4)


def prepared(how: tuple[str, str], lora: dict[str, Any] | None = None, **fields: Any) -> LeccrModel:
    """A tiny model in training mode whose vision tower and text tower are trained as asked."""
    model = tiny_model(**fields)
    torch.manual_seed(0)
    prepare_parts(model, dict(zip(TOWERS, how, strict=True)), lora or {})
    model.train()
    return model


def loss_of(model: nn.Module) -> torch.Tensor:
    """Of one batch of pairs."""
    criterion = LeccrCriterion(LOSS)
    output = model(**tiny_pairs(4))
    return criterion.total(criterion(criterion.summarise(output, torch.arange(4)), output.logit_scale))


def trained_names(model: nn.Module) -> set[str]:
    return {name for name, value in model.named_parameters() if value.requires_grad}


def with_changed_adapter(model: LeccrModel) -> LeccrModel:
    """As after training: a fresh adapter changes nothing, and copies of heads equal the originals."""
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value += 0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(value.numel()))
    return model


@pytest.fixture(scope="module")
def process_group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One process, which DDP treats like many."""
    store = dist.FileStore(str(tmp_path_factory.mktemp("group") / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("vision", HOW)
@pytest.mark.parametrize("text", HOW)
def test_towers_learn_as_asked_and_heads_always(vision: str, text: str):
    """peft freezes all that it is not told of: slots, projections and temperature would stay as they are drawn."""
    model = prepared((vision, text), description_dropout=0.1)
    loss_of(model).backward()
    learns = {name.split(".")[0] for name in trained_names(model)}
    heads = {name for name, _ in model.named_children()} - set(TOWERS.values())
    assert {"semantic_slots", "logit_scale", "text_projection", "image_projection", "interaction"} <= heads
    expected = heads | {tower for tower, how in (("vision_model", vision), ("text_model", text)) if how != "frozen"}
    assert learns == expected
    for tower, how in (("vision_model", vision), ("text_model", text)):
        adapted = {name for name in trained_names(model) if name.startswith(tower) and "lora_" in name}
        assert bool(adapted) == (how == "lora")
        whole = {name for name in trained_names(model) if name.startswith(tower)} - adapted
        assert bool(whole) == (how == "full")
    assert has_adapter(model) == ("lora" in (vision, text))


@pytest.mark.parametrize("vision", HOW)
@pytest.mark.parametrize("text", HOW)
def test_every_trained_parameter_takes_part_in_each_step(process_group: None, vision: str, text: str):
    """DDP stops at the second step of a model with parameters that nothing reads, or searches for them in each."""
    model = prepared((vision, text), description_dropout=0.5)
    wrapped = DistributedDataParallel(model, find_unused_parameters=False)
    for _ in range(2):
        loss_of(wrapped).backward()
    gradients = {name: value.grad for name, value in model.named_parameters() if value.requires_grad}
    # Nothing reaches the first matrix of an adapter while the second one is zero.
    silent = [name for name, value in gradients.items() if value is None or not (value.any() or "lora_A" in name)]
    assert not silent


@pytest.mark.parametrize("how", HOW)
def test_the_token_of_hidden_patches_does_not_learn(how: str):
    """DINO has one for its pretraining; as nothing reads it, DDP would stop at the second step."""
    model = prepared((how, "full"), vision="dinov2")
    tokens = {name: value for name, value in model.named_parameters() if name.endswith(".mask_token")}
    assert tokens and not any(value.requires_grad for value in tokens.values())


@pytest.mark.parametrize(
    "fields",
    [
        {"vision": "vit"},
        {"vision": "swin", "image_pooling": "mean"},
        {"vision": "siglip", "image_pooling": "mean"},
        {"text": "distilbert"},
        {"text": "xlm-roberta"},
        {"item_source": "image"},
        {"description_encoder": "frozen"},
    ],
    ids=lambda fields: "-".join(fields.values()),
)
def test_any_tower_with_attention_takes_an_adapter(fields: dict[str, str]):
    """Encoders call their queries and values by many names; one that is not found would train heads alone."""
    model = with_changed_adapter(prepared(("lora", "lora"), **fields))
    adapted = {name.split(".lora_")[0] for name in trained_names(model) if "lora_A" in name}
    assert {name.split(".")[0] for name in adapted} == {"vision_model", "text_model"}
    num_layers = {"vision_model": 2, "text_model": 2}
    for tower, layers in num_layers.items():
        assert len([name for name in adapted if name.startswith(tower)]) == 2 * layers
    assert not [name for name in trained_names(model) if name.startswith("description_model")]
    loss_of(model).backward()
    assert not [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]


def test_a_frozen_tower_has_no_dropout_in_training():
    """Noise in a tower that cannot learn to bear it; the trainer switches the model to training before each step."""
    model = prepared(("frozen", "frozen"))
    model.train()
    assert not any(
        part.training for tower in ("vision_model", "text_model") for part in model.get_submodule(tower).modules()
    )
    assert model.training and model.semantic_slots.training
    adapted = prepared(("frozen", "lora"))
    assert all(part.training for part in adapted.text_model.modules() if isinstance(part, nn.Dropout))


@pytest.mark.parametrize(
    ("wanted", "last_names"),
    [
        (None, {"query", "value"}),
        (["key", "output.dense"], {"key", "dense"}),
        (r"text_model\.encoder\.layer\.0\..*query", {"query"}),
        ("all-linear", {"query", "key", "value", "dense"}),
    ],
)
def test_target_modules_stay_in_the_towers_that_take_adapters(wanted: Any, last_names: set[str]):
    """`all-linear` of peft would take the heads too, which are trained whole."""
    model = prepared(("frozen", "lora"), {} if wanted is None else {"target_modules": wanted})
    adapted = {name.split(".lora_")[0] for name in trained_names(model) if "lora_" in name}
    assert {name.split(".")[0] for name in adapted} == {"text_model"}
    assert {name.rpartition(".")[2] for name in adapted} == last_names
    if isinstance(wanted, str) and "layer" in wanted:
        assert len(adapted) == 1


def test_a_tower_without_such_matrices_is_refused_with_the_names_of_its_own():
    """A convolutional tower would be frozen without a word."""
    with pytest.raises(ValueError, match=r"no matrix of the vision_model .*name some of \['pwconv1', 'pwconv2'\]"):
        prepared(("lora", "full"), vision="convnextv2", image_pooling="mean")
    with pytest.raises(ValueError, match=r"no matrix of the text_model is called \['qeury'\]"):
        prepared(("full", "lora"), {"target_modules": ["qeury"]})


@pytest.mark.parametrize("lora", [{}, {"use_dora": True}, {"use_rslora": True, "r": 4, "target_modules": "all-linear"}])
def test_a_merged_model_embeds_like_the_adapter(lora: dict[str, Any]):
    """A merge that keeps the old heads, or scales a matrix wrongly, goes unnoticed."""
    model = with_changed_adapter(prepared(("full", "lora"), lora))
    expected = embeds(model)
    assert (expected - embeds(tiny_model())).abs().amax(dim=-1).min() > 1e-2
    merged = merge_adapter(model)
    assert not has_adapter(merged) and set(merged.state_dict()) == set(tiny_model().state_dict())
    assert (embeds(merged) - expected).abs().max() <= 1e-5
    assert merge_adapter(merged) is merged


def test_the_share_of_trained_parameters_is_counted_and_logged(caplog: pytest.LogCaptureFixture):
    """The originals of heads that are trained as copies stay in memory, and are no part of the model."""
    whole = sum(value.numel() for value in tiny_model().parameters())
    assert count_parameters(prepared(("full", "full"))) == (whole, whole)
    with caplog.at_level(logging.INFO):
        model = prepared(("frozen", "lora"), {"r": 2})
    trained, total = count_parameters(model)
    # Query and value of two layers of width 32, two matrices each.
    adapter = 2 * 2 * 2 * (2 * 32)
    heads = sum(v.numel() for n, v in tiny_model().named_parameters() if not n.startswith(tuple(TOWERS.values())))
    assert (trained, total) == (heads + adapter, whole + adapter)
    assert f"{trained:,} parameters of {total:,} are trained ({100 * trained / total:.2f} %)" in caplog.text


def test_an_adapter_of_towers_by_name_is_a_small_part_of_the_model():
    """CLIP ViT-B/32 and multilingual BERT: the heads are stored with it, and must stay small beside them."""
    vision = CLIPVisionConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, patch_size=32
    )
    with torch.device("meta"):
        model = LeccrModel(LeccrConfig(vision_config=vision, text_config=BertConfig(vocab_size=119547), slot_dim=512))
        whole, _ = count_parameters(model)
        prepare_parts(model, {"vision_training": "frozen", "text_training": "lora"}, {})
    assert whole > 270e6
    assert 0.01 < count_parameters(model)[0] / whole < 0.05


@pytest.mark.parametrize("text", HOW)
def test_one_step_moves_heads_by_their_multiplier(text: str):
    """The names of peft must not bring heads into the groups of towers, or the other way round."""
    moves = []
    for factor in (1.0, 8.0):
        model = prepared(("full", text), description_dropout=0.1).eval()  # without dropout the steps are the same
        before = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}
        groups = parameter_groups(model, learning_rate=0.01, weight_decay=0.0, multipliers={"heads": factor})
        loss_of(model).backward()
        torch.optim.SGD(groups).step()
        moves.append({name: (dict(model.named_parameters())[name] - value).detach() for name, value in before.items()})
    for name, move in moves[0].items():
        factor = 1.0 if name.startswith(tuple(TOWERS.values())) else 8.0
        torch.testing.assert_close(
            moves[1][name], factor * move, rtol=1e-2, atol=1e-6, msg=lambda text, n=name: n + text
        )
    assert any(not name.startswith(tuple(TOWERS.values())) and move.any() for name, move in moves[0].items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_training": "adapter"}, r"text_training must be one of \['full', 'lora', 'frozen'\]"),
        ({"lora": {"r": 4}}, r"lora \(\['r'\]\) needs vision_training: lora or text_training: lora"),
        ({"text_training": "lora", "lora": {"rank": 4}}, r"unknown settings \['rank'\] in lora; .*'use_dora'"),
        ({"text_training": "lora", "lora": {"modules_to_save": []}}, r"unknown settings \['modules_to_save'\] in lora"),
        (
            {"text_training": "frozen", "learning_rate_multipliers": {"text": 0.1}},
            r"factor for 'text', which does not learn \(text_training: frozen\)",
        ),
        (
            {"vision_training": "lora", "model": {"item_source": "description", "interaction": "none"}},
            "vision_training must be left out where neither pictures nor frames are read",
        ),
        ({"base_model": "owner/leccr"}, r"base_model brings its towers.*'vision_tower'.* would do nothing"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(tmp_path: Path, changes: dict[str, Any], message: str):
    """Hours of training later, the report would tell of a setting that had no effect."""
    with pytest.raises(ValueError, match=message):
        build_recipe(tiny_recipe(tmp_path, **changes))


def test_a_recipe_with_adapters_needs_peft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An ImportError of a library does not say which setting asked for it."""
    monkeypatch.setattr("modeling_leccr.training.adapters.is_peft_available", lambda: False)
    build_recipe(tiny_recipe(tmp_path, text_training="frozen"))
    with pytest.raises(ValueError, match=r"text_training: lora needs the package peft; install it with `pip install"):
        build_recipe(tiny_recipe(tmp_path, text_training="lora"))
