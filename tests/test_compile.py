"""Compiled and bf16 steps are the steps of the recipe, only faster."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from modeling_leccr import LeccrModel
from modeling_leccr.training.trainer import LeccrTrainer
from tests.fsdp_worker import SETTINGS
from tests.tiny import tiny_model, tiny_pairs, tiny_vision_config
from tests.training_parts import TERMS, text_config_without_dropout, tiny_trainer

PLAIN = {**SETTINGS, "eval_strategy": "no", "save_strategy": "no"}


def make_model() -> LeccrModel:
    """Without dropout, which a compiled model draws otherwise; one layer each, for the time that tracing takes."""
    text, vision = text_config_without_dropout(), tiny_vision_config()
    text.num_hidden_layers = vision.num_hidden_layers = 1
    return tiny_model(text_config=text, vision_config=vision, num_slot_layers=1, num_interaction_layers=1, dropout=0.0)


def trained(folder: Path, **arguments: Any) -> LeccrTrainer:
    trainer = tiny_trainer(folder, make_model(), **{**PLAIN, **arguments})
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> LeccrTrainer:
    return trained(tmp_path_factory.mktemp("plain"))


def losses(trainer: LeccrTrainer) -> list[dict[str, float]]:
    names = ["loss", *(f"loss/{term}" for term in sorted(TERMS))]
    return [{name: line[name] for name in names} for line in trainer.state.log_history if "loss" in line]


def check_compiled(folder: Path, plain: LeccrTrainer, backend: str) -> None:
    """Three steps, whose texts have other lengths each, and what is left of them."""
    torch._dynamo.reset()
    counters.clear()
    compiled = trained(folder / backend, torch_compile=True, torch_compile_backend=backend)
    assert 1 <= counters["stats"]["unique_graphs"] <= 3, counters["stats"]
    assert not counters["graph_break"]
    for found, expected in zip(losses(compiled), losses(plain), strict=True):
        assert found == pytest.approx(expected, abs=1e-5)
    compiled.save_model(str(folder / "model"))
    weights = LeccrModel.from_pretrained(folder / "model").state_dict()
    torch.testing.assert_close(weights, plain.model.state_dict(), rtol=1e-5, atol=1e-5)


def test_compiled_steps_equal_plain_ones_without_a_break_in_at_most_three_graphs(tmp_path: Path, plain: LeccrTrainer):
    """A break of the graph, at a tensor whose value is asked for, would stall the queue of a GPU in each step; a
    graph for each length of the texts would be compiled for ever. Traced alone: machine code takes thrice the time."""
    check_compiled(tmp_path, plain, "eager")


@pytest.mark.slow
def test_steps_in_machine_code_equal_plain_ones(tmp_path: Path, plain: LeccrTrainer):
    """What `torch_compile: true` takes."""
    check_compiled(tmp_path, plain, "inductor")


def test_bf16_steps_are_finite_and_near_those_of_fp32(tmp_path: Path, plain: LeccrTrainer):
    """Terms in bf16 would move in steps of 1/16 near 10, and a softmax of them would be flat."""
    found = losses(trained(tmp_path, bf16=True))
    assert len(found) == len(losses(plain)) == 3
    for line, exact in zip(found, losses(plain), strict=True):
        assert line == pytest.approx(exact, abs=5e-2)
        assert all(math.isfinite(value) for value in line.values())
        assert line != exact  # it was not fp32 again


def test_bf16_leaves_what_is_compared_in_fp32():
    """Cosines of bf16 differ by 1/256 at the top, where the ranks are decided."""
    pairs = tiny_pairs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = make_model().train()(**pairs)
        logits = make_model()(
            pairs["pixel_values"],
            pairs["source_input_ids"],
            pairs["source_attention_mask"],
            description_input_ids=pairs["description_input_ids"],
            description_attention_mask=pairs["description_attention_mask"],
        ).logits_per_image
    compared = [output.image_embeds, output.source_embeds, output.target_embeds, output.slot_embeds, output.logit_scale]
    assert {value.dtype for value in (*compared, logits)} == {torch.float32}
    norms = torch.cat([value.norm(dim=-1).flatten() for value in compared[:4]])
    torch.testing.assert_close(norms, torch.ones_like(norms), rtol=1e-6, atol=1e-6)


def test_the_optimizer_is_fused_unless_told_otherwise(plain: LeccrTrainer, tmp_path: Path):
    """One kernel for all parameters instead of some for each of 400."""
    trainer = tiny_trainer(tmp_path, make_model())
    settings = trainer.create_optimizer().defaults
    assert settings["fused"] is True
    assert isinstance(trainer.optimizer, torch.optim.AdamW)
