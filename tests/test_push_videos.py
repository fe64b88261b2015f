"""A data set of clips pushed to the Hub: its texts and times arrive, its clips and features stay at home."""

from pathlib import Path
from typing import Any

import datasets
import pytest

from hub_scripts.dataset_card import dataset_card
from processing.hub_dataset import push_dataset
from processing.media import attach_videos
from processing.sources import write_splits
from tests.hub_parts import steps
from tests.hub_server import hub
from tests.video_parts import video_split, write_clips

TIMES: dict[str, list[Any]] = {"start": [0.0, None, 0.1, 0.0], "end": [0.2, None, None, 0.1]}


@pytest.mark.parametrize("vision_input", ["frames", "features"])
def test_texts_and_times_arrive_and_clips_stay_at_home(vision_input: str, tmp_path: Path) -> None:
    """Without their times, the captions of a part would be trained on with the whole clip."""
    times = {name: datasets.Value("float64") for name in TIMES}
    split = video_split(vision_input, 4)
    for name, cells in TIMES.items():
        split = split.add_column(name, cells, feature=times[name])
    folder = write_splits({"train": split}, tmp_path / "data", steps=steps(str(tmp_path)))
    settings: dict[str, Any] = {"write_card": dataset_card}
    with pytest.raises(ValueError, match=r"data set of clips, which are not put inside.*--with-images"):
        push_dataset(folder, "owner/clips", with_images=True, dry_run=True, **settings)
    with hub(tmp_path / "home") as server:
        pushed = push_dataset(folder, "owner/clips", token=server.token, **settings)
        card = server.files("owner/clips")["README.md"].decode()
        rows = datasets.load_dataset("owner/clips", "de", split="train")
    assert pushed["left_out_columns"] == []
    assert {"video_id", "start", "end", "description", "caption_en", "caption_de_mt"} <= set(rows.column_names)
    assert not {"video", "features"} & set(rows.column_names)
    assert {name: rows[name][:] for name in TIMES} == TIMES
    joined, missing = attach_videos(rows, write_clips(tmp_path / "clips", 3))
    assert len(joined) == 3 and sum(missing.counts()["no video"].values()) == 1
    assert "The clips are not inside." in card and "image-text" not in card and "picture" not in _told(card)
    assert "| `start` | second of the clip at which the item begins; null: its beginning |" in card
    assert "\n- video-text-retrieval\n" in card


def _told(card: str) -> str:
    """The card without the settings of its steps, which are those of a data set of pictures here."""
    return card.partition("\n## Source")[0] + card.partition("\n## Licence")[2]
