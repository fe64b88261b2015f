"""Search results: queries with their hits, and as a table for the terminal."""

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrieval.encode import encode_texts
from retrieval.index import PROBE_TEXT, ItemIndex


@dataclass(frozen=True)
class Hit:
    """One item found: its id, its position in the index, and its score (cosine, -1 to 1)."""

    item_id: str
    position: int
    score: float


@dataclass(frozen=True)
class QueryResult:
    """What a query found, the best first.

    Attributes:
        query: the text asked.
        hits: the items found.
        language: code of the query's language, if known.
        correct_id: the item that the query was written for, if known.
    """

    query: str
    hits: Sequence[Hit]
    language: str | None = None
    correct_id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON: the query and its hits; `correct` only where the item is known."""
        known = self.correct_id is not None
        hits = [
            {
                "image_id": hit.item_id,
                "score": hit.score,
                **({"correct": hit.item_id == self.correct_id} if known else {}),
            }
            for hit in self.hits
        ]
        return {"language": self.language, "query": self.query, "hits": hits}


def read_queries(path: str | Path | None) -> list[dict[str, str]]:
    """Queries from a JSON file: a list of objects with `query` and, if known, `language` and `image_id` or
    `video_id`.

    Raises:
        ValueError: the file holds something else.
    """
    if path is None:
        return []
    try:
        queries = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} must hold JSON, a list of objects with a 'query' each: {error}.") from error
    if not isinstance(queries, list) or not all(isinstance(entry, dict) and entry.get("query") for entry in queries):
        raise ValueError(f"{path} must hold a JSON list of objects with a 'query' each.")
    return queries


def check_queries(queries: Sequence[str], top_k: int) -> None:
    """Refuse what an index cannot be asked, before anything is encoded.

    Raises:
        ValueError: no query, a blank one, or `top_k` below 1.
    """
    if not queries:
        raise ValueError("queries is empty; ask for at least one thing.")
    blank = [position for position, query in enumerate(queries) if not query.strip()]
    if blank:
        raise ValueError(f"queries must have text; query {blank[0]} is blank.")
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}.")


def search_index(
    index: ItemIndex,
    model: Any,
    processor: Any,
    queries: Sequence[str],
    *,
    top_k: int = 5,
    languages: Sequence[str | None] | None = None,
    correct_ids: Sequence[str | None] | None = None,
) -> list[QueryResult]:
    """Ask an index in any language.

    Args:
        queries: the texts, at least one.
        top_k: hits a query.
        languages: language code of each query, for pictures of the results; the model does not need them.
        correct_ids: the item that each query was written for, if known.

    Raises:
        ValueError: no query, a blank one, lists of different lengths, or an index that another model made.
    """
    check_queries(queries, top_k)
    known_languages = list(languages) if languages is not None else [None] * len(queries)
    known_ids = list(correct_ids) if correct_ids is not None else [None] * len(queries)
    if not len(queries) == len(known_languages) == len(known_ids):
        raise ValueError(
            f"queries, languages and correct_ids must be of one length, got {len(queries)}, {len(known_languages)} "
            f"and {len(known_ids)}."
        )
    embeds = encode_texts(model, processor, [*queries, PROBE_TEXT], progress=False)
    index.check_model(embeds[-1])
    scores, positions = index.search(embeds[:-1], top_k)
    results = []
    for row, query in enumerate(queries):
        pairs = zip(positions[row].tolist(), scores[row].tolist(), strict=True)
        hits = [Hit(index.item_ids[position], position, score) for position, score in pairs]
        results.append(QueryResult(query, hits, known_languages[row], known_ids[row]))
    return results


def format_table(results: Sequence[QueryResult]) -> str:
    """A table of hits for the terminal: rank, score, item, under each query; `*` marks the correct item."""
    lines = []
    for result in results:
        language = f"[{result.language}] " if result.language else ""
        lines.append(f"{language}{result.query}")
        width = max((display_width(hit.item_id) for hit in result.hits), default=4)
        lines.append(f"  rank  score  {'item':<{width}}")
        for rank, hit in enumerate(result.hits, start=1):
            mark = " *" if hit.item_id == result.correct_id else ""
            lines.append(f"  {rank:>4}  {hit.score:>5.3f}  {hit.item_id}{mark}")
        lines.append("")
    return "\n".join(lines).rstrip("\n")


def display_width(text: str) -> int:
    """Columns of a terminal that a text takes: Chinese and Japanese characters take two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
