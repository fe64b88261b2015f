"""Videos from rows to batches: one crop for all frames of a clip, streams of clips and of features as loaded ones."""

import itertools
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from processing.augmentation import RandomResizedCrop, draw_of
from processing.collator import LeccrCollator
from processing.pairs import CaptionPairs
from processing.streaming import StreamedPairs, StreamPlace, find_parquet_split
from processing.video_frames_leccr import FrameSampling, sample_frames, sample_positions
from processing.visual_rows import VisualReader
from tests.clips import make_clip
from tests.processing_parts import items, picture, tiny_processor

NUM_ITEMS, SHARDS = 9, 3


def row_of(index: int, **seen: Any) -> dict[str, Any]:
    return {
        "image_id": f"clip-{index}",
        "item_index": index,
        "source_caption": f"dog {index}",
        "target_caption": f"Hund {index}",
        "target_language": "de",
        "description": "a dog",
        "draw": draw_of(index),
        **seen,
    }


def features_of(num_frames: int, item: int) -> np.ndarray:
    return np.random.default_rng(item).normal(size=(num_frames, 4)).astype(np.float32)


def test_batches_of_videos_are_padded_under_a_mask():
    """A mask that is lost, or belongs to other rows, lets zeros into every mean over frames."""
    frames = {1: [picture(0)], 3: [picture(seed) for seed in (1, 2, 3)]}
    features = {1: features_of(1, 0), 3: features_of(3, 1)}
    for key, seen, pixels in (("frames", frames, "pixel_values"), ("features", features, "frame_features")):
        rows = [row_of(index, **{key: seen[count]}) for index, count in enumerate((3, 1, 3))]
        batch = LeccrCollator(tiny_processor())([*rows, None])
        assert batch["frame_mask"].tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 1]] and batch["num_skipped"] == 1
        assert batch[pixels].shape[:2] == (3, 3) and torch.equal(batch[pixels][0], batch[pixels][2])
        assert not batch[pixels][1, 1:].any() and batch[pixels][1, 0].any()
        assert batch["image_ids"].tolist() == [0, 1, 2] and batch["description_input_ids"].shape[0] == 3


def test_all_frames_of_a_clip_are_cut_and_mirrored_alike():
    """With a crop for each frame, everything would seem to move, and a flip halfway would turn left into right."""
    crop = RandomResizedCrop(8)
    processor = tiny_processor(size=8)
    marked = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8))
    rows = [row_of(index, frames=[marked] * 4) for index in range(12)]
    pixels = LeccrCollator(processor, augmentation=crop)(rows)["pixel_values"]
    for clip in pixels:
        assert all(torch.equal(frame, clip[0]) for frame in clip)
    assert len({clip[0].numpy().tobytes() for clip in pixels}) == len(rows)  # each clip has a crop of its own
    expected = processor(images=[crop(marked, row["draw"]) for row in rows])["pixel_values"]
    assert torch.equal(pixels[:, 0], expected)
    again = LeccrCollator(processor, augmentation=crop)(rows[::-1])["pixel_values"]
    assert torch.equal(again.flip(0), pixels)


def test_features_are_not_augmented():
    """There is nothing to cut; a crop would fail on an array, or cut frames."""
    rows = [row_of(index, features=features_of(2, index)) for index in range(2)]
    batch = LeccrCollator(tiny_processor(), augmentation=RandomResizedCrop(8))(rows)
    assert torch.equal(batch["frame_features"], torch.from_numpy(np.stack([row["features"] for row in rows])))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of clips as bytes, features as numbers, and parts of the clips; a validation split with neither."""
    root = tmp_path_factory.mktemp("videos")
    clip = make_clip(root / "a.mp4", 20).read_bytes()
    texts = items(NUM_ITEMS, 2).remove_columns("image").rename_column("image_id", "video_id")
    split = texts.add_column("video", [{"bytes": clip, "path": None}] * NUM_ITEMS).cast_column(
        "video", datasets.Video(decode=False)
    )
    split = split.add_column("features", [features_of(item + 1, item).tolist() for item in range(NUM_ITEMS)])
    split = split.cast_column("features", datasets.List(datasets.List(datasets.Value("float32"))))
    split = split.add_column("start", [0.1 * item for item in range(NUM_ITEMS)])
    split = split.add_column("end", [None if item % 2 else 1.5 for item in range(NUM_ITEMS)])
    (root / "data").mkdir()
    for shard in range(SHARDS):
        rows = split.select(range(shard, NUM_ITEMS, SHARDS))
        rows.to_parquet(str(root / "data" / f"train-{shard:05d}-of-{SHARDS:05d}.parquet"))
    return root / "data"


def stream(folder: Path, vision_input: str, **settings: Any) -> StreamedPairs:
    settings = {"seed": 0, "shuffle_buffer": 3, "sampling": FrameSampling(4), **settings}
    return StreamedPairs(find_parquet_split(folder, "train"), ["de"], vision_input=vision_input, **settings)


def seen_of(row: dict[str, Any], vision_input: str) -> np.ndarray:
    return np.stack([np.asarray(part) for part in row[vision_input]])


@pytest.mark.parametrize("vision_input", ["frames", "features"])
def test_streamed_videos_are_those_of_a_loaded_split(folder: Path, vision_input: str):
    """What is read on the way differs in each part: parquet or Arrow, rows or tables, one file or all."""
    loaded = CaptionPairs(
        find_parquet_split(folder, "train").load(), ["de"], vision_input=vision_input, sampling=FrameSampling(4)
    )
    by_caption = {pair["source_caption"]: index for index in range(len(loaded)) if (pair := loaded[index])}
    rows = stream(folder, vision_input).__getitems__([StreamPlace(0, 0, NUM_ITEMS)])
    assert {row["image_id"] for row in rows if row} == {f"item-{item}" for item in range(NUM_ITEMS)}
    for row in rows:
        assert row is not None and "image" not in row
        same = loaded.pair(by_caption[row["source_caption"]], row["draw"])
        assert same is not None and same["image_id"] == row["image_id"]
        assert np.array_equal(seen_of(row, vision_input), seen_of(same, vision_input))
    by_id = {row["image_id"]: row for row in rows if row}
    if vision_input == "features":
        places = sample_positions(9, 4, draw_of(by_id["item-8"]["draw"], "frames"))
        assert np.array_equal(by_id["item-8"]["features"], features_of(9, 8)[places])
    else:
        clip = sample_frames(
            next(folder.parent.glob("*.mp4")),
            FrameSampling(4),
            start=0.8,
            end=1.5,
            draw=draw_of(by_id["item-8"]["draw"], "frames"),
        )
        assert np.array_equal(seen_of(by_id["item-8"], "frames"), np.stack([np.asarray(frame) for frame in clip]))


@pytest.mark.parametrize("vision_input", ["frames", "features"])
def test_a_stream_of_videos_that_was_stopped_goes_on_with_the_same_frames(folder: Path, vision_input: str):
    """The draw of a row decides its frames, not how many were read before."""
    whole = list(itertools.islice(iter_batches(folder, vision_input), 6))
    pairs = stream(folder, vision_input)
    resumed = [
        collate(pairs.__getitems__([place]), vision_input) for (place,) in itertools.islice(pairs.batches(3), 3, 6)
    ]
    for left, right in zip(whole[3:], resumed, strict=True):
        assert left["item_names"] == right["item_names"]
        key = "pixel_values" if vision_input == "frames" else "frame_features"
        assert torch.equal(left[key], right[key]) and torch.equal(left["frame_mask"], right["frame_mask"])


def collate(rows: list[dict[str, Any] | None], vision_input: str) -> dict[str, Any]:
    augmentation = RandomResizedCrop(8) if vision_input == "frames" else None
    return LeccrCollator(tiny_processor(num_frames=4), augmentation=augmentation)(rows)


def iter_batches(folder: Path, vision_input: str) -> Any:
    pairs = stream(folder, vision_input)
    return iter(DataLoader(pairs, batch_sampler=pairs.batches(3), collate_fn=lambda rows: collate(rows, vision_input)))


def test_a_worker_gives_the_batches_of_the_main_process(folder: Path):
    """A worker is forked after the first batch was read, with whatever a decoder has open."""
    first = next(iter_batches(folder, "frames"))
    pairs = stream(folder, "frames")
    collator = LeccrCollator(tiny_processor(num_frames=4), augmentation=RandomResizedCrop(8))
    loader = DataLoader(pairs, batch_sampler=pairs.batches(3), num_workers=1, collate_fn=collator, timeout=60)
    found = next(iter(loader))
    assert all(torch.equal(found[key], first[key]) for key in ("pixel_values", "frame_mask", "source_input_ids"))


def test_only_what_the_model_sees_is_read_and_only_when_it_is_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Clips beside features would fill the buffer of the stream; decoded ones even more."""
    (item, *_) = stream(folder, "features").items_of_pass(0, 0)
    assert isinstance(item["features"], np.ndarray) and not {"video", "start", "end"} & set(item)
    (item, *_) = stream(folder, "frames").items_of_pass(0, 0)
    assert isinstance(item["video"]["bytes"], bytes) and "features" not in item
    (item, *_) = stream(folder, "frames", read_images=False).items_of_pass(0, 0)
    assert not {"video", "features", "start", "end"} & set(item)
    decoded = []
    monkeypatch.setattr(VisualReader, "read", lambda *_, **__: decoded.append(1) or {})
    pairs = stream(folder, "frames")
    pairs.__getitems__([StreamPlace(0, 5 * 3, 3)])
    assert len(decoded) == 3


def test_a_stream_without_what_the_model_sees_is_refused(folder: Path, tmp_path: Path):
    """An hour of shuffling would end at the first row."""
    with pytest.raises(ValueError, match="vision_input 'image' reads the column 'image'"):
        stream(folder, "image")
    items(3).to_parquet(str(tmp_path / "train-00000-of-00001.parquet"))
    with pytest.raises(ValueError, match="vision_input 'features' reads the column 'features'"):
        stream(tmp_path, "features")


@pytest.mark.parametrize("corrupt_images", ["error", "skip"])
def test_a_damaged_video_of_a_stream_is_named_or_skipped(tmp_path: Path, corrupt_images: str):
    """The row is gone with its shard; only its id tells which one it was."""
    texts = items(4, 1).remove_columns("image").rename_column("image_id", "video_id")
    cells: list[Any] = [features_of(2, 0).tolist(), None, [[1.0], [1.0, 2.0]], [[float("nan")]]]
    split = texts.add_column("features", cells)
    split.to_parquet(str(tmp_path / "train-00000-of-00001.parquet"))
    pairs = stream(tmp_path, "features", corrupt_images=corrupt_images, shuffle_buffer=1)
    if corrupt_images == "skip":
        rows = pairs.__getitems__([StreamPlace(0, 0, 4)])
        assert [row and row["image_id"] for row in rows] == ["item-0", None, None, None]
        return
    for first in (1, 2, 3):
        with pytest.raises(ValueError, match=f"^item 'item-{first}': its features must be readable"):
            stream(tmp_path, "features", shuffle_buffer=1).__getitems__([StreamPlace(0, first, 1)])
