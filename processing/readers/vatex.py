"""VATEX: ten English and ten Chinese captions for each clip of ten seconds, as JSON from its authors.

    vatex_training_v1.0.json              25,991 clips    [{"videoID": "<YouTube id>_<start>_<end>",
    vatex_validation_v1.0.json             3,000 clips      "enCap": [10 texts], "chCap": [10 texts]}, ...]
    vatex_public_test_english_v1.1.json    6,000 clips    English only
    vatex_private_test_without_annotations.json           ids only; it has nothing to train or evaluate on

The first five Chinese captions describe the clip on their own; the last five are translations by people of the last
five English ones, in order. Both are human captions, so both are for evaluation only. Start and end are seconds.
Clips that were cut out of their videos are files named after the whole id; of whole videos, named after the YouTube id
alone, `untrimmed` gives the rows the part that counts.

Papers on cross-lingual retrieval (HGR, dual encoding, NRCCR, LECCR) evaluate on 1,500 clips of the validation set and
choose checkpoints on its other 1,500, because the public test set has no Chinese. HGR drew these halves at random, so
nobody can make them anew: give the list of test clips as `test_ids` (NRCCR's file of Chinese test captions will do).
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets

from processing.media import attach_videos
from processing.missing import MissingReport
from processing.readers.base import Corpus, build_split, check_count, iter_lines, read_json, report_shared
from processing.readers.feature_store import attach_features
from processing.records import END_COLUMN, FILE_COLUMN, START_COLUMN, VIDEO_ID_COLUMN, caption_column

PUBLISHED_CLIPS = {"train": 25_991, "validation": 3_000, "test": 6_000}
HALF_VALIDATION = 1_500
CAPTIONS_PER_LANGUAGE = 10
NO_CHINESE, EMPTY_CAPTION = "no caption_zh", "an empty caption, left out"
_FILES = {"train": "vatex_training*.json*", "validation": "vatex_validation*.json*", "test": "vatex_public_test*.json*"}
_CAPTION_KEYS = {"enCap": caption_column("en"), "chCap": caption_column("zh")}
_COLUMNS = [VIDEO_ID_COLUMN, *_CAPTION_KEYS.values()]
_CLIP_ID = re.compile(r"[\w-]+_(\d{1,6})_(\d{1,6})", re.ASCII)


def read_vatex(
    root: str | Path,
    *,
    test_ids: str | Path | None = None,
    features: str | Path | None = None,
    clips: str | Path | None = None,
    untrimmed: bool = False,
    check_counts: bool = True,
) -> Corpus:
    """VATEX with human captions in `caption_en` and `caption_zh`, in the order of the files.

    Args:
        root: the folder of the JSON files, plain or `.gz`.
        test_ids: a text file that names the validation clips to test on, one a line, what follows a `#` left out; the
            public test set is then not read. None for the splits of the authors.
        features: a folder of I3D features, see processing/readers/feature_store.py. Clips without are reported.
        clips: a folder of video files named after the ids. Clips without are reported.
        untrimmed: the video files are whole videos named after the YouTube id: rows get `file_name`, `start` and `end`.
        check_counts: refuse other sizes than the published ones, and other numbers of captions than ten.

    Returns:
        Splits "train" (25,991), "validation" (3,000) and, where its file is there, "test" (6,000, `caption_zh` empty
        and reported). With `test_ids` "train", "validation" (1,500) and "test" (1,500).

    Raises:
        ValueError: a file is missing, malformed or of another size than published; a record has no captions, as in
            the private test set; `test_ids` names a clip that is not in the validation set; not one row has a clip.
    """
    folder, missing = Path(root), MissingReport()
    rows: dict[str, list[dict[str, Any]]] = {}
    incomplete: set[str] = set()
    paths: dict[str, Path] = {}
    for split, pattern in _FILES.items():
        path = _find(folder, pattern, needed=split != "test")
        if path is None or (split == "test" and test_ids is not None):
            continue
        paths[split] = path
        rows[split] = _read_clips(path, incomplete, check_counts=check_counts)
        if check_counts:
            check_count(len(rows[split]), PUBLISHED_CLIPS[split], "clips", path)
    if test_ids is not None:
        paths["test"] = paths["validation"]
        rows["validation"], rows["test"] = _halve(rows["validation"], Path(test_ids), check_counts=check_counts)
    columns = _COLUMNS
    if untrimmed:
        columns = [*_COLUMNS, FILE_COLUMN, START_COLUMN, END_COLUMN]
        rows = {split: [row | _place_in_video(row[VIDEO_ID_COLUMN]) for row in found] for split, found in rows.items()}
    splits = datasets.DatasetDict(
        {split: build_split(found, columns, split, source=str(paths[split])) for split, found in rows.items()}
    )
    report_shared(splits, missing)
    for split, found in rows.items():
        for row in found:
            if not row[caption_column("zh")]:
                missing.add(NO_CHINESE, split, row[VIDEO_ID_COLUMN])
            if row[VIDEO_ID_COLUMN] in incomplete:
                missing.add(EMPTY_CAPTION, split, row[VIDEO_ID_COLUMN])
    if features is not None:
        missing.merge(attach_features(splits, features)[1])
    if clips is not None:
        missing.merge(attach_videos(splits, clips)[1])
    divided = "published" if test_ids is None else "validation in halves"
    settings = {"reader": "vatex", "splits": divided, "untrimmed": untrimmed}
    return Corpus(splits, missing, settings)


def clip_times(video_id: str) -> tuple[int, int]:
    """Start and end of a clip in its video, in seconds, from its id.

    Raises:
        ValueError: the id has not the form `<YouTube id>_<start>_<end>`, or ends before it starts.
    """
    match = _CLIP_ID.fullmatch(video_id)
    if match is None or int(match[1]) >= int(match[2]):
        raise ValueError(f"video_id must be '<YouTube id>_<start>_<end>' in seconds, got {video_id!r}.")
    return int(match[1]), int(match[2])


def _place_in_video(video_id: str) -> dict[str, Any]:
    start, end = clip_times(video_id)
    return {FILE_COLUMN: video_id.rsplit("_", 2)[0], START_COLUMN: float(start), END_COLUMN: float(end)}


def _find(folder: Path, pattern: str, *, needed: bool) -> Path | None:
    paths = [path for path in sorted(folder.glob(pattern)) if path.name.endswith((".json", ".json.gz"))]
    if len(paths) > 1:
        raise ValueError(f"{folder} holds several files of one split, {[path.name for path in paths]}; keep one.")
    if not paths and needed:
        raise ValueError(f"{folder} lacks {pattern.replace('*.json*', '_v1.0.json')}; get it from the VATEX site.")
    return paths[0] if paths else None


def _read_clips(path: Path, incomplete: set[str], *, check_counts: bool) -> list[dict[str, Any]]:
    """Rows of one file; clips that lost an empty caption are added to `incomplete`."""
    records = read_json(path)
    if not isinstance(records, list):
        raise ValueError(f"{path} must hold a list of clips, got {type(records).__name__}.")
    rows = []
    for number, record in enumerate(records, start=1):
        where = f"{path}, record {number}"
        if not isinstance(record, dict) or not isinstance(record.get("videoID"), str):
            raise ValueError(f"{where}: expected an object with a text 'videoID', got {str(record)[:80]!r}.")
        video_id = record["videoID"]
        where = f"{where} ({video_id!r})"
        try:
            clip_times(video_id)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        row: dict[str, Any] = {VIDEO_ID_COLUMN: video_id}
        for key, column in _CAPTION_KEYS.items():
            texts = _captions(record, key, where, check_counts=check_counts) if key in record else []
            row[column] = [text for text in texts if text.strip()]
            if len(row[column]) < len(texts):
                incomplete.add(video_id)
        if not row[caption_column("en")]:
            raise ValueError(f"{where} has no English caption; the private test set has none and cannot be used.")
        rows.append(row)
    return rows


def _captions(record: Mapping[str, Any], key: str, where: str, *, check_counts: bool) -> Sequence[str]:
    texts = record[key]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{where}: {key} must be a list of texts, got {str(texts)[:80]!r}.")
    if check_counts and len(texts) != CAPTIONS_PER_LANGUAGE:
        raise ValueError(f"{where}: {key} must hold {CAPTIONS_PER_LANGUAGE} captions, got {len(texts)}.")
    return texts


def _halve(
    rows: Sequence[dict[str, Any]], path: Path, *, check_counts: bool
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The validation clips that `path` does not name, and those that it names."""
    known = {row[VIDEO_ID_COLUMN] for row in rows}
    named = set()
    for number, line in iter_lines(path):
        video_id = line.partition("#")[0].strip()
        if video_id not in known:
            raise ValueError(f"{path}, line {number}: {video_id!r} is not a clip of the validation set.")
        named.add(video_id)
    if check_counts:
        check_count(len(named), HALF_VALIDATION, "test clips", path)
    return (
        [row for row in rows if row[VIDEO_ID_COLUMN] not in named],
        [row for row in rows if row[VIDEO_ID_COLUMN] in named],
    )
