"""Two processes train either stage of CL2CM, and both in a row, as one process does with the same global batch."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.cl2cm_worker import RUNS, WORLD_SIZE, found_by, make_trainer, run_process, train_both
from tests.launch_parts import run_processes
from tests.tiny import tiny_cl2cm, tiny_cross_lingual

TERMS = {
    "first": {"cross_lingual", "word_transport", "word_alignment", "marginal_error"},
    "second": {
        "source_contrastive",
        "target_contrastive",
        "cross_lingual",
        "relational_transfer",
        "feature_distillation",
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the processes wrote."""
    place = tmp_path_factory.mktemp("cl2cm")
    run_processes(run_process, place, world_size=WORLD_SIZE, variables={"ACCELERATE_USE_CPU": "1"})
    return place


@pytest.mark.parametrize("run", RUNS)
def test_two_processes_take_the_steps_of_one_in_either_stage(folder: Path, tmp_path: Path, run: str):
    """Captions that are equal in two processes, relations to the captions of the other process, words that are padded
    to another length, and chunks of them: each is wrong in another way where a gather forgets it."""
    stage, _ = RUNS[run]
    expected = found_by(make_trainer(tmp_path, stage))
    assert {name.split("/")[1] for name in expected if name.count("/") == 2 and name[:5] == "loss/"} == TERMS[stage]
    for rank in range(WORLD_SIZE):
        found = load_file(folder / f"{run}-{rank}.safetensors")
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("run", RUNS)
def test_the_steps_compared_moved_the_model_and_not_its_teacher(folder: Path, run: str):
    """Weights that stayed where they were would be equal whatever the gradients are."""
    stage, _ = RUNS[run]
    found = load_file(folder / f"{run}-1.safetensors")
    start = (tiny_cross_lingual() if stage == "first" else tiny_cl2cm()).state_dict()
    assert max(float((found[f"weight/{name}"] - value).abs().max()) for name, value in start.items()) > 1e-2
    teacher = tiny_cross_lingual(seed=7).state_dict() if stage == "second" else {}
    assert {name for name in found if name.startswith("teacher/")} == {f"teacher/{name}" for name in teacher}
    for name, value in teacher.items():
        assert torch.equal(found[f"teacher/{name}"], value)


def test_a_recipe_in_two_stages_ends_in_the_same_weights_with_two_processes(folder: Path, tmp_path: Path):
    """The main process alone saves the teacher, and all of them read it when it is there."""
    expected = train_both(tmp_path)
    for rank in range(WORLD_SIZE):
        found = load_file(folder / f"both-{rank}.safetensors")
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)
