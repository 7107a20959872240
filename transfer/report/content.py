"""What a report says, as one value: gap.csv, gap.md, gap.tex, gap.html and the terminal are five views of it."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from transfer.comparison.comparison import Comparison
from transfer.comparison.leakage import Leakage
from transfer.literature.protocols import PublishedMatch
from transfer.report.csv_rows import ConfigRows, CsvRow, by_config, csv_rows, number
from transfer.report.sentences import SEQUENTIAL, summary


@dataclass(frozen=True)
class RateSearch:
    """A learning-rate search on a held-out part of train: the scores (NaN for a failed run) and the chosen rate."""

    scores: Mapping[float, float]  # rate -> held-out box AP, of the runs that have ended
    chosen: float | None
    at_edge: bool  # the best rate is the smallest or the largest of the grid

    def __str__(self) -> str:
        scores = ", ".join(
            f"{rate:g} -> {'failed' if score != score else number(score)}" for rate, score in self.scores.items()
        )
        edge = "; the best is at the edge of the grid" if self.at_edge else ""
        spread = "" if self.spread is None else f"; spread over the rates {number(self.spread)}"
        return f"held-out AP {scores or 'not run yet'}; chosen {self.chosen}{spread}{edge}"

    @property
    def spread(self) -> float | None:
        """Best minus worst held-out AP of the rates that finished; None for fewer than two."""
        finished = [score for score in self.scores.values() if score == score]
        return max(finished) - min(finished) if len(finished) > 1 else None


@dataclass(frozen=True)
class Report:
    """A comparison, and where it comes from."""

    name: str
    command: str  # makes the report again
    comparison: Comparison
    published: Sequence[PublishedMatch] | None = None  # per config; None: not asked for
    searches: Mapping[str, RateSearch] = field(default_factory=dict)  # "config/init" -> its search
    limits: str = ""  # the first paragraph: what these runs can and cannot show
    plan: str = ""  # the plan's YAML
    leakage: Sequence[Leakage] = ()  # test sets against what was trained and pretrained on
    leakage_note: str = ""  # what was not compared, and why

    @functools.cached_property
    def rows(self) -> list[CsvRow]:
        """The rows of gap.csv."""
        return csv_rows(self.comparison.tables)

    @functools.cached_property
    def rows_by_config(self) -> dict[str, ConfigRows]:
        """The rows of every config; none for a config without a finished run."""
        by_name = by_config(self.rows)
        return {table.name: by_name.get(table.name, ConfigRows([])) for table in self.comparison.tables}

    @property
    def title(self) -> str:
        """The heading of the page."""
        return f"{self.name}: the gap"

    @functools.cached_property
    def sentences(self) -> list[str]:
        """The comparisons in words, the most important first."""
        return summary(self.comparison)

    @property
    def next_step(self) -> str:
        """What is undecided and what would decide it, with the rule by which seeds were added if there was one."""
        parts = [self.comparison.next_step, SEQUENTIAL if self.comparison.stopping else ""]
        return " ".join(part for part in parts if part)
