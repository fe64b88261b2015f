"""The card of a repository on the Hub: checked before an upload, and kept once somebody has edited it there.

A card that was pushed ends with a hash of itself in a comment. Where the hash does not fit, somebody else wrote the
card; the next push then leaves it alone. A card without any text, such as the one that the Hub writes for a repository
that is made in the browser, is replaced; its licence is taken over.
"""

import hashlib
import logging
import re
from collections.abc import Sequence

import yaml
from huggingface_hub import HfApi, RepoCard, get_session, hf_hub_url, is_offline_mode
from huggingface_hub.errors import (
    HTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

from processing.hub_upload import CARD_FILE, refusals_told, repeat_failed

logger = logging.getLogger(__name__)

UNKNOWN_LICENSE = "unknown"
_MARK = re.compile(r"\s*<!-- Written by leccr, sha256:([0-9a-f]{64})\. Once edited, this file is kept\. -->\s*\Z")
_METADATA = re.compile(r"\A\s*---\r?\n(?:.*?\n)?---[ \t\r]*(?:\n|\Z)", re.DOTALL)


class CardError(ValueError):
    """The Hub does not take the metadata of a card."""


def check_card(card: str, repo_type: str) -> str:
    """Let the Hub check a card before the hours of an upload, after which it would refuse it.

    Without a connection the card is not checked here; it is when it is sent.

    Returns:
        The card.

    Raises:
        CardError: the Hub does not take its metadata, such as an unknown licence; the message says which.
    """
    if not is_offline_mode():
        try:
            RepoCard(card).validate(repo_type)
        except ValueError as error:
            raise CardError(f"the Hub does not take the metadata of the card: {error}") from error
        except HTTPError as error:
            logger.warning("the card could not be checked before the upload (%s)", error)
    return card


def check_license(license_id: str | None, repo_type: str) -> None:
    """`check_card` for a licence alone, before there is a card.

    Raises:
        CardError: the Hub has no licence of this name.
    """
    if license_id is not None:
        check_card(f"---\n{yaml.safe_dump({'license': license_id})}---\n", repo_type)


def license_of(card: str | None) -> str | None:
    """The licence that a card states; None without one, or without a card.

    Raises:
        ValueError, YAMLError: its metadata cannot be read.
    """
    if card is None or not _METADATA.match(card):
        return None
    found = RepoCard(card, ignore_metadata_errors=True).data.get("license")
    return found if isinstance(found, str) and found != UNKNOWN_LICENSE else None


def read_remote_card(
    api: HfApi, repo_id: str, repo_type: str, revision: str | None = None, *, dry_run: bool = False
) -> str | None:
    """The card on the Hub; None where there is none, and in a dry run under HF_HUB_OFFLINE.

    Raises:
        ConnectionError: the Hub cannot be reached, or does not take the token.
        HTTPError: the Hub refuses for another reason, or fails time after time.
    """
    if is_offline_mode():
        if dry_run:
            return None
        raise ConnectionError("HF_HUB_OFFLINE is set, so nothing can be pushed; unset it, or ask for a dry run.")
    if not dry_run:
        return repeat_failed(lambda: _download_card(api, repo_id, repo_type, revision), repo_id)
    with refusals_told(repo_id):
        return _download_card(api, repo_id, repo_type, revision)


def card_to_push(
    card: str, remote_card: str | None, repo_id: str, *, replace: bool = False, entries: Sequence[str] = ()
) -> str:
    """The new card with its hash, or the one on the Hub if somebody edited it.

    Args:
        card: written for this push.
        remote_card: the one on the Hub; None without one.
        repo_id: name on the Hub, for the warning that an edited card stays.
        replace: replace an edited card too.
        entries: metadata of an edited card that are renewed all the same, because readers of the files need them.
    """
    if remote_card is None or replace or not is_edited(remote_card):
        return signed(card)
    logger.warning(
        "the card of %s was edited on the Hub and stays, with its licence and its numbers; to write a new one, push "
        "with --replace-card",
        repo_id,
    )
    if not entries:
        return remote_card
    kept, fresh = RepoCard(remote_card, ignore_metadata_errors=True), RepoCard(card)
    changed = {name: fresh.data.get(name) for name in entries if fresh.data.get(name) != kept.data.get(name)}
    for name, value in changed.items():
        kept.data[name] = value
    return str(kept) if changed else remote_card


def signed(card: str) -> str:
    """A card that ends with its hash."""
    text = card.rstrip()
    return f"{text}\n\n<!-- Written by leccr, sha256:{_digest(text)}. Once edited, this file is kept. -->\n"


def is_edited(card: str) -> bool:
    """Whether somebody else wrote text into a card."""
    mark = _MARK.search(card)
    if mark is None:
        return bool(_METADATA.sub("", card).strip())
    return mark[1] != _digest(card[: mark.start()])


def _digest(text: str) -> str:
    # git may have turned the ends of its lines.
    return hashlib.sha256(text.replace("\r\n", "\n").encode()).hexdigest()


def _download_card(api: HfApi, repo_id: str, repo_type: str, revision: str | None) -> str | None:
    # `hf_hub_download` would give an older card from its cache where the Hub cannot be reached.
    url = hf_hub_url(repo_id, CARD_FILE, repo_type=repo_type, revision=revision, endpoint=api.endpoint)
    try:
        response = get_session().get(url, headers=build_hf_headers(token=api.token))
        hf_raise_for_status(response)
    except RevisionNotFoundError:
        # A new branch starts as the main one.
        return None if revision is None else _download_card(api, repo_id, repo_type, None)
    except (RepositoryNotFoundError, RemoteEntryNotFoundError):
        return None
    return str(response.text)
