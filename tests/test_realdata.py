"""The photo recipe on the real data set, where LECCR_DATA names its folder."""

from pathlib import Path

import pytest

from modeling_leccr.training.arguments import parse_recipe
from modeling_leccr.training.building import build_processor, load_splits
from processing.collator import LeccrCollator
from processing.pairs import CaptionPairs


@pytest.mark.realdata
def test_the_photo_recipe_makes_batches_of_the_real_data(data_dir: Path, root_dir: Path, tmp_path: Path):
    """A recipe whose columns or splits the data set lacks is found only by whoever trains on it."""
    arguments = ["--dataset", str(data_dir / "flickr8k-ccr"), "--train_items", "8", "--output_dir", str(tmp_path)]
    recipe = parse_recipe([str(root_dir / "configs" / "flickr8k_zh.yaml"), *arguments])
    splits = load_splits(recipe.data)
    assert len(splits["validation"]) == 1000 and "test" not in splits
    processor = build_processor(recipe.model, splits["train"], recipe.data.target_languages)
    pairs = CaptionPairs(splits["train"], recipe.data.target_languages)
    batch = LeccrCollator(processor)([pairs[position] for position in range(4)])
    assert batch["image_ids"].tolist() == [0, 0, 0, 1]
    assert batch["pixel_values"].shape == (4, 3, 96, 96)
