"""Pushes of a model that are cut, refused and lost on the way: the repository ends equal, and never shows a part."""

import random
from pathlib import Path

import pytest
from huggingface_hub.errors import HTTPError

from modeling_leccr.export import save_for_hub
from tests.hub_parts import files_of
from tests.hub_server import HubServer
from tests.test_push_model import REPO, SHARDS, assert_loads_as, push, remote_files
from tests.tiny import tiny_model, tiny_processor


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_for_hub(tiny_model(vision="vit"), tiny_processor(), tmp_path_factory.mktemp("saved") / "model")


WEIGHTS = "PUT /lfs-objects/"
STEPS = {
    "create": "POST /api/repos/create",
    "look": "GET /api/models/.*/revision|GET /api/models/[^/]+/[^/]+$",
    "compare": "GET .*/tree/",
    "card": "POST /api/validate-yaml",
    "ask": "POST .*/preupload/",
    "lfs": "POST .*/objects/batch",
    "commit": "POST .*/commit/",
}


@pytest.mark.parametrize("seed", range(3))
def test_ten_cuts_among_other_faults_end_complete_and_show_no_half_model(
    server: HubServer, saved: Path, tmp_path: Path, seed: int
) -> None:
    """Weights in several files, cut at the worst moments: whatever arrives before the end must load nothing.

    The client gives up after some failures of one request; then the command is run again, as here.
    """
    draw = random.Random(seed)
    server.cut_ten_times(draw, WEIGHTS)
    # What was committed is not sent once more, so a commit that is lost comes last.
    for step in draw.choices(list(STEPS), k=8):
        kind = draw.choice(["429", "500", "cut"] + ["lost"] * (step != "commit"))
        server.fail(STEPS[step], kind, times=draw.randrange(1, 4))
    server.fail(STEPS["commit"], "lost")
    for _ in range(20):
        try:
            push(server, saved, max_shard_size=SHARDS, staging=tmp_path / "staging")
            break
        except (HTTPError, RuntimeError):
            if ("models", REPO) in server.repositories:
                assert remote_files(server) in ({}, files_of(tmp_path / "staging"))
    assert server.count(f"{WEIGHTS}.* cut$") == 10
    assert server.count(f"{WEIGHTS}.* 429$") >= 2 and server.count(f"{WEIGHTS}.* 500$") >= 2
    server.faults.clear()
    staging = tmp_path / "staging"
    assert push(server, saved, max_shard_size=SHARDS, staging=staging)["sent_files"] == 0
    assert remote_files(server) == files_of(staging)
    assert len([name for name in files_of(staging) if name.endswith(".safetensors")]) > 4
    assert_loads_as(saved)
