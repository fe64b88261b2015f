"""Tables: JSON lines, CSV or TSV with a row for each item, or for each caption."""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets

from processing.missing import MissingReport
from processing.readers.base import Corpus, build_split, iter_json_lines, iter_lines
from processing.records import SOURCE_LANGUAGE, caption_column, caption_columns, find_id_column, schema_features

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
            text or, in JSON, a list of texts; the empty text and null are no caption.
        caption_rows: the table has a row for each caption: rows of one id are gathered in their order. Otherwise an
            id that occurs twice is an error.
        delimiter: between the cells of a row; None takes it from the suffix.

    Returns:
        The splits. Items without an English caption stay and are reported as "no English caption".

    Raises:
        ValueError: a column is not in the schema or not in the table, or a file is malformed; the message names file
            and line.
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
    settings = {"reader": "table", "columns": dict(columns), "caption_rows": caption_rows}
    return Corpus(datasets.DatasetDict(splits), missing, settings)


def read_items(
    path: str | Path, columns: Mapping[str, str], *, caption_rows: bool = False, delimiter: str | None = None
) -> dict[str, dict[str, Any]]:
    """The rows of one table by id, in their order; see `read_table`."""
    id_column = find_id_column(columns)
    items: dict[str, dict[str, Any]] = {}
    for number, record in _iter_records(Path(path), delimiter):
        where = f"{path}, line {number}"
        row = {column: _cell(record, column, given, where) for column, given in columns.items()}
        item_id = row[id_column]
        if item_id in items and not caption_rows:
            raise ValueError(
                f"{where}: {columns[id_column]} {item_id!r} occurs twice; a table with a row for each caption is read "
                f"with caption_rows."
            )
        items[item_id] = _merged(items[item_id], row, where) if item_id in items else row
    return items


def column_names(path: str | Path) -> list[str]:
    """The columns of a table, from its first row.

    Raises:
        ValueError: the file is malformed, or has no row.
    """
    for _, record in _iter_records(Path(path), None):
        return list(record)
    raise ValueError(f"{path}, line 1: the table has no row.")


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


def _cell(record: Mapping[str, Any], column: str, given: str, where: str) -> Any:
    if given not in record:
        raise ValueError(f"{where}: no column {given!r} for {column}; there are {sorted(record)}.")
    value = record[given]
    if not caption_columns([column]):
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{where}: {given!r} must be a text, got {value!r}.")
        return (value or "").strip() or None
    values = value if isinstance(value, list) else [value]
    return [text for text in values if text is not None and text != ""]


def _merged(item: dict[str, Any], row: dict[str, Any], where: str) -> dict[str, Any]:
    """The item with the captions of a further row; what is no caption must agree."""
    merged = {}
    for column, value in row.items():
        if caption_columns([column]):
            merged[column] = item[column] + value
        elif value != item[column]:
            raise ValueError(f"{where}: {column} is {value!r} and was {item[column]!r} in an earlier row of this item.")
        else:
            merged[column] = value
    return merged
