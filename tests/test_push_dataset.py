"""A data set folder pushed to the Hub: what arrives, what is sent again, what a failure leaves, what must not leak."""

import getpass
import io
import json
import random
import time
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HTTPError

from hub_scripts.dataset_card import dataset_card
from hub_scripts.push_dataset import main
from processing import hub_dataset, hub_upload
from processing.hub_dataset import build_repository, config_columns, push_dataset, target_languages
from processing.manifest import Manifest
from processing.media import attach_images
from processing.sources import open_splits, write_splits
from tests.hub_parts import SPLITS, read_dry_run, rows, steps, write_folder
from tests.hub_server import HubServer
from tests.processing_parts import picture

REPO = "owner/mine-leccr"
GERMAN = [
    "image_id", "file_name", "description", "description_flag", "caption_en",
    "caption_de", "caption_de_mt", "caption_de_mt_flag", "caption_de_mt_similarity",
]  # fmt: skip
FRENCH = ["image_id", "file_name", "description", "description_flag", "caption_en", "caption_fr_mt"]
card = partial(dataset_card, license_id="cc-by-4.0")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "work" / "data")


def push(server: HubServer, folder: Path, repo_id: str = REPO, **settings: Any) -> dict[str, Any]:
    """Push in small files and small commits."""
    settings = {"write_card": card, "rows_per_shard": 3, "files_per_commit": 3, "token": server.token} | settings
    return push_dataset(folder, repo_id, **settings)


def save_pictures(folder: Path, *, without: tuple[str, ...] = ()) -> Path:
    """A picture for each row of the folder of `write_folder`."""
    for split, count in SPLITS.items():
        (folder / split).mkdir(parents=True, exist_ok=True)
        for item in range(count):
            if f"{split}-{item}" not in without:
                picture(item).save(folder / split / f"{item}.png")
    return folder


def test_each_language_loads_as_the_rows_of_the_folder(server: HubServer, folder: Path) -> None:
    """Lost rows, swapped shards or columns of another language would change what people train on."""
    push(server, folder)
    expected = open_splits(folder)
    for language, columns in (("de", GERMAN), ("fr", FRENCH)):
        loaded = datasets.load_dataset(REPO, language)
        assert {name: len(split) for name, split in loaded.items()} == SPLITS
        for name, split in loaded.items():
            assert split.column_names == columns
            assert split.to_list() == expected[name].select_columns(columns).to_list()
    streamed = list(datasets.load_dataset(REPO, "de", split="train", streaming=True))
    assert streamed == expected["train"].select_columns(GERMAN).to_list()


def test_pushed_rows_join_with_pictures(server: HubServer, folder: Path, tmp_path: Path) -> None:
    """Texts without pixels are of use only if they find their pictures again."""
    push(server, folder)
    images = save_pictures(tmp_path / "pictures", without=("train-4",))
    joined, missing = attach_images(datasets.load_dataset(REPO, "fr"), images)
    assert missing.to_dict() == {"no image": {"train": ["train-4"]}}
    assert joined["train"].num_rows == SPLITS["train"] - 1
    assert joined["validation"][1]["image"].tobytes() == picture(1).tobytes()


def test_the_repository_equals_the_staging_folder(server: HubServer, folder: Path, tmp_path: Path) -> None:
    """A staging folder that loads differently could not be looked at before the push."""
    staging = tmp_path / "staging"
    push(server, folder, staging=staging)
    kept = {path.relative_to(staging).as_posix(): path.read_bytes() for path in staging.rglob("*") if path.is_file()}
    assert kept == server.files(REPO)
    assert (
        datasets.load_dataset(str(staging), "fr")["train"].to_list()
        == datasets.load_dataset(REPO, "fr")["train"].to_list()
    )
    push(server, folder, staging=staging)


def test_nothing_is_sent_twice(server: HubServer, folder: Path) -> None:
    """Descriptions are pushed again and again while they grow; the Hub limits commits."""
    first = push(server, folder)
    assert (first["commits"], first["sent_files"], first["unchanged_files"]) == (4, 10, 0)
    assert first["sent_bytes"] == sum(map(len, server.files(REPO).values()))
    again = push(server, folder)
    assert (again["commits"], again["sent_files"], again["unchanged_files"]) == (0, 0, 10)
    assert again["commit"] == first["commit"]


def test_a_changed_row_sends_its_shard_alone(server: HubServer, tmp_path: Path) -> None:
    """A push that sends all shards for one row takes hours; one that looks at sizes alone misses the change."""

    def push_french(first: str) -> dict[str, Any]:
        captions = [[first, "chat"], *[["x", "y"]] * 6]
        return push(server, write_folder(tmp_path / "data", splits={"train": 7}, caption_fr_mt=captions))

    push_french("chien")
    name = "fr/train-00000-of-00003.parquet"
    before = server.files(REPO)[name]
    assert push_french("chiot")["sent_files"] == 1
    after = server.files(REPO)[name]
    assert len(after) == len(before) and after != before


def test_files_of_an_older_push_go_in_the_last_commit(server: HubServer, folder: Path) -> None:
    """A language that was dropped, or shards of another size, would be read beside the new ones."""
    push(server, folder)
    api = HfApi(token=server.token)
    for name in ("LICENSE.txt", "extra/train-00000-of-00001.parquet"):
        api.upload_file(path_or_fileobj=b"mine", path_in_repo=name, repo_id=REPO, repo_type="dataset")
    older = set(server.files(REPO))
    repository = server.repositories["datasets", REPO]
    num_commits = len(repository.commits)
    write_splits(
        {name: rows(name, n).remove_columns("caption_fr_mt") for name, n in SPLITS.items()}, folder, overwrite=True
    )
    result = push(server, folder, rows_per_shard=4, files_per_commit=1)
    assert set(server.files(REPO)) == {
        "LICENSE.txt", "extra/train-00000-of-00001.parquet", "README.md", "manifest.json",
        "de/train-00000-of-00002.parquet", "de/train-00001-of-00002.parquet", "de/validation-00000-of-00001.parquet",
    }  # fmt: skip
    assert result["deleted_files"] == 7
    *middle, last = list(repository.commits.values())[num_commits:]
    assert all(older <= set(commit.files) for commit in middle)
    assert middle[-1].files["README.md"].data != last.files["README.md"].data
    assert datasets.load_dataset(REPO)["train"].num_rows == SPLITS["train"]


def test_a_language_that_is_gone_is_deleted_even_where_no_file_changes(server: HubServer, folder: Path) -> None:
    """The deletions hang on the last commit; without a changed file there was none."""
    push(server, folder)
    api = HfApi(token=server.token)
    api.upload_file(
        path_or_fileobj=b"old", path_in_repo="cs/train-00000-of-00001.parquet", repo_id=REPO, repo_type="dataset"
    )
    assert push(server, folder)["deleted_files"] == 1
    assert "cs/train-00000-of-00001.parquet" not in server.files(REPO)


def test_private_needs_a_token_and_never_goes_to_a_public_repository(server: HubServer, folder: Path) -> None:
    """Data that was meant for a few would be out for good."""
    push(server, folder, private=True)
    with pytest.raises(datasets.exceptions.DatasetNotFoundError):
        datasets.load_dataset(REPO, "de")
    assert datasets.load_dataset(REPO, "de", token=server.token)["train"].num_rows == SPLITS["train"]
    push(server, folder, "owner/public")
    with pytest.raises(ValueError, match="owner/public is public"):
        push(server, folder, "owner/public", private=True)


def test_a_branch_is_made_and_main_left_alone(server: HubServer, folder: Path) -> None:
    """A trial push to a branch must not change what others load."""
    push(server, folder, revision="trial")
    assert server.files(REPO) == {}
    assert datasets.load_dataset(REPO, "de", revision="trial")["validation"].num_rows == SPLITS["validation"]


STEPS = {
    "create": "POST /api/repos/create",
    "look": "GET /api/datasets/.*/revision|GET /api/datasets/[^/]+/[^/]+$",
    "compare": "GET .*/tree/",
    "read card": "GET /datasets/.*/resolve/main/README.md",
    "early card": "POST /api/validate-yaml",
    "card": "POST /api/validate-yaml",
    "ask": "POST .*/preupload/",
    "lfs": "POST .*/objects/batch",
    "send": "PUT /lfs-objects",
    "commit": "POST .*/commit/",
}


@pytest.mark.parametrize("kind", ["429", "500", "cut", "lost"])
def test_a_fault_at_any_step_is_survived(server: HubServer, folder: Path, kind: str) -> None:
    """One bad answer in a push of an hour would cost the hour."""
    push(server, folder, "owner/calm")
    server.objects.clear()
    for pattern in STEPS.values():
        server.fail(pattern, kind)
    push(server, folder)
    assert not any(fault.times for fault in server.faults)
    calm = server.files("owner/calm")
    stormy = server.files(REPO)
    assert {name: data for name, data in stormy.items() if name != "README.md"} == {
        name: data for name, data in calm.items() if name != "README.md"
    }
    cards = [files["README.md"].decode().rpartition("\n<!-- ")[0] for files in (calm, stormy)]
    assert cards[0].replace("owner/calm", REPO).replace("calm", "mine-leccr") == cards[1] != ""


def test_a_push_that_gave_up_goes_on_where_it_was(server: HubServer, folder: Path) -> None:
    """A second run must send the rest, not all; and no card may speak of files that are not there."""
    server.fail("POST .*/commit/", "500", skip=2, times=100)
    with pytest.raises(HfHubHTTPError, match="500"):
        push(server, folder)
    assert len(server.files(REPO)) == 6 and "README.md" not in server.files(REPO)
    server.faults.clear()
    result = push(server, folder)
    assert (result["unchanged_files"], result["sent_files"]) == (6, 4)
    push(server, folder, "owner/calm")
    assert server.files(REPO).keys() == server.files("owner/calm").keys()
    assert (
        datasets.load_dataset(REPO, "de")["train"].to_list()
        == open_splits(folder)["train"].select_columns(GERMAN).to_list()
    )


def test_readers_see_the_old_rows_while_a_push_is_under_way(server: HubServer, folder: Path) -> None:
    """New shards beside old ones would be read as twice the rows."""
    push(server, folder)
    server.fail("POST .*/commit/", "500", skip=2, times=100)
    with pytest.raises(HfHubHTTPError, match="500"):
        push(server, folder, rows_per_shard=2, files_per_commit=2)
    assert "de/train-00001-of-00004.parquet" in server.files(REPO)
    assert datasets.load_dataset(REPO, "de")["train"].num_rows == SPLITS["train"]


@pytest.mark.parametrize("seed", range(3))
def test_ten_cuts_among_other_faults_and_as_many_runs_as_it_takes_end_complete(
    server: HubServer, folder: Path, seed: int
) -> None:
    """Faults come together and at the worst moment; where the command gives up, it is run again."""
    draw = random.Random(seed)
    server.cut_ten_times(draw, STEPS["send"])
    for _ in range(6):
        pattern = draw.choice(list(STEPS.values()))
        server.fail(
            pattern, draw.choice(["429", "500", "cut", "lost"]), skip=draw.randrange(3), times=draw.randrange(1, 9)
        )
    for _ in range(20):
        try:
            push(server, folder)
            break
        except (HTTPError, RuntimeError):
            continue
    assert server.count(r"^PUT /lfs-objects.* cut$") >= 10
    assert server.count(r"^PUT /lfs-objects.* 429$") >= 2 and server.count(r"^PUT /lfs-objects.* 500$") >= 2
    server.faults.clear()
    assert push(server, folder)["sent_files"] == 0
    assert (
        datasets.load_dataset(REPO, "de")["train"].to_list()
        == open_splits(folder)["train"].select_columns(GERMAN).to_list()
    )


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (429, {"Retry-After": "7"}, 7.0),
        (429, {"Retry-After": "3600"}, None),
        (429, {"Retry-After": "Wed, 01 Jan 2200 00:00:00 GMT"}, None),
        (503, {"Retry-After": "Wed, 01 Jan 2020 00:00:00 GMT"}, 4.0),
        (503, {}, 4.0),
        (403, {}, None),
    ],
)
def test_the_wait_follows_the_hub(status: int, headers: dict[str, str], expected: float | None) -> None:
    """Asking again too early prolongs the limit; after a refusal, or for an hour, it is of no use."""
    module = __import__(HTTPError.__module__.split(".")[0])
    response = module.Response(status, headers=headers, request=module.Request("GET", "http://127.0.0.1/"))
    assert hub_upload._seconds_to_wait(HfHubHTTPError("no", response=response), failures=2) == expected
    assert hub_upload._seconds_to_wait(module.ConnectError("no route"), failures=3) == 8.0


def test_a_refusal_is_told_at_once(server: HubServer, folder: Path) -> None:
    """Six tries with a wrong token look like a slow network."""
    push(server, folder)
    tried = server.count("POST /api/repos/create")
    with pytest.raises(ConnectionError, match=r"403.*write access to owner"):
        push(server, write_folder(folder, splits={"train": 3}), token=server.stranger_token)
    assert server.count("POST /api/repos/create") == tried + 1


def test_a_dry_run_tells_and_changes_nothing(
    server: HubServer, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """People look before they publish."""
    arguments = ["--dataset", str(folder), "--repo", REPO, "--license", "cc0-1.0", "--rows-per-shard", "3"]
    monkeypatch.setenv("HF_TOKEN", server.token)
    main([*arguments, "--dry-run"])
    plan, card_text = read_dry_run(capsys.readouterr().out)
    assert plan["configurations"] == {"de": SPLITS, "fr": SPLITS}
    assert plan["would_send_bytes"] == sum(plan["would_send"].values())
    assert card_text.startswith("---\n") and "cc0-1.0" in card_text
    assert server.repositories == {} and server.count("^(POST|PUT) (?!/api/validate-yaml)") == 0
    main(arguments)
    sent = json.loads(capsys.readouterr().out)
    assert sent["sent_bytes"] == plan["would_send_bytes"]
    assert {name: len(data) for name, data in server.files(REPO).items()} == plan["would_send"]
    main([*arguments, "--dry-run"])
    assert read_dry_run(capsys.readouterr().out)[0]["would_send"] == {}
    main([*arguments[:-1], "4", "--dry-run"])
    assert "de/train-00000-of-00003.parquet" in read_dry_run(capsys.readouterr().out)[0]["would_delete"]


def test_a_dry_run_works_offline(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The machine that makes the data often has no network."""
    main(["--dataset", str(folder), "--repo", REPO, "--dry-run"])
    assert len(read_dry_run(capsys.readouterr().out)[0]["would_send"]) == 6


def test_pictures_travel_inside_where_asked(server: HubServer, folder: Path, tmp_path: Path) -> None:
    """Pixels given by a path would be stored as that path, which means nothing elsewhere."""
    images = save_pictures(tmp_path / "pictures", without=("train-2", "validation-0"))
    result = push(server, folder, with_images=True, images=images)
    assert result["missing"] == {"no image": {"train": 1, "validation": 1}}
    loaded = datasets.load_dataset(REPO, "de")
    assert loaded["train"]["image_id"][:3] == ["train-0", "train-1", "train-3"]
    assert loaded["train"].column_names == [*GERMAN[:2], "image", *GERMAN[2:]]
    assert loaded["train"][2]["image"].tobytes() == picture(3).tobytes()
    stored = loaded["validation"].cast_column("image", datasets.Image(decode=False))[0]["image"]
    assert stored["path"] == "1.png" and stored["bytes"].startswith(b"\x89PNG")


def test_pictures_of_the_data_set_stay_at_home_unless_asked_for(
    server: HubServer, folder: Path, tmp_path: Path
) -> None:
    """Most picture sets may not be passed on."""
    images = save_pictures(tmp_path / "pictures")
    joined, _ = attach_images(open_splits(folder), images)
    write_splits(joined, tmp_path / "joined")
    push(server, tmp_path / "joined")
    assert "image" not in datasets.load_dataset(REPO, "de")["train"].column_names
    push(server, tmp_path / "joined", "owner/inside", with_images=True)
    assert datasets.load_dataset("owner/inside", "fr")["train"][3]["image"].tobytes() == picture(3).tobytes()


def readable(data: bytes, name: str) -> str:
    """Everything in a pushed file that somebody could read: parquet unpacked, with its metadata."""
    if not name.endswith(".parquet"):
        return data.decode()
    table = pq.read_table(io.BytesIO(data))
    return f"{table.schema.metadata} {table.to_pylist()} {pq.read_metadata(io.BytesIO(data))} {data!r}"


def test_nothing_of_this_machine_is_pushed(server: HubServer, folder: Path, tmp_path: Path) -> None:
    """A path tells a user name and a project; a token is worse."""
    images = save_pictures(tmp_path / "pictures")
    quality = {"rows": SPLITS, "notes": [f"measured with {tmp_path}/models/clip by hf_abcdefghijklmnop"]}
    assert str(tmp_path) in (folder / "manifest.json").read_text()
    push(server, folder, with_images=True, images=images, write_card=partial(card, quality=quality))
    traces = [
        str(tmp_path),
        tmp_path.name,
        str(Path.home()),
        f"/{getpass.getuser()}/",
        "10.0.0.3",
        "hf_abc",
        server.token,
    ]
    for name, data in server.files(REPO).items():
        assert not [trace for trace in traces if trace in readable(data, name)], name
    titles = [commit.title for commit in server.repositories["datasets", REPO].commits.values()]
    assert not [trace for trace in traces for title in titles if trace in title]


@pytest.mark.parametrize("place", ["/data/me/1.png", "C:\\me\\1.png", "../me/1.png", "~/1.png"])
def test_file_names_outside_of_the_folder_are_refused(server: HubServer, tmp_path: Path, place: str) -> None:
    """Rows are pushed as they are, so a path in them would be published."""
    folder = write_folder(tmp_path / "data", splits={"train": 2}, file_name=["0.png", place])
    with pytest.raises(ValueError, match="names a place on this machine"):
        push(server, folder)
    assert server.repositories == {}


def test_the_same_folder_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    """Other bytes for the same rows would be sent again at each push."""

    def build(name: str) -> dict[str, bytes]:
        build_repository(folder, tmp_path / name, REPO, write_card=card, rows_per_shard=2)
        return {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*") if path.is_file()}

    first = build("first")
    time.sleep(0.01)
    assert build("second") == first


def test_no_more_than_a_shard_is_in_memory(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set of pictures does not fit into memory."""
    sizes = []
    write = hub_dataset.write_shard
    monkeypatch.setattr(hub_dataset, "write_shard", lambda rows, path: (sizes.append(len(rows)), write(rows, path)))
    build_repository(folder, tmp_path / "built", REPO, write_card=card, rows_per_shard=2)
    assert sizes == [2, 2, 2, 1, 2] * 2


def test_a_failed_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a repository would be taken for a whole one."""
    written = []
    write = hub_dataset.write_shard
    monkeypatch.setattr(hub_dataset, "write_shard", lambda rows, path: written.append(write(rows, path)))
    folder = write_folder(tmp_path / "data", splits={"train": 2}, file_name=["0.png", "/1.png"])
    with pytest.raises(ValueError, match="names a place on this machine"):
        build_repository(folder, tmp_path / "built" / "here", REPO, write_card=card, rows_per_shard=1)
    assert len(written) == 1 and not list((tmp_path / "built").iterdir())


def test_a_data_set_without_translations_is_pushed_in_english(server: HubServer, tmp_path: Path) -> None:
    """Descriptions alone are of use to others."""
    split = rows("train", 3).select_columns(["image_id", "description", "description_flag", "caption_en"])
    push(server, write_splits({"train": split}, tmp_path / "data"))
    assert datasets.load_dataset(REPO)["train"].to_list() == split.to_list()
    assert target_languages(["image_id", "description"]) == ["en"]


def test_clips_are_pushed_by_their_id(server: HubServer, tmp_path: Path) -> None:
    """Videos have another id column and their paths stay at home."""
    split = rows("train", 3).rename_column("image_id", "video_id").add_column("video", ["/clips/a.mp4"] * 3)
    push(server, write_splits({"train": split}, tmp_path / "data", steps=steps("x")))
    assert datasets.load_dataset(REPO, "fr")["train"].column_names == ["video_id", *FRENCH[1:]]
    with pytest.raises(ValueError, match="a data set of clips, which are not put inside"):
        push(server, tmp_path / "data", with_images=True)


def test_columns_of_other_languages_stay_out() -> None:
    """A configuration with all languages would be downloaded for one."""
    assert config_columns([*GERMAN, "caption_fr_mt", "video"], "de") == GERMAN
    assert config_columns([*reversed(GERMAN)], "de") == GERMAN
    assert target_languages(["caption_fr_mt", "caption_de", "caption_en", "description"]) == ["de", "fr"]


def test_what_cannot_be_pushed_is_refused_before_the_hub_is_asked(
    server: HubServer, folder: Path, tmp_path: Path
) -> None:
    """Each of these would leave an empty or a wrong repository."""
    with pytest.raises(ValueError, match="images are given but not asked for"):
        push(server, folder, images=tmp_path)
    with pytest.raises(ValueError, match="has no pictures to put inside"):
        push(server, folder, with_images=True)
    with pytest.raises(ValueError, match="rows_per_shard must be at least 1"):
        push(server, folder, rows_per_shard=0)
    with pytest.raises(ValueError, match="is not a folder"):
        push(server, tmp_path / "absent")
    Manifest(complete=False).write(folder)
    with pytest.raises(ValueError, match="is not finished"):
        push(server, folder)
    assert server.requests == []
    with pytest.raises(ValueError, match="files_per_commit must be at least 1"):
        push(server, write_folder(folder), files_per_commit=0)
    assert server.repositories == {}
