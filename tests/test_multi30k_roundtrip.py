"""Multi30K as distributed, through a Hub and back, joined with real pictures."""

from pathlib import Path

import datasets
import pytest

from hub_scripts.push_dataset import main as push
from hub_scripts.read_dataset import main as read
from processing.media import attach_images
from processing.sources import open_splits
from tests.hub_server import hub


@pytest.mark.realdata
def test_multi30k_comes_back_from_the_hub_and_finds_its_pictures(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The path of a researcher: read, push, download by language, join. A lost or moved row spoils every recall."""
    command = ["multi30k", "--root", str(data_dir / "multi30k"), "--task", "1", "--languages", "de", "fr", "cs"]
    read([*command, "--out", str(tmp_path / "read")])
    written = open_splits(tmp_path / "read")
    with hub(tmp_path / "home") as server:
        monkeypatch.setenv("HF_TOKEN", server.token)
        push(["--dataset", str(tmp_path / "read"), "--repo", "owner/multi30k-leccr", "--license", "cc-by-nc-sa-4.0"])
        loaded = {language: datasets.load_dataset("owner/multi30k-leccr", language) for language in ("de", "fr", "cs")}
    for language, splits in loaded.items():
        assert {name: len(split) for name, split in splits.items()} == {
            "train": 29000,
            "validation": 1014,
            "test": 1000,
        }
        for name, split in splits.items():
            for column in ("image_id", "caption_en", f"caption_{language}"):
                assert split[column] == written[name][column], (language, name, column)
    pictures = open_splits(data_dir / "flickr8k-ccr")
    # Flickr8k writes <photo>_<secret> where Multi30K writes <photo>.jpg.
    photos = datasets.concatenate_datasets(list(pictures.values())).select_columns(["image", "image_id", "m30k_en"])
    photos = photos.map(
        lambda ids: {"image_id": [name.partition("_")[0] for name in ids]}, input_columns="image_id", batched=True
    )
    joined, missing = attach_images(loaded["de"], photos)
    # Of Multi30K's photos 6,993 / 242 / 243 are Flickr8k's; those of Flickr8k's own test split are not given.
    assert {name: len(split) for name, split in joined.items()} == {"train": 6043, "validation": 210, "test": 209}
    assert missing.counts() == {"no image": {"train": 22957, "validation": 804, "test": 791}}
    sentences = dict(zip(photos["image_id"], photos["m30k_en"], strict=True))
    for split in joined.values():
        texts = split.select_columns(["image_id", "caption_en"])
        assert all(row["caption_en"] == [sentences[row["image_id"]]] for row in texts)
    assert joined["test"][208]["image"].size == (128, 128)
