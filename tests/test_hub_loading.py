"""Saved models through the Hub: strangers and owners of the package, pinned, offline, private, with every option."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi, snapshot_download
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from hub_scripts.dataset_card import dataset_card
from modeling_leccr.export import save_for_hub
from modeling_leccr.publishing import push_model
from processing.hub_dataset import push_dataset
from processing.sources import open_splits
from tests.hub_parts import write_folder
from tests.hub_server import HubServer, environment, hub
from tests.loading_worker import embed, run
from tests.tiny import tiny_model, tiny_processor
from tests.training_parts import tiny_trainer

TRUST = {"trust_remote_code": True}


@dataclass(frozen=True)
class Pushed:
    """Two models that were pushed one after the other to owner/model, the second also as private owner/secret.

    The first is at the tag v1, with other code than the second, and in shards as owner/sharded. A third was trained,
    and pushed by its trainer to owner/trained.
    """

    server: HubServer
    first: Any
    second: Any
    trained: Any
    first_commit: str


def push(model: Any, repo_id: str, server: HubServer, folder: Path, **settings: Any) -> None:
    saved = save_for_hub(model, tiny_processor(), folder / "model")
    push_model(saved, repo_id, token=server.token, **settings)


def mark_code(repo_id: str, server: HubServer, mark: int) -> str:
    """Push other code with the same model, recognizable by a constant; the commit."""
    code = server.files(repo_id, "models")["modeling_leccr.py"] + f"\n\nMARK = {mark}\n".encode()
    api = HfApi(token=server.token)
    return api.upload_file(path_or_fileobj=code, path_in_repo="modeling_leccr.py", repo_id=repo_id).oid


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pushed]:
    folder = tmp_path_factory.mktemp("pushed")
    first, second = tiny_model(), tiny_model(seed=1, vision="vit")
    with hub(folder / "home") as server:
        push(first, "owner/model", server, folder)
        first_commit = mark_code("owner/model", server, 1)
        HfApi(token=server.token).create_tag("owner/model", tag="v1")
        push(second, "owner/model", server, folder)
        mark_code("owner/model", server, 2)
        push(second, "owner/secret", server, folder, private=True)
        push(first, "owner/sharded", server, folder, max_shard_size="100KB")
        assert len([name for name in server.files("owner/sharded", "models") if name.startswith("model-")]) > 2
        push_without_a_weight(Path(snapshot_download("owner/sharded", local_dir=folder / "broken")), server)
        trained = push_by_trainer("owner/trained", server, folder / "run")
        yield Pushed(server, first, second, trained, first_commit)


def push_by_trainer(repo_id: str, server: HubServer, folder: Path) -> Any:
    """Train for two steps and push; the model."""
    settings = {"push_to_hub": True, "hub_model_id": repo_id, "hub_token": server.token}
    trainer = tiny_trainer(folder, tiny_model(seed=2), **settings)
    trainer.train()
    trainer.push_to_hub()
    return trainer.model


def push_without_a_weight(folder: Path, server: HubServer) -> None:
    """What no push of ours sends: shards in which a weight is missing, as owner/broken."""
    shard = next(path for path in folder.glob("*.safetensors") if "slot_projection.bias" in load_file(path))
    state = load_file(shard)
    state.pop("slot_projection.bias")
    save_file(state, shard, metadata={"format": "pt"})
    HfApi(token=server.token).create_repo("owner/broken")
    HfApi(token=server.token).upload_folder(repo_id="owner/broken", folder_path=folder)


def assert_embeds(outcome: dict[str, Any], model: Any, *, atol: float = 1e-6) -> None:
    """The embeddings that came out of a process are those of the model here."""
    assert "error" not in outcome, outcome["error"]
    for kind, expected in embed(model, tiny_processor()).items():
        torch.testing.assert_close(torch.tensor(outcome["embeds"][kind]), expected, atol=atol, rtol=0, msg=kind)


def test_a_stranger_loads_what_was_pushed_and_again_without_a_connection(pushed: Pushed, tmp_path: Path) -> None:
    """A module that is not shipped, or an import of our packages, shows only where they are not installed."""
    steps = [
        {"name": "owner/model", **TRUST},
        {"name": "owner/model", "loader": "AutoModelForZeroShotImageClassification", **TRUST},
        {"name": "owner/sharded", **TRUST, "attn_implementation": "eager", "device_map": "cpu"},
        {"name": "owner/sharded", **TRUST, "attn_implementation": "sdpa", "device_map": "auto"},
        {"name": "owner/sharded", **TRUST, "dtype": "bfloat16"},
        {"name": "owner/sharded", **TRUST, "dtype": "float16"},
        {"name": "owner/broken", **TRUST},
        {"name": "owner/trained", **TRUST},
    ]
    variables = environment(pushed.server, tmp_path / "home")
    result = run(tmp_path / "online", steps, variables)
    *whole, eager, sdpa, bfloat, half, broken, trained = result["outcomes"]
    for outcome in whole:
        assert_embeds(outcome, pushed.second)
        assert (outcome["class"], outcome["mark"], outcome["dtype"]) == ("LeccrModel", 2, "torch.float32")
    for outcome, attention in ((eager, "eager"), (sdpa, "sdpa")):
        assert_embeds(outcome, pushed.first)
        assert (outcome["attention"], outcome["devices"]) == ([attention], ["cpu"])
    for outcome, dtype in ((bfloat, "torch.bfloat16"), (half, "torch.float16")):
        assert_embeds(outcome, pushed.first, atol=0.05)
        assert outcome["dtype"] == dtype
    assert_embeds(trained, pushed.trained)
    assert embed(pushed.trained, tiny_processor())["text"].ne(embed(tiny_model(seed=2), tiny_processor())["text"]).any()
    shipped = {Path(name).stem for name in pushed.server.files("owner/model", "models") if name.endswith(".py")}
    # transformers_modules.owner.<repository>.<commit>.<module>
    modules = {name.split(".")[-1] for name in result["remote_code"] if name.count(".") == 4}
    assert {"modeling_leccr", "processing_leccr"} <= modules <= shipped
    assert all(name.startswith("transformers_modules.owner") for name in result["remote_code"])
    assert "does not fit its configuration" in broken["error"] and "slot_projection.bias" in broken["error"]

    before = len(pushed.server.requests)
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}
    offline = run(tmp_path / "offline", steps[:1], variables | nowhere)["outcomes"]
    assert_embeds(offline[0], pushed.second)
    assert len(pushed.server.requests) == before


def test_a_pinned_revision_keeps_its_weights_and_its_code(pushed: Pushed, tmp_path: Path) -> None:
    """Somebody who pins a revision must not get the code of a later push; a private model needs the token."""
    steps = [
        {"name": "owner/model", **TRUST, "revision": "v1"},
        {"name": "owner/model", **TRUST, "revision": pushed.first_commit},
        {"name": "owner/model", **TRUST, "revision": "v2"},
        {"name": "owner/secret", **TRUST},
        {"name": "owner/secret", **TRUST, "token": pushed.server.token},
    ]
    found = run(tmp_path, steps, environment(pushed.server, tmp_path / "home"))["outcomes"]
    for outcome in found[:2]:
        assert_embeds(outcome, pushed.first)
        assert outcome["mark"] == 1
    assert found[2]["error"].startswith("OSError: v2 is not a valid git identifier")
    assert found[3]["error"].startswith("OSError: owner/secret is not a local folder and is not a valid model")
    assert "private repository" in found[3]["error"] and "token" in found[3]["error"]
    assert_embeds(found[4], pushed.second)


def test_with_the_package_nothing_is_asked_and_no_code_of_the_repository_runs(pushed: Pushed, tmp_path: Path) -> None:
    """Who has the package must not have to trust a repository."""
    steps = [
        {"name": "owner/model"},
        {"name": "owner/model", "loader": "AutoModelForZeroShotImageClassification", "revision": "v1"},
        {"name": "owner/model", "loader": "AutoProcessor", **TRUST},
    ]
    result = run(tmp_path, steps, environment(pushed.server, tmp_path / "home"), package=True)
    assert_embeds(result["outcomes"][0], pushed.second)
    assert_embeds(result["outcomes"][1], pushed.first)
    assert [outcome.get("mark") for outcome in result["outcomes"]] == [None] * 3
    assert result["remote_code"] == [] and not result["asked"]
    assert not [path for path in (tmp_path / "home").rglob("*.py") if path.name != "__init__.py"]


@pytest.mark.parametrize("memory", [100_000, 200_000, 300_000])
def test_a_model_larger_than_a_device_is_split_where_it_may_be(tmp_path: Path, memory: int) -> None:
    """A block whose halves lie on two devices adds tensors of both; each of our parts and of the towers is cut once."""
    model = tiny_model(description_dropout=0.2)
    model.save_pretrained(tmp_path / "model")
    settings: dict[str, Any] = {"device_map": "auto", "max_memory": {"cpu": memory}, "offload_folder": tmp_path / "off"}
    split = AutoModel.from_pretrained(tmp_path / "model", **settings)
    assert set(split.hf_device_map.values()) == {"cpu", "disk"}
    whole = {"CrossAttentionBlock", "BertLayer", "CLIPEncoderLayer"}
    assert not [name for name in split.hf_device_map for part in whole if type(parent(split, name)).__name__ == part]
    torch.testing.assert_close(embed(split, tiny_processor()), embed(model, tiny_processor()), atol=1e-6, rtol=0)


def parent(model: Any, name: str) -> Any:
    return model.get_submodule(name.rpartition(".")[0])


def test_pushed_descriptions_load_in_map_and_in_streaming_style(tmp_path: Path) -> None:
    """A fresh process has no cache of the rows that this one, or the other style, has just written."""
    folder = write_folder(tmp_path / "data")
    expected = open_splits(folder)["train"]
    with hub(tmp_path / "home") as server:
        push_dataset(folder, "owner/data", token=server.token, write_card=dataset_card)
        for style, streaming in (("map", False), ("streaming", True)):
            steps = [
                {"name": "owner/data", "loader": "load_dataset", "config": language, "split": "train"}
                for language in ("de", "fr")
            ]
            steps = [{**step, "streaming": streaming} for step in steps]
            variables = environment(server, tmp_path / style / "home")
            for step, outcome in zip(steps, run(tmp_path / style, steps, variables)["outcomes"], strict=True):
                assert "error" not in outcome, outcome["error"]
                assert outcome["class"] == ("IterableDataset" if streaming else "Dataset")
                assert {f"caption_{step['config']}_mt", "description"} <= set(outcome["rows"][0])
                assert outcome["rows"] == expected.select_columns(list(outcome["rows"][0])).to_list()
