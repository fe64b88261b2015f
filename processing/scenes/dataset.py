"""The embedded data set: procedural pictures with captions in six languages, made in seconds, stored nowhere.

A picture shows one to three objects (shape, colour, size, texture, position) on a background. `caption_en` is the
English source, `caption_<lang>_mt` its machine translation with noise, `caption_<lang>` what a person would type to
find the picture: other facts, other wording, other order. `description` stands in for an MLLM's paragraph.

Validation and test show only combinations of shape, colour and texture that training never shows (see
`world.held_out_texture`). In every split, a caption's content is true of one picture only.

`load_scenes(ScenesConfig())` is all that a recipe needs; `world.py` decides what is in a picture,
`language.py` and a grammar for each language word it, and `drawing.py` draws it.
"""

import itertools
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import datasets

from processing.records import DESCRIPTION_COLUMN, ID_COLUMN, IMAGE_COLUMN, SOURCE_LANGUAGE, caption_column

from .drawing import draw_scene, encode_png
from .english import write_description
from .grammar import Wording
from .language import HUMAN_VOICE, SOURCE_VOICE, translate_caption, write_caption
from .world import CaptionFacts, Mention, Scene, SceneObject, disturb_facts, is_true, sample_facts, sample_scene

TARGET_LANGUAGES = ("de", "fr", "cs", "zh", "ja")
SPLITS = ("train", "validation", "test")
# A scene whose captions also fit an earlier picture is drawn again; a split of many thousands of items runs out of
# scenes, and then a few captions have two true pictures.
MAX_ATTEMPTS = 40
MIN_IMAGE_SIZE = 32

_Key = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class ScenesConfig:
    """Sizes, seed and noise of the data set.

    Args:
        train_size: number of training pictures.
        validation_size: number of validation pictures.
        test_size: number of test pictures.
        image_size: width and height in pixels, at least 32.
        captions_per_item: captions of each kind for each picture.
        seed: another seed is another data set.
        translation_noise: probability in [0, 1] for each word of a machine translation to be dropped, swapped with
            the next or replaced.
        description_noise: probability in [0, 1] for each attribute, place, relation and background of a description
            to be wrong.
        guidance_noise: probability in [0, 1] for each attribute of an English *training* caption to be wrong, while
            its translations stay right. Elsewhere `caption_en` is a query and stays right.
        languages: target languages, a subset of de, fr, cs, zh, ja.

    Raises:
        ValueError: a size, noise or language is out of range; the message names it.
    """

    train_size: int = 2400
    validation_size: int = 200
    test_size: int = 400
    image_size: int = 96
    captions_per_item: int = 2
    seed: int = 0
    translation_noise: float = 0.05
    description_noise: float = 0.0
    guidance_noise: float = 0.0
    languages: tuple[str, ...] = TARGET_LANGUAGES

    def __post_init__(self) -> None:
        # A recipe file gives a list; a tuple keeps the frozen config hashable.
        object.__setattr__(self, "languages", checked_languages(self.languages))
        check_numbers(self, image_size=MIN_IMAGE_SIZE)


def check_numbers(config: Any, **minima: int) -> None:
    """Refuse sizes and noises of a config that are out of range.

    Args:
        config: has the size of each split, `captions_per_item`, and the noises.
        minima: the least value of each further size.

    Raises:
        ValueError: a value is out of range; the message names it.
        TypeError: a size is no int.
    """
    minima = {f"{split}_size": 1 for split in SPLITS} | {"captions_per_item": 1} | minima
    for name, minimum in minima.items():
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be an int, got {value!r}.")
        if value < minimum:
            raise ValueError(f"{name} must be at least {minimum}, got {value}.")
    for name in ("translation_noise", "description_noise", "guidance_noise"):
        value = getattr(config, name)
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{name} is a probability and must be in [0, 1], got {value!r}.")


def checked_languages(languages: Any) -> tuple[str, ...]:
    """Target languages of a recipe as a tuple; other codes, none, or one twice are refused."""
    if isinstance(languages, str):
        raise TypeError(f"languages must be a list of codes such as ['de'], got the string {languages!r}.")
    unknown = [language for language in languages if language not in TARGET_LANGUAGES]
    if unknown or not languages or len(set(languages)) != len(languages):
        raise ValueError(
            f"languages must be different codes of {list(TARGET_LANGUAGES)}, at least one, got {list(languages)}."
        )
    return tuple(languages)


@dataclass(frozen=True)
class Caption:
    """What one caption tells, and how."""

    facts: CaptionFacts
    wording: Wording


@dataclass(frozen=True)
class Item:
    """One picture before it is drawn and worded: its content and the captions of both voices."""

    scene: Scene
    source_captions: tuple[Caption, ...]
    human_captions: tuple[Caption, ...]

    @property
    def captions(self) -> tuple[Caption, ...]:
        """The captions of both voices."""
        return self.source_captions + self.human_captions


def load_scenes(config: ScenesConfig) -> datasets.DatasetDict:
    """Make the data set in memory.

    Args:
        config: sizes, seed and noise; equal configs give equal bytes on every machine with the same Pillow.

    Returns:
        The splits train, validation and test in the schema of `processing/records.py`. A larger split begins with
        the items of a smaller one, and a noise knob changes its own column only.
    """
    features = _features(config.languages)
    splits = {}
    for split in SPLITS:
        items = plan_split(config, split)
        rows = [_row(config, split, index, item) for index, item in enumerate(items)]
        splits[split] = datasets.Dataset.from_dict(
            {name: [row[name] for row in rows] for name in features}, features=features, split=split
        )
    return datasets.DatasetDict(splits)


def plan_split(config: ScenesConfig, split: str) -> list[Item]:
    """Decide the content of a split, so that each caption is true of its own picture only.

    Raises:
        ValueError: the split is unknown.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {list(SPLITS)}, got {split!r}.")
    rivals = _Rivals()
    items = []
    for index in range(getattr(config, f"{split}_size")):
        rng = _generator(config, split, index, "content")
        for _ in range(MAX_ATTEMPTS):
            item = _sample_item(config, split, rng)
            if rivals.accepts(item):
                break
        rivals.add(item)
        items.append(item)
    return items


class _Rivals:
    """Earlier items of a split by the shape and colour of one or two objects, which every caption names."""

    def __init__(self) -> None:
        self.scenes: dict[_Key, list[Scene]] = defaultdict(list)
        self.facts: dict[_Key, list[CaptionFacts]] = defaultdict(list)

    def accepts(self, item: Item) -> bool:
        """Whether no caption of the item fits an earlier picture, and no earlier caption fits the item's picture."""
        for caption in item.captions:
            if any(is_true(caption.facts, scene) for scene in self.scenes[_key(caption.facts.mentions[:2])]):
                return False
        return not any(is_true(facts, item.scene) for key in _scene_keys(item.scene) for facts in self.facts[key])

    def add(self, item: Item) -> None:
        """Remember an accepted item."""
        for key in _scene_keys(item.scene):
            self.scenes[key].append(item.scene)
        for caption in item.captions:
            self.facts[_key(caption.facts.mentions[:2])].append(caption.facts)


def _key(things: Iterable[SceneObject | Mention]) -> _Key:
    return frozenset((thing.shape, thing.colour) for thing in things)


def _scene_keys(scene: Scene) -> list[_Key]:
    """The key of each object and of each pair of objects."""
    return [_key(group) for count in (1, 2) for group in itertools.combinations(scene.objects, count)]


def _sample_item(config: ScenesConfig, split: str, rng: random.Random) -> Item:
    scene = sample_scene(rng, held_out=split != "train")
    source, human = (
        tuple(Caption(sample_facts(scene, rng), voice.sample_wording(rng)) for _ in range(config.captions_per_item))
        for voice in (SOURCE_VOICE, HUMAN_VOICE)
    )
    return Item(scene, source, human)


def _row(config: ScenesConfig, split: str, index: int, item: Item) -> dict[str, Any]:
    """One row of the schema; every kind of randomness has its own generator, so that knobs do not interact."""

    def generator(purpose: str) -> random.Random:
        return _generator(config, split, index, purpose)

    picture = draw_scene(item.scene, config.image_size, generator("drawing"))
    row: dict[str, Any] = {
        IMAGE_COLUMN: {"bytes": encode_png(picture), "path": None},
        ID_COLUMN: f"{split}-{index:05d}",
        DESCRIPTION_COLUMN: write_description(
            item.scene, noise=config.description_noise, rng=generator("description noise")
        ),
        caption_column(SOURCE_LANGUAGE): _source_captions(config, split, item, generator("guidance noise")),
    }
    for language in config.languages:
        rng = generator(f"{language} translation noise")
        row[caption_column(language, translated=True)] = [
            translate_caption(language, caption.facts, caption.wording, noise=config.translation_noise, rng=rng)
            for caption in item.source_captions
        ]
        row[caption_column(language)] = [
            write_caption(language, caption.facts, caption.wording) for caption in item.human_captions
        ]
    return row


def _source_captions(config: ScenesConfig, split: str, item: Item, rng: random.Random) -> list[str]:
    noise = config.guidance_noise if split == "train" else 0.0
    return [
        write_caption(SOURCE_LANGUAGE, disturb_facts(caption.facts, noise, rng), caption.wording)
        for caption in item.source_captions
    ]


def _generator(config: ScenesConfig, split: str, index: int, purpose: str) -> random.Random:
    # Python seeds from a string by SHA-512, so the hash seed of the process has no say.
    return random.Random(f"{config.seed}/{split}/{index}/{purpose}")


def _features(languages: tuple[str, ...]) -> datasets.Features:
    captions = datasets.List(datasets.Value("string"))
    columns: Mapping[str, Any] = {
        IMAGE_COLUMN: datasets.Image(),
        ID_COLUMN: datasets.Value("string"),
        DESCRIPTION_COLUMN: datasets.Value("string"),
        caption_column(SOURCE_LANGUAGE): captions,
        **{caption_column(language, translated=True): captions for language in languages},
        **{caption_column(language): captions for language in languages},
    }
    return datasets.Features(columns)
