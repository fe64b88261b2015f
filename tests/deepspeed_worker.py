"""One of two processes of tests/test_deepspeed.py: python -m torch.distributed.run ... FOLDER CONFIGURATION.

DeepSpeed trains on the CPU where `DS_ACCELERATOR=cpu` says so; accelerate looks for GPUs and is told the back end.
"""

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from modeling_leccr.training.sharding import whole_model
from tests.fsdp_worker import NUM_PROCESSES, make_model, make_trainer


def run(folder: Path, name: str, *, resume: str | None = None, **arguments: Any) -> None:
    """Train, and leave the log and the whole model in FOLDER/name."""
    trainer = make_trainer(folder / name, NUM_PROCESSES, use_cpu=False, ddp_backend="gloo", **arguments)
    trainer.train(resume_from_checkpoint=resume)
    if not trainer.is_deepspeed_enabled or trainer.args.world_size != NUM_PROCESSES:
        raise RuntimeError("DeepSpeed did not run in two processes, so that nothing was tested.")
    model = whole_model(trainer)
    if dist.get_rank() == 0:
        model.save_pretrained(folder / name / "whole")
        log = {"stage": trainer.accelerator.deepspeed_plugin.zero_stage, "lines": trainer.state.log_history}
        (folder / name / "log.json").write_text(json.dumps(log), encoding="utf-8")
    dist.barrier()


def beyond_the_clamp() -> Any:
    """A model whose temperature is where `forward` passes no gradient."""
    model = make_model()
    with torch.no_grad():
        model.logit_scale.value.fill_(math.log(200.0))
    return model


def main(folder: Path, configuration: Path) -> None:
    """All cases, for starting a process costs more than they do."""
    torch.set_num_threads(1)
    settings = json.loads(configuration.read_text(encoding="utf-8"))
    settings["torch_autocast"]["enabled"] = False
    exact = folder / f"exact-{os.environ['RANK']}.json"
    exact.write_text(json.dumps(settings), encoding="utf-8")
    os.environ["ACCELERATE_DEEPSPEED_CONFIG_FILE"] = str(exact)
    run(folder, "float32")
    adamw: dict[str, Any] = {"optim": "adamw_torch_fused", "learning_rate": 1e-3}
    run(folder, "uninterrupted", **adamw)
    run(folder, "resumed", resume=str(folder / "uninterrupted" / "checkpoint-1"), **adamw)
    # One step brings it back, the next one moves it.
    short: dict[str, Any] = {"max_steps": 2, "save_strategy": "no", "load_best_model_at_end": False}
    run(folder, "clamped", model=beyond_the_clamp(), **short)
    os.environ["ACCELERATE_DEEPSPEED_CONFIG_FILE"] = str(configuration)
    run(folder, "bf16")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
