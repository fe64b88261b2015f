"""A saved model, or a checkpoint of its training, as a repository on the Hub.

The folder is not sent as it lies there: its weights are loaded strictly and saved anew in a staging folder. So what
arrives is complete, loads, and holds nothing else, whereas a checkpoint also has pickles of the optimizer, random
states and the arguments of the run. It is sent in one commit: whoever loads the repository finds the older model or
the new one, never a part of it.
"""

import re
import tempfile
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from transformers import AutoConfig, AutoModel, AutoProcessor

from modeling_leccr.configuration_leccr import LeccrConfig
from modeling_leccr.export import CONFIG_FILE, DEFAULT_SHARD_SIZE, PROCESSOR_FILE, save_for_hub
from processing.hub_upload import CARD_FILE, check_card, check_repo_id, compare, preview_remote, upload_folder
from reporting.model_card import read_facts
from reporting.model_record import RECORD_FILE, ModelRecord

REPOSITORY_TYPE = "model"
_OURS = re.compile(
    r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json|\w+_leccr\.py|check_embeddings\.py|"
    r"golden/(inputs\.json|\d+\.png|embeds\.safetensors)|(config|metrics|processor_config|tokenizer|tokenizer_config|"
    r"special_tokens_map|added_tokens|modules|sentence_bert_config|config_sentence_transformers)\.json|\.eval_results/[\w.-]+--[\w.-]+\.yaml"
)


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
    message: str = "Upload model",
) -> dict[str, Any]:
    """Push a model; run again after a failure, files that arrived are not sent again.

    Files of an older push that the model no longer has are deleted in the same commit. Files that somebody else put
    there stay.

    Args:
        folder: what `save_for_hub` wrote, or a checkpoint folder of `LeccrTrainer`.
        repo_id: name on the Hub, `organisation/name`; made if needed.
        license_id: licence of the weights by its name on the Hub; by default that of the card in `folder`.
        private: make the repository private; one that is there must be.
        revision: branch to push to, made if needed.
        token: of the Hub; the one of `hf auth login` by default.
        dry_run: tell what would be sent and deleted; nothing is changed on the Hub. Under HF_HUB_OFFLINE the
            repository is taken to be empty, and the card is not checked.
        staging: where the repository is built and kept, instead of a temporary folder. Absent or empty, or what an
            earlier push left there.
        max_shard_size: bytes of one file of weights, or a text such as "5GB".
        message: title of the commit.

    Returns:
        `repository`, `num_parameters`, and what was sent, see `upload_folder`; in a dry run `would_send`
        (path -> bytes), `would_send_bytes`, `unchanged_files`, `would_delete` and `card`.

    Raises:
        ValueError: `folder` holds no whole model, `staging` holds something else, the Hub does not take the card (an
            unknown licence), or an argument is wrong.
        ConnectionError: the token is absent or may not write there, or the Hub cannot be reached in a dry run.
        HTTPError, RuntimeError: the Hub refuses for another reason, or fails time after time.
    """
    source = Path(folder)
    check_repo_id(repo_id)
    with tempfile.TemporaryDirectory(prefix="leccr-push-") as temporary:
        target = Path(temporary) / "repository" if staging is None else Path(staging)
        _check_staging(target, source)
        model, processor = load_strictly(source)
        record = ModelRecord.read(source) if (source / RECORD_FILE).is_file() else None
        settings: dict[str, Any] = {
            "license_id": license_id or read_facts(source, repo_id).license_id,
            "max_shard_size": max_shard_size,
        }
        save_for_hub(model, processor, target, record=record, repo_id=repo_id, **settings)
        card = check_card((target / CARD_FILE).read_text(encoding="utf-8"), REPOSITORY_TYPE)
        result = {"repository": repo_id, "num_parameters": model.num_parameters()}
        if not dry_run:
            settings = {"private": private, "revision": revision, "token": token, "message": message}
            settings |= {"repo_type": REPOSITORY_TYPE, "is_ours": is_ours, "files_per_commit": None}
            return result | upload_folder(target, repo_id, **settings)
        plan = compare(target, preview_remote(HfApi(token=token), repo_id, REPOSITORY_TYPE, revision), is_ours)
        return result | {
            "would_send": dict(plan.changed),
            "would_send_bytes": plan.num_bytes,
            "unchanged_files": len(plan.unchanged),
            "would_delete": list(plan.stale),
            "card": card,
        }


def load_strictly(folder: Path) -> tuple[Any, Any]:
    """Model and processor of a folder, refused unless every weight is there and fits.

    Raises:
        ValueError: it holds no whole model, or a model of another kind.
        FileNotFoundError: a file of weights is missing.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give a saved model, or a checkpoint of its training.")
    missing = [name for name in (CONFIG_FILE, PROCESSOR_FILE) if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{folder} is no whole model, for it has no {' and no '.join(missing)}; give the folder `model` of a run, "
            f"or a checkpoint that was written to its end."
        )
    kind = AutoConfig.from_pretrained(folder).model_type
    if kind != LeccrConfig.model_type:
        raise ValueError(f"{folder} holds a model of the type {kind!r}; only {LeccrConfig.model_type!r} is pushed.")
    return AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)


def is_ours(path: str) -> bool:
    """Whether a file has a name that a push gives, beside the card."""
    return _OURS.fullmatch(path) is not None


def _check_staging(staging: Path, source: Path) -> None:
    """Refuse to replace anything but the staging folder of an earlier push."""
    if staging.is_file():
        raise ValueError(f"staging must be a folder, got the file {staging}.")
    place, origin = staging.resolve(), source.resolve()
    if place in (origin, *origin.parents):
        raise ValueError(f"staging is replaced, and {staging} holds the model itself; name another folder.")
    names = [path.relative_to(staging).as_posix() for path in staging.rglob("*") if not path.is_dir()]
    strangers = sorted(name for name in names if name != CARD_FILE and not is_ours(name))
    if strangers or (names and CARD_FILE not in names):
        raise ValueError(
            f"staging is replaced, and {staging} holds what no push wrote there ({(strangers or names)[:3]}); name "
            f"another folder."
        )
    if staging.is_dir() and not names:
        staging.rmdir()
