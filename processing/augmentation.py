"""Augmentation of training pictures, on PIL images and without torchvision."""

import hashlib
import math
import random

from PIL import Image


def draw_of(*parts: int | str) -> int:
    """The draw of a row: a number below 2**63 that its parts alone decide, in every process and version of Python.

    Whatever is random about the row comes from a generator of its own with this seed. From a global generator, the
    picture would depend on the rows before it and on the worker that reads it, and a run that goes on from a
    checkpoint would see others.

    Args:
        parts: what tells the row apart, such as the seed of the run, the epoch and the index of the pair.
    """
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1


class RandomResizedCrop:
    """A random part of the picture at the size of the model, mirrored half of the time.

    The area share is uniform in `scale`, the logarithm of the aspect ratio uniform in that of `ratio`. The draw
    of the row decides all of it, see `draw_of`.

    Args:
        size: edge of the square result, in pixels.
        scale: smallest and largest share of the area that is kept, in (0, 1].
        ratio: smallest and largest width / height of the part.
        flip: mirror left and right with probability 0.5.

    Raises:
        ValueError: a range is empty or out of bounds, or size is not positive.
    """

    def __init__(
        self,
        size: int,
        scale: tuple[float, float] = (0.5, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        *,
        flip: bool = True,
    ) -> None:
        if size < 1:
            raise ValueError(f"size must be at least 1 pixel, got {size}.")
        if not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(f"scale must be (low, high) with 0 < low <= high <= 1, got {tuple(scale)}.")
        if not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f"ratio must be (low, high) with 0 < low <= high, got {tuple(ratio)}.")
        self.size = size
        self.scale = scale
        self.ratio = ratio
        self.flip = flip

    def __call__(self, image: Image.Image, draw: int) -> Image.Image:
        """Cut, resize (bicubic) and perhaps mirror one picture; the same draw gives the same result."""
        generator = random.Random(draw)
        box = self.random_box(image.width, image.height, generator)
        image = image.resize((self.size, self.size), Image.Resampling.BICUBIC, box=box)
        if self.flip and generator.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return image

    def random_box(self, width: int, height: int, generator: random.Random) -> tuple[int, int, int, int]:
        """A (left, top, right, bottom) box inside a width x height picture."""
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(10):
            share, log_ratio, x, y = (generator.random() for _ in range(4))
            area = width * height * (self.scale[0] + share * (self.scale[1] - self.scale[0]))
            ratio = math.exp(low + log_ratio * (high - low))
            box_width, box_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < box_width <= width and 0 < box_height <= height:
                left, top = int(x * (width - box_width + 1)), int(y * (height - box_height + 1))
                return left, top, left + box_width, top + box_height
        # No box of that shape fits, for example in a very wide picture: the largest part in the middle that may be.
        box_width = min(width, max(1, round(height * self.ratio[1])))
        box_height = min(height, max(1, round(width / self.ratio[0])))
        left, top = (width - box_width) // 2, (height - box_height) // 2
        return left, top, left + box_width, top + box_height
