"""What a push looks at before the first byte is sent: staging folder, licence, columns, splits without rows."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pytest

from hub_scripts import describe
from hub_scripts.dataset_card import dataset_card
from hub_scripts.push_dataset import main
from processing.hub_dataset import build_repository, push_dataset
from processing.manifest import read_manifest
from processing.sources import write_splits
from tests.hub_parts import SPLITS, read_dry_run, rows, write_folder
from tests.hub_server import HubServer, hub
from tests.openai_server import OpenAiServer
from tests.processing_parts import picture

REPO = "owner/mine-leccr"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HubServer]:
    with hub(tmp_path / "home") as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "data")


def build(folder: Path, target: Path, **settings: Any) -> Any:
    return build_repository(folder, target, REPO, **({"write_card": dataset_card} | settings))


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_only_a_staging_folder_of_an_earlier_push_is_replaced(folder: Path, tmp_path: Path) -> None:
    """`--staging data/other`, a slip of the tab key, deleted the data set that lay there, even in a dry run."""
    other = write_folder(tmp_path / "other")
    card_beside = write_folder(tmp_path / "card")
    (card_beside / "README.md").write_text("mine")
    notes = tmp_path / "notes"
    build(folder, notes)
    (notes / "notes.txt").write_text("mine")
    no_card = tmp_path / "no_card"
    build(folder, no_card)
    (no_card / "README.md").unlink()
    for target in (folder, other, card_beside, notes, no_card):
        before = files(target)
        with pytest.raises(ValueError, match="holds what no push wrote there"):
            push_dataset(folder, REPO, write_card=dataset_card, staging=target, dry_run=True)
        assert files(target) == before
    with pytest.raises(ValueError, match="staging must be a folder"):
        build(folder, notes / "notes.txt")


def test_a_staging_folder_is_used_again(folder: Path, tmp_path: Path) -> None:
    """Who pushes often keeps one staging folder."""
    (tmp_path / "staging").mkdir()
    build(folder, tmp_path / "staging", rows_per_shard=2)
    build(folder, tmp_path / "staging")
    assert len(files(tmp_path / "staging")) == 6


@pytest.mark.parametrize("dry_run", [False, True])
def test_an_unknown_licence_is_told_before_anything_is_sent(server: HubServer, folder: Path, dry_run: bool) -> None:
    """The Hub refuses the card in the last commit, hours after the first shard."""
    with pytest.raises(ValueError, match=r'does not take the metadata of the card: .*"license.*must be one of'):
        push_dataset(
            folder,
            REPO,
            write_card=partial(dataset_card, license_id="nonsense-1"),
            dry_run=dry_run,
            token=server.token,
        )
    assert server.repositories == {} and server.objects == {}


def test_a_hub_that_cannot_check_the_card_does_not_stop_the_push(
    server: HubServer, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The early check saves time; the card is checked again when it is sent."""
    server.fail("POST /api/validate-yaml", "cut", times=1)
    push_dataset(folder, REPO, write_card=dataset_card, token=server.token)
    assert "README.md" in server.files(REPO) and "could not be checked before the upload" in caplog.text


def test_columns_that_the_schema_does_not_know_are_told(
    folder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody's own tags, or captions in a language without a code here, vanished without a word."""
    split = rows("train", 2).add_column("my_tag", ["x", "y"]).add_column("caption_mi", [["kuri"], ["ngeru"]])
    write_splits({"train": split}, folder, overwrite=True)
    main(["--dataset", str(folder), "--repo", REPO, "--dry-run"])
    assert read_dry_run(capsys.readouterr().out)[0]["left_out_columns"] == ["my_tag", "caption_mi"]
    assert "columns my_tag, caption_mi" in caplog.text
    write_folder(folder)
    main(["--dataset", str(folder), "--repo", REPO, "--dry-run"])
    assert read_dry_run(capsys.readouterr().out)[0]["left_out_columns"] == []


def test_a_split_where_no_row_has_a_picture_is_left_out(
    server: HubServer, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its shard would hold no row, which `load_dataset` cannot read; the whole repository would not load."""
    (tmp_path / "pictures" / "train").mkdir(parents=True)
    for item in range(3):
        picture(item).save(tmp_path / "pictures" / "train" / f"{item}.png")
    result = push_dataset(
        folder,
        REPO,
        write_card=dataset_card,
        with_images=True,
        images=tmp_path / "pictures",
        token=server.token,
    )
    assert result["configurations"]["de"] == {"train": 3}
    assert result["missing"] == {"no image": {"train": 4, "validation": 2}}
    assert "['validation'] have no row with a picture" in caplog.text
    loaded = datasets.load_dataset(REPO, "de")
    assert list(loaded) == ["train"] and loaded["train"][2]["image"].tobytes() == picture(2).tobytes()
    assert "validation: 2 items have no image and are left out" in server.files(REPO)["README.md"].decode()


def test_quality_that_was_asked_for_must_be_there(folder: Path, tmp_path: Path) -> None:
    """A wrong --quality gave a card without the section, and nobody noticed."""
    with pytest.raises(ValueError, match=r"holds no quality.json"):
        main(["--dataset", str(folder), "--repo", REPO, "--dry-run", "--quality", str(tmp_path)])


def test_what_is_made_from_a_pushed_data_set_keeps_its_steps(server: HubServer, folder: Path, tmp_path: Path) -> None:
    """The next card would name neither the source nor the models before."""
    push_dataset(folder, REPO, write_card=dataset_card, token=server.token)
    for split, count in SPLITS.items():
        (tmp_path / "pictures" / split).mkdir(parents=True)
        for item in range(count):
            picture(item).save(tmp_path / "pictures" / split / f"{item}.png")
    arguments = ["--dataset", REPO, "--config", "fr", "--images", str(tmp_path / "pictures"), "--model", "m"]
    with OpenAiServer(lambda body: "Two dogs play in the deep snow of a quiet garden.") as chat:
        describe.main([*arguments, "--server", chat.url, "--out", str(tmp_path / "out")])
    assert [step.kind for step in read_manifest(tmp_path / "out").steps] == [
        "read",
        "describe",
        "translate",
        "describe",
    ]


def test_a_push_without_a_token_says_how_to_log_in(server: HubServer, folder: Path) -> None:
    """The first push of many people ended in thirty lines of traceback without advice."""
    for token in (None, "hf_wrong"):
        with pytest.raises(ConnectionError, match=r"401.*`hf auth login` or set HF_TOKEN.*write access to owner"):
            push_dataset(folder, REPO, write_card=dataset_card, token=token)
    with pytest.raises(ConnectionError, match="hf auth login"):
        push_dataset(folder, REPO, write_card=dataset_card, token="hf_wrong", dry_run=True)
    assert server.repositories == {}


def test_a_dry_run_without_a_connection_names_the_way_without_one(server: HubServer, folder: Path) -> None:
    """A dry run needs no Hub, but nobody knew how to say so."""
    server.fail("GET /api/datasets", "lost", times=99)
    with pytest.raises(ConnectionError, match=r"cannot be reached.*HF_HUB_OFFLINE=1"):
        push_dataset(folder, REPO, write_card=dataset_card, token=server.token, dry_run=True)
