"""What happens in a procedural clip, which facts a caption tells about it, and whether a caption is true of a clip.

A clip is a scene of one or two objects, each of which does one thing from the first frame to the last. Verbs are of
two kinds. *Ordered* ones come in pairs that are each other played backwards: moves left and moves right, grows and
shrinks, appears and disappears, approaches and leaves, turns from one colour to another. The *order-free* ones look
the same in both directions: spins, blinks, shakes, stands still.

Nothing here knows a language or a pixel: `language.py` words the facts, `drawing.py` draws the clip.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from processing.scenes.world import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    SIZES,
    TEXTURES,
    Mention,
    Scene,
    SceneObject,
    held_out_texture,
    make_wrong,
    sample_mention,
)

Cell = tuple[int, int]

# How far (rows, columns) a verb takes an object that crosses the picture.
STEPS = {"moves_left": (0, -1), "moves_right": (0, 1), "moves_up": (-1, 0), "moves_down": (1, 0)}
RELATIONAL = ("approaches", "leaves")
ORDERED = (*STEPS, "grows", "shrinks", "appears", "disappears", *RELATIONAL, "turns")
ORDER_FREE = ("spins", "blinks", "shakes", "stands_still")
VERBS = ORDERED + ORDER_FREE
REVERSE = {
    "moves_left": "moves_right",
    "moves_up": "moves_down",
    "grows": "shrinks",
    "appears": "disappears",
    "approaches": "leaves",
}
REVERSE |= {backwards: forwards for forwards, backwards in REVERSE.items()}

LONE_RATE = 0.85
SECOND_STANDS_RATE = 0.3
BACKGROUND_RATE = 0.75
BOTH_RATE = 0.6


@dataclass(frozen=True)
class MovingObject:
    """One object of a clip: how it looks and where it is at first, what it does, and what has become of it.

    `thing.size` of an object that grows or shrinks is its middle size, which no caption tells.
    """

    thing: SceneObject
    verb: str
    end: Cell
    new_colour: str | None = None

    @property
    def colours(self) -> tuple[str, ...]:
        """The colours that the object has in the course of the clip."""
        return (self.thing.colour, self.new_colour) if self.new_colour else (self.thing.colour,)


@dataclass(frozen=True)
class Clip:
    """The content of a clip: one or two objects that differ in shape and in every colour, and a background.

    Only the first object may approach or leave the other one.
    """

    objects: tuple[MovingObject, ...]
    background: str

    @property
    def is_ordered(self) -> bool:
        """Whether the clip tells another story when it is played backwards."""
        return any(item.verb in ORDERED for item in self.objects)


@dataclass(frozen=True)
class Event:
    """What a caption tells of one object: `other` with `approaches` and `leaves`, `new_colour` with `turns`."""

    subject: Mention
    verb: str
    other: Mention | None = None
    new_colour: str | None = None


@dataclass(frozen=True)
class ClipFacts:
    """The content of one caption, before any language: one event, or two of different objects."""

    events: tuple[Event, ...]
    background: str | None = None


def sample_clip(rng: random.Random, *, held_out: bool, ordered: bool) -> Clip:
    """Draw a clip's content.

    Args:
        rng: the item's own generator.
        held_out: every object is a held-out combination (validation, test) or none is (training), in every colour
            that it has.
        ordered: the first object's verb is an ordered one; otherwise no verb is.
    """
    verbs = [rng.choice(ORDERED if ordered else ORDER_FREE)]
    if verbs[0] in RELATIONAL or rng.random() >= LONE_RATE:
        verbs.append(_second_verb(verbs[0], rng))
    things: list[MovingObject] = []
    for verb, (start, end) in zip(verbs, _paths(verbs, rng), strict=True):
        things.append(_sample_object(verb, start, end, things, rng, held_out=held_out))
    if verbs[0] in RELATIONAL:
        # Both are small, so that they come close without touching.
        things = [replace(item, thing=replace(item.thing, size="small")) for item in things]
    return Clip(tuple(things), rng.choice(BACKGROUNDS))


def _second_verb(first: str, rng: random.Random) -> str:
    """What the other object does; never what the first one does, and never across its way."""
    stands = rng.random() < SECOND_STANDS_RATE
    if first in ORDER_FREE or first in RELATIONAL:
        kinds = [verb for verb in ORDER_FREE if verb != first]
    else:
        kinds = [verb for verb in VERBS if verb not in (first, *RELATIONAL) and not _crosses(first, verb)]
    return "stands_still" if stands and first != "stands_still" else rng.choice(kinds)


def _crosses(first: str, second: str) -> bool:
    return first in STEPS and second in STEPS and (STEPS[first][0] == 0) != (STEPS[second][0] == 0)


def _paths(verbs: Sequence[str], rng: random.Random) -> list[tuple[Cell, Cell]]:
    """Where each object starts and ends; two objects keep to two lanes, unless one approaches or leaves the other."""
    steps = [STEPS[verb] for verb in verbs if verb in STEPS]
    axis = rng.choice((0, 1)) if not steps else 0 if steps[0][0] else 1
    lanes = rng.sample((-1, 1), 2) if len(verbs) == 2 else [rng.choice((-1, 0, 1))]
    if verbs[0] in RELATIONAL:
        lane, side = rng.choice((-1, 0, 1)), rng.choice((-1, 1))
        far, near, there = (_cell(axis, place, lane) for place in (-side, 0, side))
        return [(far, near) if verbs[0] == "approaches" else (near, far), (there, there)]
    paths = []
    for verb, lane in zip(verbs, lanes, strict=True):
        target = sum(STEPS[verb]) if verb in STEPS else 0
        place = -target or rng.choice((-1, 0, 1))
        paths.append((_cell(axis, place, lane), _cell(axis, target or place, lane)))
    return paths


def _cell(axis: int, along: int, across: int) -> Cell:
    return (along, across) if axis == 0 else (across, along)


def _sample_object(
    verb: str, start: Cell, end: Cell, others: Sequence[MovingObject], rng: random.Random, *, held_out: bool
) -> MovingObject:
    used = {other.thing.shape for other in others} | {colour for other in others for colour in other.colours}
    # A circle that spins looks like one that stands still.
    shapes = [name for name in SHAPES if name not in used and not (verb == "spins" and name == "circle")]
    shape = rng.choice(shapes)
    palette = [name for name in COLOURS if name not in used]
    turns = [
        (old, new)
        for old in palette
        for new in palette
        # Only colours with one held-out texture can follow each other in validation and test.
        if old != new and (not held_out or held_out_texture(shape, old) == held_out_texture(shape, new))
    ]
    colours: tuple[str, ...] = rng.choice(turns) if verb == "turns" else (rng.choice(palette),)
    kept_back = {held_out_texture(shape, colour) for colour in colours}
    textures = [name for name in TEXTURES if (name in kept_back) == held_out]
    size = "large" if verb in ("grows", "shrinks") else rng.choice(SIZES)
    thing = SceneObject(shape, colours[0], size, rng.choice(textures), start)
    return MovingObject(thing, verb, end, colours[1] if verb == "turns" else None)


def play_backwards(clip: Clip) -> Clip:
    """What a clip shows when its last frame comes first."""
    return replace(clip, objects=tuple(_reversed(item) for item in clip.objects))


def _reversed(item: MovingObject) -> MovingObject:
    thing = replace(item.thing, cell=item.end, colour=item.new_colour or item.thing.colour)
    new_colour = item.thing.colour if item.new_colour else None
    return MovingObject(thing, REVERSE.get(item.verb, item.verb), item.thing.cell, new_colour)


def middle_scene(clip: Clip, rng: random.Random) -> Scene:
    """The clip as one of its middle frames has it, the same played forwards or backwards.

    A colour that changes is drawn: half of the sampled frames show one, half the other.
    """
    objects = tuple(
        replace(item.thing, cell=_halfway(item.thing.cell, item.end), colour=rng.choice(sorted(item.colours)))
        for item in clip.objects
    )
    return Scene(objects, clip.background)


def _halfway(start: Cell, end: Cell) -> Cell:
    row, column = ((first > -last) - (first < -last) for first, last in zip(start, end, strict=True))
    return row, column


def sample_facts(clip: Clip, rng: random.Random) -> ClipFacts:
    """Choose what one caption tells: of an ordered clip always an ordered verb, so that order tells it apart."""
    background = clip.background if rng.random() < BACKGROUND_RATE else None
    first = clip.objects[0]
    if first.verb in RELATIONAL:
        other = sample_mention(clip.objects[1].thing, rng)
        return ClipFacts((Event(sample_mention(first.thing, rng), first.verb, other),), background)
    chosen = rng.sample(clip.objects, len(clip.objects))
    if rng.random() >= BOTH_RATE:
        chosen = [item for item in chosen if not clip.is_ordered or item.verb in ORDERED][:1]
    return ClipFacts(tuple(_event(item, rng) for item in chosen), background)


def _event(item: MovingObject, rng: random.Random) -> Event:
    subject = sample_mention(item.thing, rng)
    if item.verb in ("grows", "shrinks"):
        subject = replace(subject, size=None)
    return Event(subject, item.verb, None, item.new_colour)


def tell_all(clip: Clip) -> ClipFacts:
    """Everything that captions tell of a clip; where it is true of another clip, no caption tells the two apart."""
    mentions = [
        Mention(item.thing.shape, item.thing.colour, item.thing.size, item.thing.texture) for item in clip.objects
    ]
    first = clip.objects[0]
    if first.verb in RELATIONAL:
        return ClipFacts((Event(mentions[0], first.verb, mentions[1]),), clip.background)
    events = (
        Event(mention, item.verb, None, item.new_colour) for mention, item in zip(mentions, clip.objects, strict=True)
    )
    return ClipFacts(tuple(events), clip.background)


def is_true(facts: ClipFacts, clip: Clip) -> bool:
    """Whether a caption holds for a clip, read generously: what blinks also appears and disappears.

    Generous truth makes uniqueness strict: a caption that is true of one clip only has no honest rival.
    """
    if facts.background not in (None, clip.background):
        return False
    return all(_happens(event, clip) for event in facts.events)


def _happens(event: Event, clip: Clip) -> bool:
    item = next((item for item in clip.objects if _fits(event.subject, item)), None)
    if item is None:
        return False
    if event.verb in RELATIONAL:
        other = next((other for other in clip.objects if event.other and _fits(event.other, other)), None)
        if other is None:
            return False
        before, after = _distance(item.thing.cell, other.thing.cell), _distance(item.end, other.end)
        return after < before if event.verb == "approaches" else after > before
    if event.verb == "turns":
        return (event.subject.colour, event.new_colour) == (item.thing.colour, item.new_colour)
    return _does(item, event.verb)


def _fits(mention: Mention, item: MovingObject) -> bool:
    thing = item.thing
    sized = mention.size in (None, thing.size) or item.verb in ("grows", "shrinks")
    textured = mention.texture in (None, thing.texture)
    return mention.shape == thing.shape and mention.colour in item.colours and sized and textured


def _does(item: MovingObject, verb: str) -> bool:
    """Whether an object does something that needs no other object and no colour."""
    start = item.thing.cell
    if verb in STEPS:
        axis = 0 if STEPS[verb][0] else 1
        return (item.end[axis] - start[axis]) * STEPS[verb][axis] > 0
    if verb == "stands_still":
        return start == item.end and item.verb not in ("spins", "shakes")
    return item.verb == verb or (item.verb == "blinks" and verb in ("appears", "disappears"))


def _distance(first: Cell, second: Cell) -> int:
    return (first[0] - second[0]) ** 2 + (first[1] - second[1]) ** 2


def needs_order(facts: ClipFacts) -> bool:
    """Whether a caption tells an ordered verb, so that it is not true of its clip played backwards."""
    return any(event.verb in ORDERED for event in facts.events)


def disturb_facts(facts: ClipFacts, probability: float, rng: random.Random) -> ClipFacts:
    """Make each attribute, verb and background of a caption wrong with a probability."""
    if probability == 0.0:
        return facts
    wrong = make_wrong(probability, rng)
    events = tuple(_disturb_event(event, wrong) for event in facts.events)
    return ClipFacts(events, facts.background and wrong(facts.background, BACKGROUNDS))


def _disturb_event(event: Event, wrong: Callable[[str, Sequence[str]], str]) -> Event:
    def mention(told: Mention) -> Mention:
        return Mention(
            wrong(told.shape, SHAPES),
            wrong(told.colour, COLOURS),
            told.size and wrong(told.size, SIZES),
            told.texture and wrong(told.texture, TEXTURES),
        )

    subject, other = mention(event.subject), event.other and mention(event.other)
    if event.other:
        return Event(subject, wrong(event.verb, RELATIONAL), other)
    if event.new_colour:
        return Event(subject, event.verb, None, wrong(event.new_colour, COLOURS))
    plain = [verb for verb in VERBS if verb not in (*RELATIONAL, "turns")]
    return Event(subject, wrong(event.verb, plain))
