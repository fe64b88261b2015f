"""The pictures: right colour at the right place, shapes and textures that differ at 64 pixels."""

import itertools
import random

import numpy as np
import pytest
from PIL import Image

from processing.scenes.drawing import (
    PAINT,
    PATTERN_PAINT,
    SIZE_FRACTIONS,
    background_image,
    draw_scene,
    encode_png,
    sprite_image,
)
from processing.scenes.world import BACKGROUNDS, COLOURS, LAYOUTS, SHAPES, SIZES, TEXTURES, Scene, SceneObject


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB"), dtype=np.float32)


def share_of(picture: Image.Image, paint: tuple[int, int, int]) -> float:
    """Share of the pixels whose nearest paint of the palette is this one and close."""
    palette = np.array([*PAINT.values(), PATTERN_PAINT], dtype=np.float32)
    distance = np.linalg.norm(pixels(picture)[:, :, None] - palette, axis=-1)
    mine = distance[:, :, [tuple(c) for c in palette.astype(int).tolist()].index(paint)]
    return float(((mine == distance.min(axis=-1)) & (mine < 30)).mean())


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("background", BACKGROUNDS)
def test_an_object_shows_its_colour_where_it_stands(colour, background):
    """A caption about a red star is noise if the star is painted in another colour or at another place."""
    scene = Scene((SceneObject("circle", colour, "large", "plain", (0, -1)),), background)
    picture = draw_scene(scene, 96, random.Random(3))
    left, right = picture.crop((0, 0, 48, 96)), picture.crop((48, 0, 96, 96))
    assert share_of(left, PAINT[colour]) > 0.1
    assert share_of(left, PAINT[colour]) > 5 * share_of(right, PAINT[colour])
    others = {other: share_of(left, PAINT[other]) for other in COLOURS if other != colour}
    assert max(others.values()) < 0.05


def test_left_and_above_are_seen_in_every_layout():
    """Swapped axes or a jitter that outweighs the step would make every relation a lie."""
    for layout in itertools.chain(LAYOUTS[2], LAYOUTS[3]):
        paints = ("red", "blue", "green")[: len(layout)]
        objects = tuple(
            SceneObject("circle", paint, "huge", "plain", cell) for paint, cell in zip(paints, layout, strict=True)
        )
        for seed in range(8):
            picture = pixels(draw_scene(Scene(objects, "snow"), 96, random.Random(seed)))
            centres = []
            for paint in paints:
                ys, xs = np.nonzero(np.linalg.norm(picture - np.array(PAINT[paint]), axis=-1) < 40)
                assert len(ys) > 300, "an object is hidden by another"
                centres.append((ys.mean(), xs.mean()))
            for first, second in itertools.combinations(range(len(layout)), 2):
                for axis in (0, 1):
                    step = layout[second][axis] - layout[first][axis]
                    if step:
                        assert np.sign(centres[second][axis] - centres[first][axis]) == np.sign(step)
                        assert abs(centres[second][axis] - centres[first][axis]) > 25


def test_no_object_reaches_past_the_border():
    """A cut tail or corner changes the shape."""
    for shape, cell in itertools.product(SHAPES, ((-1, -1), (1, 1), (0, 1), (-1, 0))):
        scene = Scene((SceneObject(shape, "red", "huge", "plain", cell),), "snow")
        for seed in range(4):
            picture = pixels(draw_scene(scene, 96, random.Random(seed)))
            red = np.linalg.norm(picture - np.array(PAINT["red"]), axis=-1) < 60
            assert red.any()
            assert not (red[0].any() or red[-1].any() or red[:, 0].any() or red[:, -1].any())


def test_sizes_are_ordered_in_area():
    """`large` must be visibly larger than `small`, whatever the shape."""
    for shape in SHAPES:
        areas = [
            np.asarray(sprite_image(shape, "red", SIZE_FRACTIONS[size], "plain", 96, 0))[:, :, 3].sum()
            for size in SIZES
        ]
        assert areas[1] > 1.5 * areas[0] and areas[2] > 1.4 * areas[1]


def test_shapes_and_textures_differ_at_64_pixels():
    """What the towers cannot see, they cannot learn; the smallest size is the hardest."""
    small = {}
    for shape, texture in itertools.product(SHAPES, TEXTURES):
        sprite = sprite_image(shape, "blue", SIZE_FRACTIONS["small"], texture, 64, 0)
        small[shape, texture] = pixels(Image.composite(sprite, Image.new("RGBA", sprite.size, "grey"), sprite))
    for first, second in itertools.combinations(small, 2):
        assert np.abs(small[first] - small[second]).mean() > 4, (first, second)


def test_offsets_vary_between_items_but_not_between_runs():
    """Pictures of one content should differ by more than nothing and be the same tomorrow."""
    scene = Scene((SceneObject("star", "pink", "large", "dotted", (0, 0)),), "sky")
    first, again, other = (draw_scene(scene, 64, random.Random(seed)).tobytes() for seed in (1, 1, 2))
    assert first == again != other


def test_drawing_leaves_the_cached_background_clean():
    """Objects pasted into the cache would haunt later pictures."""
    before = {name: background_image(name, 64, 0).tobytes() for name in BACKGROUNDS}
    for seed in range(20):
        objects = (SceneObject("star", "pink", "huge", "dotted", (0, 0)),)
        for name in BACKGROUNDS:
            draw_scene(Scene(objects, name), 64, random.Random(seed))
    assert before == {name: background_image(name, 64, 0).tobytes() for name in BACKGROUNDS}


@pytest.mark.parametrize("size", [32, 64, 97, 224])
def test_any_image_size_is_drawn_and_encoded(size):
    """Odd sizes must not shift masks against patterns or fail."""
    scene = Scene(
        tuple(SceneObject(s, "red", "huge", "striped", c) for s, c in zip(SHAPES[:3], LAYOUTS[3][0], strict=True)),
        "night",
    )
    picture = draw_scene(scene, size, random.Random(0))
    assert picture.size == (size, size) and picture.mode == "RGB"
    assert encode_png(picture)[:8] == b"\x89PNG\r\n\x1a\n"
