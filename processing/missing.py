"""What was looked for and not found: counted, named, and told; never dropped in silence."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

SHOWN_IDS = 5


def _lists_by_split() -> defaultdict[str, list[str]]:
    return defaultdict(list)  # A function with a name can be pickled, so a report can travel to a worker.


@dataclass
class MissingReport:
    """Ids that lack something, by reason and split.

    Attributes:
        ids: reason -> split -> ids in the order found. A reason completes "3 items have ...": "no image".
    """

    ids: dict[str, dict[str, list[str]]] = field(default_factory=lambda: defaultdict(_lists_by_split))

    def add(self, reason: str, split: str, item_id: str) -> None:
        """Note that an item of a split lacks something."""
        self.ids[reason][split].append(item_id)

    def merge(self, other: "MissingReport") -> None:
        """Take over what another report noted."""
        for reason, splits in other.ids.items():
            for split, found in splits.items():
                self.ids[reason][split].extend(found)

    def __bool__(self) -> bool:
        return any(found for splits in self.ids.values() for found in splits.values())

    def counts(self) -> dict[str, dict[str, int]]:
        """Reason -> split -> number of items, for JSON."""
        return {reason: {split: len(found) for split, found in splits.items()} for reason, splits in self.ids.items()}

    def to_dict(self) -> dict[str, Any]:
        """Reason -> split -> all ids, for JSON."""
        return {reason: dict(splits) for reason, splits in self.ids.items()}

    def lines(self) -> list[str]:
        """One sentence for each reason and split, with the first ids."""
        return [
            f"{split}: {len(found)} items have {reason} (first: {', '.join(found[:SHOWN_IDS])})"
            for reason, splits in self.ids.items()
            for split, found in splits.items()
            if found
        ]
