"""What DeepSpeed (ZeRO-2, ZeRO-3) splits over two processes trains, embeds, saves and goes on as a whole model."""

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from modeling_leccr import LeccrModel
from modeling_leccr.training.sharding import prepare_deepspeed
from tests.deepspeed_worker import beyond_the_clamp
from tests.fsdp_worker import NUM_PROCESSES, make_trainer
from tests.launch_parts import CONFIGURATIONS
from tests.test_fsdp import log_of, losses, recalls, weights
from tests.tiny import tiny_items, tiny_model

STAGES = [2, 3]
needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="needs `pip install deepspeed`, which is no dependency"
)


def config_of(stage: int) -> dict[str, Any]:
    return json.loads((CONFIGURATIONS / f"deepspeed_zero{stage}.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module", params=STAGES)
def folder(request: Any, tmp_path_factory: pytest.TempPathFactory, root_dir: Path) -> Path:
    """What two processes wrote on the CPU with one of the files of configs/accelerate."""
    output = tmp_path_factory.mktemp(f"deepspeed{request.param}")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={NUM_PROCESSES}"]
    configuration = CONFIGURATIONS / f"deepspeed_zero{request.param}.json"
    result = subprocess.run(
        [*launcher, str(root_dir / "tests" / "deepspeed_worker.py"), str(output), str(configuration)],
        env={
            **os.environ,
            "ACCELERATE_USE_DEEPSPEED": "true",
            "DS_ACCELERATOR": "cpu",
            "PYTHONPATH": str(root_dir),
            "CUDA_VISIBLE_DEVICES": "",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-12000:]
    return output


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same steps without DeepSpeed in this process."""
    trainer = make_trainer(tmp_path_factory.mktemp("whole"), 1)
    trainer.train()
    return trainer


@needs_deepspeed
def test_split_states_take_the_steps_of_whole_ones(folder: Path, one_process: Any):
    """Terms, gradient norms, recalls and weights of three steps: a gradient that is summed twice, an evaluation with
    a part of the weights."""
    log, expected = log_of(folder, "float32"), one_process.state.log_history
    assert log["stage"] == int(folder.name.removeprefix("deepspeed")[0])
    assert len(losses(expected)) == 3
    for found, line in zip(losses(log["lines"]), losses(expected), strict=True):
        assert found == pytest.approx(line, abs=2e-5, rel=2e-5)
    assert recalls(log["lines"]) == pytest.approx(recalls(expected))
    whole, model = weights(folder / "float32" / "whole"), one_process.model.state_dict()
    torch.testing.assert_close({name: whole[name] for name in model}, model, rtol=1e-5, atol=1e-5)


@needs_deepspeed
def test_checkpoints_are_models(folder: Path):
    """Without the gathering of ZeRO-3's weights they hold empty ones."""
    for step in (1, 2, 3):
        model = LeccrModel.from_pretrained(folder / "float32" / f"checkpoint-{step}")
        assert torch.isfinite(model.get_image_features(**tiny_items()).pooler_output).all()


@needs_deepspeed
def test_a_resumed_run_ends_in_the_same_bits(folder: Path):
    """Weights, optimizer and order of the pairs come back from the parts of the checkpoint."""
    found, expected = (log_of(folder, name)["lines"] for name in ("resumed", "uninterrupted"))
    assert losses(found) == losses(expected)
    resumed, uninterrupted = (weights(folder / name / "whole") for name in ("resumed", "uninterrupted"))
    assert all(torch.equal(resumed[name], value) for name, value in uninterrupted.items())


@needs_deepspeed
def test_the_clamp_of_the_temperature_reaches_what_the_optimizer_updates(folder: Path, tmp_path: Path):
    """Its copy would write the old temperature back in the next step, again and again."""
    options: dict[str, Any] = {"max_steps": 2, "save_strategy": "no", "load_best_model_at_end": False}
    trainer: Any = make_trainer(tmp_path, 1, model=beyond_the_clamp(), **options)
    trainer.train()
    expected = float(trainer.model.logit_scale.value.detach())
    assert expected < math.log(100.0) - 1e-3
    found = float(weights(folder / "clamped" / "whole")["logit_scale.value"])
    assert found == pytest.approx(expected, abs=1e-6)


@needs_deepspeed
def test_bf16_leaves_temperature_and_weights_in_fp32(folder: Path):
    """DeepSpeed's own bf16 rounds them, and what the losses compare."""
    found, expected = (losses(log_of(folder, name)["lines"]) for name in ("bf16", "float32"))
    assert found[0]["logit_scale"] == pytest.approx(1 / 0.07, rel=1e-6)
    for line, exact in zip(found, expected, strict=True):
        assert line["loss"] == pytest.approx(exact["loss"], rel=2e-2)
        assert line["loss"] != exact["loss"]
    assert {value.dtype for value in weights(folder / "bf16" / "whole").values()} == {torch.float32}


@pytest.mark.parametrize("stage", STAGES)
def test_the_files_of_the_project_are_accepted(stage: int):
    """They set what is refused otherwise."""
    prepare_deepspeed(tiny_model(), SimpleNamespace(zero_stage=stage, deepspeed_config=config_of(stage)))
    assert not is_deepspeed_zero3_enabled()


def test_bf16_of_deepspeed_is_refused():
    """bf16 has no number between 14.25 and 14.3125 for the inverse temperature."""
    config = {**config_of(2), "bf16": {"enabled": True}}
    with pytest.raises(ValueError, match="torch_autocast"):
        prepare_deepspeed(tiny_model(), SimpleNamespace(zero_stage=2, deepspeed_config=config))


def test_zero_3_must_gather_what_it_saves():
    """Its checkpoints would hold no model."""
    config = {**config_of(3), "zero_optimization": {"stage": 3}}
    with pytest.raises(ValueError, match="stage3_gather_16bit_weights_on_model_save must be true"):
        prepare_deepspeed(tiny_model(), SimpleNamespace(zero_stage=3, deepspeed_config=config))


def test_zero_3_sends_adapters_to_ddp():
    """The weights of an adapter are few; what splits them would save the wrong model."""
    model = tiny_model()
    model.add_adapter(LoraConfig(target_modules=["query"]))
    with pytest.raises(ValueError, match=r"ddp\.yaml"):
        prepare_deepspeed(model, SimpleNamespace(zero_stage=3, deepspeed_config=config_of(3)))
