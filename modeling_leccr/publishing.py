"""A saved model, or a checkpoint of its training, as a repository on the Hub.

The folder is not sent as it lies there: its weights are loaded strictly and saved anew in a staging folder. So what
arrives is complete, loads, and holds nothing else, whereas a checkpoint also has pickles of the optimizer, random
states and the arguments of the run. It is sent in one commit: whoever loads the repository finds the older model or
the new one, never a part of it.
"""

import logging
import re
import tempfile
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from transformers import AutoConfig, AutoModel, AutoProcessor

from modeling_leccr.export import DEFAULT_SHARD_SIZE, save_for_hub
from modeling_leccr.loading_leccr import readable_weights
from modeling_leccr.model_files import ADAPTER_FILE, CONFIG_FILE, MODEL_TYPES, PROCESSOR_FILE, foreign_files, is_ours
from processing.files import write_text_atomic
from processing.hub_card import card_to_push, check_card, check_license, license_of, read_remote_card
from processing.hub_upload import (
    CARD_FILE,
    check_repo_id,
    prepare_repository,
    preview,
    repeat_failed,
    upload_folder,
)
from reporting.model_card import read_facts
from reporting.model_record import RECORD_FILE, ModelRecord

logger = logging.getLogger(__name__)

REPOSITORY_TYPE = "model"
DEFAULT_MESSAGE = "Upload model"
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*[TGMK]B", re.IGNORECASE)


def push_model(
    folder: str | Path,
    repo_id: str,
    *,
    license_id: str | None = None,
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
    dry_run: bool = False,
    staging: str | Path | None = None,
    max_shard_size: str | int = DEFAULT_SHARD_SIZE,
    message: str = DEFAULT_MESSAGE,
    replace_card: bool = False,
) -> dict[str, Any]:
    """Push a model; run again after a failure, files that arrived are not sent again.

    Files of an older push that the model no longer has are deleted in the same commit. Files that somebody else put
    there stay, and so does a card that somebody edited there. What the Hub would refuse (the token, the name, the
    licence, a private model in a public repository) is found before the weights are loaded.

    Args:
        folder: what `save_for_hub` wrote, or a checkpoint folder of `LeccrTrainer`.
        repo_id: name on the Hub, `organisation/name`; made if needed.
        license_id: licence of the weights by its name on the Hub; by default that of the card in `folder`, or else of
            the card on the Hub.
        private: make the repository private; one that is there must be.
        revision: branch to push to, made if needed.
        token: of the Hub; the one of `hf auth login` by default.
        dry_run: tell what would be sent and deleted; nothing is changed on the Hub. Under HF_HUB_OFFLINE the
            repository is taken to be empty, and the card is not checked.
        staging: where the repository is built and kept, instead of a temporary folder (of `tempfile.gettempdir()`,
            which a push that is killed leaves behind). Absent or empty, or what an earlier push left there.
        max_shard_size: bytes of one file of weights, or a text such as "5GB".
        message: title of the commit.
        replace_card: replace the card on the Hub even if somebody edited it there.

    Returns:
        `repository`, `num_parameters`, and what was sent, see `upload_folder`; in a dry run `would_send`
        (path -> bytes), `would_send_bytes`, `unchanged_files`, `would_delete` and `card`.

    Raises:
        ValueError: `folder` holds no whole model, `staging` holds something else, the Hub does not take the card (an
            unknown licence), or an argument is wrong.
        ConnectionError: the token is absent or may not write there, or the Hub cannot be reached in a dry run.
        HTTPError, RuntimeError: the Hub refuses for another reason, or fails time after time.
    """
    source, api = Path(folder), HfApi(token=token)
    check_repo_id(repo_id)
    _check_shard_size(max_shard_size)
    check_folder(source)
    with readable_weights(source):
        license_of_folder = read_facts(source, repo_id).license_id
    with tempfile.TemporaryDirectory(prefix="leccr-push-") as temporary:
        target = Path(temporary) / "repository" if staging is None else Path(staging)
        _check_staging(target, source)
        remote_card = read_remote_card(api, repo_id, REPOSITORY_TYPE, revision, dry_run=dry_run)
        license_id = license_id or license_of_folder or license_of(remote_card)
        check_license(license_id, REPOSITORY_TYPE)
        if license_id is None:
            logger.warning("the licence of %s is unknown, so nobody may use it; add --license", repo_id)
        settings: dict[str, Any] = {"private": private, "revision": revision}
        if not dry_run:
            repeat_failed(lambda: prepare_repository(api, repo_id, REPOSITORY_TYPE, **settings), repo_id)
        model, processor = load_strictly(source)
        record = ModelRecord.read(source) if (source / RECORD_FILE).is_file() else None
        naming: dict[str, Any] = {"repo_id": repo_id, "license_id": license_id}
        save_for_hub(model, processor, target, record=record, max_shard_size=max_shard_size, **naming)
        card = check_card((target / CARD_FILE).read_text(encoding="utf-8"), REPOSITORY_TYPE)
        card = card_to_push(card, remote_card, repo_id, replace=replace_card)
        write_text_atomic(target / CARD_FILE, card)
        result = {"repository": repo_id, "num_parameters": model.num_parameters()}
        if dry_run:
            return result | preview(target, api, repo_id, REPOSITORY_TYPE, is_ours, revision) | {"card": card}
        settings |= {"token": token, "message": message, "repo_type": REPOSITORY_TYPE, "is_ours": is_ours}
        return result | upload_folder(target, repo_id, files_per_commit=None, **settings)


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds no whole model of this library, without reading its weights.

    Raises:
        ValueError: a file is missing, or it is a model of another kind.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give a saved model, or a checkpoint of its training.")
    if (folder / ADAPTER_FILE).is_file():
        raise ValueError(
            f"{folder} holds an adapter and no whole model; push the folder `model` of its run, in which it is merged."
        )
    missing = [name for name in (CONFIG_FILE, PROCESSOR_FILE) if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{folder} is no whole model, for it has no {' and no '.join(missing)}; give the folder `model` of a run, "
            f"or a checkpoint that was written to its end."
        )
    kind = AutoConfig.from_pretrained(folder).model_type
    if kind not in MODEL_TYPES:
        raise ValueError(f"{folder} holds a model of the type {kind!r}; only {', '.join(MODEL_TYPES)} are pushed.")


def load_strictly(folder: Path) -> tuple[Any, Any]:
    """Model and processor of a folder that `check_folder` accepts, refused unless every weight is there and fits.

    Raises:
        ValueError: a weight is missing or does not fit.
        FileNotFoundError: a file of weights is missing.
    """
    return AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)


def _check_shard_size(size: str | int) -> None:
    """Refuse what transformers takes for no size, before the model is loaded."""
    found = _SIZE.fullmatch(size.strip()) if isinstance(size, str) else None
    if not (float(found[1]) if found else isinstance(size, int) and size) > 0:
        raise ValueError(
            f"max_shard_size (--max-shard-size) must be a number with TB, GB, MB or KB, such as 5GB, got {size!r}."
        )


def _check_staging(staging: Path, source: Path) -> None:
    """Refuse to replace anything but the staging folder of an earlier push."""
    if staging.is_file():
        raise ValueError(f"staging must be a folder, got the file {staging}.")
    place, origin = staging.resolve(), source.resolve()
    if place in (origin, *origin.parents):
        raise ValueError(f"staging is replaced, and {staging} holds the model itself; name another folder.")
    if foreign := foreign_files(staging):
        raise ValueError(
            f"staging is replaced, and {staging} holds what no push wrote there ({foreign[:3]}); name another folder."
        )
