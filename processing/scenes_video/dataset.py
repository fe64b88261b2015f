"""The embedded data set of clips: scenes that move, with captions in six languages, made in seconds, stored nowhere.

A clip shows one or two objects, each of which does one thing: it moves, grows, turns blue, spins (`actions.py`). More
than half of the clips come in pairs, one of which is the other one played backwards, frame by frame: only the order of
the frames tells `moves to the left` from `moves to the right`. `caption_en` is the English source,
`caption_<lang>_mt` its machine translation with noise, `caption_<lang>` what a person would type to find the clip.
`description` stands in for an MLLM's paragraph about sampled frames: objects, colours and places, and of motion at
most that there is some.

Validation and test show only combinations of shape, colour and texture that training never shows. In every split, a
caption's content is true of one clip only.

`load_scenes_video(ScenesVideoConfig())` is all that a recipe needs; `planning.py` decides what the clips show.
"""

import random
from collections.abc import Iterator
from typing import Any

import datasets

from processing.records import (
    DESCRIPTION_COLUMN,
    FEATURES_COLUMN,
    SOURCE_LANGUAGE,
    VIDEO_COLUMN,
    VIDEO_ID_COLUMN,
    caption_column,
)
from processing.scenes.dataset import SPLITS
from processing.scenes.english import write_description

from .actions import Clip, disturb_facts, middle_scene
from .clips import encode_clip
from .drawing import draw_clip
from .features import frame_features
from .language import translate_clip_caption, write_clip_caption
from .planning import ClipItem, ScenesVideoConfig, generator, plan_split

VAGUE_MOTION_RATE = 0.15
VAGUE_MOTION = (
    "Something seems to change between the frames.",
    "Something may be moving.",
    "The frames are not all alike.",
)


def load_scenes_video(config: ScenesVideoConfig) -> datasets.DatasetDict:
    """Make the data set in memory.

    Args:
        config: sizes, seed and noise; equal configs give equal bytes on every machine with the same Pillow and PyAV.

    Returns:
        The splits train, validation and test in the schema of `processing/records.py`, with `video` (mp4 files) or
        `features` (numbers). A larger split begins with the items of a smaller one, and a noise knob changes its own
        column only.

    Raises:
        ImportError: form `clips` without PyAV.
    """
    features = _columns(config)
    splits = {}
    for split in SPLITS:
        items = plan_split(config, split)
        rows = [_text_cells(config, split, index, item) for index, item in enumerate(items)]
        visual = VIDEO_COLUMN if config.form == "clips" else FEATURES_COLUMN
        for row, cell in zip(rows, _visual_cells(config, split, items), strict=True):
            row[visual] = cell
        splits[split] = datasets.Dataset.from_dict(
            {name: [row[name] for row in rows] for name in features}, features=features, split=split
        )
    return datasets.DatasetDict(splits)


def _visual_cells(config: ScenesVideoConfig, split: str, items: list[ClipItem]) -> Iterator[Any]:
    """The `video` or `features` of each item; one that is the item before played backwards is not drawn again."""
    shown: list[Any] = []
    for index, item in enumerate(items):
        if item.reverse_of is not None:
            shown = shown[::-1]
        else:
            shown = draw_clip(
                item.clip, config.image_size, config.num_frames, generator(config, split, index, "drawing")
            )
            if config.form == "features":
                shown = [frame_features(frame) for frame in shown]
        yield {"bytes": encode_clip(shown), "path": None} if config.form == "clips" else shown


def _text_cells(config: ScenesVideoConfig, split: str, index: int, item: ClipItem) -> dict[str, Any]:
    """The other columns; every kind of randomness has its own generator, so that knobs do not interact."""
    row: dict[str, Any] = {
        VIDEO_ID_COLUMN: f"{split}-{index:05d}",
        DESCRIPTION_COLUMN: _describe(
            item.clip,
            noise=config.description_noise,
            rng=generator(config, split, index, "description"),
            noise_rng=generator(config, split, index, "description noise"),
        ),
        caption_column(SOURCE_LANGUAGE): _source_captions(config, split, index, item),
    }
    for language in config.languages:
        rng = generator(config, split, index, f"{language} translation noise")
        row[caption_column(language, translated=True)] = [
            translate_clip_caption(language, caption.facts, caption.telling, noise=config.translation_noise, rng=rng)
            for caption in item.source_captions
        ]
        row[caption_column(language)] = [
            write_clip_caption(language, caption.facts, caption.telling) for caption in item.human_captions
        ]
    return row


def _describe(clip: Clip, *, noise: float, rng: random.Random, noise_rng: random.Random) -> str:
    """The paragraph about a clip, of its middle; the same words are right for the clip played backwards."""
    text = write_description(middle_scene(clip, rng), noise=noise, rng=noise_rng, shown_by="video")
    told, words = rng.random() < VAGUE_MOTION_RATE, rng.choice(VAGUE_MOTION)
    is_still = all(item.verb == "stands_still" for item in clip.objects)
    return f"{text} {words}" if told and not is_still else text


def _source_captions(config: ScenesVideoConfig, split: str, index: int, item: ClipItem) -> list[str]:
    noise = config.guidance_noise if split == "train" else 0.0
    rng = generator(config, split, index, "guidance noise")
    return [
        write_clip_caption(SOURCE_LANGUAGE, disturb_facts(caption.facts, noise, rng), caption.telling)
        for caption in item.source_captions
    ]


def _columns(config: ScenesVideoConfig) -> datasets.Features:
    captions = datasets.List(datasets.Value("string"))
    # Rows are read by readers of our own, which need no decoder of the library.
    video = {VIDEO_COLUMN: datasets.Video(decode=False)}
    numbers = {FEATURES_COLUMN: datasets.List(datasets.List(datasets.Value("float32")))}
    return datasets.Features(
        {
            **(video if config.form == "clips" else numbers),
            VIDEO_ID_COLUMN: datasets.Value("string"),
            DESCRIPTION_COLUMN: datasets.Value("string"),
            caption_column(SOURCE_LANGUAGE): captions,
            **{caption_column(language, translated=True): captions for language in config.languages},
            **{caption_column(language): captions for language in config.languages},
        }
    )
