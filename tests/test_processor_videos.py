"""Videos and features of frames in a processor: the pixels of pictures, padded under a mask, sampled, checked."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from processing.processing_leccr import LeccrProcessor
from processing.video_frames_leccr import sample_positions
from tests.clips import make_clip
from tests.processing_parts import picture, tiny_processor


def frames_of(num_frames: int, first: int = 0) -> list[Image.Image]:
    return [picture(first + index) for index in range(num_frames)]


def features_of(num_frames: int, dim: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num_frames, dim)).astype(np.float32)


def test_frames_have_the_pixels_of_pictures_and_zeros_behind_them():
    """A frame that is resized or normalised in another way than pictures are is foreign to a pretrained tower."""
    processor = tiny_processor(size=8)
    videos = [frames_of(2), frames_of(5, first=2), frames_of(1, first=7)]
    batch = processor(videos=videos)
    assert set(batch) == {"pixel_values", "frame_mask"}
    assert batch["pixel_values"].shape == (3, 5, 3, 8, 8) and batch["pixel_values"].dtype == torch.float32
    assert batch["frame_mask"].tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]]
    assert batch["frame_mask"].dtype == torch.int64
    for video, pixels in zip(videos, batch["pixel_values"], strict=True):
        assert torch.equal(pixels[: len(video)], processor(images=video)["pixel_values"])
        assert not pixels[len(video) :].any()


def test_a_video_is_the_same_alone_and_beside_longer_ones():
    """Padding is all that a longer neighbour may bring."""
    processor = tiny_processor()
    for name, items in (
        ("videos", [frames_of(2), frames_of(4)]),
        ("features", [features_of(2), features_of(4, seed=1)]),
    ):
        together = processor(**{name: items})
        alone = processor(**{name: items[:1]})
        for key, values in alone.items():
            assert torch.equal(together[key][:1, :2], values), key


def test_a_video_may_be_given_in_many_forms(tmp_path: Path):
    """Files are what practitioners have, arrays what a camera gives, bytes what a data set stores."""
    processor = tiny_processor(size=8, num_frames=4)
    clip = make_clip(tmp_path / "a.mp4", 20)
    (tmp_path / "frames").mkdir()
    grey = [Image.new("RGB", (48, 32), (index * 10,) * 3) for index in range(20)]
    for index, frame in enumerate(grey):
        frame.save(tmp_path / "frames" / f"{index}.png")
    array = np.stack([np.asarray(frame) for frame in grey])
    expected = processor(images=[grey[index] for index in (2, 7, 12, 17)])["pixel_values"]
    forms: list[Any] = [tmp_path / "frames", str(tmp_path / "frames"), grey, [grey], array, [array], array[None]]
    for video in forms:
        found = processor(videos=video)["pixel_values"]
        assert found.shape == (1, 4, 3, 8, 8) and torch.equal(found[0], expected)
    for video in (str(clip), clip.read_bytes(), [{"bytes": clip.read_bytes(), "path": None}]):
        found = processor(videos=video)["pixel_values"][0]
        torch.testing.assert_close(found, expected, atol=0.05, rtol=0)  # after the losses of the codec
    both = processor(videos=np.stack([array, array[::-1]]))["pixel_values"]
    assert torch.equal(both[0], expected) and torch.equal(both[1], expected.flip(0))


def test_features_may_be_given_in_many_forms(tmp_path: Path):
    """They come from a store, a file or another model."""
    processor = tiny_processor()
    features = features_of(3)
    np.save(tmp_path / "a.npy", features[None].astype(np.float64))
    tensor = torch.from_numpy(features)
    forms: list[Any] = [features, [features], features[None], tensor, [tensor.bfloat16().float()], [features.tolist()]]
    for form in [*forms, str(tmp_path / "a.npy"), tmp_path / "a.npy", [str(tmp_path / "a.npy")]]:
        batch = processor(features=form)
        assert set(batch) == {"frame_features", "frame_mask"} and batch["frame_features"].dtype == torch.float32
        assert batch["frame_mask"].tolist() == [[1, 1, 1]]
        torch.testing.assert_close(batch["frame_features"][0], tensor, atol=0.02, rtol=0)
    assert processor(features=np.stack([features, features]))["frame_features"].shape == (2, 3, 3)
    assert processor(features=[features[0]])["frame_features"].shape == (1, 1, 3)
    features[:] = 0  # the batch is no view of what was given
    assert batch["frame_features"].any()


def test_long_videos_are_sampled_and_short_ones_kept_whole():
    """Every frame of an hour would not fit into memory; a short clip has nothing to spare."""
    processor = tiny_processor(num_frames=4)
    batch = processor(videos=[frames_of(9), frames_of(3)])
    expected = processor(images=[picture(index) for index in sample_positions(9, 4)])["pixel_values"]
    assert torch.equal(batch["pixel_values"][0], expected)
    assert batch["frame_mask"].sum(dim=1).tolist() == [4, 3]
    features = features_of(9)
    thinned = processor(features=[features])["frame_features"][0]
    assert torch.equal(thinned, torch.from_numpy(features[sample_positions(9, 4)]))
    assert tiny_processor()(features=[features])["frame_features"].shape[1] == 9  # none are left out unasked


def test_a_rate_of_frames_is_that_of_the_video(tmp_path: Path):
    """So that a second is as long in each clip, where that matters."""
    clip = make_clip(tmp_path / "a.mp4", 20, frames_per_second=10)
    processor = tiny_processor(num_frames=8, frame_rate=2.0)
    assert processor(videos=str(clip))["pixel_values"].shape[1] == 4
    assert tiny_processor(num_frames=3, frame_rate=2.0)(videos=str(clip))["pixel_values"].shape[1] == 3


@pytest.mark.parametrize("name", ["videos", "features"])
def test_descriptions_belong_to_videos(name: str):
    """One too few shifts all that follow."""
    processor = tiny_processor()
    given: Any = {"videos": [frames_of(2), frames_of(1)], "features": [features_of(2), features_of(1)]}[name]
    batch = processor(**{name: given}, descriptions=["two dogs", None])
    assert batch["description_attention_mask"].sum(dim=1).tolist()[1] == 0
    for wrong in (["two dogs"], ["two dogs"] * 3):
        with pytest.raises(ValueError, match=f"one for each image .* for 2 {name}"):
            processor(**{name: given}, descriptions=wrong)
    as_text = processor(**{name: given}, text=["two dogs", "snow"], describes_images=True)
    assert "input_ids" not in as_text and as_text["description_input_ids"].shape[0] == 2


def test_tensors_come_in_the_type_that_is_asked_for():
    """Tools of numpy read a processor too."""
    for given in ({"videos": [frames_of(2), frames_of(1)]}, {"features": [features_of(2), features_of(1)]}):
        expected = tiny_processor()(**given)
        for key, value in tiny_processor()(**given, return_tensors="np").items():
            assert isinstance(value, np.ndarray) and np.array_equal(value, expected[key].numpy())


def test_wrong_videos_are_refused_by_their_place(tmp_path: Path):
    """The message must say which of a hundred is broken."""
    processor, good = tiny_processor(), frames_of(2)
    (tmp_path / "a.mp4").write_bytes(b"no clip")
    for wrong in (str(tmp_path / "a.mp4"), str(tmp_path / "none.mp4"), b"", [], np.zeros((0, 4, 4, 3), np.uint8)):
        with pytest.raises(ValueError, match=r"^videos\[1\] must "):
            processor(videos=[good, wrong])
    with pytest.raises(TypeError, match=r"^videos\[1\] must be a path, bytes, pictures or an array, got int"):
        processor(videos=[good, 3])
    features = features_of(2)
    (tmp_path / "a.npy").write_bytes(b"no array")
    wrongs: tuple[Any, ...] = ([[1.0], [1.0, 2.0]], [], np.zeros((2, 2, 3)), {"a": 1})
    for wrong in wrongs:
        with pytest.raises(ValueError, match=r"^features\[1\] must be numbers \(num_frames, dim\)"):
            processor(features=[features, wrong])
    with pytest.raises(ValueError, match=r"a\.npy is not a readable \.npy file"):
        processor(features=[features, str(tmp_path / "a.npy")])
    with pytest.raises(ValueError, match=r"^features\[1\] must be finite"):
        processor(features=[features, np.full((2, 3), np.nan)])
    with pytest.raises(ValueError, match=r"features must be of one width, got \[3, 4\]"):
        processor(features=[features, features_of(2, dim=4)])


def test_pictures_videos_and_features_exclude_each_other():
    """A model sees one of them; the others would be dropped in silence."""
    for given in (
        {"images": picture(), "videos": [frames_of(1)]},
        {"videos": [frames_of(1)], "features": [features_of(1)]},
    ):
        with pytest.raises(ValueError, match=r"one of images, videos and features; got \['\w+', '\w+'\]"):
            tiny_processor()(**given)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_frames": 0}, "num_frames must be at least 1"),
        ({"num_frames": 4, "frame_rate": 0.0}, "frame_rate must be"),
        ({"frame_rate": 2.0}, "frame_rate needs num_frames"),
    ],
)
def test_impossible_samplings_are_refused(settings: dict[str, Any], message: str):
    """They would show at the first clip, in a worker."""
    with pytest.raises(ValueError, match=message):
        tiny_processor(**settings)


def test_the_sampling_is_saved_with_the_processor(tmp_path: Path):
    """A model that was trained on 4 frames must not be asked about 12."""
    tiny_processor(num_frames=4, frame_rate=1.5).save_pretrained(tmp_path)
    again = LeccrProcessor.from_pretrained(tmp_path)
    assert again.sampling is not None and (again.sampling.num_frames, again.sampling.frame_rate) == (4, 1.5)
    (tmp_path / "pictures").mkdir()
    tiny_processor().save_pretrained(tmp_path / "pictures")
    assert LeccrProcessor.from_pretrained(tmp_path / "pictures").sampling is None
    settings = json.loads((tmp_path / "pictures" / "processor_config.json").read_text(encoding="utf-8"))
    assert settings["num_frames"] is None
