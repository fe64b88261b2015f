"""What all readers share: text and JSON read strictly, rows checked, and the form of the result.

Text is UTF-8. A line ends at "\\n" and nowhere else: captions may hold other characters that Unicode calls line ends,
and a split there would move every later caption to the wrong picture. A carriage return before "\\n" and a byte order
mark at the start of a file are dropped, white space around a text is dropped in `build_split`. Nothing else is
repaired: what cannot be read is an error that names the file and the line.
"""

import gzip
import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import datasets
from tqdm import tqdm

from processing.languages import SOURCE_LANGUAGE
from processing.missing import MissingReport
from processing.records import (
    DESCRIPTION_COLUMN,
    END_COLUMN,
    FILE_COLUMN,
    START_COLUMN,
    caption_column,
    caption_columns,
    check_aligned,
    check_columns,
    find_id_column,
    schema_features,
)

IN_ANOTHER_SPLIT = "a row in another split too"


@dataclass(frozen=True)
class Corpus:
    """What a reader returns.

    Attributes:
        splits: rows in the schema of processing/records.py, without pixels.
        missing: what the files lack, by reason and split.
        settings: reader and options, for `Step("read", settings)`; no paths.
    """

    splits: datasets.DatasetDict
    missing: MissingReport
    settings: dict[str, Any]


def iter_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Lines of a text file with their numbers, from 1; a name that ends in `.gz` is unpacked on the way.

    Raises:
        ValueError: the file is not UTF-8, holds a zero character, or is a damaged gzip file.
    """
    source = Path(path)
    number = 0
    with gzip.open(source) if source.suffix == ".gz" else source.open("rb") as stream:
        try:
            for number, line in enumerate(stream, start=1):
                yield number, _decode(line, number, source)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{source}, after line {number}: damaged gzip file ({error}); get it again.") from error


def _decode(line: bytes, number: int, source: Path) -> str:
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{source}, line {number}: byte {error.start} is not UTF-8 ({error.reason}); convert the file."
        ) from error
    if "\0" in text:
        raise ValueError(f"{source}, line {number}: text must not hold a zero character; is the file UTF-16 or binary?")
    return text.removesuffix("\n").removesuffix("\r")


def read_lines(path: str | Path, *, expected: int | None = None) -> list[str]:
    """All lines of a text file, see `iter_lines`. Blank lines count.

    Args:
        path: plain text, or `.gz`.
        expected: how many lines the file must have.

    Raises:
        ValueError: as `iter_lines`, or the file has another number of lines.
    """
    lines = [line for _, line in iter_lines(path)]
    if expected is not None and len(lines) != expected:
        raise ValueError(f"{path} must have {expected:,} lines, one for each item, and ends at line {len(lines):,}.")
    return lines


def read_json(path: str | Path) -> Any:
    """The content of a JSON file, plain or `.gz`.

    Raises:
        ValueError: as `iter_lines`, or the file is not JSON, an object in it has a key twice, or a number is too long.
    """
    return _parse("\n".join(line for _, line in iter_lines(path)), Path(path), first_line=1)


def iter_json_lines(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Objects of a file with one JSON object a line, with their line numbers; blank lines are passed over.

    Raises:
        ValueError: as `iter_lines`, or a line is not a JSON object, has a key twice, or a number is too long.
    """
    for number, line in iter_lines(path):
        if not line.strip():
            continue
        content = _parse(line, Path(path), first_line=number)
        if not isinstance(content, dict):
            raise ValueError(f"{path}, line {number}: expected a JSON object, got {type(content).__name__}.")
        yield number, content


def _parse(text: str, source: Path, *, first_line: int) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) != len(pairs):
            seen: set[str] = set()
            # `add` returns None, so the first key that is already there is found.
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise ValueError(f"an object has the key {twice!r} twice, and one value would be lost.")
        return content

    where = f"{source}, line {first_line}" + (" or below" if "\n" in text else "")
    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise ValueError(f"{source}, line {line}: not JSON ({error.msg}, column {error.colno}).") from error
    except RecursionError as error:
        raise ValueError(f"{where}: brackets in brackets without end.") from error
    except ValueError as error:  # A key twice, or more digits than Python converts.
        raise ValueError(f"{where}: {error}") from error


def inside(folder: str | Path, name: str, *, source: str) -> Path:
    """The path of a named file inside a folder; a name that leads elsewhere is refused.

    Only the name is looked at. Links inside the folder are followed, for whoever owns the folder made them.

    Args:
        folder: where the file must lie.
        name: a relative path, as found in a list of files.
        source: file and line that hold the name, for the message.

    Raises:
        ValueError: the name is empty, absolute, or climbs with `..`; also in the form of another system.
    """
    check_name(name, source=source)
    return Path(folder) / name


def check_name(name: str, *, source: str) -> None:
    """Refuse an id or file name that would lead out of the folder that it is looked up in.

    Raises:
        ValueError: as `inside`.
    """
    windows = PureWindowsPath(name)  # It knows both separators.
    if not windows.parts or windows.root or ".." in windows.parts or "\0" in name:
        raise ValueError(f"{source}: {name!r} must be a path inside its folder, without a leading separator or '..'.")


def check_count(found: int, published: int, what: str, path: str | Path) -> None:
    """Refuse a benchmark that has not its published size.

    Raises:
        ValueError: the numbers differ.
    """
    if found != published:
        raise ValueError(
            f"{path} gives {found:,} {what}, and {published:,} are published; it is damaged, cut or another edition."
        )


def report_shared(splits: Mapping[str, datasets.Dataset], missing: MissingReport) -> None:
    """Note the items that an earlier split has as well: whoever tests on them may have trained on them."""
    seen: set[str] = set()
    for split, rows in splits.items():
        ids = list(rows[find_id_column(rows.column_names)])
        for item in ids:
            if item in seen:
                missing.add(IN_ANOTHER_SPLIT, split, item)
        seen.update(ids)


def build_split(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], name: str, *, source: str
) -> datasets.Dataset:
    """Rows of a reader as a split in the schema, checked one by one.

    Args:
        rows: with exactly these columns. White space around texts is dropped. An item may have no captions.
        columns: of the schema, the id among them.
        name: of the split.
        source: file or folder that the rows come from, for messages. Messages count rows from 1, so the row is the
            line where a file has a line for each item.

    Raises:
        ValueError: translations without `caption_en`, or not in line with it; an id that occurs twice; an id,
            caption, description or file name that is blank, no text, or not UTF-8; an id or file name that climbs
            out of its folder; a start or end that is no number of seconds, or an end that is not behind the start.
    """
    id_column = find_id_column(columns)
    translated = [language for language, is_translated in caption_columns(columns).values() if is_translated]
    if translated:
        check_columns(columns, [caption_column(SOURCE_LANGUAGE)], split=name)
    positions: dict[str, int] = {}
    checked = []
    for position, row in enumerate(tqdm(rows, desc=name, unit="row", disable=None), start=1):
        where = f"{source}, split {name!r}, row {position} ({id_column} {row.get(id_column)!r})"
        clean = check_row(row, columns, where)
        first = positions.setdefault(clean[id_column], position)
        if first != position:
            raise ValueError(f"{where}: the {id_column} occurs twice, first in row {first}; ids name one item each.")
        try:
            check_aligned(clean, translated)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        checked.append(clean)
    features = schema_features(columns)
    table = {column: [row[column] for row in checked] for column in columns}
    return datasets.Dataset.from_dict(table, features=features, split=datasets.NamedSplit(name))


def check_row(row: Mapping[str, Any], columns: Sequence[str], where: str) -> dict[str, Any]:
    """A row without white space around its texts; seconds that are written as texts are numbers.

    Args:
        row: with exactly these columns.
        columns: of the schema.
        where: place of the row, for messages.

    Raises:
        ValueError: as `build_split`, for what one row shows.
    """
    if set(row) != set(columns):
        raise ValueError(f"{where}: a row must have the columns {list(columns)}, got {list(row)}.")
    captions = caption_columns(columns)
    names = (find_id_column(columns), FILE_COLUMN)
    clean = dict(row)
    for column, value in row.items():
        if column in captions:
            if not isinstance(value, list | tuple):
                raise ValueError(f"{where}: {column} must be a list of texts, got {value!r}.")
            refused = captions[column][1]  # Only a translation may be null: it was refused.
            clean[column] = [
                None if refused and text is None else _clean_text(text, f"{where}, {column}") for text in value
            ]
        elif column in names:
            clean[column] = _clean_text(value, f"{where}, {column}")
            check_name(clean[column], source=f"{where}, {column}")
        elif column == DESCRIPTION_COLUMN and value is not None:
            clean[column] = _clean_text(value, f"{where}, {column}")
        elif column in (START_COLUMN, END_COLUMN):
            clean[column] = _seconds(value, f"{where}, {column}")
    start, end = clean.get(START_COLUMN) or 0.0, clean.get(END_COLUMN)
    if end is not None and end <= start:
        raise ValueError(f"{where}: {END_COLUMN} must lie behind {START_COLUMN}, got {end} and {start}.")
    return clean


def _seconds(value: Any, where: str) -> float | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{where}: expected seconds, a number of at least 0, got {value!r}.")
    return seconds


def _clean_text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where}: a text must not be blank or of another type, got {value!r}.")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can spell half a character.
        raise ValueError(f"{where}: {value!r} has no form in UTF-8 ({error.reason}).") from error
    if "\0" in value:
        raise ValueError(f"{where}: {value!r} holds a zero character.")
    return value.strip()
