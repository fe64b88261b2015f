import random

import numpy as np
import pytest
import torch
from PIL import Image
from processing_parts import picture

from processing.augmentation import RandomResizedCrop, draw_of


def test_boxes_lie_inside_and_keep_the_area_and_the_ratio_asked_for():
    """A box over the edge is filled with black; a wrong area is another augmentation strength."""
    crop = RandomResizedCrop(8, scale=(0.5, 1.0))
    generator = random.Random(0)
    shares = []
    for width, height in [(200, 200), (300, 200), (160, 240)]:
        for _ in range(300):
            left, top, right, bottom = crop.random_box(width, height, generator)
            assert 0 <= left < right <= width and 0 <= top < bottom <= height
            assert 0.73 <= (right - left) / (bottom - top) <= 1.36
            shares.append((right - left) * (bottom - top) / (width * height))
    assert min(shares) > 0.49 and max(shares) <= 1.0
    assert 0.6 < float(np.mean(shares)) < 0.8  # uniform in [0.5, 1] before the boxes that do not fit


def test_a_box_can_touch_every_edge():
    """An off-by-one in the position range never shows the last row and column."""
    crop = RandomResizedCrop(8, scale=(0.5, 0.5), ratio=(1.0, 1.0))
    generator = random.Random(0)
    boxes = [crop.random_box(10, 10, generator) for _ in range(300)]
    assert {box[0] for box in boxes} == {box[1] for box in boxes} == {0, 1, 2, 3}
    assert {box[2] for box in boxes} == {7, 8, 9, 10}


@pytest.mark.parametrize("size", [(400, 20), (20, 400), (1, 1), (1, 50)])
def test_extreme_pictures_fall_back_to_the_middle(size: tuple[int, int]):
    """A banner or a one-pixel picture admits no box of the usual shape, and must not end the epoch."""
    crop = RandomResizedCrop(8)
    for draw in range(20):
        left, top, right, bottom = crop.random_box(*size, random.Random(draw))
        assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]
    assert crop(picture(width=size[0], height=size[1]), 0).size == (8, 8)


def test_the_full_box_without_mirror_is_a_plain_resize():
    """The result must be that of PIL's own bicubic resize, not of a crop shifted by half a pixel."""
    crop = RandomResizedCrop(8, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=False)
    image = picture(width=20, height=20)
    assert np.array_equal(np.asarray(crop(image, 0)), np.asarray(image.resize((8, 8), Image.Resampling.BICUBIC)))


def test_half_of_the_pictures_are_mirrored():
    """A mirror that is always or never applied looks like a working one."""
    crop = RandomResizedCrop(8, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    image = picture(width=8, height=8)
    plain, mirrored = np.asarray(image), np.asarray(image)[:, ::-1]
    results = [np.asarray(crop(image, draw)) for draw in range(400)]
    num_mirrored = sum(np.array_equal(result, mirrored) for result in results)
    assert num_mirrored + sum(np.array_equal(result, plain) for result in results) == 400
    assert 150 < num_mirrored < 250


def test_the_draw_alone_decides_and_the_global_generators_stay_as_they_are():
    """From a global generator, a picture would depend on the rows before it, and dropout on the pictures: a run that
    goes on from a checkpoint would see others."""
    crop, image = RandomResizedCrop(8), picture(width=64, height=48)
    random.seed(0)
    states = random.getstate(), torch.get_rng_state()
    first = [np.asarray(crop(image, draw)) for draw in range(20)]
    assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[1])
    backwards = [np.asarray(crop(image, draw)) for draw in reversed(range(20))][::-1]
    assert np.array_equal(first, backwards)
    assert len({result.tobytes() for result in first}) == 20


def test_draws_are_the_same_in_every_process_and_differ_in_each_part():
    """Python salts the hashes of texts in each process; draws that collide would crop many rows alike."""
    assert draw_of(42, 1, "item-7") == 1855592286885819311
    draws = {draw_of(seed, epoch, index) for seed in range(3) for epoch in range(10) for index in range(100)}
    assert len(draws) == 3000
    assert all(0 <= draw < 2**63 for draw in draws)
    assert draw_of(1, 23) != draw_of(12, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"size": 0}, "size"), ({"size": 8, "scale": (0.9, 0.5)}, "scale"), ({"size": 8, "ratio": (0, 1)}, "ratio")],
)
def test_impossible_ranges_are_refused(arguments: dict, message: str):
    """A swapped range would silently sample outside of it."""
    with pytest.raises(ValueError, match=message):
        RandomResizedCrop(**arguments)
