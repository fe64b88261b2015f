"""The folder for the Hub: complete or absent, loadable by a stranger, and silent about the machine that wrote it."""

import getpass
import json
import math
import os
import re
import runpy
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
from modeling_leccr.check_embeddings import largest_difference
from modeling_leccr.export import save_for_hub
from modeling_leccr.golden import write_golden
from modeling_leccr.training.building import build_model, build_processor
from processing.scenes import ScenesConfig, load_scenes
from reporting.model_record import ModelRecord
from tests.hub_parts import files_of
from tests.test_training_building import scratch_arguments, tower_folders
from tests.tiny import tiny_model, tiny_processor
from tests.training_parts import tiny_split, weights_of

RECORD = ModelRecord(languages=("de", "zh"), metrics={"test": {"de/sum_r": 1.0}})


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a ViT model, for ViT is saved under older key names; a Hub cache links to its files."""
    folder = tmp_path_factory.mktemp("export") / "model"
    model = tiny_model(vision="vit", description_dropout=0.1)
    return save_for_hub(model, tiny_processor(), folder, record=RECORD)


def verify(model: Path, root_dir: Path) -> subprocess.CompletedProcess[str]:
    """The check in a process of its own, from another folder."""
    command = [sys.executable, "-I", str(root_dir / "hub_scripts" / "verify_export.py"), str(model)]
    return subprocess.run(command, cwd=model.parent, capture_output=True, text=True, timeout=120)


def test_the_folder_holds_what_a_stranger_needs(exported: Path):
    """A missing module shows only where the package is not installed."""
    names = set(files_of(exported))
    assert {"model.safetensors", "config.json", "processor_config.json", "tokenizer.json", "README.md"} <= names
    assert {"configuration_leccr.py", "modeling_leccr.py", "processing_leccr.py"} <= names
    assert {"check_embeddings.py", "golden/inputs.json", "golden/0.png", "golden/embeds.safetensors"} <= names
    assert ModelRecord.read(exported) == RECORD
    card = (exported / "README.md").read_text(encoding="utf-8")
    assert "library_name: transformers" in card and "language:\n- en\n- de\n- zh\n" in card
    config = json.loads((exported / "config.json").read_text())
    assert config["auto_map"]["AutoModel"] == "modeling_leccr.LeccrModel"


def test_whoever_can_read_the_configuration_can_read_the_weights(exported: Path):
    """safetensors makes files for their owner alone, and colleagues share a folder."""
    modes = {name: (exported / name).stat().st_mode for name in files_of(exported)}
    assert modes == dict.fromkeys(modes, modes["config.json"])


def test_with_the_package_the_folder_needs_no_flag(exported: Path):
    """`trust_remote_code` runs foreign code; who has the package should not have to ask for it."""
    model = AutoModel.from_pretrained(exported)
    processor = AutoProcessor.from_pretrained(exported)
    assert type(model) is LeccrModel
    expected = load_file(exported / "golden" / "embeds.safetensors")
    inputs = json.loads((exported / "golden" / "inputs.json").read_text(encoding="utf-8"))
    with torch.no_grad():
        texts = model.eval().get_text_features(**processor(text=inputs["texts"])).pooler_output
    torch.testing.assert_close(texts, expected["text_embeds"], rtol=0, atol=1e-6)


# Tells where the code was loaded from, and ends the process where a package of this project can be imported.
WITNESS = """
import sys
print(__name__, file=sys.stderr)
for package in ("modeling_leccr", "processing", "retrieval", "reporting", "hub_scripts"):
    try:
        __import__(package)
    except ImportError:
        continue
    raise AssertionError(f"{package} can be imported")
"""


def test_a_stranger_loads_the_same_model(exported: Path, tmp_path: Path, root_dir: Path):
    """In a fresh process, from another folder, with the code of the folder alone; an installed package hid a gap."""
    shutil.copytree(exported, tmp_path / "model")
    with (tmp_path / "model" / "modeling_leccr.py").open("a", encoding="utf-8") as file:
        file.write(WITNESS)
    result = verify(tmp_path / "model", root_dir)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1])["max_difference"] <= 1e-6
    assert re.search(r"^transformers_modules\.\S+\.modeling_leccr$", result.stderr, re.MULTILINE)


def test_a_changed_weight_is_found(exported: Path, tmp_path: Path, root_dir: Path):
    """A check that passes on any model would let a silently re-initialised tower through."""
    changed = tmp_path / "model"
    shutil.copytree(exported, changed)
    weights = load_file(changed / "model.safetensors")
    name = next(name for name in sorted(weights) if "vision_model" in name and name.endswith("query.weight"))
    # Not a constant: a layer norm makes each row of its input sum to zero, and nothing would change.
    weights[name] += 0.1 * torch.randn(weights[name].shape)
    save_file(weights, changed / "model.safetensors", metadata={"format": "pt"})
    result = verify(changed, root_dir)
    assert result.returncode == 1
    assert json.loads(result.stdout.splitlines()[-1])["max_difference"] > 1e-6


EMBEDS = ("text_embeds", "image_embeds", "slot_embeds", "image_embeds_without_description")


def copy_of(exported: Path, folder: Path, **embeds: torch.Tensor | None) -> Path:
    """The folder with changed golden embeddings; None leaves one out."""
    shutil.copytree(exported, folder)
    path = folder / "golden" / "embeds.safetensors"
    changed = load_file(path) | embeds
    save_file({name: value for name, value in changed.items() if value is not None}, path)
    return folder


@pytest.mark.parametrize("name", EMBEDS)
def test_each_golden_embedding_is_compared(exported: Path, tmp_path: Path, name: str):
    """One that is compared with itself, or not at all, vouches for nothing."""
    value = load_file(exported / "golden" / "embeds.safetensors")[name]
    moved = value.clone()
    moved.view(-1)[-1] += 0.01
    assert largest_difference(copy_of(exported, tmp_path / "moved", **{name: moved})) == pytest.approx(0.01, abs=1e-4)
    broken = copy_of(exported, tmp_path / "broken", **{name: torch.full_like(value, float("nan"))})
    assert math.isnan(largest_difference(broken))
    for number, other in enumerate((None, value[:1].clone())):
        with pytest.raises(ValueError, match=r"golden/ holds embeddings of the shapes .* and the model gives"):
            largest_difference(copy_of(exported, tmp_path / str(number), **{name: other}))


@pytest.mark.parametrize("fault", ["nan", "inf"])
def test_a_model_that_is_not_finite_is_refused(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fault: str
):
    """No comparison with NaN is true, so that a model of nothing else passed; and NaN is no JSON."""
    broken = copy_of(exported, tmp_path / "model")
    weights = load_file(broken / "model.safetensors")
    weights["slot_projection.weight"].fill_(float(fault))
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    script = str(broken / "check_embeddings.py")
    monkeypatch.setattr(sys, "argv", [script])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(script, run_name="__main__")
    assert ended.value.code == 1
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {
        "max_difference": None,
        "tolerance": 1e-4,
    }


def test_the_golden_file_covers_every_way_in(exported: Path):
    """A way that it leaves out is a way that nobody checked after loading."""
    embeds = load_file(exported / "golden" / "embeds.safetensors")
    assert {name: tuple(value.shape) for name, value in embeds.items()} == {
        "text_embeds": (9, 16),
        "image_embeds": (3, 16),
        "slot_embeds": (3, 4, 16),
        "image_embeds_without_description": (3, 16),
    }
    assert float((embeds["image_embeds"] - embeds["image_embeds_without_description"]).abs().max()) > 1e-4


def test_the_golden_texts_are_ours_in_the_languages_of_the_model(exported: Path):
    """Pictures and captions of the user's data may not be passed on."""
    inputs = json.loads((exported / "golden" / "inputs.json").read_text(encoding="utf-8"))
    split = load_scenes(ScenesConfig(train_size=1, validation_size=1, test_size=3, captions_per_item=1))["test"]
    expected = [row[0] for language in ("en", "de", "zh") for row in split[f"caption_{language}"]]
    assert inputs["texts"] == expected
    assert inputs["descriptions"] == list(split["description"])


@pytest.mark.parametrize(("languages", "expected"), [(("ko",), ["en"]), ((), ["en", "de", "fr", "cs", "zh", "ja"])])
def test_golden_texts_of_a_language_that_is_not_drawn_are_english(
    tmp_path: Path, languages: tuple[str, ...], expected: list[str]
):
    """The example of the card would ask a Korean model in German, and people would think that it knows it."""
    write_golden(tiny_model(), tiny_processor(), tmp_path, languages)
    inputs = json.loads((tmp_path / "inputs.json").read_text(encoding="utf-8"))
    split = load_scenes(ScenesConfig(train_size=1, validation_size=1, test_size=3, captions_per_item=1))["test"]
    assert inputs["texts"] == [row[0] for language in expected for row in split[f"caption_{language}"]]


@pytest.mark.parametrize("fields", [{"item_source": "image"}, {"item_source": "description"}, {}])
def test_the_golden_file_fits_every_kind_of_model(tmp_path: Path, fields: dict[str, Any]):
    """A control may be the model that somebody wants to publish."""
    save_for_hub(tiny_model(**fields), tiny_processor(), tmp_path / "model")
    names = set(load_file(tmp_path / "model" / "golden" / "embeds.safetensors"))
    assert names == {"text_embeds", "image_embeds"} | (set() if fields else {"slot_embeds"})
    assert largest_difference(tmp_path / "model") <= 1e-6


def test_a_model_in_half_precision_is_checked_in_full(tmp_path: Path):
    """Rounding in bfloat16 is a hundred times the tolerance, and differs between processors."""
    save_for_hub(tiny_model().to(torch.bfloat16), tiny_processor(), tmp_path / "model")
    assert load_file(tmp_path / "model" / "golden" / "embeds.safetensors")["text_embeds"].dtype == torch.float32
    assert largest_difference(tmp_path / "model") <= 1e-6
    assert AutoModel.from_pretrained(tmp_path / "model").dtype == torch.bfloat16


def test_a_save_leaves_model_processor_and_random_state_as_they_were(tmp_path: Path):
    """The controls of a run are trained after it, and the truncation rate is reported after it."""
    model, processor = tiny_model().train(), tiny_processor()
    before, state = weights_of(model), torch.get_rng_state()
    save_for_hub(model, processor, tmp_path / "model")
    assert model.training and torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert (processor.num_texts, processor.num_truncated) == (0, 0)


def test_a_loaded_model_is_saved_to_the_same_bytes(exported: Path, tmp_path: Path):
    """Otherwise each push of the same model would change the repository."""
    model, processor = AutoModel.from_pretrained(exported), AutoProcessor.from_pretrained(exported)
    assert files_of(save_for_hub(model, processor, tmp_path / "model", record=RECORD)) == files_of(exported)


def test_the_check_runs_from_the_cache_of_the_hub(exported: Path, tmp_path: Path, root_dir: Path):
    """There, each file is a link to one in another folder, in which nothing has its name."""
    for name, data in files_of(exported).items():
        blob, link = tmp_path / "blobs" / name.replace("/", "-"), tmp_path / "snapshot" / name
        blob.parent.mkdir(exist_ok=True)
        link.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(data)
        link.symlink_to(blob)
    command = [sys.executable, "-I", str(tmp_path / "snapshot" / "check_embeddings.py")]
    variables = {**os.environ, "HF_HOME": str(tmp_path / "home")}
    result = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["tolerance"] == 1e-4 and found["max_difference"] <= 1e-6


def test_nothing_of_this_machine_is_in_the_folder(tmp_path: Path):
    """Towers and tokenizer from local folders leave their paths in the configurations, and the Hub shows them."""
    vision, text = tower_folders(tmp_path / "towers")
    arguments = scratch_arguments(vision_tower=vision, text_tower=text)
    processor = build_processor(arguments, tiny_split(), ["de"])
    model = build_model(arguments, processor.tokenizer)
    # As of configurations that somebody loaded without our help, from a folder and from the Hub.
    model.config.vision_config._name_or_path, model.config.text_config._name_or_path = str(vision), "org/text-tower"
    save_for_hub(model, processor, tmp_path / "first", record=RECORD)
    assert AutoModel.from_pretrained(tmp_path / "first").config.text_config._name_or_path == "org/text-tower"
    # Once more from the folder, as after fine-tuning what was saved.
    model, processor = AutoModel.from_pretrained(tmp_path / "first"), AutoProcessor.from_pretrained(tmp_path / "first")
    save_for_hub(model, processor, tmp_path / "second", record=RECORD)
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
