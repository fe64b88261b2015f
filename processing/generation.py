"""Texts asked of a model: requests, answers, and asking again where an answer will not do.

Translation and description share this. A generator is a model in this process or a server; both see requests and
give answers in the same order.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from processing.records import OK_FLAG

EMPTY_FLAG = "empty"
TRUNCATED_FLAG = "truncated"
ERROR_FLAG = "error"
REFUSAL_FLAG = "refusal"
# All flags that the workers of this package give; a redo of another word is taken for a typing error.
KNOWN_FLAGS = frozenset(
    {OK_FLAG, EMPTY_FLAG, TRUNCATED_FLAG, ERROR_FLAG, REFUSAL_FLAG}
    | {"unreadable", "copy", "lines", "script", "language", "length"}
)
MAX_SEED = 2**31 - 1
_THINK_START, _THINK_END = "<think>", "</think>"


@dataclass(frozen=True)
class Request:
    """One text to be generated.

    Attributes:
        key: which row and caption it is for; the seed of its sampling is derived from it, see `seed_of`.
        prompt: the caption to translate, or what to ask about the pictures.
        pictures: one picture, or frames of a video in order; empty for texts.
    """

    key: str
    prompt: str
    pictures: tuple[Image.Image, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What came for one request.

    Attributes:
        text: None if nothing came.
        truncated: generation stopped at the length limit.
    """

    text: str | None
    truncated: bool = False


class Generator(Protocol):
    """A model in this process, or a client of a server."""

    def generate(self, requests: Sequence[Request], *, attempt: int, events: Counter[str]) -> list[Answer]:
        """Answer each request, in order.

        Args:
            requests: any number; the generator forms its own batches, the same for the same requests.
            attempt: 0 for the first time a request is asked; later attempts take another seed.
            events: counts of faults on the way, such as "http_429"; added to.
        """
        ...


@dataclass(frozen=True)
class Outcome:
    """What is kept of a request: a text or None, and "ok" or what is wrong."""

    text: str | None
    flag: str


def ask(
    generator: Generator,
    requests: Sequence[Request],
    judge: Callable[[Request, Answer], Outcome],
    *,
    max_attempts: int,
    events: Counter[str],
) -> list[Outcome]:
    """Ask until an answer is good or the attempts are used up.

    Args:
        judge: decides what is kept of an answer. Every flag but "ok" is asked again; the last outcome stays.
        max_attempts: at least 1.
        events: "retry_<flag>" is counted for each request asked again.

    Returns:
        One outcome for each request, in order.

    Raises:
        ValueError: max_attempts is below 1.
        RuntimeError: the generator gave another number of answers than requests.
    """
    if max_attempts < 1:
        raise ValueError(f"max_attempts must be at least 1, got {max_attempts}.")
    outcomes: list[Outcome] = [Outcome(None, ERROR_FLAG)] * len(requests)
    open_positions = list(range(len(requests)))
    for attempt in range(max_attempts):
        if attempt:
            events.update(f"retry_{outcomes[position].flag}" for position in open_positions)
        asked = [requests[position] for position in open_positions]
        answers = generator.generate(asked, attempt=attempt, events=events)
        if len(answers) != len(asked):
            raise RuntimeError(f"the generator gave {len(answers)} answers to {len(asked)} requests.")
        for position, request, answer in zip(open_positions, asked, answers, strict=True):
            outcomes[position] = judge(request, answer)
        open_positions = [position for position in open_positions if outcomes[position].flag != OK_FLAG]
        if not open_positions:
            break
    return outcomes


def without_thinking(answer: str) -> str:
    """An answer without the thinking of a reasoning model before it; nothing where the thinking has no end."""
    # Some chat templates open the thinking inside the prompt, so only its end is seen.
    text = answer.rpartition(_THINK_END)[2]
    return "" if text.lstrip().startswith(_THINK_START) else text


def seed_of(seed: int, key: str, attempt: int) -> int:
    """A seed for one request and attempt that does not depend on the order of the work.

    Returns:
        An integer in [0, 2**31 - 1), which every back end takes.
    """
    digest = hashlib.sha256(f"{seed}\n{attempt}\n{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % MAX_SEED
