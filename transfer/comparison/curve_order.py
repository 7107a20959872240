"""Who is ahead at which iteration, and whether anybody overtakes, with intervals that hold for the whole curve."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from transfer.comparison.differences import SPREAD_FLOOR, paired
from transfer.comparison.student import ALPHA, quantile
from transfer.comparison.verdicts import AHEAD, BEHIND, UNDECIDED

Curves = Mapping[int, Mapping[int, float]]  # fine-tuning seed -> iteration -> value in points


@dataclass(frozen=True)
class Standing:
    """The paired difference at one iteration; all intervals of a report hold together with 95 %."""

    iteration: int
    mean: float
    low: float
    high: float
    n: int

    @property
    def word(self) -> str:
        """ahead, behind or undecided."""
        return AHEAD if self.low > 0 else BEHIND if self.high < 0 else UNDECIDED


@dataclass(frozen=True)
class Overtaking:
    """Behind at ``behind_at`` and ahead at ``ahead_at``, both beyond the simultaneous interval."""

    behind_at: int
    ahead_at: int


def standings(own: Curves, other: Curves, *, comparisons: int = 1, alpha: float = ALPHA) -> list[Standing]:
    """The difference at every iteration at which all common seeds of both were evaluated, in ascending order.

    Paired t over seeds at alpha / (iterations x ``comparisons``): Bonferroni, because two to five seeds do not show how
    the iterations correlate. ``comparisons`` is the number of pairs of curves in the report. Empty with one seed. An
    iteration at which the differences do not vary is left out.
    """
    seeds = sorted(own.keys() & other.keys())
    if len(seeds) < 2:
        return []
    evaluated = set.intersection(*({*own[s]} & {*other[s]} for s in seeds))
    result = []
    for iteration in sorted(evaluated):
        estimate = paired(np.array([own[s][iteration] - other[s][iteration] for s in seeds], dtype=float))
        error, mean = math.sqrt(float(estimate.variance)), float(estimate.mean)
        if error > SPREAD_FLOOR:
            half = float(quantile(len(seeds) - 1, alpha / (len(evaluated) * comparisons))) * error
            result.append(Standing(iteration, mean, mean - half, mean + half, len(seeds)))
    return result


def overtaking(course: Sequence[Standing]) -> Overtaking | None:
    """The last change from behind to ahead, or None: two curves that cross inside their intervals do not count.

    For the opposite direction swap the arguments of ``standings``.
    """
    for place, first in enumerate(reversed(course)):
        later = course[len(course) - place :]
        ahead = next((one.iteration for one in later if one.word == AHEAD), None)
        if first.word == BEHIND and ahead is not None:
            return Overtaking(first.iteration, ahead)
    return None
