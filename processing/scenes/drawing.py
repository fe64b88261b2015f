"""Draw a scene as a small picture: patterned stickers with a pale rim and a soft shadow on a painted background.

Everything is drawn several times too large and shrunk, so that edges are smooth. Stickers, masks and backgrounds are
cached by kind; a picture then costs a few pastes.
"""

import functools
import io
import math
import random

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from .world import Scene

Colour = tuple[int, int, int]

PAINT: dict[str, Colour] = {
    "red": (216, 30, 44),
    "orange": (255, 134, 12),
    "yellow": (255, 214, 10),
    "green": (22, 150, 58),
    "blue": (28, 92, 226),
    "purple": (126, 40, 178),
    "pink": (255, 108, 178),
    "brown": (128, 74, 34),
}
PATTERN_PAINT: Colour = (255, 250, 236)
RIM_PAINT: Colour = (255, 255, 255)
SIZE_FRACTIONS = {"small": 0.23, "large": 0.33, "huge": 0.44}
GRADIENTS: dict[str, tuple[Colour, Colour]] = {
    "sky": ((122, 190, 240), (206, 236, 250)),
    "night": ((12, 16, 48), (44, 48, 104)),
    "meadow": ((186, 224, 132), (142, 196, 92)),
    "sand": ((240, 222, 176), (222, 192, 136)),
    "snow": ((250, 252, 255), (216, 226, 238)),
}
OVERSAMPLING = 3
ANGLES = (-9, 0, 9)
BACKGROUND_VARIANTS = 6
CELL_STEP = 0.24
RIM_FRACTION = 0.045


def draw_scene(scene: Scene, image_size: int, rng: random.Random) -> Image.Image:
    """The picture of a scene.

    Args:
        scene: its content.
        image_size: width and height in pixels.
        rng: the generator of offsets, tilts and backgrounds, which no caption tells.

    Returns:
        An RGB image of (image_size, image_size).
    """
    picture = background_image(scene.background, image_size, rng.randrange(BACKGROUND_VARIANTS)).copy()
    for item in scene.objects:
        sprite = sprite_image(
            item.shape, item.colour, SIZE_FRACTIONS[item.size], item.texture, image_size, rng.choice(ANGLES)
        )
        row, column = item.cell
        # Two objects in a row may sit at unequal heights; across their axis the relation cannot flip.
        slack = 0.03 if len(scene.objects) == 3 else 0.08
        x = _centre(column, item.size, slack if column == 0 else 0.03, rng)
        y = _centre(row, item.size, slack if row == 0 else 0.03, rng)
        half = sprite.width / 2
        picture.paste(sprite, (round(x * image_size - half), round(y * image_size - half)), sprite)
    return picture


def encode_png(picture: Image.Image) -> bytes:
    """The picture as PNG bytes; light compression, since it is made in memory and read back at once."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def _centre(step: int, size: str, slack: float, rng: random.Random) -> float:
    # A tilted corner reaches past the upright outline.
    margin = least_margin(SIZE_FRACTIONS[size])
    return min(max(0.5 + CELL_STEP * step + rng.uniform(-slack, slack), margin), 1 - margin)


def least_margin(fraction: float) -> float:
    """How far the centre of a sticker of this diameter must stay from the border, as a fraction of the picture."""
    return 0.53 * fraction + RIM_FRACTION / 2


@functools.lru_cache(maxsize=8192)
def sprite_image(shape: str, colour: str, fraction: float, texture: str, image_size: int, angle: int) -> Image.Image:
    """One sticker (RGBA) with rim and shadow, at its final size: the diameter is a fraction of the picture's."""
    mask, outer, shadow = _masks(shape, fraction, image_size, angle)
    large = mask.size
    fill = Image.new("RGB", large, PAINT[colour])
    pattern = _pattern(texture, fraction, image_size, angle)
    fill.paste(PATTERN_PAINT, mask=pattern)
    if shape == "flower":
        _paint_flower_centre(fill, fraction, image_size)
    if shape == "fish":
        _paint_fish_eye(fill, fraction, image_size, angle)
    sticker = Image.new("RGB", large, RIM_PAINT)
    sticker.paste(fill, mask=mask)
    sticker = Image.composite(sticker, Image.new("RGB", large, (24, 24, 44)), outer)
    sticker.putalpha(ImageChops.lighter(outer, shadow))
    return sticker.reduce(OVERSAMPLING)


def _extent(fraction: float, image_size: int) -> tuple[int, int]:
    """(object diameter, canvas width) in oversampled pixels; the canvas leaves room for rim and shadow."""
    diameter = round(fraction * image_size * OVERSAMPLING)
    canvas = math.ceil((diameter + 0.14 * image_size * OVERSAMPLING) / OVERSAMPLING) * OVERSAMPLING
    return diameter, canvas


@functools.lru_cache(maxsize=1024)
def _masks(shape: str, fraction: float, image_size: int, angle: int) -> tuple[Image.Image, Image.Image, Image.Image]:
    """The shape, the shape with its rim, and its shadow, as oversampled greyscale masks."""
    diameter, canvas = _extent(fraction, image_size)
    unit = image_size * OVERSAMPLING
    mask = Image.new("L", (canvas, canvas), 0)
    _draw_shape(mask, shape, diameter)
    mask = mask.rotate(angle, resample=Image.Resampling.BILINEAR)
    # A blur and a low threshold grow the outline evenly in all directions.
    radius = RIM_FRACTION * unit / 2.4
    outer = mask.filter(ImageFilter.GaussianBlur(radius)).point([min(255, max(0, (v - 24) * 12)) for v in range(256)])
    shadow = ImageChops.offset(outer, 0, round(0.018 * unit)).filter(ImageFilter.GaussianBlur(0.014 * unit))
    return mask, outer, shadow.point([v * 2 // 5 for v in range(256)])


def _draw_shape(mask: Image.Image, shape: str, diameter: int) -> None:
    """Fill one shape, centred, into a greyscale mask."""
    draw = ImageDraw.Draw(mask)
    middle, radius = mask.width / 2, diameter / 2

    def at(x: float, y: float) -> tuple[float, float]:
        return middle + x * radius, middle + y * radius

    def disc(x: float, y: float, r: float, fill: int = 255) -> None:
        draw.ellipse([*at(x - r, y - r), *at(x + r, y + r)], fill=fill)

    if shape == "circle":
        disc(0, 0, 0.94)
    elif shape == "square":
        draw.rectangle([*at(-0.82, -0.82), *at(0.82, 0.82)], fill=255)
    elif shape == "triangle":
        draw.polygon([at(0, -0.95), at(1.0, 0.8), at(-1.0, 0.8)], fill=255)
    elif shape == "star":
        draw.polygon([at(*point) for point in _star_points()], fill=255)
    elif shape == "heart":
        draw.polygon([at(*point) for point in _heart_points()], fill=255)
    elif shape == "moon":
        disc(-0.02, 0, 0.98)
        disc(0.52, -0.16, 0.78, fill=0)
    elif shape == "flower":
        for petal in range(5):
            turn = math.radians(72 * petal - 90)
            disc(0.56 * math.cos(turn), 0.56 * math.sin(turn), 0.43)
        disc(0, 0, 0.4)
    else:
        draw.ellipse([*at(-1.0, -0.62), *at(0.55, 0.62)], fill=255)
        draw.polygon([at(0.28, 0), at(1.0, -0.68), at(0.82, 0), at(1.0, 0.68)], fill=255)
        draw.polygon([at(-0.5, -0.45), at(0.02, -0.9), at(0.3, -0.42)], fill=255)


def _star_points() -> list[tuple[float, float]]:
    points = []
    for corner in range(10):
        turn, reach = math.radians(36 * corner - 90), 1.04 if corner % 2 == 0 else 0.5
        points.append((reach * math.cos(turn), 0.05 + reach * math.sin(turn)))
    return points


def _heart_points() -> list[tuple[float, float]]:
    points = []
    for step in range(60):
        turn = 2 * math.pi * step / 60
        x = 16 * math.sin(turn) ** 3
        y = 13 * math.cos(turn) - 5 * math.cos(2 * turn) - 2 * math.cos(3 * turn) - math.cos(4 * turn)
        points.append((x / 16.5, -(y + 2.5) / 15.5))
    return points


@functools.lru_cache(maxsize=256)
def _pattern(texture: str, fraction: float, image_size: int, angle: int) -> Image.Image:
    """Where the pale pattern covers the colour; it scales with the object and is never finer than two pixels."""
    diameter, canvas = _extent(fraction, image_size)
    pattern = Image.new("L", (canvas, canvas), 0)
    draw = ImageDraw.Draw(pattern)
    middle = canvas / 2
    if texture == "striped":
        period = diameter / 4
        for line in range(-5, 6):
            y = middle + line * period
            draw.rectangle([0, y - 0.2 * period, canvas, y + 0.2 * period], fill=255)
        return pattern.rotate(angle + 35, resample=Image.Resampling.BILINEAR)
    if texture == "dotted":
        period = diameter / 3.4
        radius = 0.25 * period
        for row in range(-4, 5):
            for column in range(-4, 5):
                x, y = middle + (column + row % 2 / 2) * period, middle + row * period * 0.87
                draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=255)
    if texture == "checkered":
        period = diameter / 5
        for row in range(-5, 5):
            for column in range(-5, 5):
                if (row + column) % 2:
                    x, y = middle + column * period, middle + row * period
                    draw.rectangle([x, y, x + period, y + period], fill=255)
    return pattern.rotate(angle, resample=Image.Resampling.BILINEAR)


def _paint_flower_centre(fill: Image.Image, fraction: float, image_size: int) -> None:
    diameter, canvas = _extent(fraction, image_size)
    middle, radius = canvas / 2, 0.11 * diameter
    box = [middle - radius, middle - radius, middle + radius, middle + radius]
    ImageDraw.Draw(fill).ellipse(box, fill=(70, 52, 40))


def _paint_fish_eye(fill: Image.Image, fraction: float, image_size: int, angle: int) -> None:
    diameter, canvas = _extent(fraction, image_size)
    turn = math.radians(angle)
    x, y = -0.32 * diameter, -0.09 * diameter
    x, y = canvas / 2 + x * math.cos(turn) + y * math.sin(turn), canvas / 2 - x * math.sin(turn) + y * math.cos(turn)
    draw = ImageDraw.Draw(fill)
    for radius, paint in ((0.095 * diameter, (255, 255, 255)), (0.055 * diameter, (20, 20, 30))):
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=paint)


@functools.lru_cache(maxsize=256)
def background_image(background: str, image_size: int, variant: int) -> Image.Image:
    """One of a few painted variants of a background."""
    side = image_size * OVERSAMPLING
    top, bottom = GRADIENTS[background]
    shades = Image.linear_gradient("L").resize((side, side))
    picture = Image.composite(Image.new("RGB", (side, side), bottom), Image.new("RGB", (side, side), top), shades)
    rng = random.Random(f"{background}/{variant}")
    paint = {"sky": _clouds, "night": _stars, "meadow": _grass, "sand": _ripples, "snow": _flakes}[background]
    paint(ImageDraw.Draw(picture), side, rng)
    return picture.reduce(OVERSAMPLING)


def _clouds(draw: ImageDraw.ImageDraw, side: int, rng: random.Random) -> None:
    for _ in range(3):
        x, y, r = rng.random() * side, rng.random() * side, (0.05 + 0.04 * rng.random()) * side
        for shift, lift, scale in ((-1.3, 0.25, 0.7), (0, 0, 1), (1.3, 0.2, 0.8), (2.3, 0.45, 0.5)):
            cx, cy, cr = x + shift * r, y + lift * r, r * scale
            draw.ellipse([cx - cr, cy - 0.75 * cr, cx + cr, cy + 0.75 * cr], fill=(244, 250, 255))


def _stars(draw: ImageDraw.ImageDraw, side: int, rng: random.Random) -> None:
    for _ in range(45):
        x, y, r = rng.random() * side, rng.random() * side, rng.choice((0.004, 0.006, 0.009)) * side
        draw.ellipse([x - r, y - r, x + r, y + r], fill=rng.choice(((255, 250, 214), (196, 206, 255))))


def _grass(draw: ImageDraw.ImageDraw, side: int, rng: random.Random) -> None:
    for _ in range(150):
        x, y, h = rng.random() * side, rng.random() * side, (0.025 + 0.03 * rng.random()) * side
        shade = rng.choice(((112, 172, 66), (128, 186, 78), (204, 234, 156)))
        draw.line([x, y, x + rng.uniform(-0.3, 0.3) * h, y - h], fill=shade, width=max(1, side // 110))


def _ripples(draw: ImageDraw.ImageDraw, side: int, rng: random.Random) -> None:
    for line in range(9):
        y0, phase = (line + rng.random()) * side / 9, rng.random() * 6.28
        points = [(x, y0 + 0.012 * side * math.sin(phase + 12 * x / side)) for x in range(0, side + 8, side // 24)]
        draw.line(points, fill=rng.choice(((206, 176, 122), (248, 236, 202))), width=max(1, side // 80))


def _flakes(draw: ImageDraw.ImageDraw, side: int, rng: random.Random) -> None:
    for _ in range(5):
        x, y, w = rng.random() * side, (0.3 + 0.7 * rng.random()) * side, (0.2 + 0.3 * rng.random()) * side
        draw.ellipse([x - w, y, x + w, y + 0.5 * w], fill=rng.choice(((238, 244, 251), (228, 236, 246))))
    for _ in range(50):
        x, y, r = rng.random() * side, rng.random() * side, rng.choice((0.006, 0.01)) * side
        draw.ellipse([x - r, y - r, x + r, y + r], fill=rng.choice(((255, 255, 255), (196, 212, 232))))
