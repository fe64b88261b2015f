"""Seeded damage to small files, for tests that a reader refuses or reads a file and does nothing else."""

import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

_INSERTS = (
    b"\n",
    b"#",
    b"'",
    b"[",
    b"}",
    b"\0",
    b"\xff",
    b"..",
    b"/",
    b" ",
    b"\\x",
    b"\xf0\x9f\x98\x80",
    b"null",
    b"9",
)


def mutations(content: bytes, count: int) -> Iterator[bytes]:
    """Copies of a content with one to three changes each: cut, flipped, doubled, moved or grown."""
    for seed in range(count):
        choice = random.Random(seed)
        changed = bytearray(content)
        for _ in range(choice.randint(1, 3)):
            start = choice.randrange(len(changed) + 1)
            end = min(len(changed), start + choice.randint(1, 40))
            kind = choice.randrange(5)
            if kind == 0:
                del changed[start:end]
            elif kind == 1 and start < len(changed):
                changed[start] ^= 1 << choice.randrange(8)
            elif kind == 2:
                changed[start:start] = changed[start:end]
            elif kind == 3:
                del changed[start:]
            else:
                changed[start:start] = choice.choice(_INSERTS)
        yield bytes(changed)


def survive(path: Path, read: Callable[[], object], count: int) -> int:
    """Read a file in `count` damaged forms; any error but a ValueError that names a file passes through.

    Returns:
        How many forms were refused.
    """
    content, refused = path.read_bytes(), 0
    for changed in mutations(content, count):
        path.write_bytes(changed)
        refused += 1
        with suppress(ValueError):
            read()
            refused -= 1
    path.write_bytes(content)
    read()
    return refused
