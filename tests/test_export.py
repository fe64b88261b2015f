"""The folder for the Hub: complete or absent, loadable by a stranger, and silent about the machine that wrote it."""

import getpass
import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoProcessor

from modeling_leccr import LeccrModel
from modeling_leccr.export import save_for_hub, save_probe
from modeling_leccr.training.building import build_model, build_processor
from tests.test_training_building import scratch_arguments, tower_folders
from tests.tiny import SENTENCES, tiny_image, tiny_model, tiny_processor
from tests.training_parts import tiny_split

SHIPPED = {
    "configuration_leccr.py",
    "losses_leccr.py",
    "matching_leccr.py",
    "modeling_leccr.py",
    "processing_leccr.py",
    "slots_leccr.py",
    "towers_leccr.py",
}
TEXTS = [SENTENCES[0][1], SENTENCES[1][0]]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def probe_rows() -> list[dict[str, Any]]:
    return [{"image": tiny_image(i), "description": SENTENCES[i][2]} for i in range(3)]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `model/` and `probe/` of a ViT model, for ViT is saved under older key names."""
    folder = tmp_path_factory.mktemp("export")
    model, processor = tiny_model(vision="vit", description_dropout=0.1), tiny_processor()
    save_for_hub(model, processor, folder / "model", languages=["de", "zh"], metrics={"test": {"de/sum_r": 1.0}})
    save_probe(model, processor, probe_rows(), TEXTS, folder / "probe")
    return folder


def verify(model: Path, probe: Path, root_dir: Path) -> subprocess.CompletedProcess[str]:
    """The check in a process of its own, from another folder."""
    command = [sys.executable, "-I", str(root_dir / "hub_scripts" / "verify_export.py"), str(model), str(probe)]
    return subprocess.run(command, cwd=probe, capture_output=True, text=True, timeout=120)


def test_the_folder_holds_what_a_stranger_needs(exported: Path):
    """A missing module shows only where the package is not installed."""
    names = set(files_of(exported / "model"))
    assert {"model.safetensors", "config.json", "processor_config.json", "tokenizer.json", "README.md"} <= names
    needed = {name for name in SHIPPED if name in names}
    assert {"configuration_leccr.py", "modeling_leccr.py", "processing_leccr.py"} <= needed
    assert json.loads((exported / "model" / "metrics.json").read_text()) == {"test": {"de/sum_r": 1.0}}
    card = (exported / "model" / "README.md").read_text(encoding="utf-8")
    assert "library_name: transformers" in card and "language: ['en', 'de', 'zh']" in card
    config = json.loads((exported / "model" / "config.json").read_text())
    assert config["auto_map"]["AutoModel"] == "modeling_leccr.LeccrModel"


def test_with_the_package_the_folder_needs_no_flag(exported: Path):
    """`trust_remote_code` runs foreign code; who has the package should not have to ask for it."""
    model = AutoModel.from_pretrained(exported / "model")
    processor = AutoProcessor.from_pretrained(exported / "model")
    assert type(model) is LeccrModel
    expected = load_file(exported / "probe" / "embeds.safetensors")
    with torch.no_grad():
        texts = model.eval().get_text_features(**processor(text=TEXTS)).pooler_output
    torch.testing.assert_close(texts, expected["text_embeds"], rtol=0, atol=1e-6)


def test_a_stranger_loads_the_same_model(exported: Path, root_dir: Path):
    """In a fresh process, from another folder, with this project's packages blocked."""
    result = verify(exported / "model", exported / "probe", root_dir)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1])["max_difference"] <= 1e-6


def test_a_changed_weight_is_found(exported: Path, tmp_path: Path, root_dir: Path):
    """A check that passes on any model would let a silently re-initialised tower through."""
    changed = tmp_path / "model"
    shutil.copytree(exported / "model", changed)
    weights = load_file(changed / "model.safetensors")
    name = next(name for name in sorted(weights) if "vision_model" in name and name.endswith("query.weight"))
    # Not a constant: a layer norm makes each row of its input sum to zero, and nothing would change.
    weights[name] += 0.1 * torch.randn(weights[name].shape)
    save_file(weights, changed / "model.safetensors", metadata={"format": "pt"})
    result = verify(changed, exported / "probe", root_dir)
    assert result.returncode == 1
    assert json.loads(result.stdout.splitlines()[-1])["max_difference"] > 1e-6


def test_the_probe_covers_every_way_in(exported: Path):
    """A way that the probe leaves out is a way that nobody checked after loading."""
    embeds = load_file(exported / "probe" / "embeds.safetensors")
    assert {name: tuple(value.shape) for name, value in embeds.items()} == {
        "text_embeds": (2, 16),
        "image_embeds": (3, 16),
        "slot_embeds": (3, 4, 16),
        "image_embeds_without_description": (3, 16),
    }
    assert float((embeds["image_embeds"] - embeds["image_embeds_without_description"]).abs().max()) > 1e-4


@pytest.mark.parametrize("fields", [{"item_source": "image"}, {"item_source": "description"}, {}])
def test_the_probe_fits_every_kind_of_model(tmp_path: Path, fields: dict[str, Any]):
    """A control may be the model that somebody wants to publish."""
    model = tiny_model(**fields).train()
    save_probe(model, tiny_processor(), probe_rows(), TEXTS, tmp_path)
    assert model.training
    names = set(load_file(tmp_path / "embeds.safetensors"))
    assert names == {"text_embeds", "image_embeds"} | (set() if fields else {"slot_embeds"})


def test_a_newer_model_replaces_the_older_one_whole(tmp_path: Path):
    """A file that only the older model had would be loaded, or pushed, with the newer one."""
    save_for_hub(tiny_model(), tiny_processor(), tmp_path / "model", metrics={"a": 1})
    (tmp_path / "model" / "stale.bin").write_bytes(b"x")
    save_for_hub(tiny_model(seed=1), tiny_processor(), tmp_path / "model")
    assert not {"stale.bin", "metrics.json"} & set(files_of(tmp_path / "model"))
    found = LeccrModel.from_pretrained(tmp_path / "model").state_dict()
    torch.testing.assert_close(found, tiny_model(seed=1).state_dict(), rtol=0, atol=0)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_of_something_else_is_not_touched(tmp_path: Path):
    """A typo in the path must not delete somebody's files."""
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years", encoding="utf-8")
    with pytest.raises(ValueError, match="exists and is not a saved model; choose another folder"):
        save_for_hub(tiny_model(), tiny_processor(), tmp_path / "thesis")
    assert files_of(tmp_path) == {"thesis/chapter.tex": b"years"}


@pytest.mark.parametrize("step", ["processor", "card", "rename"])
@pytest.mark.parametrize("older", [False, True])
def test_a_failed_save_leaves_the_older_model_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, older: bool
):
    """A full disk must not cost the model that was there, nor leave half a folder that looks like one."""
    if older:
        save_for_hub(tiny_model(), tiny_processor(), tmp_path / "model")
    before = files_of(tmp_path)
    fail_at(step, monkeypatch)
    with pytest.raises(OSError, match="no space left"):
        save_for_hub(tiny_model(seed=1), tiny_processor(), tmp_path / "model")
    assert files_of(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == (["model"] if older else [])


def fail_at(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let one step of a save fail as on a full disk."""

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    if step == "processor":
        monkeypatch.setattr("processing.processing_leccr.LeccrProcessor.save_pretrained", fail)
    elif step == "card":
        monkeypatch.setattr("modeling_leccr.export.write_text_atomic", fail)
    else:
        rename = Path.rename
        monkeypatch.setattr(Path, "rename", lambda self, to: fail() if self.name.endswith(".new") else rename(self, to))


def test_nothing_of_this_machine_is_in_the_folder(tmp_path: Path):
    """Towers and tokenizer from local folders leave their paths in the configurations, and the Hub shows them."""
    vision, text = tower_folders(tmp_path / "towers")
    arguments = scratch_arguments(vision_tower=vision, text_tower=text)
    processor = build_processor(arguments, tiny_split(), ["de"])
    save_for_hub(build_model(arguments, processor.tokenizer), processor, tmp_path / "first", languages=["de"])
    # Once more from the folder, as after fine-tuning what was saved.
    model, processor = AutoModel.from_pretrained(tmp_path / "first"), AutoProcessor.from_pretrained(tmp_path / "first")
    save_for_hub(model, processor, tmp_path / "second", languages=["de"])
    # A short user name can be part of a word.
    private = [str(tmp_path), str(Path.home()), tmp_path.name, socket.gethostname(), f"/{getpass.getuser()}/"]
    for folder in ("first", "second"):
        found = [
            (name, word)
            for name, data in files_of(tmp_path / folder).items()
            for word in private
            if name.endswith((".json", ".md", ".py", ".txt", ".jinja")) and word.encode() in data
        ]
        assert not found, folder


def test_a_card_with_quotes_in_its_query_is_valid_python(tmp_path: Path):
    """The card's example is what people copy."""
    save_for_hub(tiny_model(), tiny_processor(), tmp_path / "model", query='ein "roter" {ball}')
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    code = card.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    assert "{ball}" in code
