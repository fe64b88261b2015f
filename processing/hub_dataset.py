"""A data set folder as a repository on the Hub: texts keyed by id, a configuration for each target language.

    README.md                            the card; its YAML names the configurations
    manifest.json                        the steps that made the data, without traces of the machine
    de/train-00000-of-00002.parquet      id, description, caption_en, caption_de, caption_de_mt, flags

`load_dataset("org/multi30k-leccr", "de")` then gives rows that `attach_images` joins with the user's pictures. The same
folder gives the same bytes, so what is on the Hub already is not sent again.
"""

import logging
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub import HfApi
from tqdm import tqdm

from processing.files import atomic_folder, write_text_atomic
from processing.hub_card import card_to_push, check_card, license_of, read_remote_card
from processing.hub_upload import (
    CARD_FILE,
    DEFAULT_FILES_PER_COMMIT,
    preview,
    upload_folder,
)
from processing.languages import LANGUAGES, SOURCE_LANGUAGE
from processing.manifest import MANIFEST_FILE, Manifest, Step, read_manifest
from processing.media import attach_images
from processing.missing import MissingReport
from processing.records import (
    DESCRIPTION_COLUMN,
    END_COLUMN,
    FILE_COLUMN,
    IMAGE_COLUMN,
    MEDIA_COLUMNS,
    START_COLUMN,
    VIDEO_ID_COLUMN,
    caption_columns,
    find_id_column,
    flag_column,
    schema_features,
    similarity_column,
)
from processing.sources import DEFAULT_ROWS_PER_SHARD, cut_rows, open_splits, write_shard
from processing.traces import is_local_path, without_traces

logger = logging.getLogger(__name__)

REPOSITORY_TYPE = "dataset"
# A shard is held in memory as a whole; a thousand pictures of 200 kB are 200 MB.
DEFAULT_ROWS_WITH_IMAGES = 1000
_SHARD = re.compile(r"([a-z]{2,3})/[^/]+-\d{5}-of-\d{5}\.parquet")


@dataclass(frozen=True)
class HubDataset:
    """What a repository holds, for its card.

    Attributes:
        repo_id: its name on the Hub.
        id_column: `image_id` or `video_id`.
        columns: language of the configuration -> its columns. "en" where there is no target language.
        rows: split -> number of rows, the same in each configuration.
        files: split -> number of parquet files in each configuration.
        steps: how the rows were made, without traces of the machine.
        missing: rows left out, because they have no picture.
        has_images: whether the pictures are inside.
        left_out_columns: columns of the data set that are in no configuration.
        license_id: licence by the card that is on the Hub; None without one.
    """

    repo_id: str
    id_column: str
    columns: Mapping[str, Sequence[str]]
    rows: Mapping[str, int]
    files: Mapping[str, int]
    steps: Sequence[Step] = ()
    missing: MissingReport = field(default_factory=MissingReport)
    has_images: bool = False
    left_out_columns: Sequence[str] = ()
    license_id: str | None = None

    def configurations(self) -> list[dict[str, Any]]:
        """The entry `configs` of the card's YAML.

        A pattern names the number of files: a push that is under way then never adds its files to older ones.
        """
        return [
            {
                "config_name": language,
                "data_files": [
                    {"split": split, "path": f"{language}/{split}-*-of-{count:05d}.parquet"}
                    for split, count in self.files.items()
                ],
            }
            for language in self.columns
        ]


def push_dataset(
    folder: str | Path,
    repo_id: str,
    *,
    write_card: Callable[[HubDataset], str],
    with_images: bool = False,
    images: str | Path | None = None,
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
    dry_run: bool = False,
    staging: str | Path | None = None,
    rows_per_shard: int | None = None,
    files_per_commit: int = DEFAULT_FILES_PER_COMMIT,
    replace_card: bool = False,
) -> dict[str, Any]:
    """Push a data set folder; run again after a failure, it goes on where it was.

    The repository becomes what the folder is: configurations of an older push that the folder no longer has are
    deleted in the last commit. Files that somebody else put there stay. So does a card that somebody edited there, but
    for the entry `configs` of its metadata, by which the rows are loaded.

    Args:
        folder: a finished data set, with any number of target languages.
        repo_id: name on the Hub, `organisation/name`.
        write_card: gives the README, see hub_scripts/dataset_card.py.
        with_images: put the pictures inside too; they multiply by the number of languages. Clips, and features of
            their frames, stay at home.
        images: folder of the pictures, where the data set has none itself. Rows without a picture are left out, and
            splits where none has one.
        private: make the repository private; one that is there must be.
        revision: branch to push to, made if needed.
        token: of the Hub; the one of `hf auth login` by default.
        dry_run: tell what would be sent and deleted; nothing is changed on the Hub. Under HF_HUB_OFFLINE the
            repository is taken to be empty, and the card is not checked.
        staging: where the repository is built and kept, instead of a temporary folder; it loads with
            `load_dataset(staging, "de")`. Absent or empty, or what an earlier push left there.
        rows_per_shard: rows of one file, held in memory at once; by default 10,000, and 1,000 with pictures.
        files_per_commit: at least 1.
        replace_card: replace the card on the Hub even if somebody edited it there.

    Returns:
        `repository`, `configurations` (language -> split -> rows), `missing`, `left_out_columns`, and what was sent,
        see `upload_folder`; in a dry run `would_send` (path -> bytes), `would_send_bytes`, `unchanged_files`,
        `would_delete` and `card`.

    Raises:
        ValueError: the folder is no finished data set, its rows name files outside of it, the Hub does not take the
            card (an unknown licence), or an argument is wrong.
        ConnectionError: the token is absent or may not write there, or the Hub cannot be reached in a dry run.
        HTTPError, RuntimeError: the Hub refuses for another reason, or fails time after time.
    """
    api = HfApi(token=token)
    place: dict[str, Any] = {"repo_type": REPOSITORY_TYPE, "revision": revision}

    def finished_card(found: HubDataset) -> str:
        """Called before the first shard is written, so that what the Hub refuses costs no time."""
        remote_card = read_remote_card(api, repo_id, dry_run=dry_run, **place)
        card = check_card(write_card(replace(found, license_id=license_of(remote_card))), REPOSITORY_TYPE)
        return card_to_push(card, remote_card, repo_id, replace=replace_card, entries=("configs",))

    with tempfile.TemporaryDirectory(prefix="leccr-push-") as temporary:
        target = Path(temporary) / "repository" if staging is None else Path(staging)
        found = build_repository(
            folder,
            target,
            repo_id,
            write_card=finished_card,
            with_images=with_images,
            images=images,
            rows_per_shard=rows_per_shard,
        )
        result = {
            "repository": repo_id,
            "configurations": {language: dict(found.rows) for language in found.columns},
            "missing": found.missing.counts(),
            "left_out_columns": list(found.left_out_columns),
        }
        if dry_run:
            card = (target / CARD_FILE).read_text(encoding="utf-8")
            return result | preview(target, api, repo_id, is_ours=_is_ours, **place) | {"card": card}
        settings: dict[str, Any] = {"private": private, "token": token, "files_per_commit": files_per_commit}
        return result | upload_folder(target, repo_id, is_ours=_is_ours, **place, **settings)


def build_repository(
    folder: str | Path,
    target: str | Path,
    repo_id: str,
    *,
    write_card: Callable[[HubDataset], str],
    with_images: bool = False,
    images: str | Path | None = None,
    rows_per_shard: int | None = None,
) -> HubDataset:
    """Write the folder that a push makes the repository equal to, shard by shard; whole or not at all.

    Args:
        target: absent or empty, or what an earlier call wrote. For the others see `push_dataset`.
        write_card: called before the first shard is written, so that its error costs no time.

    Raises:
        ValueError: the folder is no finished data set, its rows name files outside of it, or an argument is wrong.
    """
    limit = rows_per_shard if rows_per_shard is not None else _default_rows(with_images)
    target = Path(target)
    _check_staging(target)
    splits, missing = _open(Path(folder), with_images=with_images, images=images)
    names = next(iter(splits.values())).column_names
    columns = {language: config_columns(names, language) for language in target_languages(names)}
    found = HubDataset(
        repo_id,
        find_id_column(names),
        columns,
        {name: len(split) for name, split in splits.items()},
        {name: len(cut_rows(len(split), limit)) for name, split in splits.items()},
        [Step(**without_traces(asdict(step))) for step in read_manifest(folder).steps],
        missing,
        with_images,
        [name for name in names if not any(name in kept for kept in columns.values())],
    )
    if found.left_out_columns:
        logger.warning("left out of every configuration: columns %s", ", ".join(found.left_out_columns))
    card = write_card(found)
    with atomic_folder(target) as fresh:
        _write_shards(splits, found, fresh, limit)
        Manifest(tuple(found.steps), dict(found.rows)).write(fresh)
        write_text_atomic(fresh / CARD_FILE, card)
    return found


def target_languages(column_names: Sequence[str]) -> list[str]:
    """Languages that get a configuration: all with captions but English, or English where it is alone."""
    found = {language for language, _ in caption_columns(column_names).values()} - {SOURCE_LANGUAGE}
    return sorted(found) or [SOURCE_LANGUAGE]


def config_columns(column_names: Sequence[str], language: str) -> list[str]:
    """The columns of a configuration, in the order of the schema."""
    captions = caption_columns(column_names)
    texts = [DESCRIPTION_COLUMN] * (DESCRIPTION_COLUMN in column_names)
    # English first, then what people wrote, then the machine.
    for code in dict.fromkeys((SOURCE_LANGUAGE, language)):
        texts += sorted(name for name, (owner, _) in captions.items() if owner == code)
    places = [name for name in (FILE_COLUMN, START_COLUMN, END_COLUMN, IMAGE_COLUMN) if name in column_names]
    columns = [find_id_column(column_names), *places]
    for name in texts:
        columns += [name, *(extra for extra in (flag_column(name), similarity_column(name)) if extra in column_names)]
    return columns


def _open(folder: Path, *, with_images: bool, images: str | Path | None) -> tuple[datasets.DatasetDict, MissingReport]:
    """The splits, with pictures or without."""
    if images is not None and not with_images:
        raise ValueError("images are given but not asked for; add with_images (--with-images), or leave images out.")
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give the one that read_dataset, describe or translate wrote.")
    splits, missing = open_splits(folder), MissingReport()
    names = next(iter(splits.values())).column_names
    if with_images and VIDEO_ID_COLUMN in names:
        raise ValueError(
            f"{folder} is a data set of clips, which are not put inside: it is pushed as texts, and whoever has the "
            f"clips joins them by id. Leave with_images (--with-images) out."
        )
    if not with_images:
        splits = splits.remove_columns([name for name in names if name in MEDIA_COLUMNS])
    elif images is not None:
        splits, missing = attach_images(splits, images)
    elif IMAGE_COLUMN not in names:
        raise ValueError(f"{folder} has no pictures to put inside; give the folder that holds them (--images).")
    # `load_dataset` cannot read a parquet file without rows.
    empty = [name for name, split in splits.items() if len(split) == 0]
    if empty:
        logger.warning("the splits %s have no row with a picture; they are left out", empty)
    return datasets.DatasetDict({name: split for name, split in splits.items() if name not in empty}), missing


def _write_shards(splits: datasets.DatasetDict, found: HubDataset, folder: Path, limit: int) -> None:
    with tqdm(total=len(found.columns) * sum(found.files.values()), desc="shards", unit="file", disable=None) as bar:
        for language, columns in found.columns.items():
            for name, split in splits.items():
                for position, rows in enumerate(cut_rows(len(split), limit)):
                    shard = split.select_columns(list(columns)).select(rows)
                    _check_names(shard, name, found.id_column)
                    path = f"{language}/{name}-{position:05d}-of-{found.files[name]:05d}.parquet"
                    write_shard(shard.cast(schema_features(columns)), folder / path)
                    bar.update()


def _check_staging(folder: Path) -> None:
    """Refuse to replace anything but the staging folder of an earlier push."""
    if folder.is_file():
        raise ValueError(f"staging must be a folder, got the file {folder}.")
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()]
    strangers = sorted(name for name in names if name != CARD_FILE and not _is_ours(name))
    if strangers or (names and CARD_FILE not in names):
        raise ValueError(
            f"staging is replaced, and {folder} holds what no push wrote there ({(strangers or names)[:3]}); name "
            f"another folder."
        )


def _check_names(rows: datasets.Dataset, split: str, id_column: str) -> None:
    """Refuse ids and file names that are paths of this machine."""
    for column in (id_column, FILE_COLUMN):
        if column in rows.column_names:
            for value in rows[column]:
                if value is not None and is_local_path(value):
                    raise ValueError(
                        f"split {split!r}: {column} {value!r} names a place on this machine; give paths inside the "
                        f"folder of the pictures, such as 'holiday/beach.jpg'."
                    )


def _default_rows(with_images: bool) -> int:
    return DEFAULT_ROWS_WITH_IMAGES if with_images else DEFAULT_ROWS_PER_SHARD


def _is_ours(path: str) -> bool:
    """Whether a file has a name that a push gives."""
    match = _SHARD.fullmatch(path)
    return path == MANIFEST_FILE or (match is not None and match[1] in LANGUAGES)
