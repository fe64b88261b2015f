"""Downloads that are cut, killed or refused, and folders that were written half-way: a model is whole or an error."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HTTPError
from transformers import AutoModel, AutoProcessor

from modeling_leccr.export import save_for_hub
from processing.processing_leccr import LeccrProcessor
from tests.hub_parts import files_of
from tests.hub_server import HubServer, environment, hub
from tests.loading_worker import embed
from tests.tiny import tiny_model, tiny_processor

REPO = "owner/model"
WEIGHTS, SETTINGS = r"^GET .*/resolve/.*-of-00005\.safetensors", r"^GET .*/resolve/.*\.json"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in shards, with settings of the processor that are not the default."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    return save_for_hub(tiny_model(), processor(), folder, max_shard_size="100KB")


@pytest.fixture
def server(tmp_path: Path, saved: Path) -> Iterator[HubServer]:
    with hub(tmp_path / "home") as running:
        api = HfApi(token=running.token)
        api.create_repo(REPO)
        api.upload_folder(repo_id=REPO, folder_path=saved)
        yield running


def processor() -> LeccrProcessor:
    return tiny_processor(clean_captions=True, max_length=17)


def assert_whole(model: Any, loaded_processor: Any) -> None:
    """What was loaded is what was saved, to the bit and with its settings."""
    torch.testing.assert_close(model.state_dict(), tiny_model().state_dict(), rtol=0, atol=0)
    assert (loaded_processor.clean_captions, loaded_processor.max_length) == (True, 17)
    found, expected = embed(model, loaded_processor), embed(tiny_model(), processor())
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("seed", range(3))
def test_a_download_with_ten_cuts_among_other_faults_ends_whole(server: HubServer, tmp_path: Path, seed: int) -> None:
    """What arrives after a fault must be the model, or an error: never a part of it, nor another processor.

    The client gives up after some failures of one request; then the model is loaded again, as here, from the cache
    that the failed call left.
    """
    draw = random.Random(seed)
    server.cut_ten_times(draw, WEIGHTS, SETTINGS)
    for pattern in ("HEAD .*/resolve/", "HEAD .*/resolve/", "GET /api/"):
        server.fail(pattern, draw.choice(["429", "500", "cut"]), skip=draw.randrange(12), times=draw.randrange(1, 4))
    for _ in range(20):
        try:
            assert_whole(AutoModel.from_pretrained(REPO), AutoProcessor.from_pretrained(REPO))
            break
        except (HTTPError, OSError):
            continue
    assert (server.count(f"{WEIGHTS} cut$"), server.count(f"{SETTINGS} cut$")) == (5, 5)
    assert server.count("^GET .*/resolve/.* 429$") == 2 and server.count("^GET .*/resolve/.* 500$") == 2
    server.faults.clear()
    assert_whole(AutoModel.from_pretrained(REPO), AutoProcessor.from_pretrained(REPO))
    assert not list((tmp_path / "home").rglob("*.incomplete"))
    [snapshot] = (tmp_path / "home").glob("hub/models--*/snapshots/*")
    cached, pushed = files_of(snapshot), server.files(REPO, "models")
    assert cached == {name: pushed[name] for name in cached}
    assert {name for name in pushed if name.startswith("model-")} < cached.keys()


def test_a_killed_download_is_no_model_and_is_completed_later(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a file in the cache must not be read by the next process, not even one without a connection."""
    server.fail("GET .*model-00002-of", "stall")
    code = f"from huggingface_hub import snapshot_download; snapshot_download({REPO!r}, max_workers=1)"
    variables = {**os.environ, **environment(server, tmp_path / "home")}
    with subprocess.Popen([sys.executable, "-c", code], env=variables, stderr=subprocess.DEVNULL) as child:
        deadline = time.monotonic() + 60
        while not server.count("stalled"):
            assert child.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        child.kill()
    assert list((tmp_path / "home").rglob("*.incomplete"))
    with monkeypatch.context() as patched:
        patched.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(OSError, match="if a copy or download was cut off, do it again"):
            AutoModel.from_pretrained(REPO)
    assert_whole(AutoModel.from_pretrained(REPO), AutoProcessor.from_pretrained(REPO))


def shard(folder: Path) -> Path:
    return folder / "model-00002-of-00005.safetensors"


def write_index(folder: Path, content: Any) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps(content), encoding="utf-8")


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


HALF_WRITTEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no weights": (lambda folder: [path.unlink() for path in folder.glob("model*")], "no file named model.safetensors"),
    "no index": (lambda folder: (folder / "model.safetensors.index.json").unlink(), "no file named model.safetensors"),
    "no shard": (lambda folder: shard(folder).unlink(), "1 of the 5 weight files .* are missing .*00002-of-00005"),
    "half a shard": (lambda folder: cut(shard(folder), 50_000), "model-00002-of-00005.safetensors of .* is truncated"),
    "a shard without its last byte": (
        lambda folder: cut(shard(folder), -1),
        "model-00002-of-00005.safetensors of .* is truncated",
    ),
    "an empty shard": (lambda folder: cut(shard(folder), 0), "model-00002-of-00005.safetensors of .* is truncated"),
    "half an index": (lambda folder: cut(folder / "model.safetensors.index.json", 99), "is damaged: no `weight_map`"),
    "an index of nothing": (lambda folder: write_index(folder, []), "is damaged: no `weight_map`"),
    "half a configuration": (lambda folder: cut(folder / "config.json", 99), "not a valid JSON file"),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), "Should have a `model_type` key"),
}


@pytest.mark.parametrize("name", HALF_WRITTEN)
def test_a_folder_that_was_written_half_way_is_no_model(saved: Path, tmp_path: Path, name: str) -> None:
    """transformers would start the rest at random, or tell no more than a position in a file without its name."""
    change, message = HALF_WRITTEN[name]
    change(shutil.copytree(saved, tmp_path / "model"))
    with pytest.raises((ValueError, OSError), match=message):
        AutoModel.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("processor_config.json", "Can't load image processor"),
        ("tokenizer.json", "Couldn't instantiate the backend tokenizer"),
        ("tokenizer_config.json", "must have a padding token"),
    ],
)
def test_a_processor_without_one_of_its_files_is_an_error(
    saved: Path, tmp_path: Path, missing: str, message: str
) -> None:
    """Another tokenizer, or one without its limits, embeds every caption as something else."""
    folder = shutil.copytree(saved, tmp_path / "model")
    (folder / missing).unlink()
    with pytest.raises((ValueError, OSError), match=message):
        AutoProcessor.from_pretrained(folder)
    cut(Path(shutil.copy(saved / missing, folder)), 99)
    with pytest.raises((ValueError, OSError)):
        AutoProcessor.from_pretrained(folder)


@pytest.mark.parametrize("tokenizer_class", ["BertTokenizer", "XLMRobertaTokenizer", "T5Tokenizer", "CLIPTokenizer"])
def test_a_tokenizer_whose_vocabulary_is_missing_is_an_error(saved: Path, tmp_path: Path, tokenizer_class: str) -> None:
    """transformers makes an empty one of that class, which reads every word as [UNK]."""
    folder = shutil.copytree(saved, tmp_path / "model")
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings["tokenizer_class"] = tokenizer_class
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="must know more than its special tokens"):
        AutoProcessor.from_pretrained(folder)
