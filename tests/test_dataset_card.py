"""The card of a data set: complete, valid, true to the manifest, silent where nothing is known, and runnable."""

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pytest
from huggingface_hub import DatasetCard, HfApi

from hub_scripts.dataset_card import dataset_card, read_quality
from processing.hub_dataset import HubDataset, push_dataset
from processing.manifest import Step
from processing.missing import MissingReport
from tests.hub_parts import PROMPT, SPLITS, steps, write_folder
from tests.hub_server import HubServer, hub
from tests.processing_parts import picture

REPO = "owner/mine-leccr"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HubServer]:
    with hub(tmp_path / "home") as running:
        yield running


def content(**changes: Any) -> HubDataset:
    """A repository with a configuration in German."""
    columns = {"de": ["image_id", "file_name", "description", "description_flag", "caption_en", "caption_de_mt"]}
    settings: dict[str, Any] = {"repo_id": REPO, "id_column": "image_id", "columns": columns}
    settings |= {"rows": {"train": 29000, "validation": 1014}, "files": {"train": 3, "validation": 1}}
    return HubDataset(**(settings | changes))


def headings(card: str) -> list[str]:
    return re.findall(r"^## (.+)$", card, flags=re.MULTILINE)


def code_of(card: str) -> str:
    found = re.search(r"^```python\n(.*?)^```", card, flags=re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


def test_metadata_are_what_the_hub_asks_for(server: HubServer) -> None:
    """The Hub finds data sets by their metadata, and load_dataset finds files by them."""
    text = dataset_card(content(), license_id="cc-by-4.0")
    data = DatasetCard(text).data.to_dict()
    assert data["language"] == ["de", "en"]
    assert data["license"] == "cc-by-4.0"
    assert data["size_categories"] == ["10K<n<100K"]
    assert data["task_categories"] == ["image-to-text", "translation"]
    assert {"image-text-retrieval", "cross-lingual-retrieval"} <= set(data["tags"])
    assert data["configs"] == [
        {
            "config_name": "de",
            "data_files": [
                {"split": "train", "path": "de/train-*-of-00003.parquet"},
                {"split": "validation", "path": "de/validation-*-of-00001.parquet"},
            ],
        }
    ]
    api = HfApi(token=server.token)
    api.create_repo(REPO, repo_type="dataset")
    api.upload_file(path_or_fileobj=text.encode(), path_in_repo="README.md", repo_id=REPO, repo_type="dataset")


@pytest.mark.parametrize(
    ("rows", "size"), [(999, "n<1K"), (1000, "1K<n<10K"), (10**6, "1M<n<10M"), (10**7, "10M<n<100M")]
)
def test_sizes_fall_into_the_classes_of_the_hub(rows: int, size: str) -> None:
    """A class that the Hub does not know makes the metadata invalid."""
    text = dataset_card(content(rows={"train": rows}, files={"train": 1}))
    assert DatasetCard(text).data.size_categories == [size]


def test_the_card_tells_how_the_texts_were_made() -> None:
    """Generated text without model, prompt, date and rates cannot be judged or made again."""
    text = dataset_card(content(steps=steps("place")))
    assert headings(text) == [
        "Use",
        "Content",
        "Source",
        "Descriptions",
        "Translations",
        "Missing",
        "Licence and origin",
    ]
    for part in (
        "tiny-mllm", "`revision` | abc", "`decoding.seed` | 3", "Made on 2025-03-02", "| 77.78 % | empty 22.22 % |",
        "http_429 4", "org/nllb", "de, fr", "train: 2 items have no image", "| `train` | 29,000 |", PROMPT["text"],
    ):  # fmt: skip
        assert part in text, part
    assert "validation: 0 items" not in text


def test_a_prompt_with_marks_of_markdown_stays_one_block() -> None:
    """A fence inside the prompt would end the block and turn the rest into headings."""
    step = Step("describe", {"prompt": {"id": "custom", "text": "```\n# Answer\n````"}})
    text = dataset_card(content(steps=[step]))
    assert "`````text\n```\n# Answer\n````\n`````" in text


def test_a_prompt_is_shown_wherever_a_step_holds_it() -> None:
    """A back-translation has a prompt of its own, one level down; in a table its lines would be lost."""
    prompt = {"id": "translate-v1", "text": "First line.\nSecond line."}
    text = dataset_card(content(steps=[Step("translate", {"prompt": prompt, "back_translation": {"prompt": prompt}})]))
    assert text.count("First line.\nSecond line.") == 1
    assert "| `back_translation.prompt` | translate-v1 |" in text


def test_a_section_without_data_is_left_out() -> None:
    """Empty headings and placeholders tell readers that nobody looked."""
    bare = dataset_card(content(columns={"en": ["image_id", "caption_en"]}))
    assert headings(bare) == ["Use", "Content", "Licence and origin"]
    for word in ("None", "description", "translation", "generated", "{{", "Made on"):
        assert word not in bare, word
    assert "\n\n\n" not in bare
    only_read = dataset_card(content(steps=[Step("read", {})]))
    assert headings(only_read) == ["Use", "Content", "Source", "Licence and origin"]


def test_rows_left_out_at_the_push_are_told() -> None:
    """A silent drop makes two people compare other data under one name."""
    missing = MissingReport()
    missing.add("no image", "train", "a")
    assert "- train: 1 items have no image and are left out" in dataset_card(content(missing=missing))


def test_an_unknown_licence_is_said_aloud() -> None:
    """No licence means no permission; readers have to see it."""
    text = dataset_card(content())
    assert DatasetCard(text).data.license == "unknown"
    assert "licence of this data set was not stated" in text
    assert "not stated" not in dataset_card(content(), license_id="mit")


def test_quality_is_shown_where_it_was_measured(tmp_path: Path) -> None:
    """The report answers whether descriptions say more than captions; it belongs beside the data."""
    quality = {"rows": {"train": 3}, "columns": {}, "notes": [f"read from {tmp_path}/clip"]}
    (tmp_path / "quality.json").write_text(json.dumps(quality), encoding="utf-8")
    text = dataset_card(content(), quality=read_quality(tmp_path))
    assert "## Quality" in text and "### Not measured\n\n- read from clip" in text
    assert str(tmp_path) not in text
    assert read_quality(tmp_path / "absent") is None
    with pytest.raises(ValueError, match=r"absent holds no quality.json; give the folder that inspect_dataset wrote"):
        read_quality(tmp_path / "absent", required=True)
    (tmp_path / "quality.json").write_text("[1", encoding="utf-8")
    with pytest.raises(ValueError, match="is no quality report"):
        read_quality(tmp_path)


@pytest.mark.parametrize("with_images", [False, True])
def test_the_code_of_the_card_runs_as_printed(
    server: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    with_images: bool,
) -> None:
    """People copy it first; a line that fails is the end of it."""
    for split, count in SPLITS.items():
        (tmp_path / "pictures" / split).mkdir(parents=True)
        for item in range(1, count):
            picture(item).save(tmp_path / "pictures" / split / f"{item}.png")
    push_dataset(
        write_folder(tmp_path / "data"),
        REPO,
        write_card=partial(dataset_card, license_id="mit"),
        with_images=with_images,
        images=tmp_path / "pictures" if with_images else None,
        token=server.token,
    )
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    names: dict[str, Any] = {}
    exec(code_of(server.files(REPO)["README.md"].decode()), names)
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == str({"train": SPLITS["train"] - 1, "validation": SPLITS["validation"] - 1})
    assert len(printed) == (1 if with_images else 3)
    assert isinstance(names["splits"], datasets.DatasetDict) and "image" in names["splits"]["train"].column_names


def test_the_card_of_clips_joins_clips() -> None:
    """`attach_images` on a data set of videos is an error."""
    text = dataset_card(content(id_column="video_id", columns={"zh": ["video_id", "caption_en", "caption_zh"]}))
    assert 'attach_videos(texts, "clips")' in code_of(text)
    assert "picture" not in text
    compile(code_of(text), "card", "exec")
    assert DatasetCard(text).data.task_categories == ["video-text-to-text"]


def test_captions_that_a_model_wrote_are_not_called_human() -> None:
    """The card of a folder of pictures told of human captions, and of captions that are missing."""
    read = Step("read", {}, {"missing": {"no English caption": {"train": 7}, "no image": {"train": 2}}})
    written = Step("describe", {"model": "m"}, {"caption_en_flag": {"ok": 6, "refusal": 1}})
    columns = {"en": ["image_id", "caption_en", "caption_en_flag"]}
    text = dataset_card(content(columns=columns, steps=[read, written]))
    assert "captions in English; those with a flag were written by a model" in text and "human captions" not in text
    assert "The captions with a flag were generated and may be wrong" in text
    assert "items have no English caption" not in text and "- train: 2 items have no image" in text
    human = dataset_card(content(columns={"en": ["image_id", "caption_en"]}, steps=[read]))
    assert "human captions in English" in human and "- train: 7 items have no English caption" in human
