"""What an MLLM says about each picture or video of a data set, judged one by one, as columns beside it."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

import datasets
from PIL import Image

from processing.chat_server import MAX_PICTURE_SIDE
from processing.description_answers import cut_to_sentences, is_empty, is_refusal, tidy_captions, tidy_description
from processing.generation import (
    EMPTY_FLAG,
    ERROR_FLAG,
    REFUSAL_FLAG,
    TRUNCATED_FLAG,
    Answer,
    Generator,
    Outcome,
    Request,
    ask,
)
from processing.jobs import Job
from processing.languages import SOURCE_LANGUAGE
from processing.missing import MissingReport
from processing.prompts import Prompt
from processing.records import (
    DESCRIPTION_COLUMN,
    IMAGE_COLUMN,
    OK_FLAG,
    VIDEO_COLUMN,
    caption_column,
    find_id_column,
    flag_column,
    schema_features,
)
from processing.video_frames_leccr import FrameSampling
from processing.visual_rows import VisualRows

logger = logging.getLogger(__name__)

UNREADABLE_FLAG = "unreadable"
DEFAULT_ATTEMPTS = 3
DEFAULT_FRAMES = 8
CAPTIONS_PREFIX = "captions-"
# Pictures that are open at once, at most: with MAX_PICTURE_SIDE about half a GB.
PICTURES_IN_MEMORY = 128


class Describer(Generator, Protocol):
    """A generator that takes pictures."""

    @property
    def decoding(self) -> dict[str, Any]:
        """What decides the answers, for `Job.settings`."""
        ...


class PictureDescriber:
    """Adds descriptions to rows with `image` or `video`; the `Worker` of a description job.

    A text is null where the flag says that nothing usable came: "refusal", "empty", "error" (no answer), "unreadable"
    (the picture or clip cannot be decoded, or the cell is null), and "truncated" where not one sentence was whole.
    Other truncated texts are kept without their last, cut sentence.

    A prompt whose id begins with "captions-" gives `caption_en` instead, for rows that have none. Captions that people
    wrote stay, with null flags. A row without a usable caption has none, and one flag that says why.

    Args:
        generator: a model in this process, or a client of a server.
        prompt: what is asked about each picture.
        max_attempts: how often a picture is asked about until its answer is good; at least 1.
        num_frames: pictures that are sampled from a video, at least 1.
    """

    def __init__(
        self,
        generator: Generator,
        prompt: Prompt,
        *,
        max_attempts: int = DEFAULT_ATTEMPTS,
        num_frames: int = DEFAULT_FRAMES,
    ) -> None:
        self._generator, self._prompt = generator, prompt
        self._max_attempts, self._num_frames = max_attempts, num_frames

    def __call__(self, rows: datasets.Dataset, events: Counter[str]) -> dict[str, list[Any]]:
        """The new columns for these rows, in order."""
        if not writes_captions(self._prompt):
            outcomes = self._ask(rows, list(range(len(rows))), events)
            return {
                DESCRIPTION_COLUMN: [outcome.text for outcome in outcomes.values()],
                flag_column(DESCRIPTION_COLUMN): [outcome.flag for outcome in outcomes.values()],
            }
        column = caption_column(SOURCE_LANGUAGE)
        human = rows[column] if column in rows.column_names else [None] * len(rows)
        open_rows = [position for position, captions in enumerate(human) if not _has_text(captions)]
        outcomes = self._ask(rows, open_rows, events)
        cells = [_caption_cells(captions, outcomes.get(position)) for position, captions in enumerate(human)]
        return {column: [captions for captions, _ in cells], flag_column(column): [flags for _, flags in cells]}

    def _ask(self, rows: datasets.Dataset, positions: Sequence[int], events: Counter[str]) -> dict[int, Outcome]:
        """Position -> outcome, in order; only some pictures are open at a time."""
        media = _Media(rows, self._num_frames)
        judge = judge_captions if writes_captions(self._prompt) else judge_description
        outcomes = dict.fromkeys(positions, Outcome(None, UNREADABLE_FLAG))
        step = max(1, PICTURES_IN_MEMORY // media.pictures_per_row)
        for start in range(0, len(positions), step):
            opened = {position: media.open(position) for position in positions[start : start + step]}
            requests = {
                position: Request(media.ids[position], self._prompt.text, pictures)
                for position, pictures in opened.items()
                if pictures
            }
            answered = ask(
                self._generator, list(requests.values()), judge, max_attempts=self._max_attempts, events=events
            )
            outcomes.update(zip(requests, answered, strict=True))
        return outcomes


class _Media:
    """The pictures of rows, or frames of their videos, opened when asked for."""

    def __init__(self, rows: datasets.Dataset, num_frames: int) -> None:
        self.ids: list[str] = rows[find_id_column(rows.column_names)]
        self._seen = "frames" if media_column(rows.column_names) == VIDEO_COLUMN else "image"
        self._rows = VisualRows(rows, self._seen, FrameSampling(num_frames))
        self.pictures_per_row = num_frames if self._seen == "frames" else 1

    def open(self, position: int) -> tuple[Image.Image, ...]:
        """RGB, no side longer than MAX_PICTURE_SIDE; nothing if the row has no readable picture."""
        try:
            seen = self._rows.read(position)[self._seen]
        except ValueError as error:
            # Its own advice is that of training.
            logger.warning("item %r cannot be decoded: %s", self.ids[position], error.__cause__ or error)
            return ()
        pictures = seen if self._seen == "frames" else [seen]
        for picture in pictures:
            picture.thumbnail((MAX_PICTURE_SIDE, MAX_PICTURE_SIDE))
        return tuple(pictures)


def writes_captions(prompt: Prompt) -> bool:
    """Whether a prompt asks for captions, one a line, rather than for a description."""
    return prompt.id.startswith(CAPTIONS_PREFIX)


def media_column(column_names: Sequence[str]) -> str:
    """`video` or `image`.

    Raises:
        ValueError: neither column is there, or both are.
    """
    found = [name for name in column_names if name in (IMAGE_COLUMN, VIDEO_COLUMN)]
    if len(found) != 1:
        raise ValueError(
            f"rows must have one column {IMAGE_COLUMN!r} or {VIDEO_COLUMN!r}, got {list(column_names)}; join a data "
            f"set of texts with its files by --images or --videos."
        )
    return found[0]


def judge_description(request: Request, answer: Answer) -> Outcome:
    """What is kept of an answer that should be a paragraph, see `processing.generation.ask`."""
    if answer.text is None:
        return Outcome(None, ERROR_FLAG)
    text = tidy_description(answer.text)
    if is_empty(text):
        return Outcome(None, TRUNCATED_FLAG if answer.truncated else EMPTY_FLAG)
    if is_refusal(text):
        return Outcome(None, REFUSAL_FLAG)
    if answer.truncated:
        return Outcome(cut_to_sentences(text) or None, TRUNCATED_FLAG)
    return Outcome(text, OK_FLAG)


def judge_captions(request: Request, answer: Answer) -> Outcome:
    """What is kept of an answer that should be captions, one a line; the text has a line for each."""
    if answer.text is None:
        return Outcome(None, ERROR_FLAG)
    # The last line of a truncated answer is cut.
    captions = tidy_captions(answer.text.rpartition("\n")[0] if answer.truncated else answer.text)
    if captions and is_refusal(captions[0]):
        return Outcome(None, REFUSAL_FLAG)
    kept = "\n".join(captions) or None
    if answer.truncated:
        return Outcome(kept, TRUNCATED_FLAG)
    return Outcome(kept, OK_FLAG if kept else EMPTY_FLAG)


def description_job(
    splits: Mapping[str, datasets.Dataset],
    generator: Describer,
    prompt: Prompt,
    *,
    max_attempts: int = DEFAULT_ATTEMPTS,
    num_frames: int = DEFAULT_FRAMES,
    missing: MissingReport | None = None,
    rows_per_shard: int = 256,
) -> Job:
    """The job that adds descriptions, or captions, to some splits.

    Args:
        splits: with `image` or `video`, and an id.
        generator: who describes.
        prompt: see `PictureDescriber`, as for the two numbers after it.
        missing: rows that were left out, whose numbers go into the manifest.
        rows_per_shard: see `Job`.

    Raises:
        ValueError: a split lacks a column, or a number is below 1.
    """
    if max_attempts < 1 or num_frames < 1:
        raise ValueError(f"max_attempts and num_frames must be at least 1, got {max_attempts} and {num_frames}.")
    for rows in splits.values():
        find_id_column(rows.column_names)
    columns = {media_column(rows.column_names) for rows in splits.values()}
    settings = {
        **generator.decoding,
        "prompt": asdict(prompt),
        "max_attempts": max_attempts,
        "max_picture_side": MAX_PICTURE_SIDE,
        **({"num_frames": num_frames} if VIDEO_COLUMN in columns else {}),
        **({"missing": missing.counts()} if missing else {}),
    }
    name = caption_column(SOURCE_LANGUAGE) if writes_captions(prompt) else DESCRIPTION_COLUMN
    return Job("describe", settings, schema_features([name, flag_column(name)]), rows_per_shard)


def _has_text(captions: Sequence[str | None] | None) -> bool:
    return any(caption and caption.strip() for caption in captions or ())


def _caption_cells(human: Sequence[str] | None, outcome: Outcome | None) -> tuple[list[str], list[str | None]]:
    """Captions of a row and their flags."""
    if outcome is None:
        return list(human or ()), [None] * len(human or ())
    captions = outcome.text.split("\n") if outcome.text else []
    return captions, [outcome.flag] * max(1, len(captions))
