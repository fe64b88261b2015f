"""A folder made equal to a repository on the Hub: only what differs is sent, in commits of a bounded number of files.

`HfApi.create_commit` sends large files before it commits them, skips content that the Hub has, and repeats requests
that fail on the way. Three things are added. The folder is compared with the repository first, so that a push that was
cut off goes on where it was; `HfApi.upload_folder` does so only with hf_xet installed, and otherwise makes one commit.
The card and the deletions come last, so that a repository with a new card is complete. And a commit itself is
repeated: the library leaves that to the caller, because a repeated commit may be made twice; here it is compared anew.
"""

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, is_offline_mode
from huggingface_hub.errors import HfHubHTTPError, HTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import git_hash

from processing.chat_faults import retry_after_seconds
from processing.files import file_sha256

logger = logging.getLogger(__name__)

CARD_FILE = "README.md"
DEFAULT_FILES_PER_COMMIT = 50
MAX_FAILURES = 6
MAX_WAIT_S = 300.0
Result = TypeVar("Result")
REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Comparison:
    """A folder beside a repository; paths are relative to both.

    Attributes:
        changed: files that the repository lacks or has with other content -> bytes; the card last.
        unchanged: files that it has already.
        stale: files that it has and that are to be deleted.
    """

    changed: Mapping[str, int]
    unchanged: Sequence[str]
    stale: Sequence[str]

    @property
    def num_bytes(self) -> int:
        """Bytes to be sent."""
        return sum(self.changed.values())


def compare(folder: Path, remote: Mapping[str, RepoFile], is_ours: Callable[[str], bool]) -> Comparison:
    """What has to be sent and deleted to make a repository equal to a folder.

    Args:
        folder: all of its files belong to the repository.
        remote: path -> file, from `list_remote`.
        is_ours: whether a file of the repository that the folder lacks is one of an older push, to be deleted. Files
            that somebody else put there stay.
    """
    local = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    ordered = sorted(local, key=lambda name: (name == CARD_FILE, name))
    unchanged = [name for name in ordered if name in remote and _is_equal(local[name], remote[name])]
    changed = {name: local[name].stat().st_size for name in ordered if name not in unchanged}
    return Comparison(changed, unchanged, [name for name in sorted(remote) if name not in local and is_ours(name)])


def list_remote(api: HfApi, repo_id: str, repo_type: str, revision: str | None = None) -> dict[str, RepoFile]:
    """The files of a repository by path; none where there is no such repository or branch yet."""
    try:
        entries = api.list_repo_tree(repo_id, recursive=True, revision=revision, repo_type=repo_type)
        return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
    except (RepositoryNotFoundError, RevisionNotFoundError):
        return {}


def preview_remote(api: HfApi, repo_id: str, repo_type: str, revision: str | None = None) -> dict[str, RepoFile]:
    """`list_remote` for a dry run, once; nothing under HF_HUB_OFFLINE.

    Raises:
        ConnectionError: the Hub cannot be reached, or does not take the token; the message says what to do.
    """
    if is_offline_mode():
        return {}
    with refusals_told(repo_id):
        return list_remote(api, repo_id, repo_type, revision)


@contextmanager
def refusals_told(repo_id: str) -> Iterator[None]:
    """Say what to do about a Hub that is asked once, for a dry run, and cannot be reached or does not take the token.

    Raises:
        ConnectionError: in place of the error of the Hub's client.
    """
    try:
        yield
    except HTTPError as error:
        if _is_denied(error):
            raise ConnectionError(_login_advice(repo_id, error)) from error
        if isinstance(error, HfHubHTTPError):
            raise
        raise ConnectionError(
            f"the Hub cannot be reached ({error}); set HF_HUB_OFFLINE=1 for a dry run that takes {repo_id} to be empty."
        ) from error


def check_repo_id(repo_id: str) -> str:
    """The name of a repository, refused before any work is done for it.

    Raises:
        ValueError: it is no `organisation/name`.
    """
    if not REPO_ID.fullmatch(repo_id):
        raise ValueError(f"the name of a repository must be organisation/name, got {repo_id!r}.")
    return repo_id


def prepare_repository(
    api: HfApi, repo_id: str, repo_type: str, *, private: bool = False, revision: str | None = None
) -> str | None:
    """Make the repository and the branch where they are missing.

    Returns:
        The last commit of the branch.

    Raises:
        ValueError: `private` is asked for a repository that is public.
        ConnectionError: there is no token, or one that may not write there.
    """
    try:
        # None leaves the choice for a public repository to the settings of the organisation.
        sdk = "gradio" if repo_type == "space" else None
        api.create_repo(repo_id, repo_type=repo_type, private=private or None, exist_ok=True, space_sdk=sdk)
        # `create_repo` is content with a repository that is there, whoever it belongs to.
        api.auth_check(repo_id, repo_type=repo_type, write=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, repo_type=repo_type, exist_ok=True)
        info = api.repo_info(repo_id, repo_type=repo_type, revision=revision)
    except HTTPError as error:
        if _is_denied(error):
            raise ConnectionError(_login_advice(repo_id, error)) from error
        raise
    if private and not info.private:
        raise ValueError(f"{repo_id} is public; make it private in its settings on the Hub, or push without --private.")
    return info.sha


def upload_folder(
    folder: str | Path,
    repo_id: str,
    *,
    repo_type: str,
    is_ours: Callable[[str], bool],
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
    files_per_commit: int | None = DEFAULT_FILES_PER_COMMIT,
    message: str = "Upload files",
) -> dict[str, Any]:
    """Make a repository equal to a folder; called again after a failure, it goes on where it was.

    Args:
        folder: what the repository shall hold.
        repo_id: name on the Hub; made if needed.
        repo_type: "model", "dataset" or "space" (of the kind gradio).
        is_ours: see `compare`.
        private: make it private; one that is there must be.
        revision: branch; made if needed.
        token: of the Hub; the one of `hf auth login` by default.
        files_per_commit: at least 1; None puts all into one commit, so that no reader finds a part of them. The Hub
            limits commits an hour, and the size of a commit.
        message: title of the commits.

    Returns:
        `commits`, `sent_files`, `sent_bytes`, `unchanged_files`, `deleted_files` of this call, and the last `commit`.

    Raises:
        ValueError: `files_per_commit` is below 1, or `private` is asked for a repository that is public.
        ConnectionError: there is no token, or one that may not write there.
        HTTPError, RuntimeError: the Hub refuses for another reason, or fails time after time; run it again.
    """
    if files_per_commit is not None and files_per_commit < 1:
        raise ValueError(f"files_per_commit must be at least 1, got {files_per_commit}.")
    api = HfApi(token=token)
    upload = _Upload(Path(folder), api, repo_id, repo_type, revision, is_ours, files_per_commit, message)

    def attempt() -> dict[str, Any]:
        upload.head = prepare_repository(api, repo_id, repo_type, private=private, revision=revision)
        upload.run()
        return {**upload.totals, "commit": upload.head}

    return repeat_failed(attempt, repo_id, progress=lambda: upload.totals["commits"])


def repeat_failed(action: Callable[[], Result], repo_id: str, *, progress: Callable[[], int] = lambda: 0) -> Result:
    """Call again what the Hub or the way to it failed, after a wait; at most `MAX_FAILURES` times without progress.

    Args:
        action: what is done; it goes on where it was, or can be done twice.
        repo_id: name on the Hub, for messages.
        progress: how far `action` has come.

    Raises:
        ConnectionError: there is no token, or one that may not write there.
        HTTPError: the Hub refuses for another reason, or fails time after time.
    """
    failures = 0
    while True:
        before = progress()
        try:
            return action()
        except HTTPError as error:
            failures = 1 if progress() > before else failures + 1
            wait = _seconds_to_wait(error, failures)
            if _is_denied(error):
                raise ConnectionError(_login_advice(repo_id, error)) from error
            if wait is None or failures >= MAX_FAILURES:
                raise
            logger.warning("%s failed on the Hub (%s); trying again in %.0f s", repo_id, error, wait)
            time.sleep(wait)


def preview(
    folder: Path, api: HfApi, repo_id: str, repo_type: str, is_ours: Callable[[str], bool], revision: str | None = None
) -> dict[str, Any]:
    """What `upload_folder` would do: `would_send` (path -> bytes), `would_send_bytes`, `unchanged_files` and
    `would_delete`.

    Raises:
        ConnectionError: as `preview_remote`.
    """
    plan = compare(folder, preview_remote(api, repo_id, repo_type, revision), is_ours)
    return {
        "would_send": dict(plan.changed),
        "would_send_bytes": plan.num_bytes,
        "unchanged_files": len(plan.unchanged),
        "would_delete": list(plan.stale),
    }


@dataclass
class _Upload:
    """The state of one call of `upload_folder`."""

    folder: Path
    api: HfApi
    repo_id: str
    repo_type: str
    revision: str | None
    is_ours: Callable[[str], bool]
    files_per_commit: int | None
    message: str

    def __post_init__(self) -> None:
        self.totals = dict.fromkeys(("commits", "sent_files", "sent_bytes", "unchanged_files", "deleted_files"), 0)
        self.head: str | None = None

    def run(self) -> None:
        """Compare, then send what differs."""
        found = compare(self.folder, list_remote(self.api, self.repo_id, self.repo_type, self.revision), self.is_ours)
        if not self.totals["commits"]:
            self.totals["unchanged_files"] = len(found.unchanged)
        names = list(found.changed)
        size = self.files_per_commit or len(names) or 1
        batches = [names[start : start + size] for start in range(0, len(names), size)]
        # Without a changed file there may still be something to delete.
        for position, batch in enumerate(batches or ([[]] if found.stale else []), start=1):
            stale = found.stale if position >= len(batches) else ()
            place = f" ({position} of {len(batches)})" if len(batches) > 1 else ""
            self._commit(batch, stale, self.message + place)
            self.totals["commits"] += 1
            self.totals["sent_files"] += len(batch)
            self.totals["sent_bytes"] += sum(found.changed[name] for name in batch)
            self.totals["deleted_files"] += len(stale)

    def _commit(self, names: Sequence[str], stale: Sequence[str], message: str) -> None:
        additions = [CommitOperationAdd(name, self.folder / name) for name in names]
        commit = self.api.create_commit(
            self.repo_id,
            operations=[*additions, *(CommitOperationDelete(name, is_folder=False) for name in stale)],
            commit_message=message,
            repo_type=self.repo_type,
            revision=self.revision,
        )
        self.head = commit.oid


def _is_denied(error: HTTPError) -> bool:
    return isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403)


def _login_advice(repo_id: str, error: HTTPError) -> str:
    reason = str(error).splitlines()[0]
    return (
        f"the Hub does not let you write to {repo_id} ({reason}); log in with `hf auth login` or set HF_TOKEN; the "
        f"token needs write access to {repo_id.partition('/')[0]}."
    )


def _is_equal(path: Path, remote: RepoFile) -> bool:
    if path.stat().st_size != remote.size:
        return False
    if remote.lfs is None:
        return git_hash(path.read_bytes()) == remote.blob_id
    return file_sha256(path) == remote.lfs.sha256


def _seconds_to_wait(error: HTTPError, failures: int) -> float | None:
    """How long to wait before the next try; None where another try is of no use."""
    if not isinstance(error, HfHubHTTPError):
        return 2.0**failures
    if error.response.status_code not in _TRANSIENT_STATUS:
        return None
    wait = retry_after_seconds(error.response.headers.get("Retry-After"), now=time.time()) or 2.0**failures
    return wait if wait <= MAX_WAIT_S else None
