"""Draw the frames of a clip with the stickers and backgrounds of still scenes.

All motion is even from the first frame to the last, so that a clip played backwards shows the same frames in the
other order.
"""

import random

from PIL import Image

from processing.scenes.drawing import ANGLES, BACKGROUND_VARIANTS, background_image, least_margin, sprite_image

from .actions import STEPS, Cell, Clip, MovingObject

# Larger than in still scenes: there are at most two objects, and frames are small.
SIZE_FRACTIONS = {"small": 0.28, "large": 0.40, "huge": 0.52}
JITTER = 0.03
SHAKE = 0.05
# Of a whole turn, four frames would see a square and a chequered pattern at rest.
DEGREES_SPUN = 300
# Three frames each: no even sampling sees one phase only, unless it takes every third frame.
SHAKE_STEPS = (0.0, SHAKE, -SHAKE)
BLINK_STEPS = (1.0, 1.0, 0.0)
# What grows begins at this share of the diameter of a huge object.
SMALLEST = 0.25
# What moves comes in at one edge and goes out at the other: at both ends of its way its centre is this far from them.
CROSSING = 0.1


def draw_clip(clip: Clip, image_size: int, num_frames: int, rng: random.Random) -> list[Image.Image]:
    """The frames of a clip.

    Args:
        clip: its content.
        image_size: width and height in pixels.
        num_frames: at least 2.
        rng: the generator of offsets, tilts and backgrounds, which no caption tells.

    Returns:
        RGB images of (image_size, image_size), in order of time.
    """
    background = background_image(clip.background, image_size, rng.randrange(BACKGROUND_VARIANTS))
    frames = [background.copy() for _ in range(num_frames)]
    for item in clip.objects:
        angle, offset = rng.choice(ANGLES), (rng.uniform(-JITTER, JITTER), rng.uniform(-JITTER, JITTER))
        turns = rng.choice((-1, 1))
        for number, frame in enumerate(frames):
            done = number / (num_frames - 1)
            tilt = angle + turns * round(DEGREES_SPUN * number / num_frames) if item.verb == "spins" else angle
            sprite = _sprite(item, number, done, image_size, tilt % 360)
            x, y = (_centre(item, axis, done, offset) * image_size for axis in (1, 0))
            if item.verb == "shakes":
                x += SHAKE_STEPS[number % 3] * image_size
            frame.paste(sprite, (round(x - sprite.width / 2), round(y - sprite.height / 2)), sprite)
    return frames


def _sprite(item: MovingObject, number: int, done: float, image_size: int, tilt: int) -> Image.Image:
    """The sticker as it looks in one frame."""
    thing, fraction = item.thing, _largest_fraction(item)
    sprite = sprite_image(thing.shape, thing.colour, fraction, thing.texture, image_size, tilt)
    if item.new_colour:
        after = sprite_image(thing.shape, item.new_colour, fraction, thing.texture, image_size, tilt)
        return Image.blend(sprite, after, _ramp(done))
    if item.verb in ("grows", "shrinks"):
        scale = SMALLEST + (1 - SMALLEST) * (done if item.verb == "grows" else 1 - done)
        side = max(1, round(sprite.width * scale))
        return sprite.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0)
    share = {"appears": _ramp(done), "disappears": _ramp(1 - done), "blinks": BLINK_STEPS[number % 3]}
    return _faded(sprite, share.get(item.verb, 1.0))


def _largest_fraction(item: MovingObject) -> float:
    """The diameter that the object reaches, as a fraction of the picture's."""
    return SIZE_FRACTIONS["huge" if item.verb in ("grows", "shrinks") else item.thing.size]


def _ramp(done: float) -> float:
    """0 in the first third of the clip, 1 in the last one, even in between."""
    return min(1.0, max(0.0, 3 * done - 1))


def _faded(sprite: Image.Image, share: float) -> Image.Image:
    if share == 1.0:
        return sprite
    faded = sprite.copy()
    faded.putalpha(sprite.getchannel("A").point([round(value * share) for value in range(256)]))
    return faded


def _centre(item: MovingObject, axis: int, done: float, offset: tuple[float, float]) -> float:
    """Where the object is on an axis (0 rows, 1 columns), in [0, 1]; a cell of -1 or 1 is as far out as it fits."""
    margin = least_margin(_largest_fraction(item)) + (SHAKE if item.verb == "shakes" else 0.0)
    if item.verb in STEPS and item.thing.cell[axis] != item.end[axis]:
        margin = CROSSING

    def place(cell: Cell) -> float:
        wanted = 0.5 + cell[axis] * (0.5 - margin) + offset[axis]
        return min(max(wanted, margin), 1 - margin)

    return place(item.thing.cell) * (1 - done) + place(item.end) * done
