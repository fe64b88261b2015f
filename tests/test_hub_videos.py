"""Models of videos on the Hub: the folder, strangers with and without PyAV, the card, and other tools."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from sentence_transformers import SentenceTransformer
from torch import Tensor
from transformers import AutoModel, AutoProcessor, pipeline

from modeling_leccr.export import save_for_hub
from modeling_leccr.model_files import foreign_files
from modeling_leccr.publishing import push_model
from processing.processing_leccr import LeccrProcessor
from reporting.model_card import ModelFacts, model_card
from retrieval.mteb_encoder import model_meta
from tests.clips import make_clip
from tests.hub_server import environment, hub
from tests.loading_worker import HIDE_PACKAGES
from tests.model_card_parts import REPO, full_record, section
from tests.tiny import (
    FEATURE_DIM,
    VIDEO_FIELDS,
    tiny_cl2cm,
    tiny_cl2cm_config,
    tiny_config,
    tiny_image,
    tiny_model,
    tiny_processor,
)

MAKERS: dict[str, Callable[..., Any]] = {"leccr": tiny_model, "cl2cm": tiny_cl2cm}
KINDS = [(system, seen) for system in MAKERS for seen in VIDEO_FIELDS]
FRAMES = [tiny_image(i) for i in range(3)]

# A stranger's session: for each repository the blocks of its card as they stand, then its check; and what a file of
# video needs. PyAV is missing until the end.
STRANGER = """
import json, os, re, runpy, sys
import torch
from huggingface_hub import snapshot_download
sys.modules["av"] = None
clip, found = sys.argv[1], {}
for name in sys.argv[2:]:
    folder, session = snapshot_download(name), {}
    card = open(f"{folder}/README.md", encoding="utf-8").read()
    for block in re.findall(r"^```python\\n(.*?)^```", card, re.M | re.S):
        exec(block, session)
    kept = {key: session[key] for key in ("queries", "description") if key in session}
    found[name] = kept | {"scores": session["scores"].tolist(), "module": type(session["model"]).__module__}
    if "features" in session:
        found[name]["features"] = session["features"].tolist()
        continue
    try:
        session["processor"](videos=[clip])
    except ImportError as error:
        found[name]["error"] = str(error)
    del sys.modules["av"]
    found[name]["frames"] = session["processor"](videos=[clip])["frame_mask"].sum().item()
    sys.modules["av"] = None
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Every kind of model of videos as saved for the Hub; those of LECCR embed items with and without description."""
    place = tmp_path_factory.mktemp("videos")
    made = {}
    for system, seen in KINDS:
        dropout: dict[str, Any] = {"description_dropout": 0.2} if system == "leccr" else {}
        model = MAKERS[system](**VIDEO_FIELDS[seen], **dropout)
        made[system, seen] = save_for_hub(model, tiny_processor(num_frames=4), place / f"{system}_{seen}")
    return made


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video file with more frames than the models see."""
    shown = np.asarray(tiny_image(1, 48))
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", 6, picture=shown)


def load(folder: Path) -> tuple[Any, LeccrProcessor]:
    return AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)


def golden_frames(folder: Path) -> list[Path]:
    inputs = json.loads((folder / "golden" / "inputs.json").read_text(encoding="utf-8"))
    return [folder / "golden" / name for name in inputs["videos"][0]]


@torch.no_grad()
def scores_of(folder: Path, told: dict[str, Any]) -> Tensor:
    """Scores of the item of a card for its queries, computed here."""
    model, processor = load(folder)
    seen: dict[str, Any] = (
        {"features": [torch.tensor(told["features"])]}
        if "features" in told
        else {"videos": [[Image.open(path) for path in golden_frames(folder)]]}
    )
    described = {"descriptions": [told["description"]]} if "description" in told else {}
    output = model(**processor(**seen, **described, text=told["queries"]))
    return output.logits_per_image[0] / output.logit_scale.exp()


def test_a_stranger_without_pyav_runs_the_cards_from_the_hub(
    folders: dict[tuple[str, str], Path], clip: Path, tmp_path: Path
) -> None:
    """A module that is not shipped, or an import of PyAV on loading, shows only where neither is installed."""
    with hub(tmp_path / "home") as server:
        names = {}
        for kind, folder in folders.items():
            names[kind] = f"owner/{folder.name}"
            push_model(folder, names[kind], token=server.token)
        code = HIDE_PACKAGES + STRANGER
        command = [sys.executable, "-I", "-c", code, str(clip), *names.values()]
        variables = {**os.environ, **environment(server, tmp_path / "stranger")}
        result = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    for kind, name in names.items():
        told = found[name]
        assert told["module"].startswith("transformers_modules.owner."), kind
        torch.testing.assert_close(torch.tensor(told["scores"]), scores_of(folders[kind], told), atol=1e-5, rtol=0)
        assert len(told["queries"]) > 4 and ("description" in told) is (kind[0] == "leccr")
        if kind[1] == "features":
            assert np.shape(told["features"])[1] == FEATURE_DIM
        else:
            assert "pip install 'av" in told["error"] and told["frames"] == 4


def test_the_check_passes_without_our_packages(folders: dict[tuple[str, str], Path]) -> None:
    """`make demo` and every publisher run it; the golden items of videos are other files than those of pictures."""
    script = Path(__file__).parents[1] / "hub_scripts" / "verify_export.py"
    command = [sys.executable, "-I", str(script), str(folders["leccr", "frames"])]
    result = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1])["max_difference"] <= 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_the_folder_holds_what_a_model_of_videos_needs(
    folders: dict[tuple[str, str], Path], kind: tuple[str, str]
) -> None:
    """The next save replaces the folder, so it must know all its files; a pipeline of pictures would always fail."""
    folder = folders[kind]
    assert foreign_files(folder) == []
    assert {"frames_leccr.py", "pooling_leccr.py", "video_frames_leccr.py", "video_file_leccr.py"} <= {
        path.name for path in folder.glob("*.py")
    }
    assert (folder / "golden" / "features.safetensors").is_file() is (kind[1] == "features")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert set(config["auto_map"]) == {"AutoConfig", "AutoModel"}
    with pytest.raises(ValueError, match=f"vision_input='{kind[1]}' reads"):
        pipeline("zero-shot-image-classification", model=str(folder))(FRAMES[0], candidate_labels=["a red ball"])


def test_sentence_transformers_embeds_clips_as_the_model_does(folders: dict[tuple[str, str], Path], clip: Path) -> None:
    """It hands frames on in a list of their own, and tensors with their channels first."""
    folder = folders["leccr", "frames"]
    encoder, (model, processor) = SentenceTransformer(str(folder)), load(folder)

    def expected(videos: list[Any], descriptions: list[str] | None = None) -> np.ndarray:
        with torch.no_grad():
            return model.get_image_features(**processor(videos=videos, descriptions=descriptions)).pooler_output.numpy()

    pixels = torch.from_numpy(np.stack([np.asarray(frame) for frame in FRAMES])).movedim(-1, 1)
    whole, texts = expected([FRAMES]), ["a red ball", ""]
    for given, wanted in [
        ([{"video": FRAMES}], whole),
        ([{"video": pixels}], whole),
        ([{"video": FRAMES}, {"video": FRAMES[:2]}], expected([FRAMES, FRAMES[:2]])),
        ([str(clip)], expected([str(clip)])),
        (
            [{"video": frames, "text": text} for frames, text in zip((FRAMES, FRAMES[:1]), texts, strict=True)],
            expected([FRAMES, FRAMES[:1]], texts),
        ),
    ]:
        np.testing.assert_allclose(encoder.encode(given), wanted, rtol=0, atol=1e-6)
    assert np.abs(expected([FRAMES[::-1]]) - whole).max() > 1e-4
    with pytest.raises(ValueError, match="'image' is not supported"):
        encoder.encode([FRAMES[0]])


def test_sentence_transformers_embeds_the_queries_of_a_model_of_features(
    folders: dict[tuple[str, str], Path],
) -> None:
    """A matrix is a sound there; a wrong vector without an error would be the worst outcome."""
    folder = folders["leccr", "features"]
    encoder, (model, processor) = SentenceTransformer(str(folder)), load(folder)
    with torch.no_grad():
        wanted = model.get_text_features(**processor(text=["a red ball"])).pooler_output.numpy()
    np.testing.assert_allclose(encoder.encode(["a red ball"]), wanted, rtol=0, atol=1e-6)
    for item in (FRAMES[0], {"video": FRAMES}, np.zeros((3, FEATURE_DIM), np.float32)):
        with pytest.raises(ValueError, match="is not supported"):
            encoder.encode([item])


def test_mteb_is_told_what_a_model_of_videos_embeds(folders: dict[tuple[str, str], Path]) -> None:
    """A model of clips that claims images would be asked for them, and fail in the middle of a benchmark."""
    assert model_meta(folders["leccr", "frames"]).modalities == ["text", "video"]
    assert model_meta(folders["cl2cm", "features"]).modalities == ["text"]


def facts(seen: str, *, system: str = "leccr", dataset: str = "scenes_video", **fields: Any) -> ModelFacts:
    make = {"leccr": tiny_config, "cl2cm": tiny_cl2cm_config}[system]
    record = full_record(settings={"dataset": dataset, "target_languages": ["de"]})
    processor = {"max_length": 48, "num_frames": 9, "image_processor": {"size": {"height": 64, "width": 48}}}
    return ModelFacts(REPO, make(**VIDEO_FIELDS[seen], **fields).to_dict(), processor, record, 7, "float32")


@pytest.mark.parametrize(("system", "seen"), KINDS)
def test_a_card_of_videos_speaks_of_no_pictures(system: str, seen: str) -> None:
    """Somebody who looks for a model of clips goes on where the first sentence is about pictures."""
    card = model_card(facts(seen, system=system))
    told = card.replace("The picture is red all over.", "").replace('"a red picture"', "")
    assert "picture" not in told and "image-text" not in told and "text to image" not in told
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["pipeline_tag"] == "feature-extraction" and "video-text-retrieval" in head["tags"]
    metrics = {entry["name"] for entry in head["model-index"][0]["results"][0]["metrics"]}
    assert any("text to video R@1" in name for name in metrics) and any("video to text R@1" in name for name in metrics)
    assert "that finds clips by captions" in card and "clips of one or two objects that a program draws" in card
    model = section(card, "Model")
    assert "| frames of a clip, at most | 9 |" in model
    assert ("| frame, pixels | 64 x 48 |" in model) is (seen == "frames")
    assert ("| vision tower |" in model) is (seen == "frames")
    assert (f"| width of the features of a frame | {FEATURE_DIM} |" in model) is (seen == "features")
    assert ("It sees no frames but features of them" in section(card, "Limits")) is (seen == "features")
    assert "pipeline(" not in card


def test_the_example_of_a_card_runs_without_golden_files(
    folders: dict[tuple[str, str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """A copy without them, such as that of another tool, still has a card that runs."""
    for (system, seen), folder in folders.items():
        dropout: dict[str, Any] = {"description_dropout": 0.2} if system == "leccr" else {}
        code = model_card(facts(seen, system=system, **dropout)).partition("```python\n")[2].partition("```")[0]
        exec(code.replace(json.dumps(REPO), json.dumps(str(folder))), {})
        assert len(capsys.readouterr().out.splitlines()) == 2
