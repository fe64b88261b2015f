"""A Hub for tests: HTTP on loopback, in memory, spoken to by the genuine clients.

    with hub(tmp_path) as server:
        HfApi().create_repo("owner/data", repo_type="dataset", token=server.token)

Inside the block `huggingface_hub`, `datasets` and `transformers` of this process talk to the server, with caches of
their own under `tmp_path`. A child process gets the same by `environment(server, tmp_path)`.

Faults are planned with `server.fail`: the next requests that match are answered with 429 or 500, cut off or held up in
the middle of their body, or carried out with the answer lost. Every request is kept in `server.requests`.
"""

import base64
import hashlib
import json
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import parse_qs, quote, unquote, urlsplit

import yaml

from tests.hub_repositories import (
    DATE,
    Commit,
    File,
    Refusal,
    Repository,
    entries,
    refs,
    repository_info,
    tree_entries,
    upload_mode,
)

LICENSES = ("cc-by-4.0", "cc-by-nc-sa-4.0", "cc0-1.0", "mit", "apache-2.0", "other", "unknown")
FAULTS = ("429", "500", "cut", "lost", "stall")
API = re.compile(
    r"/api/(?P<kind>models|datasets|spaces)/(?P<repo>[^/]+/[^/]+)"
    r"(?:/(?P<action>revision|tree|paths-info|preupload|commits|commit|refs|branch|tag|auth-check|settings)"
    r"(?:/(?P<revision>[^/]+))?(?:/(?P<path>.*))?)?"
)
RESOLVE = re.compile(r"(?:/(?P<kind>datasets|spaces))?/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
LFS_BATCH = re.compile(r"(?:/(?P<kind>datasets|spaces))?/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch")
LFS_OBJECT = re.compile(r"/lfs-objects/(?P<oid>[0-9a-f]{64})")


@dataclass(frozen=True)
class Reply:
    """What goes over the wire."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Fault:
    """What happens to the next `times` requests that match, after `skip` of them went well; see `HubServer.fail`."""

    pattern: re.Pattern[str]
    kind: str
    times: int
    skip: int
    share: float


class HubServer:
    """The state behind the requests.

    Attributes:
        url: where it listens.
        token: a token of the user "owner", who may write to every name space.
        repositories: (kind, name) -> repository; kinds are "models", "datasets", "spaces".
        objects: LFS objects by SHA-256.
        requests: "METHOD path status" of every request so far; the status of one without a whole answer is "cut",
            "lost" or "stalled".
        page_size: entries of one page of `tree`.
    """

    def __init__(self, page_size: int = 50) -> None:
        self.token, self.stranger_token = "hf_owner", "hf_stranger"
        self.users = {self.token: "owner", self.stranger_token: "stranger"}
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.page_size = page_size
        self.faults: list[Fault] = []
        self.lock = threading.RLock()
        handler = type("BoundHandler", (Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fail(self, pattern: str, kind: str, *, times: int = 1, skip: int = 0, share: float = 0.5) -> None:
        """Plan a fault.

        Args:
            pattern: searched in "METHOD path".
            kind: "429", "500"; "cut" off in the middle of the upload, or of the download where nothing is uploaded;
                "lost": carried out, but the answer never comes; "stall": half of the answer comes, and no more until
                the client hangs up.
            times: how many matching requests fail.
            skip: how many matching requests go well before.
            share: of the body that goes over the wire before a cut.
        """
        if kind not in FAULTS:
            raise ValueError(f"kind must be one of {FAULTS}, got {kind!r}.")
        self.faults.append(Fault(re.compile(pattern), kind, times, skip, share))

    def cut_ten_times(self, draw: random.Random, *bodies: str) -> None:
        """Plan ten cuts at random places of bodies, with 429 and 500 twice each in between.

        Args:
            draw: of order and places.
            bodies: patterns, taken in turn. All faults come if four requests go well in the end that match each.
        """
        kinds = ["cut"] * 10 + ["429", "500"] * 2
        planned = [(bodies[position % len(bodies)], kind) for position, kind in enumerate(kinds)]
        for pattern, kind in draw.sample(planned, len(planned)):
            self.fail(pattern, kind, skip=draw.randrange(4), share=draw.random())

    def due_fault(self, request: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.pattern.search(request) and fault.times:
                    if fault.skip:
                        fault.skip -= 1
                        continue
                    fault.times -= 1
                    return fault
        return None

    def count(self, pattern: str) -> int:
        """How many requests so far match, as "METHOD path status"."""
        return sum(re.search(pattern, request) is not None for request in self.requests)

    def files(self, name: str, kind: str = "datasets", revision: str = "main") -> dict[str, bytes]:
        """Content of a repository by path, without a client in between."""
        commit = self.repositories[kind, name].find(revision)
        return {path: file.data for path, file in commit.files.items() if path != ".gitattributes"}


class Handler(BaseHTTPRequestHandler):
    """Requests to replies; the routes are at the end."""

    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        """Keep the output of the tests clean."""

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        request, planned = f"{self.command} {path}", self.hub.due_fault(f"{self.command} {path}")
        fault, share = (planned.kind, planned.share) if planned else (None, 1.0)
        length = int(self.headers.get("Content-Length") or 0)
        if fault == "cut" and length:
            self.rfile.read(int(length * share))
            return self._hang_up(request, "cut")
        self.content = self._read_chunked() if "chunked" in self.headers.get("Transfer-Encoding", "") else b""
        self.content += self.rfile.read(length)
        if fault in ("429", "500"):
            reply = Reply(int(fault), b'{"error": "planned"}', {"Retry-After": "0"} if fault == "429" else {})
        else:
            reply = self._answer()
        if fault == "lost":
            return self._hang_up(request, "lost")
        self.send_response(reply.status)
        for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if fault in ("cut", "stall"):
            self.wfile.write(reply.body[: int(len(reply.body) * share)])
            return self._hang_up(request, "cut") if fault == "cut" else self._stall(request)
        self.hub.requests.append(f"{request} {reply.status}")
        if self.command != "HEAD":
            self.wfile.write(reply.body)
        return None

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _hang_up(self, request: str, status: str) -> None:
        self.hub.requests.append(f"{request} {status}")
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    def _stall(self, request: str) -> None:
        self.wfile.flush()
        self.hub.requests.append(f"{request} stalled")
        self.close_connection = True
        with suppress(ConnectionError):
            self.connection.recv(1)

    def _read_chunked(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline().strip() or b"0", 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self) -> Reply:
        parts = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        try:
            with self.hub.lock:
                for pattern, respond in ROUTES:
                    if match := pattern.fullmatch(parts.path):
                        return respond(self, **{name: unquote(text or "") for name, text in match.groupdict().items()})
            raise Refusal(404, f"no such page: {self.command} {parts.path}")
        except Refusal as refusal:
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": str(refusal)}
            return as_json(refusal.body, refusal.status, **headers)

    def user(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.hub.users:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return self.hub.users.get(token)

    def repository(self, kind: str, name: str, *, write: bool = False) -> Repository:
        found, user = self.hub.repositories.get((kind or "models", name)), self.user()
        if found is None or (found.private and user != "owner"):
            raise Refusal(401 if user is None else 404, "Repository not found", "RepoNotFound")
        if write and user != "owner":
            raise Refusal(403 if user else 401, "You don't have the rights to write to this repository")
        return found

    def json(self) -> Any:
        return json.loads(self.content or b"{}")

    def whoami(self) -> Reply:
        if self.user() is None:
            raise Refusal(401, "Invalid username or password.")
        return as_json({"type": "user", "name": self.user(), "fullname": "", "orgs": [], "auth": {"accessToken": {}}})

    def create(self) -> Reply:
        asked = self.json()
        if self.user() is None:
            raise Refusal(401, "Invalid username or password.")
        kind = f"{asked.get('type') or 'model'}s"
        name = f"{asked.get('organization') or self.user()}/{asked['name']}"
        url = f"{self.hub.url}/{'' if kind == 'models' else kind + '/'}{name}"
        if (kind, name) in self.hub.repositories:
            raise Refusal(409, "You already created this repo", url=url)
        found = Repository(name, asked.get("visibility") == "private" or asked.get("private") is True)
        found.add("main", "initial commit", {".gitattributes": File(b"*.parquet filter=lfs\n", lfs=False)})
        self.hub.repositories[kind, name] = found
        return as_json({"url": url, "name": name, "id": name})

    def validate_yaml(self) -> Reply:
        content = self.json()["content"]
        block = re.match(r"---\r?\n(.*?)\n---\r?\n", content, flags=re.DOTALL)
        try:
            metadata = yaml.safe_load(block[1]) if block else {}
        except yaml.YAMLError as error:
            raise Refusal(400, "Invalid YAML", errors=[{"message": str(error)}]) from error
        if not isinstance(metadata, dict) or metadata.get("license", "mit") not in LICENSES:
            raise Refusal(400, "Invalid YAML", errors=[{"message": f'"license" must be one of {LICENSES}'}])
        return as_json({"errors": [], "warnings": [] if metadata else [{"message": "empty or missing yaml metadata"}]})

    def lfs_batch(self, kind: str, repo: str) -> Reply:
        self.repository(kind, repo, write=True)
        answers = []
        for item in self.json()["objects"]:
            upload = {"upload": {"href": f"{self.hub.url}/lfs-objects/{item['oid']}"}}
            answers.append(item if item["oid"] in self.hub.objects else {**item, "actions": upload})
        return as_json({"transfer": "basic", "objects": answers})

    def lfs_upload(self, oid: str) -> Reply:
        if hashlib.sha256(self.content).hexdigest() != oid:
            raise Refusal(400, "the content does not have this SHA-256")
        self.hub.objects[oid] = self.content
        return Reply()

    def api(self, kind: str, repo: str, action: str, revision: str, path: str) -> Reply:
        reading = self.command == "GET" or action == "paths-info"
        found = self.repository(kind, repo, write=not reading)
        if action in ("branch", "tag"):
            return self._move_name(found, action, revision if action == "branch" else self.json().get("tag", revision))
        if action in ("", "revision"):
            return as_json(repository_info(found, found.find(revision or "main")))
        if action == "refs":
            return as_json(
                {"branches": refs("heads", found.branches), "tags": refs("tags", found.tags), "converts": []}
            )
        if action == "commits":
            commits = [
                {"id": oid, "title": c.title, "message": "", "authors": [], "date": DATE}
                for oid, c in found.commits.items()
            ]
            return as_json(commits[::-1])
        if action == "auth-check":
            self.repository(kind, repo, write=revision == "write")
            return Reply()
        if action == "settings":
            found.private = (self.json().get("visibility") or "") == "private"
            return as_json({"private": found.private})
        commit = found.find(revision or "main")
        if action == "tree":
            return self._tree(commit, path)
        if action == "paths-info":
            asked = self.json() if "json" in self.headers["Content-Type"] else parse_qs(self.content.decode())
            return as_json([info for name in asked["paths"] for info in entries(commit, name)])
        if action == "preupload":
            return as_json({"files": [upload_mode(commit, file) for file in self.json()["files"]]})
        return self._commit(found, revision or "main")

    def _move_name(self, found: Repository, action: str, name: str) -> Reply:
        names = found.branches if action == "branch" else found.tags
        if self.command == "DELETE":
            names.pop(name)
            return Reply()
        if name in names:
            raise Refusal(409, f"Reference already exists: {name}")
        target = API.fullmatch(urlsplit(self.path).path)
        start = self.json().get("startingPoint") if action == "branch" else target and target["revision"]
        names[name] = found.find(start or "main").oid
        return Reply()

    def _tree(self, commit: Commit, folder: str) -> Reply:
        recursive = self.query.get("recursive", "false").lower() in ("true", "1")
        found = tree_entries(commit, folder.strip("/"), recursive=recursive)
        start = int(self.query.get("cursor", 0))
        stop = start + min(int(self.query.get("limit", self.hub.page_size)), self.hub.page_size)
        query = "&".join(f"{name}={quote(text)}" for name, text in {**self.query, "cursor": str(stop)}.items())
        link = f'<{self.hub.url}{urlsplit(self.path).path}?{query}>; rel="next"'
        return as_json(found[start:stop], **({"Link": link} if stop < len(found) else {}))

    def _commit(self, found: Repository, branch: str) -> Reply:
        if branch not in found.branches:
            raise Refusal(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        files, title = dict(found.find(branch).files), ""
        for line in self.content.splitlines():
            operation = json.loads(line)
            value, path = operation["value"], operation["value"].get("path", "")
            if operation["key"] == "header":
                title = value["summary"]
                if value.get("parentCommit", found.branches[branch]) != found.branches[branch]:
                    raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            elif operation["key"] == "file":
                files[path] = File(base64.b64decode(value["content"]), lfs=False)
            elif operation["key"] == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    raise Refusal(400, f"LFS object {value['oid']} of {path} was not uploaded")
                files[path] = File(self.hub.objects[value["oid"]], lfs=True)
            elif operation["key"] == "deletedFile":
                if files.pop(path, None) is None:
                    raise Refusal(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            elif operation["key"] == "deletedFolder":
                files = {name: file for name, file in files.items() if not name.startswith(path.rstrip("/") + "/")}
        commit = found.add(branch, title, files)
        return as_json({"commitUrl": f"{self.hub.url}/{found.name}/commit/{commit.oid}", "commitOid": commit.oid})

    def resolve(self, kind: str, repo: str, revision: str, path: str) -> Reply:
        commit = self.repository(kind, repo).find(revision)
        if path not in commit.files:
            raise Refusal(404, "Entry not found", "EntryNotFound")
        file = commit.files[path]
        etag = f'"{file.sha256 if file.lfs else file.blob_id}"'
        headers = {"X-Repo-Commit": commit.oid, "ETag": etag, "Accept-Ranges": "bytes"}
        if file.lfs:
            headers |= {"X-Linked-Size": str(len(file.data)), "X-Linked-Etag": etag}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            return Reply(200, file.data, headers)
        start, stop = int(asked[1]), min(int(asked[2] or len(file.data) - 1) + 1, len(file.data))
        if start >= len(file.data):
            return Reply(416, b"", {"Content-Range": f"bytes */{len(file.data)}"})
        span = f"bytes {start}-{stop - 1}/{len(file.data)}"
        return Reply(206, file.data[start:stop], {**headers, "Content-Range": span})


ROUTES: tuple[tuple[re.Pattern[str], Callable[..., Reply]], ...] = (
    (re.compile("/api/whoami-v2"), Handler.whoami),
    (re.compile("/api/repos/create"), Handler.create),
    (re.compile("/api/validate-yaml"), Handler.validate_yaml),
    (LFS_OBJECT, Handler.lfs_upload),
    (LFS_BATCH, Handler.lfs_batch),
    (API, Handler.api),
    (RESOLVE, Handler.resolve),
)


def as_json(content: Any, status: int = 200, **headers: str) -> Reply:
    """A JSON reply; underscores of header names become dashes."""
    return Reply(status, json.dumps(content).encode(), {"Content-Type": "application/json", **headers})


def environment(server: HubServer, home: Path) -> dict[str, str]:
    """Variables that point a child process at the server, with an empty cache of its own."""
    return {"HF_ENDPOINT": server.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}


class _NoWaiting:
    """The module `time` with a `sleep` that returns at once, so that a planned fault costs no seconds."""

    def __getattr__(self, name: str) -> Any:
        return (lambda seconds: None) if name == "sleep" else getattr(time, name)


@contextmanager
def hub(home: Path, **settings: Any) -> Iterator[HubServer]:
    """A server, and the clients of this process pointed at it.

    Args:
        home: folder for the caches of the clients.
        settings: of `HubServer`.
    """
    import datasets
    import huggingface_hub
    from huggingface_hub import HfFileSystem, constants, file_download
    from huggingface_hub.utils import _http
    from transformers.utils import hub as transformers_hub

    with HubServer(**settings) as server, ExitStack() as stack:
        values = [
            (constants, "ENDPOINT", server.url),
            (constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"),
            (constants, "HF_URL_HOSTS", constants.HF_URL_HOSTS | {"127.0.0.1"}),
            (constants, "HF_HUB_OFFLINE", False),
            (constants, "HF_HUB_CACHE", str(home / "hub")),
            (constants, "HF_TOKEN_PATH", str(home / "token")),
            (huggingface_hub.hf_api.api, "endpoint", server.url),
            # transformers keeps the client of its first call, which may be that of a server that is gone.
            (transformers_hub, "_hf_api", None),
            (datasets.config, "HF_ENDPOINT", server.url),
            (datasets.config, "HUB_DATASETS_URL", server.url + "/datasets/{repo_id}/resolve/{revision}/{path}"),
            (datasets.config, "HF_HUB_OFFLINE", False),
            (datasets.config, "HF_DATASETS_CACHE", home / "datasets"),
            (datasets.config, "DOWNLOADED_DATASETS_PATH", home / "datasets" / "downloads"),
            (datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False),
            (_http, "time", _NoWaiting()),
            (file_download, "time", _NoWaiting()),
        ]
        for target, name, value in values:
            stack.enter_context(mock.patch.object(target, name, value))
        stack.callback(huggingface_hub.close_session)
        stack.callback(HfFileSystem.clear_instance_cache)
        HfFileSystem.clear_instance_cache()
        yield server
