"""How many seeds and pretraining runs it takes to see a difference, before any run is made.

``sd`` is always the standard deviation of single runs in points. Two runs of different initialisations with the same
fine-tuning seed are correlated by ``correlation``; pairing removes what they share.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from transfer.comparison.differences import most_degrees
from transfer.comparison.student import ALPHA, quantile, satterthwaite

POWER = 0.8


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
    for seeds in range(2, most + 1):
        error = standard_error_of_pairs(sd, seeds, correlation)
        if power_of_t(gap, error, seeds - 1, alpha / comparisons) >= power:
            return seeds
    return None


def visible_gap(standard_error: float, df: float, *, power: float = POWER, alpha: float = ALPHA) -> float:
    """The difference that a plan with this standard error sees with ``power``, in points."""
    from scipy.optimize import brentq

    unit = brentq(lambda shift: power_of_t(shift, 1.0, df, alpha) - power, 0.0, 2.0 * quantile(df, alpha) + 20.0)
    return float(unit * standard_error)


def equivalence_power(
    margin: float, standard_error: float, df: float, *, gap: float = 0.0, alpha: float = ALPHA
) -> float:
    """Probability that two one-sided t tests call a true difference of ``gap`` equivalent within ``margin``.

    The joint probability of both tests given the estimated spread, averaged over the spread's distribution (as Owen's
    Q function; Phillips 1990, Journal of Pharmacokinetics and Biopharmaceutics 18). No normal approximation.
    """
    from scipy.integrate import quad
    from scipy.stats import chi2, norm

    critical = float(quantile(df, 2 * alpha))

    def given(level: float) -> float:
        half = margin / standard_error - critical * np.sqrt(chi2.ppf(level, df) / df)
        shift = gap / standard_error
        return max(float(norm.cdf(half - shift) - norm.cdf(-half - shift)), 0.0)

    largest = float(chi2.cdf(df * (margin / standard_error / critical) ** 2, df))  # more spread: never equivalent
    return float(quad(given, 0.0, largest, limit=200)[0])


@dataclass(frozen=True)
class Method:
    """A method as a plan sees it: its spreads in points and its number of pretraining runs.

    ``pretraining_sd`` of 0 and one run describe weights that exist once, and random initialisation.
    """

    pretraining_sd: float
    residual_sd: float
    runs: int = 1

    def variance(self, seeds: int) -> float:
        """Variance of its mean over runs and ``seeds``, without the part that pairing removes."""
        return (self.pretraining_sd**2 + self.residual_sd**2 / seeds) / self.runs


def method_error(own: Method, other: Method, seeds: int) -> tuple[float, float]:
    """Standard error and degrees of freedom that a comparison of two methods can expect.

    Raises ValueError where the runs cannot give an interval (one seed where a side exists once).
    """
    variances = [side.variance(seeds) for side in (own, other)]
    error = float(np.sqrt(sum(variances)))
    repeated = [side.runs - 1 for side in (own, other) if side.runs > 1]
    if len(repeated) < 2 and seeds < 2:
        raise ValueError("a side with one pretraining run needs two seeds or more")
    if not repeated:
        return error, float(seeds - 1)
    degrees = [side.runs - 1 if side.runs > 1 else seeds - 1 for side in (own, other)]
    return error, min(float(satterthwaite(variances, degrees)), most_degrees(repeated, seeds))


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
            reached = float(power_of_t(gap, *method_error(own, against, s), alpha))
            repeats = r * (2 if other is None else 1)
            hours = repeats * pretraining_hours + (r + against.runs) * s * fine_tuning_hours
            if reached >= power:
                plans.append(Need(r, s, hours, reached))
    return min(plans, key=lambda plan: (plan.hours, plan.runs, plan.seeds), default=None)


def half_width(own: Method, other: Method, seeds: int, alpha: float = ALPHA) -> float:
    """Half of the interval's expected width in points: what one more run or one more seed buys is its decrease."""
    error, df = method_error(own, other, seeds)
    return float(quantile(df, alpha)) * error
