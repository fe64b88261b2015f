"""What is written down about a run: the data that it read, and each of its starts."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from modeling_leccr.training.arguments import LeccrTrainingArguments
from modeling_leccr.training.trainer import LeccrTrainer
from processing.pairs import CaptionPairs
from processing.readers.feature_store import attach_features
from processing.streaming import ParquetSplit, find_parquet_split
from reporting import fingerprints
from reporting.curves import draw_training_curves
from reporting.fingerprints import data_fingerprints, fingerprint
from reporting.model_card import model_card
from reporting.model_record import ModelRecord
from reporting.run_record import RUN_FILE, write_run_start
from tests.model_card_parts import full_record
from tests.test_model_card_text import facts
from tests.tiny import tiny_model, tiny_processor
from tests.training_parts import tiny_split
from tests.video_parts import clip_bytes, features_of, video_split


def noise(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_a_fingerprint_counts_what_a_split_holds():
    """Captions that were refused train nothing, and are not counted."""
    refused = [["ein Hund"], [None], ["eine Katze"], ["ein Haus"], ["ein Baum"], ["ein Auto"]]
    split = tiny_split(6, caption_de_mt=refused, description=["a dog", None, "", "a house", "a tree", "a car"])
    found = fingerprint(split)
    assert found["num_items"] == 6 and found["num_described"] == 4
    assert found["num_captions"]["caption_de_mt"] == 5 and found["num_captions"]["caption_en"] == 6
    assert len(found["sha256"]) == 64


@pytest.mark.parametrize("name", ["image_id", "caption_en", "caption_de_mt", "caption_de", "description"])
def test_another_text_is_another_fingerprint(name: str):
    """A translation that was made again is other data, with as many captions."""
    split = tiny_split(6)
    values = split[name][:]
    values[4] = "another" if isinstance(values[4], str) else ["another"]
    assert fingerprint(tiny_split(6, **{name: values}))["sha256"] != fingerprint(split)["sha256"]


def test_another_picture_or_order_is_another_fingerprint():
    """Pictures of another size or crop change every number of a run."""
    split = tiny_split(6)
    pictures = [noise(place) for place in range(6)]
    same, other = tiny_split(6, image=pictures), tiny_split(6, image=[*pictures[:5], noise(9)])
    prints = [fingerprint(each)["sha256"] for each in (same, other, same.select([1, 0, 2, 3, 4, 5]), split)]
    assert len(set(prints)) == 4 and fingerprint(tiny_split(6, image=pictures))["sha256"] == prints[0]


def test_a_fingerprint_knows_a_picture_that_it_does_not_read_by_its_size(monkeypatch: pytest.MonkeyPatch):
    """Of millions of pictures only a few are read, and one of the others may be the one that changed."""
    monkeypatch.setitem(fingerprints._MAX_READ, "image", 2)
    pictures = [noise(place) for place in range(6)]
    other = tiny_split(6, image=[*pictures[:5], Image.new("RGB", (8, 8))])
    assert fingerprint(tiny_split(6, image=pictures))["sha256"] != fingerprint(other)["sha256"]


def test_a_fingerprint_does_not_depend_on_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The same data in other shards, in another folder, or as files beside the table are the same data."""
    monkeypatch.setattr(fingerprints, "_ROWS_AT_A_TIME", 4)
    split = tiny_split(6, image=[noise(place) for place in range(6)])
    for place in range(2):
        split.shard(2, place, contiguous=True).to_parquet(str(tmp_path / f"{place}.parquet"))
    sharded = datasets.load_dataset("parquet", data_files=str(tmp_path / "*.parquet"), split="train")
    assert fingerprint(sharded) == fingerprint(split)
    stored = split.cast_column("image", datasets.Image(decode=False))
    paths = []
    for place, picture in enumerate(stored["image"]):
        (tmp_path / f"{place}.png").write_bytes(picture["bytes"])
        paths.append(str(tmp_path / f"{place}.png"))
    assert fingerprint(tiny_split(6, image=paths)) == fingerprint(split)


def test_a_picture_that_is_missing_does_not_end_the_run():
    """`corrupt_images: skip` promises a run that goes on without it."""
    split = tiny_split(6, image=[noise(0), None, {"bytes": None, "path": "gone.png"}, *map(noise, (3, 4, 5))])
    assert fingerprint(split)["num_items"] == 6


def test_other_clips_and_other_features_are_other_data(tmp_path: Path):
    """The same captions with the clips cut anew, or with features of another network, are another experiment."""
    clips = [clip_bytes(item) for item in range(6)]
    inside = [{"bytes": clip, "path": None} for clip in clips]
    paths = []
    for place, clip in enumerate(clips):
        (tmp_path / f"{place}.mp4").write_bytes(clip)
        paths.append(str(tmp_path / f"{place}.mp4"))
    split = video_split("frames", 6, video=inside)
    beside = split.remove_columns(["video"]).add_column("video", paths)
    assert fingerprint(beside) == fingerprint(split)
    without = video_split("frames", 6, video=[*inside[:5], None])
    parts = split.add_column("end", [1.0] * 6)
    numbers = [features_of(item).tolist() for item in range(6)]
    features, others = (
        video_split("features", 6, features=cells) for cells in (numbers, [*numbers[:5], features_of(9).tolist()])
    )
    for item in range(6):
        np.save(tmp_path / f"item-{item}.npy", features_of(item))
    joined, _ = attach_features(features.remove_columns(["features"]), tmp_path)
    assert fingerprint(joined) == fingerprint(features)
    damaged = video_split("features", 6, features=[*numbers[:5], [[float("nan")]]])
    different = (split, split.select([1, 0, 2, 3, 4, 5]), without, parts, features, others, damaged)
    assert len({fingerprint(each)["sha256"] for each in different}) == len(different)


def test_a_stream_is_known_by_its_files(tmp_path: Path):
    """Reading all rows of a stream to name it would take longer than training on it."""
    for name in ("train", "validation"):
        tiny_split(6).to_parquet(str(tmp_path / f"{name}-00000-of-00001.parquet"))

    def stream() -> dict[str, Any]:
        return data_fingerprints({"train": find_parquet_split(str(tmp_path), "train")}, "mine", {"train": "train"})

    first = stream()["train"]
    assert first["dataset"] == "mine" and first["split"] == "train" and first["num_files"] == 1
    assert stream()["train"] == first
    tiny_split(5).to_parquet(str(tmp_path / "train-00000-of-00001.parquet"))
    assert stream()["train"]["sha256"] != first["sha256"]


def test_a_start_is_recorded_with_its_settings_and_without_tokens(tmp_path: Path):
    """The file lies beside the weights, and people zip such folders and send them."""
    settings = {"seed": 3, "hub_token": "hf_secret", "controls": {"small": {"push_to_hub_token": "hf_secret"}}}
    path = write_run_start(tmp_path, settings, data={"train": {"num_items": 2}}, num_processes=4, resumed=False)
    (start,) = json.loads(path.read_text(encoding="utf-8"))["starts"]
    assert path == tmp_path / RUN_FILE and "hf_secret" not in path.read_text(encoding="utf-8")
    assert start["settings"] == {"seed": 3, "controls": {"small": {}}} and start["num_processes"] == 4
    assert start["data"] == {"train": {"num_items": 2}} and start["environment"]["libraries"]["torch"]


def test_a_resumed_run_keeps_the_record_of_its_earlier_starts(tmp_path: Path):
    """Half of the steps were made by other versions, and the file would name one of them alone."""
    for seed, resumed in ((1, True), (2, True), (3, False), (4, True)):
        write_run_start(tmp_path, {"seed": seed}, data={}, num_processes=1, resumed=resumed)
    starts = json.loads((tmp_path / RUN_FILE).read_text(encoding="utf-8"))["starts"]
    assert [start["settings"]["seed"] for start in starts] == [3, 4]


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_damaged_record_of_a_run_is_refused(tmp_path: Path, text: str):
    """Written over, the record of the earlier starts would be lost."""
    (tmp_path / RUN_FILE).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"run\.json is no record of a run"):
        write_run_start(tmp_path, {}, data={}, num_processes=1, resumed=True)


def test_fingerprints_travel_with_the_model(tmp_path: Path):
    """They are fit to be published: names, counts and hashes, and a cleaning must not take the hashes for tokens."""
    data = data_fingerprints({"train": tiny_split(4)}, "owner/pictures", {"train": "train"})
    record = dataclasses.replace(ModelRecord(), data=data)
    record.public().write(tmp_path)
    assert ModelRecord.read(tmp_path).data == data


def test_a_run_that_goes_on_with_other_data_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """A folder whose captions were translated again in between has the same name."""
    for steps, texts in ((1, {}), (2, {"caption_de_mt": [["neu"]] * 8})):
        split = tiny_split(8, **texts)
        data = data_fingerprints({"train": split}, "owner/pictures", {"train": "train"})
        trainer = LeccrTrainer(
            tiny_model(),
            LeccrTrainingArguments(
                output_dir=str(tmp_path),
                per_device_train_batch_size=4,
                max_steps=steps,
                eval_strategy="no",
                save_strategy="steps",
                save_steps=1,
                load_best_model_at_end=False,
                use_cpu=True,
            ),
            processor=tiny_processor(),
            pairs=CaptionPairs(split, ["de"]),
            validation=None,
            languages=["de"],
            record=ModelRecord(data=data),
        )
        caplog.clear()
        trainer.train(resume_from_checkpoint=True)
    (warning,) = [message for message in caplog.messages if "split changed" in message]
    assert "the training split changed: 8 items as before, with other contents" in warning


def test_the_card_tells_how_much_was_seen(tmp_path: Path):
    """The name of a data set does not say which state of it, nor how much of it."""
    data = data_fingerprints({"train": tiny_split(4)}, "owner/pictures", {"train": "train"})
    (tmp_path / "one.parquet").write_bytes(b"PAR1")
    stream = ParquetSplit("owner/pictures", "train", (str(tmp_path / "one.parquet"),), ("image_id",))
    streamed = data_fingerprints({"train": stream}, "owner/pictures", {"train": "train"})
    for known, told in ((data, "4 items, 4 English captions, fingerprint"), (streamed, "1 parquet file, fingerprint")):
        card = model_card(facts(full_record(data=known)))
        assert f"- Training split: {told} `{known['train']['sha256'][:16]}`.\n" in card


def test_the_picture_of_a_run_shows_its_speed(tmp_path: Path):
    """A run whose accelerator waited for half of its time looks like any other by its losses."""
    lines = [{"step": step, "loss": 2.0 / step, "learning_rate": 1e-3} for step in (1, 2, 3)]
    fast = [*lines[:1], *(line | {"pairs_per_second": 40.0, "data_wait_share": 0.1} for line in lines[1:])]
    slow = [line | {"data_wait_share": 0.9} if "data_wait_share" in line else line for line in fast]
    pictures = []
    for name, log in {"without": lines, "fast": fast, "slow": slow}.items():
        with Image.open(draw_training_curves(log, tmp_path / f"{name}.png", title="run")) as picture:
            pictures.append(picture.convert("RGB"))
    assert pictures[0].width < pictures[1].width == pictures[2].width
    assert pictures[1].tobytes() != pictures[2].tobytes()
