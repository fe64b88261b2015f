"""LoRA adapters on the text tower: pushed and loaded by peft and by transformers, and merged into a model.

An adapter names the model that it was trained on, and that name is what `AutoModel.from_pretrained(adapter)` loads
first. It is what the base was loaded by, so load it by its name on the Hub. For one from a folder peft writes the path
of the folder into `adapter_config.json` and the card; say the name before the adapter is added:

    base.name_or_path = base.config.name_or_path = "org/leccr-x"
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from modeling_leccr import LeccrModel
from modeling_leccr.export import save_for_hub
from tests.hub_server import HubServer, environment, hub
from tests.loading_worker import HIDE_PACKAGES
from tests.tiny import tiny_items, tiny_model, tiny_processor, tiny_texts

BASE, ADAPTER = "owner/leccr-base", "owner/leccr-lora"
HEADS = ("text_projection", "image_projection", "slot_projection")
ADAPTER_FILES = {"README.md", "adapter_config.json", "adapter_model.safetensors"}
TOLERANCE = 1e-6
# Without our packages: the code comes with the base model.
CHILD = """
import sys
import torch
from safetensors.torch import load_file
from transformers import AutoModel
inputs = load_file("inputs.safetensors")
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
with torch.no_grad():
    texts = model.get_text_features(inputs.pop("input_ids"), inputs.pop("attention_mask")).pooler_output
    expected = inputs.pop("embeds")
    items = model.get_image_features(**inputs)
found = torch.cat([texts, items.pooler_output, items.slot_embeds.flatten(0, 1)])
print(float((found - expected).abs().max()))
"""


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_for_hub(tiny_model(), tiny_processor(), tmp_path_factory.mktemp("peft") / "base")


@pytest.fixture
def server(base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub with the base model."""
    with hub(tmp_path / "home") as running:
        monkeypatch.setenv("HF_TOKEN", running.token)
        HfApi().create_repo(BASE)
        HfApi().upload_folder(repo_id=BASE, folder_path=base_folder)
        yield running


def lora() -> LoraConfig:
    """Query and value of the text tower, and whole heads."""
    return LoraConfig(
        r=2,
        target_modules=r"text_model\..*\.(query|value)",
        modules_to_save=list(HEADS),
        # As after training: a fresh adapter changes nothing.
        init_lora_weights=False,
    )


def adapted(base: str | Path) -> PeftModel:
    """A model with an adapter that changes every embedding."""
    model = get_peft_model(AutoModel.from_pretrained(base), lora())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "modules_to_save" in name:
                parameter += 0.3 * torch.randn_like(parameter)
    return model.eval()


@torch.no_grad()
def embeds(model: Any) -> torch.Tensor:
    """Texts, items and slots; (4 + 4 + 16, embed_dim)."""
    texts = model.eval().get_text_features(*tiny_texts()).pooler_output
    items = model.get_image_features(**tiny_items())
    return torch.cat([texts, items.pooler_output, items.slot_embeds.flatten(0, 1)])


def load_into(model: LeccrModel, adapter: str) -> LeccrModel:
    model.load_adapter(adapter)
    return model


PATHS = {
    "peft": lambda adapter, base: PeftModel.from_pretrained(AutoModel.from_pretrained(base), adapter),
    "auto": lambda adapter, base: AutoModel.from_pretrained(adapter),
    "load_adapter": lambda adapter, base: load_into(AutoModel.from_pretrained(base), adapter),
}


def test_an_adapter_from_the_hub_is_the_same_on_every_path(server: HubServer):
    """A head that a path leaves out is that of the base or random, and the embeddings still look right."""
    model = adapted(BASE)
    expected = embeds(model)
    model.push_to_hub(ADAPTER)
    assert set(server.files(ADAPTER, "models")) == ADAPTER_FILES
    distances = (embeds(AutoModel.from_pretrained(BASE)) - expected).abs().amax(dim=-1)
    assert (distances > 1e-2).all(), "an adapter that changes nothing would pass on every path"
    for name, load in PATHS.items():
        assert (embeds(load(ADAPTER, BASE)) - expected).abs().max() <= TOLERANCE, name


def test_a_stranger_loads_an_adapter(server: HubServer, tmp_path: Path):
    """Without our package the code has to be found through the base, of which the adapter has the name alone."""
    model = adapted(BASE)
    model.push_to_hub(ADAPTER)
    input_ids, attention_mask = tiny_texts()
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "embeds": embeds(model), **tiny_items()}
    save_file(inputs, tmp_path / "inputs.safetensors")
    kept = {name: os.environ[name] for name in ("PATH", "OMP_NUM_THREADS") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", HIDE_PACKAGES + CHILD, ADAPTER],
        cwd=tmp_path,
        env={**kept, "HOME": str(tmp_path), **environment(server, tmp_path / "stranger")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1]) <= TOLERANCE


def test_a_merged_adapter_is_a_model_for_the_hub(server: HubServer, tmp_path: Path):
    """The way to share it with people who have no peft; a merge that keeps the old heads goes unnoticed."""
    adapted(BASE).push_to_hub(ADAPTER)
    model = PATHS["peft"](ADAPTER, BASE)
    expected = embeds(model)
    merged = model.merge_and_unload()
    assert type(merged) is LeccrModel
    save_for_hub(merged, tiny_processor(), tmp_path / "merged")
    assert not {path.name for path in (tmp_path / "merged").iterdir()} & {"adapter_config.json"}
    assert (embeds(AutoModel.from_pretrained(tmp_path / "merged")) - expected).abs().max() <= TOLERANCE


def test_a_model_with_an_adapter_is_not_saved_as_a_model(base_folder: Path, tmp_path: Path):
    """Both kinds save the adapter alone; a folder without the other weights is no model."""
    attached = AutoModel.from_pretrained(base_folder)
    attached.add_adapter(lora())
    for model in (attached, adapted(base_folder)):
        with pytest.raises(ValueError, match=r"has an adapter.*merge_and_unload"):
            save_for_hub(model, tiny_processor(), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_trained_without_peft_model_is_saved_alone(server: HubServer, tmp_path: Path):
    """`add_adapter` is the way of transformers' own Trainer; saved in whole, the adapter would not be found."""
    model = AutoModel.from_pretrained(BASE)
    before = embeds(model)
    model.add_adapter(lora())
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert trained and all("lora_" in name or any(head in name for head in HEADS) for name in trained)
    input_ids, attention_mask = tiny_texts()
    scores = model.train()(**tiny_items(), input_ids=input_ids, attention_mask=attention_mask).logits_per_image
    torch.nn.functional.cross_entropy(scores, torch.arange(4)).backward()
    assert not [name for name, value in trained.items() if value.grad is None or not value.grad.any()]
    torch.optim.SGD(trained.values(), lr=1.0).step()
    expected = embeds(model)
    assert (expected - before).abs().max() > 1e-2
    model.save_pretrained(tmp_path / "adapter")
    assert not list((tmp_path / "adapter").glob("model*.safetensors"))
    for name, load in PATHS.items():
        assert (embeds(load(str(tmp_path / "adapter"), BASE)) - expected).abs().max() <= TOLERANCE, name


@pytest.mark.parametrize("part", ["slot_projection", "lora_B"])
def test_weights_that_an_adapter_lacks_are_refused(base_folder: Path, tmp_path: Path, part: str):
    """transformers fills them with random numbers and logs a table."""
    adapted(base_folder).save_pretrained(tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    weights = load_file(path)
    kept = {name: value for name, value in weights.items() if part not in name}
    assert 0 < len(kept) < len(weights)
    save_file(kept, path, metadata={"format": "pt"})
    for name in ("auto", "load_adapter"):
        with pytest.raises(ValueError, match=f"adapter' does not fit .* missing_keys .*{part}"):
            PATHS[name](str(tmp_path / "adapter"), base_folder)
    # peft itself stops at a head and warns of a matrix.
    noticed = pytest.warns(UserWarning, match=part) if part == "lora_B" else pytest.raises(KeyError, match=part)
    with noticed:
        PATHS["peft"](str(tmp_path / "adapter"), base_folder)


def test_weights_that_the_base_of_an_adapter_lacks_are_refused(base_folder: Path, tmp_path: Path):
    """transformers tells then of the adapter alone, and the model embeds with random numbers."""
    shutil.copytree(base_folder, tmp_path / "base")
    adapted(tmp_path / "base").save_pretrained(tmp_path / "adapter")
    weights = load_file(tmp_path / "base" / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"base' does not fit .* missing_keys .*visual_projection\.weight"):
        AutoModel.from_pretrained(tmp_path / "adapter")


def test_an_adapter_can_be_saved_without_the_path_of_its_base(base_folder: Path, tmp_path: Path):
    """peft writes what the base was loaded by: a path tells of the machine, and exists on no other."""
    adapted(base_folder).save_pretrained(tmp_path / "leaking")
    config = json.loads((tmp_path / "leaking" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base_folder)
    base = AutoModel.from_pretrained(base_folder)
    base.name_or_path = base.config.name_or_path = BASE
    get_peft_model(base, lora()).save_pretrained(tmp_path / "adapter")
    contents = {path.name: path.read_bytes() for path in (tmp_path / "adapter").iterdir()}
    assert set(contents) == ADAPTER_FILES
    assert not [name for name, data in contents.items() if str(base_folder.parent).encode() in data]
    assert f"base_model: {BASE}".encode() in contents["README.md"]
    assert json.loads(contents["adapter_config.json"])["base_model_name_or_path"] == BASE
