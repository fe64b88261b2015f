"""A model pushed to the Hub: what arrives, what is sent again, what a failure leaves, what must not leak."""

import getpass
import json
import shlex
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HTTPError
from PIL import Image
from safetensors import safe_open
from transformers import AutoModel, AutoProcessor

from hub_scripts.push_model import main
from modeling_leccr.export import save_for_hub
from modeling_leccr.publishing import push_model
from modeling_leccr.training.arguments import LeccrTrainingArguments, build_recipe
from modeling_leccr.training.building import build_model, build_processor
from modeling_leccr.training.outputs import push_main_system
from modeling_leccr.training.trainer import LeccrTrainer
from reporting.model_record import ModelRecord
from tests.hub_parts import files_of, read_dry_run
from tests.hub_server import HubServer
from tests.test_training_building import scratch_arguments, tower_folders
from tests.tiny import tiny_model, tiny_processor
from tests.training_parts import tiny_recipe, tiny_split, tiny_trainer, weights_of

REPO = "owner/leccr-tiny"
RECORD = ModelRecord(languages=("de",), metrics={"test": {"de/sum_r": 1.0, "sum_r": 1.0}})
SHARDS = "100KB"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model with towers whose weights are written under older names."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    return save_for_hub(tiny_model(vision="vit", description_dropout=0.1), tiny_processor(), folder, record=RECORD)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first of two checkpoints of a training, with all that a trainer writes there."""
    folder = tmp_path_factory.mktemp("training")
    settings = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    tiny_trainer(folder, tiny_model(), validation=tiny_split(), **settings).train()
    return folder / "checkpoint-1"


def push(server: HubServer, folder: Path, repo_id: str = REPO, **settings: Any) -> dict[str, Any]:
    return push_model(folder, repo_id, **{"token": server.token, "license_id": "apache-2.0", **settings})


def remote_files(server: HubServer, repo_id: str = REPO, revision: str = "main") -> dict[str, bytes]:
    return server.files(repo_id, "models", revision)


def commits(server: HubServer, repo_id: str = REPO) -> list[Any]:
    """The commits after the one that the Hub makes itself."""
    return list(server.repositories["models", repo_id].commits.values())[1:]


def assert_loads_as(folder: Path, repo_id: str = REPO, **settings: Any) -> None:
    """The repository gives the weights of the folder."""
    expected = AutoModel.from_pretrained(folder).state_dict()
    torch.testing.assert_close(AutoModel.from_pretrained(repo_id, **settings).state_dict(), expected, rtol=0, atol=0)


def test_the_repository_equals_the_staging_folder_and_loads(server: HubServer, saved: Path, tmp_path: Path) -> None:
    """What can be looked at before the push must be what arrives; half of it in a commit could be loaded."""
    result = push(server, saved, staging=tmp_path / "staging")
    assert remote_files(server) == files_of(tmp_path / "staging")
    assert len(commits(server)) == 1 and result["commit"] == commits(server)[0].oid
    assert result["repository"] == REPO and result["num_parameters"] == tiny_model(vision="vit").num_parameters() + 32
    assert_loads_as(saved)
    found = AutoProcessor.from_pretrained(REPO)(text=["ein roter ball"])["input_ids"]
    assert torch.equal(found, tiny_processor()(text=["ein roter ball"])["input_ids"])
    assert {"golden/inputs.json", "check_embeddings.py", "modeling_leccr.py"} <= remote_files(server).keys()


def test_the_card_speaks_of_the_repository(server: HubServer, saved: Path) -> None:
    """A card that names the folder on somebody's disk cannot be followed."""
    push(server, saved)
    card = remote_files(server)["README.md"].decode()
    assert f'"{REPO}"' in card and "license: apache-2.0" in card and "./model" not in card


def test_the_licence_of_the_saved_card_is_kept(server: HubServer, tmp_path: Path) -> None:
    """A push without --license would call a licensed model unlicensed."""
    saved = save_for_hub(tiny_model(), tiny_processor(), tmp_path / "model", license_id="cc-by-4.0")
    push(server, saved, license_id=None)
    assert "license: cc-by-4.0" in remote_files(server)["README.md"].decode()
    with pytest.raises(ValueError, match=r"does not take the metadata of the card.*license"):
        push(server, saved, license_id="apache2")


def test_nothing_is_sent_twice(server: HubServer, saved: Path) -> None:
    """Weights are large, and a commit without a change hides the real ones."""
    first = push(server, saved, max_shard_size=SHARDS)
    assert first["sent_bytes"] == sum(map(len, remote_files(server).values()))
    again = push(server, saved, max_shard_size=SHARDS)
    assert (again["commits"], again["sent_files"], again["commit"]) == (0, 0, first["commit"])


def test_files_of_an_older_push_go_and_those_of_others_stay(server: HubServer, saved: Path) -> None:
    """A single file of weights beside newer shards, or the reverse, would be loaded instead of them."""
    push(server, saved)
    api = HfApi(token=server.token)
    others = ("LICENSE", "pytorch_model.bin", "golden/mine.txt", ".eval_results/hle.yaml")
    for name in others:
        api.upload_file(path_or_fileobj=b"mine", path_in_repo=name, repo_id=REPO)
    push(server, saved, max_shard_size=SHARDS)
    names = remote_files(server).keys()
    assert "model.safetensors" not in names and len([n for n in names if n.startswith("model-0")]) > 3
    assert_loads_as(saved)
    result = push(server, saved)
    names = remote_files(server).keys()
    assert result["commits"] == 1 and not [name for name in names if name.startswith("model-0")]
    assert "model.safetensors.index.json" not in names and set(others) <= names
    assert_loads_as(saved)


def test_a_branch_is_made_and_main_left_alone(server: HubServer, saved: Path) -> None:
    """A trial must not change what others load, and a pinned commit must stay what it was."""
    first = push(server, saved)
    trained = save_for_hub(tiny_model(vision="vit", seed=1), tiny_processor(), saved.parent / "other")
    push(server, trained, revision="trial")
    assert_loads_as(trained, revision="trial")
    assert_loads_as(saved)
    push(server, trained)
    assert_loads_as(trained)
    assert_loads_as(saved, revision=first["commit"])


def test_private_needs_a_token_and_never_goes_to_a_public_repository(server: HubServer, saved: Path) -> None:
    """A model that was meant for a few would be out for good."""
    push(server, saved, private=True)
    with pytest.raises(OSError, match="private repository"):
        AutoModel.from_pretrained(REPO)
    assert_loads_as(saved, token=server.token)
    push(server, saved, "owner/public")
    with pytest.raises(ValueError, match="owner/public is public"):
        push(server, saved, "owner/public", private=True)


def test_of_a_checkpoint_the_model_alone_is_sent(server: HubServer, checkpoint: Path) -> None:
    """Pickles run code when they are loaded, and the arguments of a run tell of its machine."""
    assert {"optimizer.pt", "training_args.bin", "trainer_state.json"} <= files_of(checkpoint).keys()
    push(server, checkpoint)
    assert_loads_as(checkpoint)
    names = remote_files(server).keys()
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth")) or "trainer" in name]
    assert "golden/embeds.safetensors" in names
    record = json.loads(remote_files(server)["metrics.json"])
    assert record["checkpoint_choice"] == "step 1 of 2" and record["languages"] == ["de"]
    assert 0 <= record["metrics"]["validation"]["de/sum_r"] <= 600


def test_the_trainer_pushes_what_the_command_pushes(server: HubServer, tmp_path: Path) -> None:
    """The parent's push sends its own card, no code, the arguments of the run, and folders of the run."""
    hub_settings = {"push_to_hub": True, "hub_model_id": REPO, "hub_token": server.token, "hub_license": "mit"}
    settings = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    settings |= {"load_best_model_at_end": True, "save_total_limit": 3}
    trainer = tiny_trainer(tmp_path / "run", tiny_model(), validation=tiny_split(), **settings, **hub_settings)
    assert remote_files(server) == {}
    # The first step is the best, so that the last one is not taken for it.
    trainer.retrieval_metrics = lambda *_, **__: dict.fromkeys(("de/sum_r", "sum_r"), 9.0 - trainer.state.global_step)
    trainer.train()
    assert remote_files(server) == {}
    result = trainer.push_to_hub()
    assert len(commits(server)) == 1 and commits(server)[0].title == "End of training"
    torch.testing.assert_close(AutoModel.from_pretrained(REPO).state_dict(), weights_of(trainer.model), rtol=0, atol=0)
    # With push_to_hub, transformers' `save_model` pushes too; the same model is not sent again.
    trainer.save_model(str(tmp_path / "saved"))
    assert len(commits(server)) == 1
    best = Path(str(trainer.state.best_model_checkpoint))
    push(server, best, "owner/command", license_id="mit")
    trained, command = remote_files(server), remote_files(server, "owner/command")
    assert trained.keys() == command.keys() and result is not None and result["sent_files"] == len(trained)
    differing = {name for name in trained if trained[name] != command[name]}
    assert differing == {"README.md", "metrics.json"}
    record = json.loads(trained["metrics.json"])
    assert record["checkpoint_choice"] == "best SumR on validation, step 1 of 2"
    assert record["metrics"] == json.loads(command["metrics.json"])["metrics"]
    assert record["metrics"]["validation"]["sum_r"] == 8.0
    assert server.token not in str(server.repositories["models", REPO].commits)


def test_a_push_of_the_trainer_that_cannot_succeed_fails_before_training(server: HubServer, tmp_path: Path) -> None:
    """A wrong token showed after hours; checkpoints on the Hub are pickles."""
    settings: dict[str, Any] = {"push_to_hub": True, "hub_model_id": REPO}
    HfApi(token=server.token).create_repo(REPO)
    with pytest.raises(ConnectionError, match="log in with `hf auth login`"):
        tiny_trainer(tmp_path, tiny_model(), hub_token=server.stranger_token, **settings)
    with pytest.raises(ValueError, match=f"{REPO} is public"):
        tiny_trainer(tmp_path, tiny_model(), hub_token=server.token, hub_private_repo=True, **settings)
    for changes, message in (
        ({"hub_model_id": None}, "push_to_hub needs hub_model_id"),
        ({"hub_model_id": "leccr"}, "must be organisation/name, got 'leccr'"),
        ({"hub_strategy": "checkpoint"}, "hub_strategy must be 'end', got 'checkpoint'"),
    ):
        with pytest.raises(ValueError, match=message):
            LeccrTrainingArguments(output_dir=str(tmp_path), **settings | changes)
    with pytest.raises(ValueError, match="hub_model_id must name the repository"):
        tiny_trainer(tmp_path, tiny_model()).push_to_hub()


def test_every_process_but_the_main_one_leaves_the_hub_alone(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight processes that push at once make eight commits, or refuse each other's."""
    monkeypatch.setattr(LeccrTrainer, "is_world_process_zero", lambda self: False)
    settings = {"push_to_hub": True, "hub_model_id": REPO, "hub_token": server.token}
    assert tiny_trainer(tmp_path, tiny_model(), **settings).push_to_hub() is None
    assert server.requests == []


def test_a_failed_push_after_training_says_how_to_push_again(
    server: HubServer, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Hours of training must not end with a traceback of a network."""
    run = tmp_path / "my run"
    shutil.copytree(saved, run / "model")
    hub_settings = {"hub_model_id": REPO, "hub_license": "mit", "hub_revision": "trial", "hub_private_repo": True}
    arguments = build_recipe(tiny_recipe(run, push_to_hub=True, hub_token=server.token, **hub_settings)).training
    server.fail("POST .*/commit/", "500", times=100)
    with pytest.raises(RuntimeError, match=r"training is finished and saved in .*500.*Push it with `leccr ") as failure:
        push_main_system(run, arguments)
    assert files_of(run / "model") == files_of(saved) and server.token not in str(failure.value)
    server.faults.clear()
    monkeypatch.setenv("HF_TOKEN", server.token)
    command = str(failure.value).split("`")[-2]
    main(shlex.split(command)[2:])
    assert json.loads(capsys.readouterr().out)["commits"] == 1
    assert "license: mit" in remote_files(server, revision="trial")["README.md"].decode()
    assert server.repositories["models", REPO].private


def test_a_push_that_gave_up_shows_no_model_and_sends_no_file_again(server: HubServer, saved: Path) -> None:
    """A repository with configuration and half of the weights would be taken for a model."""
    server.fail("POST .*/commit/", "500", times=100)
    with pytest.raises(HfHubHTTPError, match="500"):
        push(server, saved, max_shard_size=SHARDS)
    sent = server.count("PUT /lfs-objects/.* 200")
    assert sent > 4 and remote_files(server) == {}
    with pytest.raises((OSError, ValueError), match=f"{REPO}.*config.json"):
        AutoModel.from_pretrained(REPO)
    server.faults.clear()
    push(server, saved, max_shard_size=SHARDS)
    assert server.count("PUT /lfs-objects") == sent
    assert_loads_as(saved)


def test_readers_get_the_older_model_until_the_newer_is_there(server: HubServer, saved: Path, tmp_path: Path) -> None:
    """Half of the older and half of the newer weights embed nonsense without any error."""
    push(server, saved, max_shard_size=SHARDS)
    newer = save_for_hub(tiny_model(vision="vit", description_dropout=0.1, seed=1), tiny_processor(), tmp_path / "new")
    server.fail("PUT /lfs-objects", "500", skip=2, times=100)
    with pytest.raises((HTTPError, RuntimeError)):
        push(server, newer, max_shard_size=SHARDS)
    assert_loads_as(saved, force_download=True)
    server.faults.clear()
    push(server, newer, max_shard_size=SHARDS)
    assert_loads_as(newer)


def test_a_refusal_is_told_at_once(server: HubServer, saved: Path) -> None:
    """Six tries with a wrong token look like a slow network."""
    push(server, saved)
    tried = server.count("POST /api/repos/create")
    with pytest.raises(ConnectionError, match=r"403.*write access to owner"):
        push(server, saved, token=server.stranger_token, license_id="mit")
    assert server.count("POST /api/repos/create") == tried + 1


def test_a_dry_run_tells_and_changes_nothing(
    server: HubServer, saved: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """People look before they publish."""
    monkeypatch.setenv("HF_TOKEN", server.token)
    arguments = ["--model", str(saved), "--repo", REPO, "--license", "mit", "--max-shard-size", SHARDS]
    main([*arguments, "--dry-run"])
    plan, card = read_dry_run(capsys.readouterr().out)
    assert plan["would_send_bytes"] == sum(plan["would_send"].values())
    assert card.startswith("---\n") and "license: mit" in card
    assert server.repositories == {} and server.count("^(POST|PUT) (?!/api/validate-yaml)") == 0
    main(arguments)
    sent = json.loads(capsys.readouterr().out)
    assert sent["sent_bytes"] == plan["would_send_bytes"]
    assert {name: len(data) for name, data in remote_files(server).items()} == plan["would_send"]
    main([*arguments[:-2], "--dry-run"])
    plan, _ = read_dry_run(capsys.readouterr().out)
    assert "model.safetensors" in plan["would_send"] and "model.safetensors.index.json" in plan["would_delete"]


def test_a_dry_run_works_offline(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The machine that trains often has no network."""
    main(["--model", str(saved), "--repo", REPO, "--dry-run"])
    assert "model.safetensors" in read_dry_run(capsys.readouterr().out)[0]["would_send"]


def without(source: Path, target: Path, *names: str) -> Path:
    """A copy of a folder in which files are missing, as after a copy or a save that was stopped."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(*names))
    return target


def test_what_is_no_whole_model_is_refused_before_the_hub_is_asked(
    server: HubServer, saved: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """Each of these would put something on the Hub that does not load, or embeds with random numbers."""
    sharded = save_for_hub(tiny_model(), tiny_processor(), tmp_path / "sharded", max_shard_size=SHARDS)
    other = without(saved, tmp_path / "other")
    (other / "config.json").write_text(json.dumps({"model_type": "bert"}), encoding="utf-8")
    cut = without(saved, tmp_path / "cut")
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    for folder, message in (
        (tmp_path / "absent", "is not a folder"),
        (without(saved, tmp_path / "a", "config.json"), "no whole model, for it has no config.json"),
        (without(checkpoint, tmp_path / "b", "processor_config.json"), "has no processor_config.json"),
        (without(checkpoint, tmp_path / "c", "*.safetensors"), r"no model\*\.safetensors"),
        (without(sharded, tmp_path / "d", "model-00002*"), "model-00002"),
        (other, "model of the type 'bert'"),
        (cut, "truncated"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            push(server, folder)
    with pytest.raises(ValueError, match="must be organisation/name, got 'leccr'"):
        push(server, saved, "leccr")
    assert server.requests == []


def test_a_staging_folder_is_never_one_with_something_else(server: HubServer, saved: Path, checkpoint: Path) -> None:
    """The staging folder is replaced: a typo would cost the model, or the optimizer of a stopped training."""
    before = files_of(checkpoint.parent)
    for staging in (checkpoint, checkpoint.parent, checkpoint.parent / "checkpoint-2"):
        with pytest.raises(ValueError, match="staging is replaced, and"):
            push(server, checkpoint, staging=staging)
    with pytest.raises(ValueError, match="staging must be a folder"):
        push(server, checkpoint, staging=saved / "config.json")
    assert files_of(checkpoint.parent) == before and server.requests == []


def readable(name: str, data: bytes, folder: Path) -> bytes:
    """What a file tells besides numbers: of weights the header, of pictures also their texts."""
    if name.endswith(".safetensors"):
        with safe_open(folder / name, framework="pt") as weights:
            return f"{weights.metadata()} {list(weights.keys())}".encode()
    if name.endswith(".png"):
        with Image.open(folder / name) as picture:
            return data + str(picture.info).encode()
    return data


def test_nothing_of_this_machine_is_pushed(server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path tells a user name and a project; a token is worse."""
    monkeypatch.chdir(tmp_path)
    vision, text = tower_folders(tmp_path / "private-towers")
    arguments = scratch_arguments(vision_tower=vision, text_tower=text)
    processor = build_processor(arguments, tiny_split(), ["de"])
    (tmp_path / "private-data" / "mine").mkdir(parents=True)
    settings = tiny_recipe(tmp_path / "private-run", vision_tower=str(vision), dataset="private-data/mine")
    hub_settings = {"hub_token": server.token, "hub_model_id": REPO, "run_name": "private-name"}
    recipe = build_recipe(settings | hub_settings | {"text_tower": str(text)})
    record = ModelRecord(
        languages=("de",),
        settings=recipe.public_settings(),
        protocol={"test": {"split": f"read from {tmp_path}/private-split/rows with hf_abcdefghijklmnop"}},
        environment={"python": f"{tmp_path}/private-python/bin/python"},
    )
    assert record.settings["dataset"] == "mine" and record.settings["model"] == settings["model"]
    model = build_model(arguments, processor.tokenizer)
    # As after fine-tuning what was saved: names of folders come back with what is loaded from them.
    save_for_hub(model, processor, tmp_path / "private-model", record=record)
    push(server, tmp_path / "private-model", staging=tmp_path / "staging", max_shard_size=SHARDS)
    # A short user name can be part of a word.
    traces = [
        str(tmp_path),
        tmp_path.name,
        str(Path.home()),
        f"/{getpass.getuser()}/",
        socket.gethostname(),
        "private-",
    ]
    traces += [server.token, "hf_abc", server.url]
    for name, data in remote_files(server).items():
        content = readable(name, data, tmp_path / "staging")
        assert not [trace for trace in traces if trace.encode() in content], name
    titles = [commit.title for commit in commits(server)]
    assert not [trace for trace in traces for title in titles if trace in title]
