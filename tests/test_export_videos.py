"""Models of videos in folders of their own: what is written to check them by, and that the check finds a fault."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling_leccr.check_embeddings import TOLERANCE, largest_difference
from modeling_leccr.export import save_for_hub
from modeling_leccr.model_files import foreign_files
from tests.tiny import VIDEO_FIELDS, tiny_cl2cm, tiny_model, tiny_processor

MODELS: dict[str, Any] = {
    "frames": lambda: tiny_model(**VIDEO_FIELDS["frames"]),
    "features": lambda: tiny_model(**VIDEO_FIELDS["features"], description_dropout=0.3),
    "cl2cm_frames": lambda: tiny_cl2cm(**VIDEO_FIELDS["frames"]),
    "cl2cm_features": lambda: tiny_cl2cm(**VIDEO_FIELDS["features"]),
}


@pytest.mark.parametrize("kind", MODELS)
def test_a_saved_model_of_videos_embeds_again_what_lies_beside_it(kind: str, tmp_path: Path) -> None:
    """Clips of unequal length, so that a mask which is lost on the way to the Hub is found there."""
    folder = save_for_hub(MODELS[kind](), tiny_processor(num_frames=3), tmp_path / "model")
    assert largest_difference(folder) <= 1e-6
    assert foreign_files(folder) == []  # the next save may replace all of them
    weights = load_file(folder / "model.safetensors")
    name = "frame_encoder.layers.0.out_proj.weight"
    weights[name] = weights[name] + 0.1 * torch.randn(weights[name].shape, generator=torch.Generator().manual_seed(0))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert largest_difference(folder) > TOLERANCE


def test_golden_features_are_the_same_in_each_save(tmp_path: Path) -> None:
    """Two saves of one model are one model, byte by byte; and random numbers of the caller are not drawn."""
    model, processor = MODELS["features"](), tiny_processor()
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first, second = (save_for_hub(model, processor, tmp_path / name) for name in ("first", "second"))
    assert torch.rand(1).equal(expected)
    for path in (first / "golden").iterdir():
        assert path.read_bytes() == (second / "golden" / path.name).read_bytes()
    features = load_file(first / "golden" / "features.safetensors")
    assert [tuple(features[str(number)].shape) for number in range(3)] == [(3, 20), (2, 20), (1, 20)]
