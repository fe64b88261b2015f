"""What is in a procedural picture, which facts a caption tells about it, and whether a caption is true of a picture.

Nothing here knows a language or a pixel: `language.py` words the facts, `drawing.py` draws the scene.

A (shape, colour, texture) combination is *held out* when the texture is the one that `held_out_texture` names for
the pair (shape, colour). Training pictures never show a held-out combination; every object of a validation or test
picture is one. Each pair of two attributes still occurs in training, so a model that composes can pass the test.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

SHAPES = ("circle", "square", "triangle", "star", "heart", "moon", "flower", "fish")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
SIZES = ("small", "large", "huge")
TEXTURES = ("plain", "striped", "dotted", "checkered")
BACKGROUNDS = ("sky", "night", "meadow", "sand", "snow")
RELATIONS = ("left_of", "right_of", "above", "below")
PLACES = ("left", "right", "top", "bottom", "middle")

CONVERSE = {"left_of": "right_of", "right_of": "left_of", "above": "below", "below": "above"}

# Cells are (row, column) from the centre, each -1, 0 or 1. Objects of one layout that are aligned have a relation.
SINGLE_LAYOUTS = (((0, -1),), ((0, 1),), ((-1, 0),), ((1, 0),), ((0, 0),))
PAIR_LAYOUTS = (((0, -1), (0, 1)), ((-1, 0), (1, 0)))
CORNERS = ((-1, -1), (-1, 1), (1, -1), (1, 1))
TRIPLE_LAYOUTS = tuple(tuple(corner for corner in CORNERS if corner != empty) for empty in CORNERS)
LAYOUTS = {1: SINGLE_LAYOUTS, 2: PAIR_LAYOUTS, 3: TRIPLE_LAYOUTS}
OBJECT_COUNT_WEIGHTS = {1: 0.1, 2: 0.45, 3: 0.45}


@dataclass(frozen=True)
class SceneObject:
    """One object of a picture; `cell` is (row, column) from the centre, each -1, 0 or 1."""

    shape: str
    colour: str
    size: str
    texture: str
    cell: tuple[int, int]


@dataclass(frozen=True)
class Scene:
    """The content of a picture: one to three objects that differ in shape and in colour, and a background."""

    objects: tuple[SceneObject, ...]
    background: str


@dataclass(frozen=True)
class Mention:
    """What a caption says of one object; None where it is silent."""

    shape: str
    colour: str
    size: str | None = None
    texture: str | None = None


@dataclass(frozen=True)
class CaptionFacts:
    """The content of one caption, before any language.

    `relations[i]` holds between `mentions[0]` and `mentions[i + 1]`; `place` is told of a lone mention only.
    """

    mentions: tuple[Mention, ...]
    relations: tuple[str, ...] = ()
    place: str | None = None
    background: str | None = None


def held_out_texture(shape: str, colour: str) -> str:
    """The one texture in which training never shows this shape in this colour."""
    return TEXTURES[(SHAPES.index(shape) + COLOURS.index(colour)) % len(TEXTURES)]


def is_held_out(shape: str, colour: str, texture: str) -> bool:
    """Whether a combination is kept for validation and test (a quarter of all combinations is)."""
    return texture == held_out_texture(shape, colour)


def sample_scene(rng: random.Random, *, held_out: bool) -> Scene:
    """Draw a picture's content.

    Args:
        rng: the item's own generator.
        held_out: every object is a held-out combination (validation, test) or none is (training).
    """
    num_objects = rng.choices(list(OBJECT_COUNT_WEIGHTS), weights=list(OBJECT_COUNT_WEIGHTS.values()))[0]
    cells = rng.choice(LAYOUTS[num_objects])
    objects = []
    for shape, colour, cell in zip(rng.sample(SHAPES, 3), rng.sample(COLOURS, 3), cells, strict=False):
        kept_back = held_out_texture(shape, colour)
        texture = kept_back if held_out else rng.choice([name for name in TEXTURES if name != kept_back])
        objects.append(SceneObject(shape, colour, rng.choice(SIZES), texture, cell))
    return Scene(tuple(objects), rng.choice(BACKGROUNDS))


def aligned_relation(first: tuple[int, int], second: tuple[int, int]) -> str | None:
    """The relation of one cell to another in the same row or column; None for a diagonal, which has two."""
    if first[0] == second[0] and first[1] != second[1]:
        return "left_of" if first[1] < second[1] else "right_of"
    if first[1] == second[1] and first[0] != second[0]:
        return "above" if first[0] < second[0] else "below"
    return None


def places_of(cell: tuple[int, int]) -> tuple[str, ...]:
    """Every place word that is true of a cell: a top left object is at the top and on the left."""
    row, column = cell
    words = [{-1: "top", 1: "bottom"}[row]] if row else []
    words += [{-1: "left", 1: "right"}[column]] if column else []
    return tuple(words) or ("middle",)


def sample_facts(scene: Scene, rng: random.Random) -> CaptionFacts:
    """Choose what one caption tells: always shape and colour of what it mentions, never everything in the picture."""
    if len(scene.objects) == 1:
        only = scene.objects[0]
        silent = rng.choice(("size", "texture"))
        size, texture = (None, only.texture) if silent == "size" else (only.size, None)
        mention = Mention(only.shape, only.colour, size, texture)
        return CaptionFacts((mention,), (), rng.choice(places_of(only.cell)), scene.background)
    chosen = _choose_objects(scene, rng)
    mentions = [sample_mention(item, rng) for item in chosen]
    relations = tuple(aligned_relation(chosen[0].cell, other.cell) or "" for other in chosen[1:])
    background = scene.background if rng.random() < 0.75 else None
    if len(mentions) == len(scene.objects) and background and all(m.size and m.texture for m in mentions):
        mentions[-1] = replace(mentions[-1], texture=None)
    return CaptionFacts(tuple(mentions), relations, None, background)


def _choose_objects(scene: Scene, rng: random.Random) -> list[SceneObject]:
    """The objects of a caption, in order; the first one is aligned with each of the others."""
    candidates = [item for item in scene.objects if len(_neighbours(scene, item)) == len(scene.objects) - 1]
    if len(scene.objects) == 3 and rng.random() < 0.5:
        first = rng.choice(scene.objects)
        return [first, rng.choice(_neighbours(scene, first))]
    first = rng.choice(candidates)
    others = _neighbours(scene, first)
    return [first, *rng.sample(others, len(others))]


def _neighbours(scene: Scene, item: SceneObject) -> list[SceneObject]:
    return [other for other in scene.objects if aligned_relation(item.cell, other.cell)]


def sample_mention(item: SceneObject, rng: random.Random) -> Mention:
    """Say shape and colour of an object, and its size, its texture or both."""
    told = rng.choices(("both", "size", "texture"), weights=(0.4, 0.3, 0.3))[0]
    return Mention(
        item.shape,
        item.colour,
        size=None if told == "texture" else item.size,
        texture=None if told == "size" else item.texture,
    )


def is_true(facts: CaptionFacts, scene: Scene) -> bool:
    """Whether a caption holds for a picture, read generously: a diagonal neighbour is to the left *and* above.

    Generous truth makes uniqueness strict: a caption that is true of one picture only has no honest rival.
    """
    if facts.background not in (None, scene.background):
        return False
    by_shape = {item.shape: item for item in scene.objects}
    found: list[SceneObject] = []
    for mention in facts.mentions:
        item = by_shape.get(mention.shape)
        if item is None or item.colour != mention.colour:
            return False
        if mention.size not in (None, item.size) or mention.texture not in (None, item.texture):
            return False
        found.append(item)
    if facts.place is not None and facts.place not in places_of(found[0].cell):
        return False
    return all(
        _holds(relation, found[0].cell, other.cell) for relation, other in zip(facts.relations, found[1:], strict=True)
    )


def _holds(relation: str, first: tuple[int, int], second: tuple[int, int]) -> bool:
    axis = 1 if relation in ("left_of", "right_of") else 0
    return first[axis] < second[axis] if relation in ("left_of", "above") else first[axis] > second[axis]


def make_wrong(probability: float, rng: random.Random) -> Callable[[str, Sequence[str]], str]:
    """A function (value, possible values) -> value that is wrong with a probability.

    It draws the same numbers at every probability, so that a value which is wrong at 0.1 is as wrong at 0.2.
    """

    def disturb(value: str, values: Sequence[str]) -> str:
        draw, other = rng.random(), rng.choice([name for name in values if name != value])
        return other if draw < probability else value

    return disturb


def disturb_facts(facts: CaptionFacts, probability: float, rng: random.Random) -> CaptionFacts:
    """Make each attribute, relation, place and background of a caption wrong with a probability."""
    if probability == 0.0:
        return facts
    wrong = make_wrong(probability, rng)
    mentions = tuple(
        Mention(
            wrong(mention.shape, SHAPES),
            wrong(mention.colour, COLOURS),
            mention.size and wrong(mention.size, SIZES),
            mention.texture and wrong(mention.texture, TEXTURES),
        )
        for mention in facts.mentions
    )
    relations = tuple(wrong(relation, RELATIONS) for relation in facts.relations)
    place = facts.place and wrong(facts.place, PLACES)
    background = facts.background and wrong(facts.background, BACKGROUNDS)
    return CaptionFacts(mentions, relations, place, background)
