"""What a push finds on the Hub before it builds anything: the card, its licence, and what would be refused."""

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import datasets
import pytest
from huggingface_hub import HfApi, constants

from hub_scripts import push_metric
from hub_scripts.cli import main
from hub_scripts.dataset_card import dataset_card
from hub_scripts.push_options import format_push
from modeling_leccr import publishing
from modeling_leccr.export import save_for_hub
from modeling_leccr.publishing import push_model
from modeling_leccr.training.arguments import build_recipe
from modeling_leccr.training.outputs import push_main_system
from processing import hub_upload
from processing.hub_card import card_to_push, is_edited, license_of, signed
from processing.hub_dataset import push_dataset
from tests.hub_parts import SPLITS, read_dry_run, write_folder
from tests.hub_server import HubServer, hub
from tests.tiny import tiny_model, tiny_processor
from tests.training_parts import tiny_recipe, tiny_trainer

MODEL, DATA = "owner/leccr-tiny", "owner/mine-leccr"
OWN_CARD = "---\nlicense: mit\n---\n\n# Mine\n\nAsk me first.\n"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr(hub_upload.time, "sleep", lambda seconds: None)
    with hub(tmp_path / "home") as running:
        monkeypatch.setenv("HF_TOKEN", running.token)
        yield running


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_for_hub(tiny_model(), tiny_processor(), tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture
def no_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test in which weights are loaded fails."""
    monkeypatch.setattr(publishing, "load_strictly", lambda folder: pytest.fail("the weights were loaded"))


def put(server: HubServer, repo_id: str, card: str, repo_type: str = "model") -> None:
    """Write a card as somebody does in the browser."""
    api = HfApi(token=server.token)
    api.create_repo(repo_id, repo_type=repo_type, exist_ok=True)
    api.upload_file(path_or_fileobj=card.encode(), path_in_repo="README.md", repo_id=repo_id, repo_type=repo_type)


def card_of(server: HubServer, repo_id: str = MODEL, kind: str = "models", revision: str = "main") -> str:
    return server.files(repo_id, kind, revision)["README.md"].decode()


def test_a_push_without_a_licence_keeps_the_one_on_the_hub(
    server: HubServer, saved: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The next push from a training, without --license, took the licence of the model away."""
    push_model(saved, MODEL)
    assert "license: unknown" in card_of(server)
    assert [line for line in caplog.messages if "licence" in line] == [
        f"the licence of {MODEL} is unknown, so nobody may use it; add --license"
    ]
    caplog.clear()
    push_model(saved, MODEL, license_id="apache-2.0")
    push_model(saved, MODEL, revision="trial", license_id="mit")
    commits = len(server.repositories["models", MODEL].commits)
    push_model(saved, MODEL)
    push_model(saved, MODEL, revision="trial")
    assert "license: apache-2.0" in card_of(server) and "license: mit" in card_of(server, revision="trial")
    assert len(server.repositories["models", MODEL].commits) == commits and "licence" not in caplog.text


def test_a_data_set_keeps_its_licence_too(server: HubServer, tmp_path: Path) -> None:
    """The same for texts, whose owner decides who may use them."""
    folder = write_folder(tmp_path / "data")
    push_dataset(folder, DATA, write_card=partial(dataset_card, license_id="cc-by-4.0"))
    push_dataset(folder, DATA, write_card=dataset_card)
    assert "license: cc-by-4.0" in card_of(server, DATA, "datasets")
    push_dataset(folder, DATA, write_card=partial(dataset_card, license_id="mit"))
    assert "license: mit" in card_of(server, DATA, "datasets")


def test_a_card_that_was_edited_on_the_hub_stays(
    server: HubServer, saved: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """People write limits and thanks into the card; the next push lost them without a word."""
    push_model(saved, MODEL, license_id="mit")
    edited = card_of(server).replace("## Use", "Made with care.\n\n## Use")
    put(server, MODEL, edited)
    newer = save_for_hub(tiny_model(seed=1), tiny_processor(), tmp_path / "newer")
    arguments = ["push_model", "--model", str(newer), "--repo", MODEL]
    main([*arguments, "--dry-run"])
    plan, shown = read_dry_run(capsys.readouterr().out)
    assert "README.md" not in plan["would_send"] and shown == edited.strip()
    main(arguments)
    assert card_of(server) == edited and json.loads(capsys.readouterr().out)["sent_files"] > 0
    assert f"the card of {MODEL} was edited on the Hub and stays" in caplog.text and "--replace-card" in caplog.text
    caplog.clear()
    main([*arguments, "--replace-card"])
    assert "Made with care" not in card_of(server) and "license: mit" in card_of(server)
    push_model(newer, MODEL, license_id="apache-2.0")
    assert "license: apache-2.0" in card_of(server) and "edited" not in caplog.text


def test_a_card_that_somebody_wrote_stays_and_one_without_text_is_filled(server: HubServer, saved: Path) -> None:
    """The Hub writes a card with a licence alone where a repository is made in the browser."""
    put(server, MODEL, OWN_CARD)
    push_model(saved, MODEL, license_id="apache-2.0")
    assert card_of(server) == OWN_CARD
    push_model(saved, MODEL, revision="trial")
    assert card_of(server, revision="trial") == OWN_CARD
    put(server, "owner/fresh", "---\nlicense: apache-2.0\n---\n")
    push_model(saved, "owner/fresh")
    assert "license: apache-2.0" in card_of(server, "owner/fresh") and "## Use" in card_of(server, "owner/fresh")


def test_the_rows_of_a_data_set_load_with_an_edited_card(server: HubServer, tmp_path: Path) -> None:
    """The card names the files of each configuration; kept as it was, it would hide the new ones."""
    folder = write_folder(tmp_path / "data")
    push_dataset(folder, DATA, write_card=dataset_card)
    put(
        server,
        DATA,
        card_of(server, DATA, "datasets").replace("license: unknown", "license: mit  # as agreed") + "\nMine.\n",
        "dataset",
    )
    kept = card_of(server, DATA, "datasets")
    push_dataset(folder, DATA, write_card=dataset_card)
    assert card_of(server, DATA, "datasets") == kept
    for _ in range(2):
        push_dataset(folder, DATA, write_card=dataset_card, rows_per_shard=4)
        assert card_of(server, DATA, "datasets").endswith("\nMine.\n")
        assert "license: mit" in card_of(server, DATA, "datasets")
    assert datasets.load_dataset(DATA, "de")["train"].num_rows == SPLITS["train"]
    assert push_dataset(folder, DATA, write_card=dataset_card, rows_per_shard=4)["commits"] == 0
    push_dataset(folder, DATA, write_card=dataset_card, replace_card=True)
    assert "Mine." not in card_of(server, DATA, "datasets")


def test_an_edit_is_told_from_what_git_does_to_a_file() -> None:
    """An edit of one letter that is missed is lost; a clone on Windows is no edit."""
    card = signed("---\nlicense: mit\n---\n\n# Title\n\nText.\n")
    assert not is_edited(card) and signed(card) != card
    assert not is_edited(card.replace("\n", "\r\n")) and not is_edited(card.rstrip() + "\n\n")
    for edited in (card.replace("Text", "Test"), card + "More.", "More.\n" + card, card.replace("mit", "mit-0")):
        assert is_edited(edited)
    assert is_edited("# Title\n") and is_edited("---\na: b --- c\n---\nText")
    assert not is_edited("") and not is_edited("---\nlicense: mit\ntitle: a---b\n---\n\n") and not is_edited("---\n---")
    assert card_to_push("new", None, MODEL) == signed("new")
    assert (
        license_of(None) is None and license_of("# Title") is None and license_of("---\nlicense: unknown\n---") is None
    )


def test_the_card_is_never_taken_from_a_cache(server: HubServer, saved: Path) -> None:
    """Where the Hub fails for a moment, the client gives an older card from its cache: an edit would be lost."""
    push_model(saved, MODEL)
    HfApi(token=server.token).hf_hub_download(MODEL, "README.md")
    put(server, MODEL, OWN_CARD)
    server.fail("(GET|HEAD) /owner/leccr-tiny/resolve/main/README.md", "500", times=2)
    push_model(saved, MODEL)
    assert card_of(server) == OWN_CARD


@pytest.mark.usefixtures("no_loading")
def test_what_the_hub_refuses_is_found_before_the_weights_are_loaded(
    server: HubServer, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong token showed after minutes of loading and saving, for each new try."""
    HfApi(token=server.token).create_repo("owner/public")
    for settings, message in (
        ({"token": "hf_wrong"}, "hf auth login"),
        ({"token": server.stranger_token}, "hf auth login"),
        ({"repo_id": "owner/new", "token": "hf_wrong", "dry_run": True}, "hf auth login"),
        ({"private": True}, "owner/public is public"),
        ({"license_id": "apache2"}, "does not take the metadata of the card.*license"),
        ({"license_id": "a: b\n---"}, "does not take the metadata of the card.*license"),
        *(
            ({"max_shard_size": size}, rf"max_shard_size \(--max-shard-size\) must be .* got {size!r}")
            for size in ("foo", "5", "0GB", "-1GB", "GB", 0, -5)
        ),
    ):
        with pytest.raises((ValueError, ConnectionError), match=message):
            push_model(saved, **{"repo_id": "owner/public", **settings})
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ConnectionError, match="hf auth login"):
        push_model(saved, "owner/new")
    assert set(server.repositories) == {("models", "owner/public")}
    offline = mock.patch.object(constants, "HF_HUB_OFFLINE", True)
    with offline, pytest.raises(ConnectionError, match="HF_HUB_OFFLINE is set, so nothing can be pushed"):
        push_model(saved, MODEL)


@pytest.mark.usefixtures("no_loading")
def test_a_dry_run_without_a_connection_names_the_way_without_one(server: HubServer, saved: Path) -> None:
    """Six tries with growing waits look like a command that hangs."""
    server.fail("GET .*/resolve/", "lost", times=99)
    with pytest.raises(ConnectionError, match=r"cannot be reached.*HF_HUB_OFFLINE=1"):
        push_model(saved, MODEL, dry_run=True)
    assert server.count("GET .*/resolve/") == 1


def test_a_training_with_a_wrong_licence_is_refused_before_it_starts(
    server: HubServer, saved: Path, tmp_path: Path
) -> None:
    """The push failed after hours, and the advised command repeated the refused licence."""
    settings: dict[str, Any] = {"push_to_hub": True, "hub_model_id": MODEL, "hub_token": server.token}
    settings["hub_license"] = "apache2"
    with pytest.raises(ValueError, match=r"does not take the metadata of the card.*license"):
        tiny_trainer(tmp_path / "run", tiny_model(), **settings)
    assert server.repositories == {}
    # As where the licence could not be checked at the start.
    run = tmp_path / "finished"
    shutil.copytree(saved, run / "model")
    arguments = build_recipe(tiny_recipe(run, **settings)).training
    with pytest.raises(RuntimeError, match=r"does not take the metadata of the card") as failure:
        push_main_system(run, arguments)
    command = str(failure.value).split("`")[-2]
    assert command.endswith(f"--repo {MODEL} --license LICENSE")


def test_the_title_of_the_commit_is_told(server: HubServer, saved: Path) -> None:
    """A history of equal titles tells nobody what changed."""
    main(["push_model", "--model", str(saved), "--repo", MODEL, "--message", "Train on Crossmodal-3600"])
    assert list(server.repositories["models", MODEL].commits.values())[-1].title == "Train on Crossmodal-3600"


@pytest.mark.parametrize("command", ["push_model", "push_dataset", "push_metric"])
def test_the_help_says_where_the_token_comes_from(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Who finds no --token option writes the token into the address, or into the code."""
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "token is the one of `hf auth login`, or of the variable HF_TOKEN; there is no option for it" in text


def test_each_dry_run_tells_the_same(server: HubServer, saved: Path, tmp_path: Path) -> None:
    """A script that reads one plan reads them all, and a person reads the card."""
    data = write_folder(tmp_path / "data")
    plans = [
        push_model(saved, MODEL, dry_run=True),
        push_dataset(data, DATA, write_card=dataset_card, dry_run=True),
        push_metric.push_metric("owner/crosslingual_retrieval", dry_run=True),
    ]
    keys = {"repository", "would_send", "would_send_bytes", "unchanged_files", "would_delete", "card"}
    for plan in plans:
        assert keys <= plan.keys() and plan["would_send_bytes"] == sum(plan["would_send"].values()) > 0
        told, card = read_dry_run(format_push(plan))
        assert told == {key: value for key, value in plan.items() if key != "card"}
        assert card == plan["card"].strip() and card.startswith("---\n")
    assert server.repositories == {}
