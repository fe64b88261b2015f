"""What is pushed in tests: a small data set folder with all that a push meets, and the files of any folder."""

import json
from pathlib import Path
from typing import Any

import datasets

from processing.manifest import Step
from processing.records import schema_features
from processing.sources import write_splits

SPLITS = {"train": 7, "validation": 2}
PROMPT = {"id": "image-v1", "text": "Describe objects/attributes.\nUse ``` for nothing."}


def files_of(folder: Path) -> dict[str, bytes]:
    """The content of a folder by relative path, as `HubServer.files` gives that of a repository."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows(split: str, count: int, **columns: list[Any]) -> datasets.Dataset:
    """Rows of texts in German and French; a translation in three was refused."""
    ids = [f"{split}-{item}" for item in range(count)]
    flags = [["ok", "copied" if item % 3 == 0 else "ok"] for item in range(count)]
    data: dict[str, list[Any]] = {
        "image_id": ids,
        "file_name": [f"{split}/{item}.png" for item in range(count)],
        "description": [None if item == 1 else f"A dog and number {item}." for item in range(count)],
        "description_flag": ["empty" if item == 1 else "ok" for item in range(count)],
        "caption_en": [[f"dog {item}", f"cat {item}"] for item in range(count)],
        "caption_de": [[f"Mensch {item}"] for item in range(count)],
        "caption_de_mt": [[f"Hund {item}", None if item % 3 == 0 else f"Katze {item}"] for item in range(count)],
        "caption_de_mt_flag": flags,
        "caption_de_mt_similarity": [[50.0, 0.5] for _ in range(count)],
        "caption_fr_mt": [[f"chien {item}", f"chat {item}"] for item in range(count)],
        **columns,
    }
    return datasets.Dataset.from_dict(data, features=schema_features(data))


def steps(place: str) -> list[Step]:
    """Steps as the commands write them, with a path of this machine in each."""
    return [
        Step(
            "read",
            {"reader": "folder", "root": f"{place}/pictures"},
            {"rows": SPLITS, "missing": {"no image": {"train": 2, "validation": 0}}},
            "2025-03-01",
        ),
        Step(
            "describe",
            {"model": f"{place}/models/tiny-mllm", "revision": "abc", "prompt": PROMPT, "decoding": {"seed": 3}},
            {"rows": 9, "description_flag": {"ok": 7, "empty": 2}, "events": {"http_429": 4}},
            "2025-03-02",
        ),
        Step("translate", {"model": "org/nllb", "languages": ["de", "fr"], "url": "http://10.0.0.3:8000/v1"}),
    ]


def write_folder(folder: Path, *, splits: dict[str, int] = SPLITS, **columns: list[Any]) -> Path:
    """A finished data set folder; `columns` replace columns of every split."""
    made = {name: rows(name, count, **columns) for name, count in splits.items()}
    return write_splits(made, folder, steps=steps(str(folder.parent)), overwrite=True)


def read_dry_run(text: str) -> tuple[dict[str, Any], str]:
    """What a command printed in a dry run: the JSON, and the card after it."""
    result, end = json.JSONDecoder().raw_decode(text)
    return result, text[end:].strip()
