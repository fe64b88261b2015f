"""A record as training leaves it, and the pieces of a card, for the tests of model cards."""

import re
from pathlib import Path
from typing import Any

from reporting.model_card import model_card, read_facts
from reporting.model_record import ModelRecord
from reporting.report import RECALLS

REPO = "owner/leccr-mine"


def scores(language: str, first: float = 31.125000000000004) -> dict[str, float]:
    """Metrics of one language: recalls that differ from each other."""
    recalls = {f"{language}/{key}": first + position for position, key in enumerate(RECALLS)}
    return {**recalls, f"{language}/sum_r": 345.5, f"{language}/num_items": 40.0, f"{language}/num_texts": 80.0}


def protocol(split: str, *languages: str) -> dict[str, Any]:
    counts = {"num_items": 1040, "num_texts": 2080, "captions_per_item": [1, 3]}
    return {
        "split": split,
        "scoring": "fused",
        "global_weight": 0.75,
        "item_source": "image_and_description",
        "descriptions": True,
        "directions": ["i2t", "t2i"],
        "tie_rule": "pessimistic: a tie counts against the model",
        "languages": dict.fromkeys(languages, counts),
    }


def full_record(**changes: Any) -> ModelRecord:
    """What training leaves: two splits, two languages and machine translations of a third."""
    settings = {
        "dataset": "org/pets",
        "dataset_config": "de",
        "target_languages": ["de", "zh"],
        "vision_tower": "openai/clip-vit-base-patch32",
        "text_tower": "google-bert/bert-base-multilingual-cased",
        "model": {"num_slots": 4},
        "learning_rate": 1e-5,
        "controls": {"two streams": {"model": {"item_source": "image"}}},
    }
    languages = ("de", "zh", "fr_mt")
    fields: dict[str, Any] = {
        "languages": ("de", "zh", "fr"),
        "metrics": {
            "validation": scores("de", 1),
            "test": {key: value for language in languages for key, value in scores(language).items()}
            | {"mean/sum_r": 345.5, "sum_r": 345.5},
        },
        "protocol": {"validation": protocol("dev"), "test": protocol("test_2017", *languages)},
        "checkpoint_choice": "best SumR on validation",
        "settings": settings,
        "environment": {"python": "3.11.7", "accelerator": None, "libraries": {"torch": "2.13.0"}},
        "seconds": 150.0,
    }
    return ModelRecord(**(fields | changes))


def headings(card: str) -> list[str]:
    return re.findall(r"^## (.+)$", card, flags=re.MULTILINE)


def blocks(card: str, language: str = "python") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", card, flags=re.MULTILINE | re.DOTALL)


def section(card: str, heading: str) -> str:
    return card.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def write_card(folder: Path, repo_id: str) -> str:
    text = model_card(read_facts(folder, repo_id))
    (folder / "README.md").write_text(text, encoding="utf-8")
    return text
