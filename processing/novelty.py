"""Do descriptions say more than captions? Counted in content words (processing/words.py), item by item.

`DescriptionTally.summary()` is the part `descriptions` of `quality.json`:

    {
      "texts": 6000, "refusals": 12, "refusal_rate": 0.002,
      "against_captions": {
        "items": 5980, "captions_per_item": 5.0,
        "content_words": {"description": 21.3, "caption": 5.2, "captions": 12.9},
        "new_words": 11.4, "novelty": 0.53, "coverage": 0.61
      },
      "against_a_further_caption": {
        "items": 5980,
        "new_words": {"description": 12.6, "caption": 2.1},
        "novelty": {"description": 0.59, "caption": 0.40}
      }
    }

Of one item, D are the content words of its description and C those of all its English captions together. `new_words`
is |D - C|, `novelty` |D - C| / |D|, `coverage` |C and D| / |C|; each is averaged over the items. Any further sentence
about a picture brings new words, so the same is counted for a human caption: each caption in turn is set aside, and it
and the description are compared with the others alone (`against_a_further_caption`). Refusals count as no description.

False words are new as well: the description of another picture brings more of them than a true one. Only together
with `agreement` (retrieval/agreement.py) do these numbers answer the question.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from processing.description_answers import is_refusal
from processing.words import content_words


class DescriptionTally:
    """Counts of descriptions, alone and against the captions of their items, while the rows pass by."""

    def __init__(self) -> None:
        self._texts = self._refusals = 0
        self._items = self._items_with_several = 0
        self._sums: dict[str, float] = defaultdict(float)

    def add(self, description: str | None, captions: Sequence[str | None]) -> None:
        """Count one item.

        Args:
            description: in English; None or blank where there is none.
            captions: the English captions of the item, any number.
        """
        if not description or not description.strip():
            return
        self._texts += 1
        if is_refusal(description):
            self._refusals += 1
            return
        said = content_words(description)
        captioned = [words for words in (content_words(caption or "") for caption in captions) if words]
        if not said or not captioned:
            return
        self._items += 1
        self._add(compare(said, captioned))
        if len(captioned) > 1:
            self._items_with_several += 1
            self._add(compare_with_a_further_caption(said, captioned))

    def _add(self, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._sums[name] += value

    def summary(self) -> dict[str, Any]:
        """The numbers, as in the docstring of this module; empty without descriptions."""
        if not self._texts:
            return {}
        numbers: dict[str, Any] = {
            "texts": self._texts,
            "refusals": self._refusals,
            "refusal_rate": self._refusals / self._texts,
        }
        if self._items:
            mean = {name: total / self._items for name, total in self._sums.items()}
            numbers["against_captions"] = {
                "items": self._items,
                "captions_per_item": mean["num_captions"],
                "content_words": {name: mean[f"{name}_words"] for name in ("description", "caption", "captions")},
                **{name: mean[name] for name in ("new_words", "novelty", "coverage")},
            }
        if self._items_with_several:
            mean = {name: total / self._items_with_several for name, total in self._sums.items()}
            numbers["against_a_further_caption"] = {
                "items": self._items_with_several,
                "new_words": {name: mean[f"further_{name}_new_words"] for name in ("description", "caption")},
                "novelty": {name: mean[f"further_{name}_novelty"] for name in ("description", "caption")},
            }
        return numbers


def compare(said: set[str], captioned: Sequence[set[str]]) -> dict[str, float]:
    """One item: the content words of its description against those of all its captions.

    Args:
        said: of the description, not empty.
        captioned: of each caption, none of them empty.
    """
    together = set().union(*captioned)
    return {
        "num_captions": len(captioned),
        "description_words": len(said),
        "caption_words": sum(map(len, captioned)) / len(captioned),
        "captions_words": len(together),
        "new_words": len(said - together),
        "novelty": len(said - together) / len(said),
        "coverage": len(said & together) / len(together),
    }


def compare_with_a_further_caption(said: set[str], captioned: Sequence[set[str]]) -> dict[str, float]:
    """One item: description and one caption, both against the other captions; the mean over the caption set aside.

    Args:
        said: of the description, not empty.
        captioned: of each caption, at least two, none of them empty.
    """
    sums: dict[str, float] = defaultdict(float)
    for position, further in enumerate(captioned):
        others = set().union(*captioned[:position], *captioned[position + 1 :])
        for name, words in (("description", said), ("caption", further)):
            sums[f"further_{name}_new_words"] += len(words - others)
            sums[f"further_{name}_novelty"] += len(words - others) / len(words)
    return {name: total / len(captioned) for name, total in sums.items()}
