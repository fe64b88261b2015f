"""The test Hub, through the clients that it stands in for: what they rely on, it must do as the real one does."""

import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from transformers import AutoModel, BertConfig, BertModel

from tests.conftest import ROOT
from tests.hub_server import HubServer, environment, hub


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HubServer]:
    with hub(tmp_path / "home", page_size=3) as running:
        yield running


@pytest.fixture
def api(server: HubServer) -> HfApi:
    return HfApi(token=server.token)


def commit(api: HfApi, files: dict[str, bytes], *, repo_id: str = "owner/data", **settings: str) -> str:
    """Make the repository if needed, and commit files."""
    api.create_repo(repo_id, repo_type="dataset", exist_ok=True)
    additions = [CommitOperationAdd(path, data) for path, data in files.items()]
    return api.create_commit(repo_id, additions, commit_message="add", repo_type="dataset", **settings).oid


def test_files_come_back_as_they_were_sent_small_and_large(server: HubServer, api: HfApi) -> None:
    """Large files take another way than small ones, and both are told apart by the server."""
    files = {"a.txt": b"small", "deep/er/b.dat": random.Random(0).randbytes(10_000_001), "c.parquet": b"PAR1"}
    commit(api, files)
    folder = Path(snapshot_download("owner/data", repo_type="dataset"))
    assert {name: (folder / name).read_bytes() for name in files} == files
    entries = {entry.path: entry for entry in api.list_repo_tree("owner/data", recursive=True, repo_type="dataset")}
    assert {path for path, entry in entries.items() if getattr(entry, "lfs", None)} == {"deep/er/b.dat", "c.parquet"}
    assert server.count("PUT /lfs-objects") == 2


def test_unchanged_content_is_neither_sent_nor_committed_again(server: HubServer, api: HfApi) -> None:
    """The clients skip what the server says it has; a server that does not say so hides a push that repeats itself."""
    first = commit(api, {"a.parquet": b"PAR1", "b.txt": b"b"})
    assert commit(api, {"a.parquet": b"PAR1", "b.txt": b"b"}) == first
    commit(api, {"copy.parquet": b"PAR1"})
    assert server.count("PUT /lfs-objects") == 1
    assert server.count("POST .*/commit/") == 2


def test_long_listings_come_in_pages(server: HubServer, api: HfApi) -> None:
    """A client that reads the first page alone would take the rest for missing."""
    names = [f"{folder}/{item}.txt" for folder in "ab" for item in range(4)]
    commit(api, {name: name.encode() for name in names})
    listing = list(api.list_repo_tree("owner/data", recursive=True, repo_type="dataset"))
    assert {entry.path for entry in listing} == {*names, "a", "b", ".gitattributes"}
    assert server.count("GET .*/tree/") == 4
    top = {entry.path for entry in api.list_repo_tree("owner/data", repo_type="dataset")}
    assert top == {"a", "b", ".gitattributes"}
    inside = {entry.path for entry in api.list_repo_tree("owner/data", "a", repo_type="dataset")}
    assert inside == set(names[:4])
    found = api.get_paths_info("owner/data", ["a/0.txt", "b", "absent"], repo_type="dataset")
    assert [entry.path for entry in found] == ["a/0.txt", "b"]
    assert api.dataset_info("owner/data").sha == server.repositories["datasets", "owner/data"].branches["main"]


def test_commits_branches_and_tags_keep_their_content(api: HfApi) -> None:
    """A pinned revision must not move with a newer push."""
    first = commit(api, {"a.txt": b"1"})
    api.create_tag("owner/data", tag="v1", repo_type="dataset")
    api.create_branch("owner/data", branch="next", repo_type="dataset")
    commit(api, {"a.txt": b"2"})
    commit(api, {"a.txt": b"3"}, revision="next")

    def content(revision: str) -> bytes:
        return Path(hf_hub_download("owner/data", "a.txt", repo_type="dataset", revision=revision)).read_bytes()

    assert [content(name) for name in (first, "v1", "main", "next")] == [b"1", b"1", b"2", b"3"]
    listed = api.list_repo_refs("owner/data", repo_type="dataset")
    assert {ref.name for ref in listed.branches} == {"main", "next"}
    assert [(ref.name, ref.target_commit) for ref in listed.tags] == [("v1", first)]
    api.delete_tag("owner/data", tag="v1", repo_type="dataset")
    assert not api.list_repo_refs("owner/data", repo_type="dataset").tags
    with pytest.raises(HfHubHTTPError, match="412"):
        commit(api, {"a.txt": b"4"}, parent_commit=first)


def test_files_and_folders_can_be_deleted(server: HubServer, api: HfApi) -> None:
    """A file that cannot be deleted stays in every data set that a pattern reads."""
    commit(api, {"a/1": b"1", "a/2": b"2", "b/1": b"3"})
    deletions = [CommitOperationDelete("a/", is_folder=True), CommitOperationDelete("b/1")]
    api.create_commit("owner/data", deletions, commit_message="delete", repo_type="dataset")
    assert server.files("owner/data") == {}
    with pytest.raises(EntryNotFoundError):
        api.delete_file("absent", "owner/data", repo_type="dataset")


def test_private_repositories_need_the_token_of_their_owner(server: HubServer, api: HfApi, tmp_path: Path) -> None:
    """A Hub that forgets the check would let a push without a token pass its test."""
    api.create_repo("owner/secret", repo_type="dataset", private=True)
    api.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id="owner/secret", repo_type="dataset")
    where = {"repo_id": "owner/secret", "filename": "x.txt", "repo_type": "dataset"}
    assert Path(hf_hub_download(**where, token=server.token)).read_bytes() == b"x"
    for token in (False, server.stranger_token):
        with pytest.raises(RepositoryNotFoundError):
            hf_hub_download(**where, token=token, cache_dir=tmp_path / "empty")
    with pytest.raises(HfHubHTTPError, match="401"):
        HfApi(token="hf_unknown").dataset_info("owner/secret")
    commit(api, {"a.txt": b"1"})
    with pytest.raises(HfHubHTTPError, match="403"):
        commit(HfApi(token=server.stranger_token), {"a.txt": b"2"})
    with pytest.raises(HfHubHTTPError, match="401"):
        HfApi(token=False).create_repo("owner/other", repo_type="dataset")
    assert api.whoami()["name"] == "owner"


def test_missing_things_raise_the_clients_own_errors(api: HfApi) -> None:
    """Loaders try file after file and go on only on the error that they know."""
    commit(api, {"a.txt": b"1"})
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("owner/data", "absent.txt", repo_type="dataset")
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download("owner/data", "a.txt", repo_type="dataset", revision="absent")
    with pytest.raises(RepositoryNotFoundError):
        hf_hub_download("owner/absent", "a.txt", repo_type="dataset")
    assert not api.file_exists("owner/data", "absent.txt", repo_type="dataset")
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo("owner/data", repo_type="dataset")


@pytest.mark.parametrize("card", ["---\nlicense: [unclosed\n---\n", "---\nlicense: 3\n---\n"])
def test_a_card_with_broken_metadata_is_refused(api: HfApi, card: str) -> None:
    """The Hub refuses such a commit; a test Hub that does not lets the card through to the real one."""
    with pytest.raises(ValueError, match=r"Invalid metadata in README\.md"):
        commit(api, {"README.md": card.encode()})


@pytest.mark.parametrize("kind", ["429", "500", "cut", "lost"])
def test_planned_faults_happen_as_often_as_planned(server: HubServer, api: HfApi, kind: str) -> None:
    """A fault that never happens would make every test of recovery pass."""
    server.fail("PUT /lfs-objects", kind, times=2)
    commit(api, {"a.parquet": b"PAR1" * 1000})
    assert server.count(f"PUT .* {kind}$") == 2
    assert server.files("owner/data") == {"a.parquet": b"PAR1" * 1000}


def test_a_cut_download_goes_on_where_it_was(server: HubServer, api: HfApi) -> None:
    """Range requests are what makes large downloads survive."""
    data = random.Random(0).randbytes(30_000_000)
    commit(api, {"a.bin": data})
    server.fail("GET .*a.bin", "cut")
    path = hf_hub_download("owner/data", "a.bin", repo_type="dataset")
    assert Path(path).read_bytes() == data
    assert [request.split()[-1] for request in server.requests if "GET" in request and "a.bin" in request] == [
        "cut",
        "206",
    ]


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_cut_comes_at_the_planned_place(server: HubServer, api: HfApi, share: float) -> None:
    """Random places that all fell into the same half would leave the other untried."""
    commit(api, {"a.bin": b"x" * 1000})
    server.fail("GET .*a.bin", "cut", share=share)
    with socket.create_connection((server.url.split(":")[1].strip("/"), int(server.url.split(":")[2]))) as client:
        client.sendall(b"GET /datasets/owner/data/resolve/main/a.bin HTTP/1.1\r\nHost: here\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    assert len(answer.partition(b"\r\n\r\n")[2]) == 1000 * share


def test_faults_are_skipped_and_checked(server: HubServer, api: HfApi) -> None:
    """A typing error in a plan would be a plan without faults."""
    with pytest.raises(ValueError, match="kind must be one of"):
        server.fail("PUT", "503")
    server.fail("whoami", "429", skip=1)
    api.whoami()
    with pytest.raises(HfHubHTTPError, match="rate limit"):
        api.whoami()


def test_a_model_loads_in_a_fresh_process(server: HubServer, tmp_path: Path) -> None:
    """Models, too, go through this server, and strangers have neither our process nor its cache."""
    config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    model = BertModel(config)
    model.push_to_hub("owner/model", token=server.token)
    total = sum(float(parameter.detach().sum()) for parameter in model.parameters())
    again = AutoModel.from_pretrained("owner/model")
    assert sum(float(parameter.detach().sum()) for parameter in again.parameters()) == pytest.approx(total)
    code = "from huggingface_hub import snapshot_download; print(snapshot_download('owner/model'))"
    child = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=True, cwd=ROOT, env=environment(server, tmp_path / "other"),
    )  # fmt: skip
    folder = Path(child.stdout.strip())
    assert folder.is_relative_to(tmp_path / "other")
    assert (folder / "model.safetensors").is_file()


def test_spaces_are_repositories_too(server: HubServer, api: HfApi) -> None:
    """The metric is pushed as a space."""
    api.create_repo("owner/metric", repo_type="space", space_sdk="static")
    api.upload_file(path_or_fileobj=b"x = 1", path_in_repo="metric.py", repo_id="owner/metric", repo_type="space")
    assert Path(hf_hub_download("owner/metric", "metric.py", repo_type="space")).read_bytes() == b"x = 1"
    assert server.files("owner/metric", "spaces") == {"metric.py": b"x = 1"}


def test_the_clients_are_back_to_normal_afterwards(tmp_path: Path) -> None:
    """A patch that stays would send the next test to a server that is gone."""
    with hub(tmp_path) as server:
        url = server.url
        assert HfApi().endpoint == url
    assert HfApi().endpoint != url
    with pytest.raises(Exception, match="offline"):
        HfApi().whoami(token="hf_owner")
