"""Tables: JSON lines, CSV or TSV with a row for each item, or for each caption."""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets

from processing.missing import MissingReport
from processing.readers.base import Corpus, build_split, check_row, iter_json_lines, iter_lines, report_shared
from processing.records import (
    END_COLUMN,
    SOURCE_LANGUAGE,
    START_COLUMN,
    caption_column,
    caption_columns,
    find_id_column,
    schema_features,
)

NO_CAPTION = "no English caption"
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


def read_table(
    files: Mapping[str, str | Path],
    columns: Mapping[str, str],
    *,
    caption_rows: bool = False,
    delimiter: str | None = None,
) -> Corpus:
    """Read a table for each split.

    Args:
        files: split -> `.jsonl`, `.csv` or `.tsv`, plain or `.gz`; CSV begins with a line of column names.
        columns: column of the schema -> column of the table, `image_id` or `video_id` among them. A caption may be a
            text or, in JSON, a list of texts; blank texts, null and an absent key are no caption. A translation that
            is blank or null was refused: it stays null beside its caption. Parts of a clip are rows with the same
            `file_name` and a `start` and `end` in seconds.
        caption_rows: the table has a row for each caption: rows of one id are gathered in their order. Otherwise an
            id that occurs twice is an error.
        delimiter: between the cells of a row; None takes it from the suffix.

    Returns:
        The splits. Reported are items without an English caption, which stay, and those of several splits.

    Raises:
        ValueError: a column is not in the schema or not in the table, a translation has no caption that it
            translates, or a file is malformed; the message names file and line.
    """
    if not files:
        raise ValueError("files must name a table for at least one split, such as train, got none.")
    schema_features(columns)
    missing = MissingReport()
    splits = {}
    for name, path in files.items():
        items = read_items(path, columns, caption_rows=caption_rows, delimiter=delimiter)
        splits[name] = build_split(list(items.values()), list(columns), name, source=str(path))
        for item_id, row in items.items():
            if not row.get(caption_column(SOURCE_LANGUAGE)):
                missing.add(NO_CAPTION, name, item_id)
    report_shared(splits, missing)
    settings = {"reader": "table", "columns": dict(columns), "caption_rows": caption_rows}
    return Corpus(datasets.DatasetDict(splits), missing, settings)


def read_items(
    path: str | Path, columns: Mapping[str, str], *, caption_rows: bool = False, delimiter: str | None = None
) -> dict[str, dict[str, Any]]:
    """The rows of one table by id, in their order; see `read_table`."""
    id_column = find_id_column(columns)
    records = list(_iter_records(Path(path), delimiter))
    names = _names(records)
    for column, given in columns.items():
        if records and given not in names:
            raise ValueError(f"{path}: no column {given!r} for {column}; there are {sorted(names)}.")
    items: dict[str, dict[str, Any]] = {}
    for number, record in records:
        where = f"{path}, line {number}"
        row = _row(record, columns, where)
        item_id = row[id_column]
        if item_id in items and not caption_rows:
            raise ValueError(
                f"{where}: {columns[id_column]} {item_id!r} occurs twice; a table with a row for each caption is read "
                f"with caption_rows."
            )
        items[item_id] = _merged(items[item_id], row, where) if item_id in items else row
    return items


def column_names(path: str | Path) -> list[str]:
    """The columns of a table; in JSON those of all rows, for a row may leave out what it lacks.

    Raises:
        ValueError: the file is malformed, or has no row.
    """
    names = _names(_iter_records(Path(path), None))
    if not names:
        raise ValueError(f"{path}, line 1: the table has no row.")
    return names


def _names(records: Iterable[tuple[int, Mapping[str, Any]]]) -> list[str]:
    return list(dict.fromkeys(name for _, record in records for name in record))


def _iter_records(path: Path, delimiter: str | None) -> Iterator[tuple[int, dict[str, Any]]]:
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if suffix in (".jsonl", ".json"):
        yield from iter_json_lines(path)
        return
    if delimiter is None and suffix not in _DELIMITERS:
        raise ValueError(f"{path} must end in .jsonl, .csv or .tsv, or come with a delimiter, got {suffix!r}.")
    # A quoted cell may hold a line end, so the reader of `csv` joins the lines and counts them.
    lines = csv.reader(
        (f"{line}\n" for _, line in iter_lines(path)), delimiter=delimiter or _DELIMITERS[suffix], strict=True
    )
    try:
        names = [name.strip() for name in next(lines, [])]
        if len(set(names)) != len(names) or not names:
            raise ValueError(f"{path}, line 1: expected different column names, got {names}.")
        for cells in lines:
            if not cells:
                continue
            if len(cells) != len(names):
                raise ValueError(f"{path}, line {lines.line_num}: expected {len(names)} cells, got {len(cells)}.")
            yield lines.line_num, dict(zip(names, cells, strict=True))
    except csv.Error as error:
        raise ValueError(f"{path}, line {lines.line_num}: not a table ({error}).") from error


def _row(record: Mapping[str, Any], columns: Mapping[str, str], where: str) -> dict[str, Any]:
    """A record in the columns of the schema, checked."""
    captions = caption_columns(columns)
    id_column = find_id_column(columns)
    row: dict[str, Any] = {}
    for column, given in columns.items():
        cell = record.get(given)
        if column in captions:
            row[column] = _entries(cell)
        else:
            row[column] = cell if column in (START_COLUMN, END_COLUMN) else _text(cell, given, where)
    if row[id_column] is None:
        raise ValueError(f"{where}: {columns[id_column]!r} ({id_column}) must name the item, and is blank or absent.")
    _line_up(row, [column for column, (_, translated) in captions.items() if translated], where)
    for column, (_, translated) in captions.items():
        if not translated:
            row[column] = [text for text in row[column] if text is not None]
    return check_row(row, list(columns), where)


def _line_up(row: dict[str, Any], translated: Sequence[str], where: str) -> None:
    """Give each English caption of a row its translation or null; a blank caption goes, with its nulls."""
    sources = row.get(caption_column(SOURCE_LANGUAGE))
    if sources is None:
        return  # `build_split` refuses translations without their captions.
    for column in translated:
        targets = row[column]
        if targets == [None]:  # One blank cell for all captions.
            targets = [None] * len(sources)
        if len(targets) != len(sources):
            raise ValueError(
                f"{where}: {column} has {len(targets)} entries and caption_en has {len(sources)}; translations are "
                f"aligned by index."
            )
        pairs = list(zip(sources, targets, strict=True))
        if any(source is None and target is not None for source, target in pairs):
            raise ValueError(f"{where}: {column} translates a blank caption_en; give the caption, or leave both blank.")
        row[column] = [target for source, target in pairs if source is not None]


def _entries(value: Any) -> list[Any]:
    """The texts of a cell; a blank one is None."""
    values = value if isinstance(value, list) else [value]
    return [None if isinstance(text, str) and not text.strip() else text for text in values]


def _text(value: Any, given: str, where: str) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{where}: {given!r} must be a text, got {value!r}.")
    return (value or "").strip() or None


def _merged(item: dict[str, Any], row: dict[str, Any], where: str) -> dict[str, Any]:
    """The item with the captions of a further row; what is no caption must agree, or be given once."""
    merged = {}
    for column, value in row.items():
        if caption_columns([column]):
            merged[column] = item[column] + value
        elif None not in (value, item[column]) and value != item[column]:
            raise ValueError(f"{where}: {column} is {value!r} and was {item[column]!r} in an earlier row of this item.")
        else:
            merged[column] = item[column] if value is None else value
    return merged
