"""The repositories of the test Hub: commits, names that point at them, and what the Hub tells about their files."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

MAX_REGULAR_BYTES = 10_000_000
# What `.gitattributes` of a new repository on the Hub sends to LFS whatever its size.
LFS_SUFFIXES = (".parquet", ".safetensors", ".bin", ".pth", ".pt", ".npy", ".arrow", ".zip", ".gz")
DATE = "2025-01-01T00:00:00.000Z"


class Refusal(Exception):
    """An answer that is an error, with the code that the clients turn into their own exception."""

    def __init__(self, status: int, message: str, code: str = "", **body: Any) -> None:
        super().__init__(message)
        self.status, self.code, self.body = status, code, {"error": message, **body}


@dataclass(frozen=True)
class File:
    """A file of a commit; as LFS it lies in git as a pointer, so its two ids differ."""

    data: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def blob_id(self) -> str:
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n"
        content = pointer.encode() if self.lfs else self.data
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    def info(self, path: str) -> dict[str, Any]:
        found = {"type": "file", "path": path, "size": len(self.data), "oid": self.blob_id}
        return found | ({"lfs": {"oid": self.sha256, "size": len(self.data), "pointerSize": 134}} if self.lfs else {})


@dataclass(frozen=True)
class Commit:
    """A state of a repository."""

    oid: str
    title: str
    files: Mapping[str, File]


@dataclass
class Repository:
    """Commits by id, and the names that point at them."""

    name: str
    private: bool
    gated: bool | str = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def find(self, revision: str) -> Commit:
        revision = unquote(revision)
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        if oid not in self.commits:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[oid]

    def add(self, branch: str, title: str, files: Mapping[str, File]) -> Commit:
        state = "\n".join([self.name, str(len(self.commits)), *(f"{path} {files[path].blob_id}" for path in files)])
        commit = Commit(hashlib.sha1(state.encode()).hexdigest(), title, dict(sorted(files.items())))
        self.commits[commit.oid] = commit
        self.branches[branch] = commit.oid
        return commit


def refs(folder: str, names: Mapping[str, str]) -> list[dict[str, str]]:
    """Branches or tags as the Hub lists them."""
    return [{"name": name, "ref": f"refs/{folder}/{name}", "targetCommit": oid} for name, oid in names.items()]


def repository_info(found: Repository, commit: Commit) -> dict[str, Any]:
    """What `model_info`, `dataset_info` and `space_info` read."""
    facts = {"gated": found.gated, "disabled": False, "downloads": 0, "likes": 0, "tags": [], "lastModified": DATE}
    siblings = [{"rfilename": path} for path in commit.files]
    return {"id": found.name, "sha": commit.oid, "private": found.private, "siblings": siblings, **facts}


def entries(commit: Commit, path: str) -> list[dict[str, Any]]:
    """The file or folder at a path, as a list of one or none."""
    if path in commit.files:
        return [commit.files[path].info(path)]
    inside = any(name.startswith(f"{path}/") for name in commit.files)
    return [{"type": "directory", "path": path, "size": 0, "oid": "0" * 40}] if inside else []


def tree_entries(commit: Commit, folder: str, *, recursive: bool) -> list[dict[str, Any]]:
    """Files and folders below a folder."""
    prefix = f"{folder}/" if folder else ""
    below = [name.removeprefix(prefix).split("/") for name in commit.files if name.startswith(prefix)]
    if folder and not below:
        raise Refusal(404, f"{folder} does not exist", "EntryNotFound")
    depths = [range(1, len(parts) + 1) if recursive else (1,) for parts in below]
    paths = {
        prefix + "/".join(parts[:depth]) for parts, allowed in zip(below, depths, strict=True) for depth in allowed
    }
    return [info for path in sorted(paths) for info in entries(commit, path)]


def upload_mode(commit: Commit, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Whether a file goes through LFS, and which content is there already."""
    lfs = asked["size"] > MAX_REGULAR_BYTES or asked["path"].endswith(LFS_SUFFIXES)
    there = commit.files.get(asked["path"])
    oid = {"oid": there.sha256 if there.lfs else there.blob_id} if there else {}
    return {"path": asked["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False, **oid}
