"""Two real processes train on videos as one with the same global batch, though each pads its own to another length."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modeling_leccr.training.batches import GlobalBatches
from tests.launch_parts import run_processes
from tests.video_parts import LENGTHS
from tests.videos_worker import NUM_PAIRS, RUNS, WORLD_SIZE, found_by, make_trainer, run_process


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the processes wrote; they do all runs, for starting them costs more."""
    folder = tmp_path_factory.mktemp("videos")
    run_processes(run_process, folder, world_size=WORLD_SIZE, seconds=300)
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_train_on_videos_as_one(folder: Path, tmp_path: Path, name: str):
    """A mask that is lost on the way, or padding that counts, gives another loss wherever the longest video of a
    process, or of a chunk of the gradient cache, is not the longest of all."""
    vision_input, taught, _ = RUNS[name]
    trainer = make_trainer(tmp_path, vision_input, taught)
    start = {f"weight/{key}": value.clone() for key, value in trainer.model.state_dict().items()}
    expected = found_by(trainer)
    for rank in range(WORLD_SIZE):
        found = load_file(folder / f"{name}-{rank}.safetensors")
        compared = {key: value for key, value in expected.items() if not key.endswith(("_runtime", "_per_second"))}
        assert compared.keys() <= found.keys()
        torch.testing.assert_close({key: found[key] for key in compared}, compared, rtol=1e-5, atol=1e-5)
    moved = {key for key, value in start.items() if not torch.equal(value, expected[key])}
    assert {"frame_encoder", "visual_projection"} <= {key.split("/")[1].split(".")[0] for key in moved}


def test_the_processes_pad_to_other_lengths():
    """Equal padding in both would hide what the padding does."""
    batches = [GlobalBatches(NUM_PAIRS, 4, seed=42, num_processes=2, process_index=rank) for rank in range(2)]
    longest = [max(LENGTHS[index] for _, index in next(iter(share))) for share in batches]
    assert longest[0] != longest[1]
