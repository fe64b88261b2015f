"""The report of a run, in Markdown, written from data alone: no model, no data set, no clock."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from processing.files import write_text_atomic
from processing.records import query_title

Metrics = Mapping[str, float]

RECALLS = tuple(f"{direction}_R@{cutoff}" for direction in ("t2i", "i2t") for cutoff in (1, 5, 10))
SUM_OF_RECALLS = "sum_r"
PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}
ABSENT = "–"


def write_report(
    path: str | Path,
    *,
    title: str,
    settings: Mapping[str, Any] | None = None,
    metrics_by_system: Mapping[str, Metrics] | None = None,
    languages: Sequence[str] = (),
    protocol: Mapping[str, Any] | None = None,
    timings: Mapping[str, float] | None = None,
    environment: Mapping[str, Any] | None = None,
    files: Mapping[str, str] | None = None,
    searches: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Write what a run did and reached; a section without data is left out.

    Args:
        path: the Markdown file; written whole or not at all.
        title: the heading.
        settings: the recipe, nested mappings allowed; seeds belong here.
        metrics_by_system: name of the system → metrics such as `de/t2i_R@1` (percent) and `de/sum_r` (0–600).
        languages: codes, in the order of the tables.
        protocol: what the numbers mean: split, captions per item, tie rule, how the checkpoint was chosen.
        timings: name of the stage → seconds.
        environment: `reporting.run_record.environment()`, or more.
        files: path relative to the report → what it is; pictures are shown.
        searches: mappings with `language`, `query` and `hits`, a list of mappings with `image_id`, `score` (cosine)
            and, if known, `correct`.

    Raises:
        ValueError: metrics without languages, or a search without its query or hits.
    """
    if metrics_by_system and not languages:
        raise ValueError(f"languages must name the tables for the systems {sorted(metrics_by_system)}, got none.")
    files = files or {}
    sections = [
        ("Results", _results(metrics_by_system or {}, languages)),
        ("Protocol", _bullets(protocol or {})),
        ("Pictures", _pictures(files)),
        ("Searches", _searches(searches)),
        ("Time", _timings(timings or {})),
        ("Settings", _key_values(settings or {})),
        ("Machine and versions", _key_values(environment or {})),
        ("Files", markdown_table(["file", "content"], [[f"[{name}]({name})", text] for name, text in files.items()])),
    ]
    parts = [f"# {title}", *(f"## {heading}\n\n{body}" for heading, body in sections if body)]
    return write_text_atomic(path, "\n\n".join(parts) + "\n")


def _results(metrics_by_system: Mapping[str, Metrics], languages: Sequence[str]) -> str:
    found = [code for code in languages if any(_has_language(metrics, code) for metrics in metrics_by_system.values())]
    if not found:
        return ""
    parts = ["Recalls are percent of the queries; SumR is the sum of the six recalls, 600 at most.\n"]
    parts.append(_overview(metrics_by_system, found))
    for code in found:
        rows = [
            [system, *(_number(metrics.get(f"{code}/{key}")) for key in (*RECALLS, SUM_OF_RECALLS))]
            for system, metrics in metrics_by_system.items()
            if _has_language(metrics, code)
        ]
        header = ["system", *(key.replace("_", " ") for key in RECALLS), "SumR"]
        parts.append(f"\n### {query_title(code)}\n\n{markdown_table(header, rows)}")
    return "\n".join(parts)


def _overview(metrics_by_system: Mapping[str, Metrics], languages: Sequence[str]) -> str:
    rows = []
    for system, metrics in metrics_by_system.items():
        values = [metrics.get(f"{code}/{SUM_OF_RECALLS}") for code in languages]
        known = [value for value in values if value is not None]
        # A mean over fewer languages would be set beside one over all of them.
        mean = sum(known) / len(known) if known and len(known) == len(values) else None
        rows.append([system, *map(_number, values), _number(mean)])
    return markdown_table(["SumR", *map(query_title, languages), "mean"], rows)


def _has_language(metrics: Metrics, code: str) -> bool:
    return any(key.startswith(f"{code}/") for key in metrics)


def _searches(searches: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for search in searches:
        missing = [key for key in ("language", "query", "hits") if key not in search]
        if missing:
            raise ValueError(f"searches: each must have 'language', 'query' and 'hits'; {missing} missing in {search}.")
        hits = ", ".join(_hit(hit) for hit in search["hits"])
        rows.append([query_title(search["language"]), search["query"], hits])
    text = markdown_table(["language", "query", "hits, best first (cosine)"], rows)
    known = [hit["correct"] for search in searches for hit in search["hits"] if "correct" in hit]
    if any(known):
        text += "\n\nBold: the item that the query was written for."
    elif known:
        text += "\n\nNo query has the item that it was written for among these hits."
    return text


def _hit(hit: Mapping[str, Any]) -> str:
    text = f"{hit['image_id']} ({hit['score']:.2f})"
    return f"**{text}**" if hit.get("correct") else text


def _timings(timings: Mapping[str, float]) -> str:
    return markdown_table(["stage", "time"], [[name, _duration(seconds)] for name, seconds in timings.items()])


def _pictures(files: Mapping[str, str]) -> str:
    pictures = [name for name in files if Path(name).suffix.lower() in PICTURE_SUFFIXES]
    return "\n\n".join(f"![{_escape(files[name])}]({name})" for name in pictures)


def _bullets(values: Mapping[str, Any]) -> str:
    return "\n".join(f"- {name}: {_value(value)}" for name, value in values.items())


def _key_values(values: Mapping[str, Any]) -> str:
    return markdown_table(["name", "value"], [[f"`{name}`", _value(value)] for name, value in _flatten(values)])


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _value(value: Any) -> str:
    if value is None:
        return ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_value(part) for part in value)
    return str(value)


def _number(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.1f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; the empty string if there are no rows."""
    if not rows:
        return ""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_escape(str(cell)) for cell in line) + " |" for line in lines)


def _escape(text: str) -> str:
    """Keep a pipe or a line break in a cell from ending it."""
    return text.replace("|", "\\|").replace("\n", " ")
