"""Parts of a document that a command writes, between two marks, so that no number in it is typed by hand."""

import re
from pathlib import Path


def write_part(document: Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- NAME -->` and `<!-- end of NAME -->`.

    Raises:
        ValueError: the document does not have the two marks once each.
    """
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    content = document.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.DOTALL)
    if len(pattern.findall(content)) != 1:
        raise ValueError(f"{document} must hold the marks {start} and {end} once, in this order; add them.")
    whole = f"{start}\n\n{text.strip()}\n\n{end}"
    document.write_text(pattern.sub(lambda _: whole, content), encoding="utf-8")
