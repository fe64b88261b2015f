"""What the grammars of moving scenes share: how a caption is worded."""

from dataclasses import dataclass

from processing.scenes.grammar import Wording

CLIP_FRAMES = ("says", "place", "see", "who", "while")


@dataclass(frozen=True)
class Telling(Wording):
    """The free choices of a caption about a clip.

    `frame` is the sentence pattern, here with A and B as first and second object:
    `says` "A moves and B spins in the snow", `place` "in the snow, A moves and B spins",
    `see` "we see A moving and B spinning", `who` "A that moves and B that spins",
    `while` "B spins while A moves", or of one object "there is A and it moves".
    """

    frame: str = "says"

    def __post_init__(self) -> None:
        if self.frame not in CLIP_FRAMES:
            raise ValueError(f"frame must be one of {list(CLIP_FRAMES)}, got {self.frame!r}.")
