"""The frames of clips: every verb is seen in the pixels, in the order that it says; files and features keep it."""

import io
import random

import numpy as np
import pytest
from PIL import Image

from processing.scenes.drawing import PAINT
from processing.scenes.world import BACKGROUNDS, SHAPES, SceneObject
from processing.scenes_video.actions import ORDER_FREE, ORDERED, Clip, MovingObject, play_backwards, sample_clip
from processing.scenes_video.clips import CODECS, FRAME_RATE, encode_clip, find_codec
from processing.scenes_video.drawing import draw_clip
from processing.scenes_video.features import FEATURE_DIM, GRID, NUMBERS_PER_PAINT, frame_features
from processing.video_frames_leccr import FrameSampling, sample_frames

NUM_FRAMES = 16
ENDS = {"moves_left": (0, -1), "moves_right": (0, 1), "moves_up": (-1, 0), "moves_down": (1, 0)}


def one_object(verb: str, *, shape: str = "heart", size: str = "large") -> Clip:
    """A plain red object that does one thing, in the middle or across the middle."""
    end = ENDS.get(verb, (0, 0))
    thing = SceneObject(shape, "red", size, "plain", (-end[0], -end[1]))
    return Clip((MovingObject(thing, verb, end, "blue" if verb == "turns" else None),), "snow")


def pair(verb: str) -> Clip:
    """A small red star that approaches or leaves a small blue heart on the right."""
    cells = ((0, -1), (0, 0)) if verb == "approaches" else ((0, 0), (0, -1))
    star = MovingObject(SceneObject("star", "red", "small", "plain", cells[0]), verb, cells[1])
    heart = MovingObject(SceneObject("heart", "blue", "small", "plain", (0, 1)), "stands_still", (0, 1))
    return Clip((star, heart), "snow")


def drawn(clip: Clip, seed: int = 0) -> list[Image.Image]:
    return draw_clip(clip, 64, NUM_FRAMES, random.Random(seed))


def traces(frames: list[Image.Image], colour: str) -> tuple[np.ndarray, np.ndarray]:
    """For each frame the number of pixels of a colour, and their centre (row, column) in [0, 1]."""
    pixels = np.stack([np.asarray(frame, dtype=np.float32) for frame in frames])
    found = np.linalg.norm(pixels - np.array(PAINT[colour]), axis=-1) < 60
    centres = [np.argwhere(mask).mean(axis=0) / 64 if mask.any() else np.array([np.nan, np.nan]) for mask in found]
    return found.sum(axis=(1, 2)), np.array(centres)


@pytest.mark.parametrize(("verb", "before", "after"), [("appears", 0.0, 1.0), ("disappears", 1.0, 0.0)])
def test_a_change_has_a_time_before_and_a_time_after_it(verb, before, after):
    """Eight frames of sixteen must show both ends, whichever they are."""
    counts, _ = traces(drawn(one_object(verb)), "red")
    shares = counts / counts.max()
    assert (shares[:6] == before).all() and (shares[10:] == after).all()
    colours = [traces(drawn(one_object("turns")), colour)[0] for colour in ("red", "blue")]
    assert (colours[0][:6] == colours[0][0]).all() and (colours[1][10:] == colours[1][-1]).all()
    assert not colours[0][10:].any() and not colours[1][:6].any()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("verb", "axis", "sign"),
    [("moves_left", 1, -1), ("moves_right", 1, 1), ("moves_up", 0, -1), ("moves_down", 0, 1)],
)
def test_what_moves_goes_the_way_that_it_says_and_no_other(verb, axis, sign, seed):
    """Swapped axes, or rows that are counted from below, would make every caption of motion a lie."""
    _, centres = traces(drawn(one_object(verb), seed), "red")
    steps = np.diff(centres[:, axis]) * sign
    assert (steps > 0).all() and steps.sum() > 0.4
    assert np.ptp(centres[:, 1 - axis]) < 0.03


@pytest.mark.parametrize("seed", range(4))
def test_sizes_amounts_and_colours_change_in_the_order_that_the_verb_says(seed):
    """A verb and its reverse share all frames: only their order is right or wrong."""
    verbs = ("grows", "shrinks", "appears", "disappears")
    amount = {verb: traces(drawn(one_object(verb), seed), "red")[0] for verb in verbs}
    assert amount["grows"][-1] > 3 * amount["grows"][0] > 0 and (np.diff(amount["grows"]) >= -3).all()
    assert amount["shrinks"][0] > 3 * amount["shrinks"][-1] > 0
    assert amount["appears"][0] == 0 and amount["appears"][-1] > 100
    assert amount["disappears"][-1] == 0 and amount["disappears"][0] > 100
    turned = drawn(one_object("turns"), seed)
    assert traces(turned, "red")[0][0] > 100 and traces(turned, "red")[0][-1] == 0
    assert traces(turned, "blue")[0][-1] > 100 and traces(turned, "blue")[0][0] == 0


@pytest.mark.parametrize("seed", range(4))
def test_one_comes_close_to_the_other_and_goes_away_again(seed):
    """Approach and retreat are told by a distance, whichever way the first object goes."""
    for verb, sign in (("approaches", -1), ("leaves", 1)):
        frames = drawn(pair(verb), seed)
        distance = np.linalg.norm(traces(frames, "red")[1] - traces(frames, "blue")[1], axis=-1)
        assert (distance[-1] - distance[0]) * sign > 0.25 and distance.min() > 0.2


@pytest.mark.parametrize("seed", range(4))
def test_order_free_verbs_look_the_same_in_both_directions(seed):
    """An order-free verb with a beginning and an end would need order after all."""
    amounts, centres = zip(*(traces(drawn(one_object(verb), seed), "red") for verb in ORDER_FREE), strict=True)
    spins, blinks, shakes, stands = range(4)
    assert np.ptp(amounts[stands]) == 0 and np.ptp(centres[stands], axis=0).max() == 0
    assert np.ptp(amounts[spins]) < 0.2 * amounts[spins].max() and np.ptp(centres[spins], axis=0).max() < 0.1
    assert 0 < (amounts[blinks] == 0).sum() < NUM_FRAMES / 2
    assert np.ptp(centres[shakes][:, 1]) > 0.08 and abs(centres[shakes][:8].mean() - centres[shakes][8:].mean()) < 0.03
    frames = {verb: drawn(one_object(verb), seed) for verb in ORDER_FREE}
    assert len({frame.tobytes() for frame in frames["stands_still"]}) == 1
    assert len({frame.tobytes() for frame in frames["spins"]}) > 10


def test_every_shape_but_the_circle_is_seen_to_spin():
    """A turn that nobody sees would be a caption that nobody can check."""
    for shape in SHAPES:
        frames = [
            np.asarray(frame, dtype=np.float32) for frame in drawn(one_object("spins", shape=shape, size="small"))
        ]
        change = max(float(np.abs(frame - frames[0]).mean()) for frame in frames)
        assert (change > 1.0) == (shape != "circle"), (shape, change)


def test_no_object_leaves_the_picture_or_covers_the_other():
    """An object that is cut off or hidden cannot be found by its shape."""
    rng = random.Random(0)
    for number in range(24):
        clip = sample_clip(rng, held_out=False, ordered=number % 3 > 0)
        frames = drawn(clip, number)
        for item in clip.objects:
            if item.verb in ("appears", "disappears", "blinks", "turns", "grows", "shrinks"):
                continue
            alone = drawn(Clip((item,), "snow"), number)
            expected, _ = traces(alone, item.thing.colour)
            found, _ = traces(frames, item.thing.colour)
            assert (expected > 10).all() and (found > 0.5 * np.median(expected)).all()


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_an_encoded_clip_is_close_to_the_drawn_frames(background):
    """A codec that lost a frame, or blurred the objects away, would make the captions untrue of the files."""
    rng = random.Random(1)
    clip = sample_clip(rng, held_out=False, ordered=True)
    frames = draw_clip(Clip(clip.objects, background), 64, NUM_FRAMES, rng)
    decoded = sample_frames({"bytes": encode_clip(frames), "path": None}, FrameSampling(num_frames=99))
    assert len(decoded) == NUM_FRAMES
    for ours, theirs in zip(frames, decoded, strict=True):
        difference = np.abs(np.asarray(ours, dtype=np.float32) - np.asarray(theirs, dtype=np.float32))
        assert difference.mean() < 6 and np.quantile(difference, 0.9) < 20


def test_a_clip_is_a_real_file_of_eight_frames_a_second():
    """A file of still pictures would not test a decoder."""
    av = pytest.importorskip("av")
    content = encode_clip(drawn(one_object("moves_left")))
    assert content[4:8] == b"ftyp" and len(content) < NUM_FRAMES * 64 * 64
    with av.open(io.BytesIO(content)) as container:
        stream = container.streams.video[0]
        assert (stream.average_rate, stream.frames, stream.width, stream.height) == (FRAME_RATE, NUM_FRAMES, 64, 64)
        assert stream.codec_context.name in ("h264", "mpeg4") and not container.streams.audio


def test_another_encoder_is_taken_where_the_first_is_missing(monkeypatch):
    """A build of PyAV without H.264 should still make clips; one without any should say so."""
    av = pytest.importorskip("av")
    frames = drawn(one_object("turns"))
    find_codec.cache_clear()
    try:
        monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
        decoded = sample_frames({"bytes": encode_clip(frames), "path": None}, FrameSampling(num_frames=99))
        difference = np.stack(decoded).astype(np.float32) - np.stack(frames).astype(np.float32)
        assert np.abs(difference).mean() < 6
        find_codec.cache_clear()
        monkeypatch.setattr(av, "codecs_available", set())
        with pytest.raises(ValueError, match=f"one of the encoders .*{next(iter(CODECS))}.* form 'features'"):
            encode_clip(frames)
    finally:
        find_codec.cache_clear()


def paint_part(features: np.ndarray, colour: str) -> np.ndarray:
    """The documented place of one paint: share, centre (row, column), extent (rows, columns), its grid."""
    start = 3 * GRID**2 + NUMBERS_PER_PAINT * list(PAINT).index(colour)
    return features[start : start + NUMBERS_PER_PAINT]


def test_features_are_numbers_in_0_to_1_of_each_frame_alone():
    """Features that looked at other frames would carry the order of the frames past a shuffle."""
    frames = drawn(pair("approaches"))
    whole = np.stack([frame_features(frame) for frame in frames])
    assert whole.shape == (NUM_FRAMES, FEATURE_DIM) and whole.dtype == np.float32
    assert whole.min() >= 0 and whole.max() <= 1
    np.testing.assert_array_equal(np.stack([frame_features(frame) for frame in frames[::-1]]), whole[::-1])


def test_features_keep_where_things_are():
    """A pooled feature would make left and right the same."""
    for verb in ENDS:
        frames = drawn(one_object(verb))
        parts = np.stack([paint_part(frame_features(frame), "red") for frame in frames])
        _, centres = traces(frames, "red")
        np.testing.assert_allclose(parts[:, 1:3], centres, atol=0.05)
    grids = [frame_features(frame)[: 3 * GRID**2].reshape(GRID, GRID, 3) for frame in frames_of_left()]
    green_and_blue = [grid[:, :, 1:].mean(axis=-1) for grid in grids]
    assert green_and_blue[0][:, :4].mean() < green_and_blue[0][:, 4:].mean()
    assert green_and_blue[1][:, :4].mean() > green_and_blue[1][:, 4:].mean()


def frames_of_left() -> tuple[Image.Image, Image.Image]:
    """A red object on the left, and on the right, whole in both."""
    frames = drawn(one_object("moves_right"))
    return frames[NUM_FRAMES // 4], frames[-NUM_FRAMES // 4]


def test_features_tell_paints_amounts_and_shapes_apart():
    """Absent paints are zeros; a shape has the same grid wherever it is, and another one than the other shapes."""

    def seen(frame: Image.Image) -> np.ndarray:
        return paint_part(frame_features(frame), "red")

    first, last = frames_of_left()
    assert not paint_part(frame_features(first), "green").any()
    heart, elsewhere = seen(first)[5:], seen(last)[5:]
    others = [seen(drawn(one_object("stands_still", shape=shape))[0])[5:] for shape in SHAPES if shape != "heart"]
    nearest = min(float(np.abs(other - heart).mean()) for other in others)
    assert np.abs(elsewhere - heart).mean() < 0.5 * nearest
    small, large = (seen(drawn(one_object("stands_still", size=size))[0]) for size in ("small", "huge"))
    assert large[0] > 2 * small[0] and (large[3:5] > small[3:5]).all()


def test_features_of_decoded_frames_are_close_to_those_of_drawn_ones():
    """Who computes them from the files should get what the data set has."""
    frames = drawn(pair("approaches"))
    decoded = sample_frames({"bytes": encode_clip(frames), "path": None}, FrameSampling(num_frames=99))
    difference = [np.abs(frame_features(a) - frame_features(b)) for a, b in zip(frames, decoded, strict=True)]
    assert float(np.mean(difference)) < 0.025


def test_the_reverse_of_each_ordered_verb_is_drawn_as_the_verb_played_backwards():
    """`play_backwards` changes words, the drawing changes pixels: both must mean the same."""
    for verb in ORDERED:
        clip = pair(verb) if verb in ("approaches", "leaves") else one_object(verb)
        backwards = play_backwards(clip)
        assert backwards != clip and play_backwards(backwards) == clip
        for ours, theirs in zip(drawn(backwards), drawn(clip)[::-1], strict=True):
            difference = np.abs(np.asarray(ours, dtype=np.float32) - np.asarray(theirs, dtype=np.float32))
            assert difference.mean() < 1.5


def test_a_clip_is_encoded_to_the_same_bytes_each_time():
    """The data would be others in each run: a training could not go on, and its fingerprint would be of no use. What is
    random is what the encoder finds in its memory, so other clips come in between."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 4, 6, 6, 3), dtype=np.uint8)
    sizes = (64, 48, 96)
    clips = [
        [Image.fromarray(picture).resize((sizes[number % 3],) * 2, Image.Resampling.BICUBIC) for picture in pictures]
        for number, pictures in enumerate(noise)
    ]
    first = [encode_clip(frames) for frames in clips]
    for _ in range(6):
        assert [encode_clip(frames) for frames in clips] == first
