"""The rows of an ablation as a table, a picture and a sentence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from benchmarks.ablation_groups import Group, Variant
from benchmarks.checks import signed, signed_interval, statistics_of, told_by_seeds
from benchmarks.experiments import spread
from reporting.bootstrap import Interval, paired_bootstrap
from reporting.differences import draw_differences
from reporting.report import ABSENT, markdown_table
from reporting.sweeps import Point, draw_sweeps
from retrieval.metrics import recall_metrics
from retrieval.ranks import RetrievalRanks

_DIRECTIONS = {"t2i": "text to image R@1", "i2t": "image to text R@1"}


@dataclass
class Row:
    """What a variant reached.

    Args:
        variant: which one.
        ranks: seed -> language -> ranks.
        measured: name of a column -> a value a seed.
    """

    variant: Variant
    ranks: dict[int, dict[str, RetrievalRanks]] = field(default_factory=dict)
    measured: dict[str, list[float]] = field(default_factory=dict)

    def metric(self, name: str) -> dict[int, float]:
        """Seed -> a metric of `recall_metrics`, the mean over the languages."""
        return {
            seed: fmean(recall_metrics(ranks)[name] for ranks in by_language.values())
            for seed, by_language in self.ranks.items()
        }

    def differences(self, reference: "Row") -> list[float]:
        """SumR less that of the reference, seed by seed; seeds that one of them lacks are left out."""
        ours, theirs = self.metric("sum_r"), reference.metric("sum_r")
        return [ours[seed] - theirs[seed] for seed in ours if seed in theirs]

    def interval(self, reference: "Row", text_items: Mapping[str, Sequence[int]]) -> Interval | None:
        """The same difference with its interval over the queries; None where they have no seed in common."""
        seeds = [seed for seed in self.ranks if seed in reference.ranks]
        if not seeds:
            return None
        ours, theirs = ([row.ranks[seed] for seed in seeds] for row in (self, reference))
        return paired_bootstrap(ours, theirs, text_items)


class Rows:
    """The rows of a group, each compared with its reference.

    Args:
        group: what was varied.
        rows: one a variant, in its order.
        text_items: language -> the item of each of its texts, see `paired_bootstrap`.
    """

    def __init__(self, group: Group, rows: Sequence[Row], text_items: Mapping[str, Sequence[int]]) -> None:
        self.group = group
        self.rows = list(rows)
        self.reference = next(row for row in rows if row.variant.name == group.reference)
        others = [row for row in rows if row is not self.reference]
        intervals = {row.variant.name: row.interval(self.reference, text_items) for row in others}
        self.intervals = {name: interval for name, interval in intervals.items() if interval is not None}

    def table(self) -> str:
        """A row a variant: means and standard deviations over seeds, and the difference to the reference."""
        columns = list(dict.fromkeys(column for row in self.rows for column in row.measured))
        header = [
            self._first_column(),
            "SumR",
            "difference",
            "95 % interval over items",
            *_DIRECTIONS.values(),
            *columns,
        ]
        return markdown_table(header, [self._cells(row, columns) for row in self.rows])

    def _first_column(self) -> str:
        if not self.group.axis:
            return "variant"
        lines = {variant.line for variant in self.group.variants}
        return self.group.axis if len(lines) == 1 else f"line at {self.group.axis}"

    def _cells(self, row: Row, columns: Sequence[str]) -> list[str]:
        name, interval = row.variant.name, self.intervals.get(row.variant.name)
        own = row is self.reference
        return [
            f"**{name}**" if own else name,
            spread(list(row.metric("sum_r").values())),
            "reference" if own else signed(row.differences(self.reference)),
            ABSENT if interval is None else signed_interval(interval),
            *(spread(list(row.metric(f"{direction}_R@1").values())) for direction in _DIRECTIONS),
            *(spread(row.measured[column], digits=4) if column in row.measured else ABSENT for column in columns),
        ]

    def draw(self, place: Path, data: str) -> None:
        """Lines over the axis of the group, or bars of the differences where it has none.

        Args:
            place: the picture.
            data: what was trained on and measured, in words.
        """
        if self.group.axis:
            lines: dict[str, list[Point]] = {}
            for row in self.rows:
                if values := list(row.metric("sum_r").values()):
                    lines.setdefault(row.variant.line, []).append((row.variant.place, *statistics_of(values)))
            panels, group = {data: lines}, self.group
            draw_sweeps(panels, place, title=group.title, x_label=group.axis, logarithmic=group.logarithmic)
            return
        found = {row.variant.name: row.differences(self.reference) for row in self.rows}
        draw_differences(
            {name: statistics_of(values) if values else None for name, values in found.items()},
            place,
            reference=self.group.reference,
            title=self.group.title,
            x_label=f"SumR against “{self.group.reference}”: {data}",
        )

    def findings(self) -> str:
        """Which variants differ from the reference, whatever the choice of items and whatever that of the seeds."""
        if len(self.reference.ranks) < 2:
            return "Of one seed nothing can be told: another seed may change the order of the rows."
        sides: dict[str, list[str]] = {"better": [], "worse": [], "not told apart": []}
        for row in self.rows:
            interval = self.intervals.get(row.variant.name)
            if interval is None:
                continue
            sure = interval.excludes_zero and told_by_seeds(row.differences(self.reference))
            side = "not told apart" if not sure else "better" if interval.difference > 0 else "worse"
            sides[side].append(f"{row.variant.name} ({interval.difference:+.1f})")
        listed = "; ".join(f"{side}: {', '.join(names) or 'none'}" for side, names in sides.items())
        return (
            f"Told apart from {self.group.reference} is what two 95 % intervals put off zero: that of the table, over "
            f"items, and that of Student's t, over seeds. {listed[0].upper()}{listed[1:]}."
        )

    def to_json(self) -> list[dict[str, object]]:
        """All rows, for the file of the results."""
        return [
            {
                "variant": row.variant.name,
                "changes": row.variant.changes,
                "sum_r": row.metric("sum_r"),
                "differences": row.differences(self.reference),
                "interval": vars(interval) if (interval := self.intervals.get(row.variant.name)) else None,
                "measured": row.measured,
            }
            for row in self.rows
        ]
