"""Texts of unknown content inside Markdown: none of them may end a line, a cell or a block of code."""

import re
from typing import Any

# With what GitHub and the Hub make links of: addresses, of the web and of mail.
_MARKS = re.compile(r"([\\`*_\[\]<>~@]|:(?=//)|(?<=www)\.)", re.IGNORECASE)


def one_line(value: Any) -> str:
    """A text in one line."""
    return "" if value is None else " ".join(str(value).split())


def plain(value: Any) -> str:
    """A text in one line that Markdown shows as it is."""
    return _MARKS.sub(r"\\\1", one_line(value))


def as_code(value: Any) -> str:
    """A text in one line as code."""
    return f"`{one_line(value).replace('`', chr(39))}`"
