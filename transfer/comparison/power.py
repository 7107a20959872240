"""How many seeds and pretraining runs it takes to see a difference, before any run is made.

``sd`` is always the standard deviation of single runs in points. Two runs of different initialisations with the same
fine-tuning seed are correlated by ``correlation``; pairing removes what they share.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from transfer.comparison.differences import combine
from transfer.comparison.student import ALPHA, quantile

POWER = 0.8
SEEDS_OF_A_METHOD = range(2, 11)  # with one seed, an effect that it has on one method only is not in the interval


@dataclass(frozen=True)
class Spread:
    """Standard deviation of AP over seeds, in points, as somebody published it."""

    sd: float
    source: str


PUBLISHED_SPREADS = {
    "voc": Spread(0.2, "MoCo's detection/README.md: AP of R50-C4 on VOC07+12, 5 trials (AP50 0.2, AP75 0.4)"),
    "coco": Spread(0.10, "Detectron2's projects/ViTDet/README.md: box AP of ViTDet-B on COCO, five seeds"),
    "lvis": Spread(0.30, "Detectron2's projects/ViTDet/README.md: AP of ViTDet-B on LVIS v1, five seeds"),
}  # none of them repeats the pretraining: they plan a comparison of weights, not of methods


def power_of_t(gap: Any, standard_error: Any, df: Any, alpha: float = ALPHA) -> Any:
    """Probability that a two-sided t test finds a true difference of ``gap`` points. Takes arrays."""
    from scipy.stats import nct

    shift, critical = np.abs(gap) / standard_error, quantile(df, alpha)
    # scipy's cdf is NaN at some shifts above 8, where the tail on the other side is below 1e-15
    return nct.sf(critical, df, shift) + np.nan_to_num(nct.cdf(-critical, df, shift))


def standard_error_of_pairs(sd: Any, seeds: Any, correlation: float = 0.0) -> Any:
    """Standard error of the mean of ``seeds`` paired differences of runs with spread ``sd``."""
    return sd * np.sqrt(2 * (1 - correlation) / seeds)


def seeds_for(
    gap: float,
    sd: float,
    *,
    correlation: float = 0.0,
    power: float = POWER,
    alpha: float = ALPHA,
    comparisons: int = 1,
    most: int = 1000,
) -> int | None:
    """Fewest fine-tuning seeds with which paired t sees ``gap``; None when ``most`` are not enough.

    With several ``comparisons`` in the report the test is at alpha / comparisons, Holm's first step.
    """

    def reached(seeds: int) -> bool:
        error = standard_error_of_pairs(sd, seeds, correlation)
        return bool(power_of_t(gap, error, seeds - 1, alpha / comparisons) >= power)

    numbers = range(2, most + 1)
    place = bisect.bisect_left(numbers, True, key=reached)  # more seeds never see less
    return numbers[place] if place < len(numbers) else None


def visible_gap(standard_error: float, df: float, *, power: float = POWER, alpha: float = ALPHA) -> float:
    """The difference that a plan with this standard error sees with ``power``, in points."""
    from scipy.optimize import brentq

    unit = brentq(lambda shift: power_of_t(shift, 1.0, df, alpha) - power, 0.0, 2.0 * quantile(df, alpha) + 20.0)
    return float(unit * standard_error)


@dataclass(frozen=True)
class Method:
    """A method in a plan: its spreads in points and its number of pretraining runs.

    One run describes weights that exist once, and random initialisation: their ``pretraining_sd`` is not used.
    """

    pretraining_sd: float
    residual_sd: float
    runs: int = 1

    def variance(self, seeds: int) -> float:
        """Variance of its mean over runs and ``seeds``, without the part that pairing removes."""
        return (self.pretraining_sd**2 + self.residual_sd**2 / seeds) / self.runs


@dataclass(frozen=True)
class Prospect:
    """What a planned comparison of two methods can expect, over 4,000 draws of its variance estimates."""

    standard_error: float  # the true one
    critical: np.ndarray  # half-widths of the interval in points, one a draw

    @property
    def half_width(self) -> float:
        """Half of the interval's mean width, in points."""
        return float(self.critical.mean())

    def power(self, gap: float) -> float:
        """Probability of seeing a difference of ``gap`` points: exact for each draw, averaged over the draws."""
        from scipy.special import ndtr

        beyond = ndtr((gap - self.critical) / self.standard_error) + ndtr((-gap - self.critical) / self.standard_error)
        return float(beyond.mean())

    def visible_gap(self, power: float = POWER) -> float:
        """The difference in points that is seen with ``power``."""
        from scipy.optimize import brentq

        most = float(self.critical.max()) + 10 * self.standard_error
        return float(brentq(lambda gap: self.power(gap) - power, 0.0, most))


def prospect(own: Method, other: Method, seeds: int, alpha: float = ALPHA, draws: int = 4000) -> Prospect:
    """The interval of ``differences.between_methods`` before any run; paired t where both sides exist once.

    Its degrees of freedom depend on the spreads that the runs will show, so the power is no noncentral t: with two runs
    a side that formula promises 80 % where 50 % come true. Raises ValueError where there will be no interval.
    """
    sides = (own, other)
    repeated = [side for side in sides if side.runs > 1]
    if len(repeated) < 2 and seeds < 2:
        raise ValueError("a side with one pretraining run needs two seeds or more")
    rng = np.random.default_rng(0)  # the same numbers for every plan, so that plans compare

    def estimates(variance: float, df: int) -> np.ndarray:
        return variance * rng.chisquare(df, draws) / df

    residuals = [side.residual_sd**2 / side.runs / seeds for side in sides]
    shifts = estimates(sum(residuals), seeds - 1) if seeds > 1 else np.zeros(draws)
    if not repeated:
        critical = quantile(seeds - 1, alpha) * np.sqrt(shifts)
        return Prospect(float(np.sqrt(sum(residuals))), critical)
    degrees = [side.runs - 1 for side in repeated]
    between = [estimates(side.variance(seeds), df) for side, df in zip(repeated, degrees)]
    counted: Any = 0.0
    if seeds > 1:
        for side, df in zip(repeated, degrees):
            counted = counted + estimates(side.residual_sd**2 / side.runs / seeds, df * (seeds - 1))
    variance, df = combine(between, degrees, seeds, shifts, counted)
    truth = sum(side.variance(seeds) if side.runs > 1 else side.residual_sd**2 / seeds for side in sides)
    return Prospect(float(np.sqrt(truth)), quantile(df, alpha) * np.sqrt(variance))


@dataclass(frozen=True)
class Need:
    """Pretraining runs and fine-tuning seeds for each method, their cost, and what they see."""

    runs: int
    seeds: int
    hours: float
    power: float


def cheapest_plan(
    gap: float,
    pretraining_sd: float,
    residual_sd: float,
    *,
    pretraining_hours: float,
    fine_tuning_hours: float,
    other: Method | None = None,
    power: float = POWER,
    alpha: float = ALPHA,
    runs: Iterable[int] = range(2, 21),
    seeds: Iterable[int] = range(1, 11),
) -> Need | None:
    """The cheapest runs x seeds that see ``gap`` between two methods; None when the grid has none.

    ``other`` is a reference whose number of runs is fixed (weights that exist once); left out, the reference is
    pretrained as often as the method. Hours are those of both sides.
    """
    plans = []
    numbers = list(seeds)
    for r in runs:
        for s in numbers:
            own = Method(pretraining_sd, residual_sd, r)
            against = other or own
            if min(own.runs, against.runs) == 1 and s < 2:
                continue
            reached = prospect(own, against, s, alpha, draws=1000).power(gap)
            repeats = r * (2 if other is None else 1)
            hours = repeats * pretraining_hours + (r + against.runs) * s * fine_tuning_hours
            if reached >= power:
                plans.append(Need(r, s, hours, reached))
    return min(plans, key=lambda plan: (plan.hours, plan.runs, plan.seeds), default=None)
