"""Two real processes train as one with the same global batch: losses, gradients, and steps of the trainer."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.distributed_worker import (
    IMAGE_IDS,
    NUM_ROWS,
    SIZES,
    TRAINER_SETTINGS,
    WORLD_SIZE,
    losses_and_gradients,
    make_model,
    rows_of,
)
from tests.training_parts import TERMS, tiny_split, tiny_trainer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, root_dir: Path) -> Path:
    """What two gloo processes wrote; they run all cases at once."""
    output = tmp_path_factory.mktemp("distributed")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={WORLD_SIZE}"]
    result = subprocess.run(
        [*command, str(root_dir / "tests" / "distributed_worker.py"), str(output)],
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(root_dir), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return output


def one_process() -> dict[str, Tensor]:
    """The global batch in this process."""
    return losses_and_gradients(make_model(), rows_of(0, NUM_ROWS), lambda batch: batch)


def largest_difference(found: dict[str, Tensor], expected: dict[str, Tensor], prefix: str) -> float:
    names = [name for name in expected if name.startswith(prefix)]
    return max(float((found[name] - expected[name]).abs().max()) for name in names)


@pytest.mark.parametrize("rank", range(WORLD_SIZE))
@pytest.mark.parametrize("case", SIZES)
def test_two_processes_have_the_losses_and_gradients_of_one(folder: Path, case: str, rank: int):
    """Gradients off by the number of processes, negatives lost, or a second caption of an image on the other process
    taken for a negative: the classic faults of gathered contrastive losses."""
    found = load_file(folder / f"{case}-{rank}.safetensors")
    expected = one_process()
    assert set(found) == set(expected)
    assert {name.removeprefix("loss/") for name in found if name.startswith("loss/")} == TERMS | {"total"}
    assert {name for name in found if name.startswith("grad/")} == {
        f"grad/{name}" for name, _ in make_model().named_parameters()
    }
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_rows_of_one_image_lie_on_different_processes():
    """With both on one process, the comparison would not see a diagonal target."""
    for sizes in SIZES.values():
        halves = IMAGE_IDS[: sizes[0]].tolist(), IMAGE_IDS[sizes[0] :].tolist()
        assert set(halves[0]) & set(halves[1]) == {10, 11}


def test_the_gradients_compared_are_not_zero():
    """Zeros are equal to zeros whatever the gather does."""
    gradients = {name: value for name, value in one_process().items() if name.startswith("grad/")}
    # A key bias shifts all scores of a query alike, which softmax cancels.
    dead = [name for name, value in gradients.items() if float(value.abs().max()) < 1e-4]
    assert all(name.endswith(("key.bias", "k_proj.bias")) for name in dead), dead
    assert len(dead) < len(gradients) / 4


def test_a_gather_that_keeps_the_local_slice_of_the_gradient_is_found(folder: Path):
    """The released code's gather: its losses are right and its gradients are not, so only they tell."""
    found, expected = load_file(folder / "local-slice-0.safetensors"), one_process()
    assert largest_difference(found, expected, "loss/") < 1e-5
    assert largest_difference(found, expected, "grad/") > 1e-2


def test_two_processes_of_the_trainer_take_the_steps_of_one(folder: Path, tmp_path: Path):
    """Sampler, collator, `compute_loss`, accelerate's backward and the optimizer: two steps of plain gradient descent
    end in the same weights, and every process logs the loss of the global batch."""
    trainer = tiny_trainer(
        tmp_path, make_model(), validation=tiny_split(), per_device_train_batch_size=NUM_ROWS // 2, **TRAINER_SETTINGS
    )
    trainer.train()
    first, second = (load_file(folder / f"trainer-{rank}.safetensors") for rank in range(WORLD_SIZE))
    assert first.keys() == second.keys()
    torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-6)
    weights = trainer.model.state_dict()
    torch.testing.assert_close({name: first[f"weight/{name}"] for name in weights}, weights, rtol=1e-5, atol=1e-5)
    start = make_model().state_dict()
    assert max(float((weights[name] - start[name]).abs().max()) for name in weights) > 1e-2
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    for step, entry in enumerate(logged):
        for name in ("loss", *(f"loss/{term}" for term in TERMS)):
            assert float(first[f"{name}/{step}"]) == pytest.approx(entry[name], abs=1e-4), (name, step)


def test_every_process_evaluates_the_whole_split(folder: Path):
    """A split that is shared out between processes loses rows or counts some twice."""
    for rank in range(WORLD_SIZE):
        assert float(load_file(folder / f"trainer-{rank}.safetensors")["metric/eval_de/num_items"]) == 8
