"""Which initialisations a cheap comparison rules out, so that they need not be run on the next, dearer one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import kendalltau

from transfer.comparison.differences import Difference, compare_pair
from transfer.comparison.gap import Row, Table

ERROR = 0.05  # of dropping the best of a rung, over all rungs
RESAMPLES = 2000


@dataclass(frozen=True)
class Dropped:
    """An initialisation that a rung ruled out: it is behind ``leader`` by more than the interval allows."""

    init: str
    rung: str  # the table
    leader: str
    difference: float  # leader minus init, in points of the headline metric
    low: float  # lower end of its interval

    @property
    def text(self) -> str:
        """A sentence."""
        return (
            f"{self.init} was not run beyond {self.rung}: there it is {self.difference:.2f} behind {self.leader} (at "
            f"least {self.low:.2f})"
        )


def ruled_out(table: Table, *, rungs: int, keep: Collection[str] = ()) -> list[Dropped]:
    """The initialisations of ``table`` that are behind another one; those in ``keep`` stay whatever they reach.

    ``rungs``: tables after which something is dropped. An initialisation is dropped when the one-sided interval of its
    difference to another lies below 0. The best one can only be dropped by an interval that is wrong, and there are as
    many as other initialisations at each rung, so each gets ERROR / (others x rungs). About the method where it was
    pretrained repeatedly, otherwise about these weights.
    """
    rows = table.headline_rows
    level = ERROR / max(1, (len(rows) - 1) * rungs)
    found = []
    for row in rows:
        if row.init in keep:
            continue
        behind = [
            (difference, other)
            for other in rows
            if other is not row and (difference := _difference(other, row, table, level)) is not None
        ]
        worst = max(behind, key=lambda pair: pair[0].low or 0.0, default=None)
        if worst is not None and (worst[0].low or 0.0) > 0:
            difference, leader = worst
            found.append(Dropped(row.init, table.name, leader.init, difference.mean, float(difference.low or 0.0)))
    return found


def _difference(own: Row, other: Row, table: Table, level: float) -> Difference | None:
    """``own`` minus ``other`` with a two-sided interval whose lower end has the one-sided ``level``."""
    weights, method = compare_pair(
        (own.init, own.cells), (other.init, other.cells), without_pretraining=table.without_pretraining, alpha=2 * level
    )
    difference = method or weights
    return difference if difference is not None and difference.low is not None else None


@dataclass(frozen=True)
class Agreement:
    """Kendall's tau between two rankings of ``count`` initialisations, with a 95 % bootstrap interval over them."""

    tau: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.tau:+.2f} [{self.low:+.2f}, {self.high:+.2f}], {self.count} initialisations"


def agreement(first: Mapping[str, float], second: Mapping[str, float]) -> Agreement | None:
    """How alike two tables rank the initialisations that both have; None for fewer than three.

    The interval is the percentile bootstrap over initialisations. With few of them it is wide, and narrower than it
    should be where all pairs agree.
    """
    names = [name for name in first if name in second]
    if len(names) < 3:
        return None
    a, b = (np.array([side[name] for name in names]) for side in (first, second))
    generator = np.random.default_rng(0)
    draws = [generator.integers(0, len(names), len(names)) for _ in range(RESAMPLES)]
    taus = np.array([tau for rows in draws if not np.isnan(tau := _tau(a[rows], b[rows]))])
    if np.isnan(whole := _tau(a, b)) or not len(taus):
        return None
    low, high = np.percentile(taus, [2.5, 97.5])
    return Agreement(whole, float(low), float(high), len(names))


def _tau(first: np.ndarray, second: np.ndarray) -> float:
    return float(kendalltau(first, second).statistic)


def means(table: Table) -> dict[str, float]:
    """The headline metric of every initialisation."""
    return {row.init: row.mean for row in table.headline_rows}
