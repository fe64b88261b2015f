"""Agreement of clips and texts: a LECCR of clips or features, a CLIP that sees some frames, the command."""

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from hub_scripts import inspect_dataset
from modeling_leccr.export import save_for_hub
from processing.sources import write_splits
from processing.video_frames_leccr import FrameSampling, sample_frames
from retrieval.agreement import measure_agreement
from retrieval.dual_encoders import load_dual_encoder
from tests.test_agreement import save_tiny_clip
from tests.test_retrieval_encode import lively_model
from tests.tiny import VIDEO_FIELDS, tiny_model, tiny_processor
from tests.video_parts import FEATURE_DIM, features_of, length_of, text_split, video_split, write_clips

QUIET: dict[str, Any] = {"progress": False}


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny CLIP."""
    return save_tiny_clip(tmp_path_factory.mktemp("clip") / "tiny-clip")


def test_a_clip_is_the_mean_of_its_frames_to_an_encoder_of_pictures(clip_folder: Path) -> None:
    """Clips of unlike length in a batch: frames that slip to the next item would still give unit vectors."""
    rows = video_split("frames", 6)
    assert len({length_of(item) for item in range(6)}) > 3
    encoder = load_dual_encoder(str(clip_folder))
    found = encoder.encode_images(rows, 4, **QUIET)
    for position in range(6):
        frames = sample_frames(rows[position]["video"], FrameSampling(4))
        pictures = datasets.Dataset.from_dict({"image": frames}, features=datasets.Features(image=datasets.Image()))
        vectors = encoder.encode_images(pictures, 8, **QUIET)[:, 0]
        torch.testing.assert_close(found[position, 0], normalize(vectors.mean(dim=0), dim=0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("seen", ["frames", "features"])
def test_a_leccr_of_videos_scores_them_without_descriptions(seen: str, tmp_path: Path) -> None:
    """Agreement with a description that went into the vector would be agreement of a text with itself."""
    fields = VIDEO_FIELDS[seen] | ({"feature_dim": FEATURE_DIM} if seen == "features" else {})
    model = lively_model(description_dropout=0.2, **fields)
    encoder = load_dual_encoder(str(save_for_hub(model, tiny_processor(num_frames=3), tmp_path / "model")))
    rows = video_split(seen)
    agreement = measure_agreement(encoder, rows, **QUIET)
    assert agreement.numbers["medium"] == "clip" and agreement.numbers["sample"]["items"] == 8
    others = measure_agreement(
        encoder, rows.map(lambda row: {"description": row["description"] + " and more"}), **QUIET
    )
    columns, changed = agreement.numbers["columns"], others.numbers["columns"]
    assert columns["caption_en"] == changed["caption_en"] and columns["description"] != changed["description"]
    with pytest.raises(ValueError, match=f"vision_input '{seen}' reads the column"):
        measure_agreement(encoder, video_split("features" if seen == "frames" else "frames"), **QUIET)


def run(capsys: pytest.CaptureFixture[str], *arguments: Any) -> dict[str, Any]:
    inspect_dataset.main([str(argument) for argument in arguments])
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    return printed


@pytest.fixture
def data_set(tmp_path: Path) -> Path:
    """A data set of texts about clips."""
    return write_splits({"test": text_split()}, tmp_path / "mine")


def test_the_command_looks_at_a_folder_of_clips(
    data_set: Path,
    clip_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Most people have a CLIP and clips; the report must not speak of pictures."""
    videos, out = write_clips(tmp_path / "clips", 7), tmp_path / "out"
    options = ["--dataset", data_set, "--videos", videos, "--encoder", clip_folder, "--out", out, "--num-worst", 3]
    agreement = run(capsys, *options)["agreement"]
    assert agreement["medium"] == "clip" and agreement["sample"]["items"] == 7 and len(agreement["worst"]) == 3
    assert "1 items have no video" in caplog.text
    report = (out / "report.md").read_text(encoding="utf-8")
    assert "Agreement of clips and texts" in report and "own clip" in report and "picture" not in report
    # The sheet shows frames: the cells of the worst items are not the grey of an empty one.
    sheet = np.asarray(Image.open(out / "worst.png").convert("RGB"), dtype=float)
    assert sheet[:, :400].std() > 20


def test_the_command_shows_texts_where_there_are_features_alone(
    data_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Features cannot be drawn; the command would end after hours, without its report."""
    (tmp_path / "features").mkdir()
    for item in range(8):
        np.save(tmp_path / "features" / f"item-{item}.npy", features_of(item))
    model = tiny_model(description_dropout=0.2, vision_input="features", feature_dim=FEATURE_DIM)
    folder = save_for_hub(model, tiny_processor(), tmp_path / "model")
    options = [
        "--dataset",
        data_set,
        "--features",
        tmp_path / "features",
        "--encoder",
        folder,
        "--out",
        tmp_path / "out",
    ]
    assert run(capsys, *options)["agreement"]["sample"]["items"] == 8
    assert (tmp_path / "out" / "worst.png").is_file()
    with pytest.raises(ValueError, match=r"give --images, --videos or --features"):
        run(capsys, "--dataset", data_set, "--encoder", folder, "--out", tmp_path / "out")
    with pytest.raises(SystemExit):
        run(capsys, "--dataset", data_set, "--videos", tmp_path, "--out", tmp_path / "out")
    assert "--videos without --encoder" in capsys.readouterr().err
