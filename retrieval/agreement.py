"""Do the texts of a data set fit its pictures or clips? Measured with a dual encoder that sees these and texts alone.

`measure_agreement` is the part `agreement` of `quality.json`:

    {
      "encoder": {"name": "openai/clip-vit-base-patch32", "model_type": "clip", "max_length": 77},
      "medium": "picture",
      "sample": {"items": 1000, "eligible": 6990, "seed": 0},
      "columns": {
        "description": {
          "language": "en", "kind": "description", "items": 1000, "texts": 1000,
          "own": 0.31, "other": 0.12, "own_beats_other": 0.98,
          "t2i_R@1": 41.0, "t2i_R@5": 66.2,
          "cut_rate": 0.2, "tokens_lost_rate": 0.04
        }
      },
      "worst": [
        {"id": "...", "column": "description", "text": "...", "score": 0.05, "caption": "...", "caption_score": 0.2}
      ]
    }

`own` is the mean score (cosine; for a LECCR with slots its fused score) of a text with its own picture, `other` that
with the picture of another item, from a seeded derangement of the items; `own_beats_other` is the share of the texts
whose own picture scores higher, 0.5 for an encoder that knows nothing. `t2i_R@K` is percent: the text finds its
picture among the pictures of its column, ties counted against it. With `"medium": "clip"` all of this is said of clips,
or of the features of their frames. A text longer than the encoder reads is cut:
`cut_rate` of the texts, with `tokens_lost_rate` of all tokens.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from processing.records import (
    DESCRIPTION_COLUMN,
    IMAGE_COLUMN,
    MEDIA_COLUMNS,
    SOURCE_LANGUAGE,
    caption_column,
    text_columns,
    texts_of,
)
from processing.words import split_words
from retrieval.dual_encoders import DualEncoder
from retrieval.items import read_column, read_ids
from retrieval.metrics import recall_at
from retrieval.ranks import DEFAULT_CHUNK_SIZE, ROUNDING_MARGIN, correct_scores, rank_texts_and_items

DEFAULT_NUM_WORST = 12
MIN_ITEMS = 2
_BATCH_SIZE = 1000


@dataclass(frozen=True)
class WorstItem:
    """An item whose text fits its picture least.

    Attributes:
        position: row of the item.
        item_id: its id.
        column: column of the text.
        text: its description or, in a data set without, its English caption.
        score: of the text with the picture, -1 to 1.
        caption: the English caption that fits best, if there is one beside a description.
        caption_score: of that caption.
    """

    position: int
    item_id: str
    column: str
    text: str
    score: float
    caption: str | None = None
    caption_score: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON, see the docstring of this module."""
        numbers: dict[str, Any] = {
            "id": self.item_id, "column": self.column, "text": self.text, "score": self.score
        }  # fmt: skip
        if self.caption is not None:
            numbers |= {"caption": self.caption, "caption_score": self.caption_score}
        return numbers


@dataclass(frozen=True)
class Agreement:
    """What was measured: the numbers as JSON but for the worst items, and these."""

    numbers: Mapping[str, Any]
    worst: Sequence[WorstItem]

    def to_dict(self) -> dict[str, Any]:
        """As JSON, see the docstring of this module."""
        return {**self.numbers, "worst": [item.to_dict() for item in self.worst]}


@dataclass(frozen=True)
class _Texts:
    """The texts of one column, the sampled item of each, and their scores with its picture."""

    texts: list[str]
    owners: Tensor
    scores: Tensor


def measure_agreement(
    encoder: DualEncoder,
    rows: Any,
    *,
    sample: int = 1000,
    seed: int = 0,
    num_worst: int = DEFAULT_NUM_WORST,
    batch_size: int = 64,
    progress: bool = True,
) -> Agreement:
    """Score the texts of a sample of items with their pictures, or clips, and with others'.

    The sample is drawn among the items with a text in `description` and in `caption_en`, where these columns exist;
    a column without texts of at least two of its items is left out.

    Args:
        rows: a `datasets.Dataset` with `image`, or what else the encoder reads: `video`, `features`.
        sample: items, at least 2; all of them where there are fewer.
        seed: of the sample and of the derangement.
        num_worst: how many of the worst items are kept.
        batch_size: items, and a quarter of the texts, in one forward pass.
        progress: show bars.

    Raises:
        ValueError: `sample` is too small, the pictures or the texts are missing, or fewer than two items can be used.
    """
    if sample < MIN_ITEMS:
        raise ValueError(f"sample must be at least {MIN_ITEMS} items, got {sample}.")
    if not set(MEDIA_COLUMNS) & set(rows.column_names):
        raise ValueError(
            f"the rows must have one of the columns {list(MEDIA_COLUMNS)} for an encoder to look at, got "
            f"{list(rows.column_names)}; join them with their files (`processing.media`)."
        )
    eligible = _eligible_items(rows, progress)
    positions = sorted(random.Random(seed).sample(eligible, min(sample, len(eligible))))
    sampled = rows.select(positions)
    vectors = encoder.encode_images(sampled, batch_size, progress=progress)
    scored, columns = _score_columns(encoder, sampled, vectors, 4 * batch_size, seed, progress)
    numbers = {
        "encoder": {"name": encoder.name, "model_type": encoder.model_type, "max_length": encoder.max_length},
        "medium": "picture" if IMAGE_COLUMN in rows.column_names else "clip",
        "sample": {"items": len(positions), "eligible": len(eligible), "seed": seed},
        "columns": columns,
    }
    return Agreement(numbers, _worst_items(scored, positions, read_ids(sampled), num_worst))


def derangement(num_items: int, *, seed: int) -> Tensor:
    """Another item for each item: a random cycle through all of them.

    Returns:
        (num_items,) int64, a permutation without a fixed point.

    Raises:
        ValueError: there are fewer than two items.
    """
    if num_items < MIN_ITEMS:
        raise ValueError(f"num_items must be at least {MIN_ITEMS} for another item to exist, got {num_items}.")
    cycle = torch.randperm(num_items, generator=torch.Generator().manual_seed(seed))
    others = torch.empty_like(cycle)
    others[cycle] = cycle.roll(-1)
    return others


def _usable(column: str, cell: Any) -> list[str]:
    """Texts with at least one word; an encoder has nothing to say about the others."""
    return [text for text in texts_of(column, cell) if text and split_words(text)]


def _eligible_items(rows: Any, progress: bool) -> list[int]:
    """Items with a description and an English caption, as far as the data set has such columns; read in batches."""
    needed = [name for name in (DESCRIPTION_COLUMN, caption_column(SOURCE_LANGUAGE)) if name in rows.column_names]
    if not needed:
        raise ValueError(
            f"rows must have the column {DESCRIPTION_COLUMN!r} or {caption_column(SOURCE_LANGUAGE)!r} to be compared "
            f"with their pictures, got the text columns {sorted(text_columns(rows.column_names))}."
        )
    eligible: list[int] = []
    texts = rows.select_columns(needed)
    for start in tqdm(range(0, len(rows), _BATCH_SIZE), desc="items with texts", disable=not progress):
        batch = texts[start : start + _BATCH_SIZE]
        has_text = [[bool(_usable(name, cell)) for cell in batch[name]] for name in needed]
        eligible += [start + place for place, has in enumerate(zip(*has_text, strict=True)) if all(has)]
    if len(eligible) < MIN_ITEMS:
        raise ValueError(
            f"agreement needs at least {MIN_ITEMS} items with texts in {needed}, got {len(eligible)} of {len(rows)}."
        )
    return eligible


def _score_columns(
    encoder: DualEncoder, sampled: Any, vectors: Tensor, batch_size: int, seed: int, progress: bool
) -> tuple[dict[str, _Texts], dict[str, dict[str, Any]]]:
    """Scores and numbers of each column of texts with enough of them."""
    scored: dict[str, _Texts] = {}
    columns: dict[str, dict[str, Any]] = {}
    for name, (language, kind) in text_columns(sampled.column_names).items():
        texts = [_usable(name, cell) for cell in read_column(sampled, name)]
        found = _score_column(encoder, vectors, texts, batch_size, seed, progress)
        if found is not None:
            scored[name], numbers = found
            columns[name] = {"language": language, "kind": kind, **numbers}
    return scored, columns


def _score_column(
    encoder: DualEncoder, vectors: Tensor, texts: list[list[str]], batch_size: int, seed: int, progress: bool
) -> tuple[_Texts, dict[str, Any]] | None:
    """Scores and numbers of one column; None where fewer than two items have a text."""
    items = [position for position, own in enumerate(texts) if own]
    if len(items) < MIN_ITEMS:
        return None
    flat = [text for position in items for text in texts[position]]
    counts = torch.tensor([len(texts[position]) for position in items])
    owners = torch.arange(len(items)).repeat_interleave(counts)
    text_embeds = encoder.encode_texts(flat, batch_size, progress=progress)
    own_vectors = vectors[items]
    own = correct_scores(own_vectors, text_embeds, owners, DEFAULT_CHUNK_SIZE)
    other = correct_scores(own_vectors, text_embeds, derangement(len(items), seed=seed)[owners], DEFAULT_CHUNK_SIZE)
    t2i = rank_texts_and_items(own_vectors, text_embeds, owners).t2i
    tokens = encoder.token_counts(flat)
    total = sum(whole for whole, _ in tokens)
    numbers = {
        "items": len(items),
        "texts": len(flat),
        "own": own.double().mean().item(),
        "other": other.double().mean().item(),
        "own_beats_other": (own > other + ROUNDING_MARGIN).double().mean().item(),
        "t2i_R@1": recall_at(t2i, 1),
        "t2i_R@5": recall_at(t2i, 5),
        "cut_rate": sum(kept < whole for whole, kept in tokens) / len(tokens),
        "tokens_lost_rate": sum(whole - kept for whole, kept in tokens) / total,
    }
    return _Texts(flat, torch.tensor(items)[owners], own), numbers


def _worst_items(
    scored: Mapping[str, _Texts], positions: Sequence[int], ids: Sequence[str], num_worst: int
) -> list[WorstItem]:
    """The items whose description or, without descriptions, whose best English caption scores lowest."""
    english = caption_column(SOURCE_LANGUAGE)
    captions = _best_texts(scored[english]) if english in scored else {}
    column = DESCRIPTION_COLUMN if DESCRIPTION_COLUMN in scored else english
    found = _best_texts(scored[column])
    worst = []
    for item in sorted(found, key=lambda item: (found[item][1], item))[:num_worst]:
        beside = captions.get(item, (None, None)) if column != english else (None, None)
        worst.append(WorstItem(positions[item], ids[item], column, *found[item], *beside))
    return worst


def _best_texts(texts: _Texts) -> dict[int, tuple[str, float]]:
    """Of each sampled item the text that fits best, and its score."""
    best: dict[int, tuple[str, float]] = {}
    for text, item, score in zip(texts.texts, texts.owners.tolist(), texts.scores.tolist(), strict=True):
        if item not in best or score > best[item][1]:
            best[item] = (text, score)
    return best
