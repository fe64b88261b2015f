"""What the texts of a data set are like: how many, how long, how varied, how often empty, doubled or foreign.

`inspect_texts` reads the splits once, in batches, without the pictures. Beside a batch it keeps a fixed sample, and 16
bytes a text to find duplicates (several times that for one column at the end). Its result is plain JSON, written as
`quality.json`:

    {
      "rows": {"train": 6000},
      "columns": {
        "caption_de_mt": {
          "language": "de", "kind": "translation",            # "human", "partly_generated", "description"
          "items": 6000, "items_without_text": 2,             # null, an empty list, or blank texts alone
          "texts": 17990, "empty": 10, "empty_rate": 0.0006,  # entries with text, entries null or blank
          "duplicates": {"text_rate": 0.01, "item_rate": 0.02},
          "characters": {"mean": 45.1, "median": 44, "p5": 20, "p95": 80},
          "words": {"mean": 9.0, "median": 9, "p5": 4, "p95": 17},      # languages with spaces
          "vocabulary": {"unit": "word", "tokens": 10000, "types": 1800, "type_token_ratio": 0.18},
          "flags": {"ok": 17985, "length": 5},                # those that are not null, where there are any
          "similarity": {"mean": 61.2, "median": 60, "p5": 31, "p95": 92},  # back-translation, chrF 0 to 100
          "language_id": {"texts": 1000, "expected_rate": 0.99, "found": {"de": 990, "nl": 10}}  # texts with letters
        }
      },
      "descriptions": {...},                                  # processing/novelty.py
      "agreement": {...},                                     # retrieval/agreement.py
      "notes": ["what was not measured, and why"]
    }

Rates are shares, 0 to 1. A part without data is left out. Two texts are duplicates if they hold the same words in the
same order, whatever their case and punctuation. Vocabulary is counted on the first 10,000 words of a seeded sample,
because a larger text always has more types and a lower ratio.
"""

import logging
import random
from array import array
from collections import Counter
from collections.abc import Mapping
from typing import Any

import datasets
import numpy as np
from tqdm.auto import tqdm

from processing.languages import LANGUAGES, SOURCE_LANGUAGE
from processing.novelty import DescriptionTally
from processing.records import (
    DESCRIPTION_COLUMN,
    TextKind,
    caption_column,
    flag_column,
    similarity_column,
    text_columns,
    texts_of,
)
from processing.words import split_words

logger = logging.getLogger(__name__)

DEFAULT_SAMPLE = 1000
VOCABULARY_TOKENS = 10_000
# Enough short texts for that many tokens.
VOCABULARY_TEXTS = 5000
_BATCH_SIZE = 1000


def inspect_texts(
    splits: Mapping[str, datasets.Dataset], *, sample: int = DEFAULT_SAMPLE, seed: int = 0, progress: bool = True
) -> dict[str, Any]:
    """Measure every text column of the schema, over all splits together.

    Args:
        splits: name -> rows. A column that a split lacks is not counted there.
        sample: texts of each column whose language is identified, at least 1.
        seed: of the samples.
        progress: show a bar.

    Returns:
        `rows`, `columns`, `descriptions` and `notes`, as in the docstring of this module.

    Raises:
        ValueError: `sample` is below 1, there are no rows, or no split has a text column.
    """
    if sample < 1:
        raise ValueError(f"sample must be at least 1, got {sample}.")
    rows = {name: len(split) for name, split in splits.items()}
    names = [name for split in splits.values() for name in split.column_names]
    kinds = text_columns(names)
    if not kinds or not sum(rows.values()):
        raise ValueError(
            f"splits must have rows and a column of texts, got rows {rows} and columns {sorted(set(names))}; "
            f"see processing/records.py."
        )
    max_sample = max(sample, VOCABULARY_TEXTS)
    columns = {name: ColumnTally(*kind, max_sample=max_sample, seed=seed) for name, kind in kinds.items()}
    descriptions = DescriptionTally()
    with tqdm(total=sum(rows.values()), desc="texts", disable=not progress) as bar:
        for split in splits.values():
            _read_split(split, columns, descriptions, bar)
    notes: list[str] = []
    report = {name: tally.summary() for name, tally in columns.items()}
    _identify_languages(columns, report, notes, sample)
    found = descriptions.summary()
    return {"rows": rows, "columns": report, **({"descriptions": found} if found else {}), "notes": notes}


def describe_lengths(counts: Mapping[int, int]) -> dict[str, float]:
    """Mean, median, 5th and 95th percentile of values given as value -> how often.

    A percentile p is the smallest value that at least p percent of the values do not exceed; so is the median.
    """
    values = sorted(counts)
    cumulative = np.cumsum([counts[value] for value in values])
    total = int(cumulative[-1])
    shares = {"median": 50, "p5": 5, "p95": 95}
    # ceil in integers: p percent of 20 must be exactly 1 for p = 5, which floating point does not promise.
    places = {name: int(np.searchsorted(cumulative, -(-percent * total // 100))) for name, percent in shares.items()}
    mean = sum(value * count for value, count in counts.items()) / total
    return {"mean": mean, **{name: values[place] for name, place in places.items()}}


class ColumnTally:
    """Counts of one column while its rows pass by.

    Args:
        language: code of the language that the column should be in.
        kind: who wrote it.
        max_sample: texts kept, drawn with equal chance.
        seed: of that sample.
    """

    def __init__(self, language: str, kind: TextKind, *, max_sample: int, seed: int = 0) -> None:
        self.language, self.kind = language, kind
        self.has_spaces = LANGUAGES[language].has_spaces
        self._sampled: list[str] = []
        self._max_sample = max_sample
        self._seed = seed
        self._random = random.Random(seed)
        self._items = self._without_text = self._empty = 0
        self._characters: Counter[int] = Counter()
        self._words: Counter[int] = Counter()
        self._flags: Counter[str] = Counter()
        self._similarities: Counter[int] = Counter()
        # One entry a text: a hash of its words, and its item.
        self._hashes, self._owners = array("q"), array("q")

    def add(self, texts: list[str | None]) -> None:
        """Count the entries of one item."""
        kept = [text.strip() for text in texts if text and text.strip()]
        self._empty += len(texts) - len(kept)
        self._without_text += not kept
        for text in kept:
            words = split_words(text, has_spaces=self.has_spaces)
            self._characters[len(text)] += 1
            self._words[len(words)] += 1
            self._hashes.append(hash(tuple(words)))
            self._owners.append(self._items)
            self._keep(text)
        self._items += 1

    def add_flags(self, flags: list[str | None]) -> None:
        """Count the flags of one item; a null one says nothing, as beside a caption that a person wrote."""
        self._flags.update(flag for flag in flags if flag is not None)

    def add_similarities(self, similarities: list[float | None] | None) -> None:
        """Count the back-translation similarities of one item, to the next whole number."""
        self._similarities.update(round(value) for value in similarities or [] if value is not None)

    def _keep(self, text: str) -> None:
        """Reservoir sampling: after n texts, each is in the sample with the same chance."""
        if len(self._sampled) < self._max_sample:
            self._sampled.append(text)
            return
        place = self._random.randrange(len(self._hashes))
        if place < self._max_sample:
            self._sampled[place] = text

    def sample(self) -> list[str]:
        """The texts kept, shuffled: the first of them are a sample as well."""
        # Another seed than that of the drawing: the same numbers twice would put some rows in front.
        return random.Random(f"order {self._seed}").sample(self._sampled, len(self._sampled))

    def summary(self) -> dict[str, Any]:
        """The numbers of the column, as in the docstring of this module."""
        num_texts = len(self._hashes)
        numbers: dict[str, Any] = {
            "language": self.language,
            "kind": self.kind,
            "items": self._items,
            "items_without_text": self._without_text,
            "texts": num_texts,
            "empty": self._empty,
            "empty_rate": self._empty / max(1, num_texts + self._empty),
        }
        if num_texts:
            numbers["duplicates"] = self._duplicates()
            numbers["characters"] = describe_lengths(self._characters)
            if self.has_spaces:
                numbers["words"] = describe_lengths(self._words)
            numbers["vocabulary"] = self._vocabulary()
        if self._flags:
            numbers["flags"] = dict(self._flags.most_common())
        if self._similarities:
            numbers["similarity"] = describe_lengths(self._similarities)
        return numbers

    def _duplicates(self) -> dict[str, float]:
        """Share of the texts that occur more than once, and of the items that have such a text."""
        hashes, owners = np.frombuffer(self._hashes, np.int64), np.frombuffer(self._owners, np.int64)
        _, positions, counts = np.unique(hashes, return_inverse=True, return_counts=True)
        is_double = counts[positions] > 1
        return {
            "text_rate": float(is_double.mean()),
            "item_rate": len(np.unique(owners[is_double])) / self._items,
        }

    def _vocabulary(self) -> dict[str, Any]:
        words = (word for text in self.sample() for word in split_words(text, has_spaces=self.has_spaces))
        tokens = [word for _, word in zip(range(VOCABULARY_TOKENS), words, strict=False)]
        types = len(set(tokens))
        return {
            "unit": "word" if self.has_spaces else "character",
            "tokens": len(tokens),
            "types": types,
            "type_token_ratio": types / max(1, len(tokens)),
        }


def _read_split(
    split: datasets.Dataset, columns: Mapping[str, ColumnTally], descriptions: DescriptionTally, bar: Any
) -> None:
    """Feed the rows of a split to the tallies of its columns."""
    present = [name for name in columns if name in split.column_names]
    beside = [named(name) for name in present for named in (flag_column, similarity_column)]
    texts = split.select_columns([*present, *(name for name in beside if name in split.column_names)])
    english = caption_column(SOURCE_LANGUAGE)
    for batch in texts.iter(_BATCH_SIZE):
        size = len(next(iter(batch.values())))
        for name in present:
            for cell in batch[name]:
                columns[name].add(texts_of(name, cell))
            for cell in batch.get(flag_column(name), []):
                columns[name].add_flags(texts_of(name, cell))
            for cell in batch.get(similarity_column(name), []):
                columns[name].add_similarities(cell)
        captions = batch.get(english, [[]] * size)
        for description, own in zip(batch.get(DESCRIPTION_COLUMN, [None] * size), captions, strict=True):
            descriptions.add(description, own or [])
        bar.update(size)


def _identify_languages(
    columns: Mapping[str, ColumnTally], report: Mapping[str, dict[str, Any]], notes: list[str], sample: int
) -> None:
    """Add `language_id` to each column, or a note where the package for it is not installed."""
    from processing.language_id import identify

    for name, tally in columns.items():
        # Numbers and signs alone are in every language.
        texts = [text for text in tally.sample() if any(char.isalpha() for char in text)][:sample]
        if not texts:
            continue
        try:
            found = Counter(identify(texts, sorted(LANGUAGES)))
        except ImportError as error:
            notes.append(f"languages were not identified: {error}")
            return
        report[name]["language_id"] = {
            "texts": len(texts),
            "expected_rate": found[tally.language] / len(texts),
            "found": dict(found.most_common()),
        }
