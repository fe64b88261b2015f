"""Weights that are split over two processes (FSDP2) train, embed, save and go on as whole ones."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from torch.distributed.fsdp import MixedPrecisionPolicy

from modeling_leccr import LeccrModel
from modeling_leccr.training.sharding import prepare_splitting
from tests.fsdp_worker import NUM_PROCESSES, make_model, make_trainer, run_cases
from tests.launch_parts import environment_of, launched, run_processes
from tests.tiny import tiny_items, tiny_model
from tests.training_parts import TERMS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes wrote, with the settings of configs/accelerate/fsdp2.yaml; they run all cases at once."""
    output = tmp_path_factory.mktemp("fsdp")
    settings = {name: value for name, value in environment_of(launched("fsdp2.yaml")).items() if "FSDP" in name}
    run_processes(run_cases, output, world_size=NUM_PROCESSES, variables=settings)
    return output


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same steps with whole weights in this process."""
    trainer = make_trainer(tmp_path_factory.mktemp("whole"), 1)
    trainer.train()
    return trainer


def log_of(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / name / "log.json").read_text(encoding="utf-8"))


def losses(lines: list[dict[str, float]]) -> list[dict[str, float]]:
    names = ["loss", "grad_norm", "logit_scale", *(f"loss/{term}" for term in sorted(TERMS))]
    return [{name: line[name] for name in names} for line in lines if "loss" in line]


def recalls(lines: list[dict[str, float]]) -> list[float]:
    return [line["eval_sum_r"] for line in lines if "eval_sum_r" in line]


def weights(model: Path) -> dict[str, torch.Tensor]:
    return load_file(model / "model.safetensors")


@pytest.mark.parametrize("name", ["float32", "cached"])
def test_split_weights_take_the_steps_of_whole_ones(folder: Path, one_process: Any, name: str):
    """Terms, gradient norms and recalls of three steps: a gradient that is lost or summed twice, an evaluation with
    the part of the weights that the process holds."""
    log = log_of(folder, name)
    assert log["own_parameters"] < 0.6 * log["parameters"]
    expected = losses(one_process.state.log_history)
    assert len(expected) == 3
    for found, line in zip(losses(log["lines"]), expected, strict=True):
        assert found == pytest.approx(line, abs=2e-5, rel=2e-5)
    assert recalls(log["lines"]) == pytest.approx(recalls(one_process.state.log_history))


def test_the_best_model_of_split_weights_is_that_of_whole_ones(folder: Path, one_process: Any):
    """What is searched with and pushed: whole, of the step that was best, under the names of the class."""
    whole = weights(folder / "float32" / "whole")
    expected = one_process.model.state_dict()
    assert max(float((whole[name] - value).abs().max()) for name, value in make_model().state_dict().items()) > 1e-2
    torch.testing.assert_close({name: whole[name] for name in expected}, expected, rtol=1e-5, atol=1e-5)


def test_checkpoints_of_split_weights_are_models(folder: Path):
    """Saved as they are, they would be of a class that nobody else has."""
    for step in (1, 2, 3):
        model = LeccrModel.from_pretrained(folder / "float32" / f"checkpoint-{step}")
        assert type(model) is LeccrModel
        assert torch.isfinite(model.get_image_features(**tiny_items()).pooler_output).all()
        assert "FSDP" not in (folder / "float32" / f"checkpoint-{step}" / "config.json").read_text(encoding="utf-8")


def test_a_resumed_run_of_split_weights_ends_in_the_same_bits(folder: Path):
    """Weights, optimizer and order of the pairs come back from the checkpoint."""
    found, expected = (log_of(folder, name)["lines"] for name in ("resumed", "uninterrupted"))
    assert losses(found) == losses(expected)
    assert [line["step"] for line in found if "loss" in line] == [1, 2]
    resumed, uninterrupted = (weights(folder / name / "whole") for name in ("resumed", "uninterrupted"))
    assert all(torch.equal(resumed[name], value) for name, value in uninterrupted.items())


def test_bf16_leaves_temperature_and_losses_in_fp32(folder: Path):
    """accelerate's own settings round the temperature (14.25 for 14.29) and the embeddings that losses compare."""
    found, expected = (losses(log_of(folder, name)["lines"]) for name in ("bf16", "float32"))
    assert found[0]["logit_scale"] == pytest.approx(1 / 0.07, rel=1e-6)
    assert len(found) == 2
    for line, exact in zip(found, expected, strict=False):
        assert line["loss"] == pytest.approx(exact["loss"], rel=2e-2)
        assert line["loss"] != exact["loss"]
    assert {value.dtype for value in weights(folder / "bf16" / "whole").values()} == {torch.float32}


def test_the_clamp_of_the_temperature_reaches_split_weights(folder: Path):
    """The process that holds the temperature must bring it back; beyond the bound it would never learn again."""
    value = weights(folder / "clamped" / "whole")["logit_scale.value"]
    assert float(value) == pytest.approx(math.log(100.0), abs=1e-6)


def plugin(**changes: Any) -> SimpleNamespace:
    """accelerate's settings, as of configs/accelerate/fsdp2.yaml."""
    settings = {
        "fsdp_version": 2,
        "state_dict_type": "StateDictType.FULL_STATE_DICT",
        "cpu_ram_efficient_loading": False,
        "mixed_precision_policy": None,
        "cpu_offload": None,
        "transformer_cls_names_to_wrap": None,
    }
    return SimpleNamespace(**{**settings, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fsdp_version": 1}, "fsdp_version must be 2"),
        ({"state_dict_type": "StateDictType.SHARDED_STATE_DICT"}, "FULL_STATE_DICT"),
        ({"cpu_ram_efficient_loading": True}, "fsdp_cpu_ram_efficient_loading must be false"),
    ],
)
def test_settings_that_train_something_else_are_refused(changes: dict[str, Any], message: str):
    """They would fail after the first epoch, or leave checkpoints that no one can load."""
    with pytest.raises(ValueError, match=message):
        prepare_splitting(tiny_model(), plugin(**changes))


def test_adapters_are_sent_to_ddp():
    """The weights of an adapter are few; what splits them would save the wrong model."""
    model = tiny_model()
    model.add_adapter(LoraConfig(target_modules=["query"]))
    with pytest.raises(ValueError, match=r"ddp\.yaml"):
        prepare_splitting(model, plugin())


@pytest.mark.parametrize("vision", ["clip", "vit", "siglip", "swin", "convnextv2"])
@pytest.mark.parametrize("text", ["bert", "xlm-roberta", "distilbert"])
def test_layers_of_any_tower_are_found(vision: str, text: str):
    """Towers name layers of their other half, such as CLIPTextEmbeddings, for which accelerate looks in vain."""
    pooling = "cls" if vision in ("clip", "vit") else "mean"
    model = tiny_model(vision=vision, text=text, image_pooling=pooling)
    settings = plugin()
    prepare_splitting(model, settings)
    names = {type(part).__name__ for part in model.modules()}
    assert "CrossAttentionBlock" in settings.transformer_cls_names_to_wrap
    assert set(settings.transformer_cls_names_to_wrap) <= names


def test_gradients_are_summed_in_fp32(monkeypatch: pytest.MonkeyPatch):
    """A sum over thousands of processes in bf16 loses the small ones."""
    split: list[torch.nn.Module] = []
    monkeypatch.setattr("modeling_leccr.training.sharding.fully_shard", lambda module, **settings: split.append(module))
    model, settings = tiny_model(), plugin(mixed_precision_policy=MixedPrecisionPolicy(torch.bfloat16, torch.bfloat16))
    prepare_splitting(model, settings)
    policy = settings.mixed_precision_policy
    assert (policy.param_dtype, policy.reduce_dtype, policy.output_dtype) == (torch.bfloat16, torch.float32, None)
    assert split == [model.logit_scale]
