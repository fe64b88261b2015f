"""Decide what the clips of each split show and what their captions tell, before anything is drawn or worded."""

import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from processing.scenes.dataset import MIN_IMAGE_SIZE, SPLITS, TARGET_LANGUAGES, check_numbers, checked_languages
from processing.scenes.language import Voice

from .actions import Clip, ClipFacts, is_true, needs_order, play_backwards, sample_clip, sample_facts, tell_all
from .language import HUMAN_CLIP_VOICE, SOURCE_CLIP_VOICE
from .telling import Telling

Form = Literal["clips", "features"]
MIN_NUM_FRAMES = 4
# A clip whose captions also fit an earlier clip is drawn again, and one that is played backwards is worded again; a
# split of many thousands of items runs out of clips, and then a few captions have two true ones.
MAX_ATTEMPTS = 400
# How many of the pairs of neighbours are one clip forwards and backwards, and how many other clips need order.
PAIRED_RATE = 0.6
ORDERED_RATE = 0.3

_Key = tuple[str, str]


@dataclass(frozen=True)
class ScenesVideoConfig:
    """Sizes, seed and noise of the data set.

    Args:
        train_size: number of training clips.
        validation_size: number of validation clips.
        test_size: number of test clips.
        image_size: width and height in pixels, even and at least 32.
        num_frames: frames of a clip, at least 4; eight make a second.
        form: `clips` gives video files, `features` numbers for each frame (`features.frame_features`).
        captions_per_item: captions of each kind for each clip.
        seed: another seed is another data set.
        translation_noise: probability in [0, 1] for each word of a machine translation to be dropped, swapped with
            the next or replaced.
        description_noise: probability in [0, 1] for each attribute, place, relation and background of a description
            to be wrong.
        guidance_noise: probability in [0, 1] for each attribute and verb of an English *training* caption to be
            wrong, while its translations stay right. Elsewhere `caption_en` is a query and stays right.
        languages: target languages, a subset of de, fr, cs, zh, ja.

    Raises:
        ValueError: a size, noise, form or language is out of range; the message names it.
    """

    train_size: int = 2400
    validation_size: int = 200
    test_size: int = 400
    image_size: int = 64
    num_frames: int = 16
    form: Form = "clips"
    captions_per_item: int = 2
    seed: int = 0
    translation_noise: float = 0.05
    description_noise: float = 0.0
    guidance_noise: float = 0.0
    languages: tuple[str, ...] = TARGET_LANGUAGES

    def __post_init__(self) -> None:
        # A recipe file gives a list; a tuple keeps the frozen config hashable.
        object.__setattr__(self, "languages", checked_languages(self.languages))
        check_numbers(self, image_size=MIN_IMAGE_SIZE, num_frames=MIN_NUM_FRAMES)
        if self.image_size % 2:
            raise ValueError(f"image_size must be even, as video files want it, got {self.image_size}.")
        if self.form not in get_args(Form):
            raise ValueError(f"form must be one of {list(get_args(Form))}, got {self.form!r}.")


@dataclass(frozen=True)
class ClipCaption:
    """What one caption tells, and how."""

    facts: ClipFacts
    telling: Telling

    @property
    def needs_order(self) -> bool:
        """Whether the caption tells a verb that another order of the frames would make untrue."""
        return needs_order(self.facts)


@dataclass(frozen=True)
class ClipItem:
    """One clip before it is drawn and worded: its content and the captions of both voices.

    `reverse_of` is the position of an earlier item of the split whose frames this one shows in reverse; such an item
    is the one before.
    """

    clip: Clip
    source_captions: tuple[ClipCaption, ...]
    human_captions: tuple[ClipCaption, ...]
    reverse_of: int | None = None

    @property
    def captions(self) -> tuple[ClipCaption, ...]:
        """The captions of both voices."""
        return self.source_captions + self.human_captions


def generator(config: ScenesVideoConfig, split: str, index: int, purpose: str) -> random.Random:
    """One item's own source of chance for one purpose, so that knobs do not interact."""
    # Python seeds from a string by SHA-512, so the hash seed of the process has no say.
    return random.Random(f"clips/{config.seed}/{split}/{index}/{purpose}")


def plan_split(config: ScenesVideoConfig, split: str) -> list[ClipItem]:
    """Decide the content of a split, so that each caption is true of its own clip only.

    Raises:
        ValueError: the split is unknown.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {list(SPLITS)}, got {split!r}.")
    rivals = _Rivals()
    items: list[ClipItem] = []
    for index in range(getattr(config, f"{split}_size")):
        rng = generator(config, split, index, "content")
        paired = generator(config, split, index - index % 2, "pairing").random() < PAIRED_RATE
        for _ in range(MAX_ATTEMPTS):
            if paired and index % 2:
                clip, reverse_of = play_backwards(items[-1].clip), index - 1
            else:
                ordered = paired or rng.random() < ORDERED_RATE
                clip, reverse_of = sample_clip(rng, held_out=split != "train", ordered=ordered), None
            item = _word_clip(config, clip, reverse_of, rng)
            if rivals.accepts(item, paired=paired):
                break
        rivals.add(item)
        items.append(item)
    return items


def _word_clip(config: ScenesVideoConfig, clip: Clip, reverse_of: int | None, rng: random.Random) -> ClipItem:
    def captions(voice: Voice[Telling]) -> tuple[ClipCaption, ...]:
        return tuple(
            ClipCaption(sample_facts(clip, rng), voice.sample_wording(rng)) for _ in range(config.captions_per_item)
        )

    return ClipItem(clip, captions(SOURCE_CLIP_VOICE), captions(HUMAN_CLIP_VOICE), reverse_of)


class _Rivals:
    """Earlier items of a split by the shape and colour of an object, which every caption names."""

    def __init__(self) -> None:
        self.clips: dict[_Key, list[Clip]] = defaultdict(list)
        self.facts: dict[_Key, list[ClipFacts]] = defaultdict(list)

    def accepts(self, item: ClipItem, *, paired: bool) -> bool:
        """Whether no caption of the item fits an earlier clip, and no earlier caption fits the item's clip.

        Args:
            item: the next item.
            paired: the clip is to be followed by itself played backwards: there must be captions for that one too.
        """
        shown, told = [item.clip], [caption.facts for caption in item.captions]
        if paired and item.reverse_of is None:
            shown.append(play_backwards(item.clip))
            told.append(tell_all(shown[-1]))
        if any(is_true(facts, clip) for facts in told for clip in self.clips[_subject(facts)]):
            return False
        return not any(is_true(facts, clip) for clip in shown for key in _keys(clip) for facts in self.facts[key])

    def add(self, item: ClipItem) -> None:
        """Remember an accepted item."""
        for key in _keys(item.clip):
            self.clips[key].append(item.clip)
        for caption in item.captions:
            self.facts[_subject(caption.facts)].append(caption.facts)


def _subject(facts: ClipFacts) -> _Key:
    return facts.events[0].subject.shape, facts.events[0].subject.colour


def _keys(clip: Clip) -> Iterator[_Key]:
    return ((item.thing.shape, colour) for item in clip.objects for colour in item.colours)
