"""`video2frames.txt`: the frames of each video, written as a Python dict; read as a literal, never run as code."""

import ast
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

from processing.readers.base import check_name, iter_lines

MAX_BYTES = 1 << 30
_STRING = r"""u?(?:'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")"""
_ENTRY = re.compile(rf"({_STRING})\s*:\s*(\[(?:\s*{_STRING}\s*,)*(?:\s*{_STRING})?\s*\])\s*(?:,\s*|(?=\}}))")
_QUOTED = re.compile(_STRING)
_OPEN, _CLOSE = re.compile(r"\s*\{\s*"), re.compile(r"\}\s*")
_SHOWN = 40


def read_frame_table(path: str | Path) -> Iterator[tuple[str, list[str]]]:
    """Videos with the ids of their frames, one at a time, in the order of the file.

    Args:
        path: a file that holds `{'video1': ['video1_0', 'video1_1'], ...}` and nothing else, 1 GiB at most.

    Yields:
        Video id and frame ids.

    Raises:
        ValueError: the file is too large, not UTF-8, or anything but a dict of lists of strings, such as code; a
            video occurs twice or its id climbs out of a folder.
    """
    source = Path(path)
    if source.stat().st_size > MAX_BYTES:
        raise ValueError(f"{source} has {source.stat().st_size:,} bytes, more than {MAX_BYTES:,}; split the data set.")
    text = "\n".join(line for _, line in iter_lines(source))
    opening = _OPEN.match(text)
    position = opening.end() if opening else 0
    seen: set[str] = set()
    # Entry by entry: a syntax tree of the whole file costs about a kilobyte for each frame id.
    while opening and (entry := _ENTRY.match(text, position)):
        video, frames = _read_entry(entry, source)
        if video in seen or not video.isprintable():
            raise ValueError(f"{_place(source, text, position)}: the video {video!r} occurs twice or has no name.")
        check_name(video, source=str(source))
        seen.add(video)
        yield video, frames
        position = entry.end()
    if not opening or not _CLOSE.fullmatch(text, position):
        raise ValueError(
            f"{_place(source, text, position)}: expected one dict of lists of strings, "
            f"{{'video': ['frame', ...], ...}}, got {text[position : position + _SHOWN].strip()!r}; the file is read "
            f"as data, code in it is not run."
        )


def _read_entry(entry: re.Match[str], source: Path) -> tuple[str, list[str]]:
    if "\\" not in entry[0] and "\r" not in entry[0]:
        # What stands between the quotes is the text itself; Python's parser would take far longer to find it.
        video, *frames = [quoted.removeprefix("u")[1:-1] for quoted in _QUOTED.findall(entry[0])]
        return video, frames
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of escapes such as "\d", which Python keeps as they are.
            return ast.literal_eval(f"({entry[1]}, {entry[2]})")
    except (SyntaxError, ValueError) as error:
        place = _place(source, entry.string, entry.start())
        raise ValueError(f"{place}: {entry[0][:_SHOWN]!r} is no literal ({error}).") from error


def _place(source: Path, text: str, position: int) -> str:
    line_start = text.rfind("\n", 0, position) + 1
    return f"{source}, line {text.count(chr(10), 0, position) + 1}, column {position - line_start + 1}"
