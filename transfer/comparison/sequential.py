"""Adding seeds until the verdict is reached, without spending more than the error rate of a fixed plan.

Each look at the results is a chance to be wrong, so alpha is spread over the looks by a spending function (Lan and
DeMets, Biometrika 70, 1983). Bounds for a normal statistic, applied to the p-value of t, let the error rise to 6 % with
so few seeds; the bounds here are computed for the t statistic itself and are exact for normal differences.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from transfer.comparison.student import ALPHA, quantile, two_sided_p, upper_tail
from transfer.comparison.verdicts import AHEAD, BEHIND, EQUIVALENT, MARGIN, NONE, UNDECIDED

Spending = Literal["pocock", "obrien_fleming"]
CELLS = 500  # of the grid on which the distribution of the statistic is followed
NEGLIGIBLE = 1e-12  # alpha at a look; below it the look cannot stop the plan


def spent(fraction: float, alpha: float, spending: Spending) -> float:
    """The part of one-sided ``alpha`` that may be used up when ``fraction`` (0 to 1) of the seeds is in."""
    if fraction >= 1:
        return alpha
    if spending == "pocock":
        return alpha * math.log(1 + (math.e - 1) * fraction)
    from scipy.special import ndtr, ndtri

    return float(2 * ndtr(ndtri(alpha / 2) / math.sqrt(fraction)))


@functools.lru_cache(maxsize=64)
def levels(looks: tuple[int, ...], alpha: float, spending: Spending, sides: int = 2) -> tuple[float, ...]:
    """The nominal p-value at each look: stop where the p-value of the t test is not larger.

    ``looks``: numbers of seeds, ascending, 2 or more; the last one is the most the plan allows. ``sides``: 2 for a
    difference in either direction, 1 for a one-sided test. ``alpha`` is that of all sides together.

    With differences x[1..n], u[n] = sum(x) / sqrt(n sum(x^2)) is a monotone function of the t statistic, does not
    depend on the scale of x and is a Markov chain when the mean is 0. Its distribution over the cells of a grid is
    followed from seed to seed, and at each look the part beyond the bound is cut off.
    """
    points, mass = np.array([-1.0, 1.0]), np.array([0.5, 0.5])  # u[1] is the sign of x[1]
    used, result = 0.0, []
    for n in range(2, looks[-1] + 1):
        bounds = (-1.0, 1.0)
        if n in looks:
            total = sides * spent(n / looks[-1], alpha / sides, spending)
            level = _level(points, mass, n, total - used, sides)
            used, bound = total, _as_u(level, n, sides)
            bounds = (-bound if sides == 2 else -1.0, bound)
            result.append(level)
        # cells of equal angle: for few seeds u piles up at -1 and 1, where these cells are short
        angles = np.linspace(math.asin(bounds[0]), math.asin(bounds[1]), CELLS + 1)
        below = _below(np.sin(angles)[:, None], points, n - 1)
        points, mass = np.sin((angles[1:] + angles[:-1]) / 2), np.diff(below, axis=0) @ mass
    return tuple(result)


def _level(points: np.ndarray, mass: np.ndarray, n: int, budget: float, sides: int) -> float:
    """The p-value that is undercut at seed ``n`` with probability ``budget`` from where the chain stands."""
    from scipy.optimize import brentq

    def excess(log_level: float) -> float:
        bound = _as_u(math.exp(log_level), n, sides)
        beyond = mass @ (1 - _below(bound, points, n - 1))
        beyond += mass @ _below(-bound, points, n - 1) if sides == 2 else 0.0
        return float(beyond) - budget

    if budget <= NEGLIGIBLE:
        return 0.0
    return math.exp(brentq(excess, math.log(NEGLIGIBLE), math.log(sides / 2)))  # at sides / 2 the bound is t = 0


def _as_u(level: float, n: int, sides: int) -> float:
    """The p-value ``level`` of a t statistic of ``n`` differences, as the bound on u."""
    if level == 0:
        return 1.0
    t = float(quantile(n - 1, level * 2 / sides))
    return t / math.sqrt(n - 1 + t * t)


def _below(bound: np.ndarray | float, points: np.ndarray, n: int) -> np.ndarray:
    """P(u[n+1] <= bound | u[n] = point).

    With z = x[n+1] / sqrt(sum of the squares so far) = tan(phi), where z sqrt(n) has Student's t distribution with n
    degrees of freedom: u[n+1] sqrt(n+1) = sqrt(1 + n u[n]^2) sin(phi + atan(u[n] sqrt(n))).
    """
    from scipy.special import stdtr

    def angle_below(phi: np.ndarray) -> np.ndarray:
        inside = np.clip(phi, -math.pi / 2, math.pi / 2)
        return stdtr(n, math.sqrt(n) * np.tan(inside))

    shift = np.arctan(points * math.sqrt(n))
    sine = np.clip(bound * math.sqrt(n + 1) / np.sqrt(1 + n * points**2), -1.0, 1.0)
    turn = np.arcsin(sine)
    # of phi + shift, which lies between -pi and pi, the sine is below ``sine`` on up to two arcs
    return angle_below(turn - shift) - angle_below(-math.pi - turn - shift) + 1 - angle_below(math.pi - turn - shift)


@dataclass(frozen=True)
class SequentialPlan:
    """``seeds: {until: decided}`` of a plan: look after every seed from ``least`` to ``most``.

    ``comparisons`` shares alpha equally (Bonferroni): Holm's later steps do not carry over to several looks.
    """

    least: int = 2
    most: int = 10
    margin: float = MARGIN
    alpha: float = ALPHA
    comparisons: int = 1
    spending: Spending = "pocock"

    def __post_init__(self) -> None:
        if not 2 <= self.least <= self.most:
            raise ValueError(f"least={self.least}, most={self.most}: must be 2 <= least <= most")

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of seeds at which the results are looked at."""
        return tuple(range(self.least, self.most + 1))

    def level(self, seeds: int, sides: int = 2) -> float:
        """Nominal p-value at the look with ``seeds`` seeds."""
        own = self.alpha / self.comparisons
        return levels(self.looks, own, self.spending, sides)[seeds - self.least]

    def decide(self, differences: Sequence[float]) -> str:
        """The word after these paired differences (points, one a seed): a verdict is final once it was reached.

        At the last look "undecided" is final.
        """
        return self.reached(differences)[0]

    def reached(self, differences: Sequence[float]) -> tuple[str, int]:
        """The word of ``decide`` and the number of seeds at the look that gave it.

        Replays every look, so the answer does not depend on when it is asked.
        """
        values = np.asarray(differences, dtype=float)
        if len(values) > self.most:
            raise ValueError(f"{len(values)} seeds, but the plan allows {self.most}")
        for n in range(self.least, len(values) + 1):
            word = self._look(values[:n])
            if word != UNDECIDED:
                return word, n
        return (UNDECIDED if len(values) >= self.least else NONE), len(values)

    def simulate(self, differences: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(seeds used by each plan, comparisons that say ahead or behind, and that say equivalent), as ``decide``.

        ``differences``: float[plans, comparisons, most], paired, in points. A plan adds seeds until each of its
        comparisons has a verdict. The others are bool[plans, comparisons].
        """
        differs = np.zeros(differences.shape[:2], dtype=bool)
        within = np.zeros_like(differs)
        used = np.full(len(differences), self.most)
        for n in self.looks:
            seen = differences[..., :n]
            mean, error = seen.mean(-1), seen.std(-1, ddof=1) / math.sqrt(n)
            undecided = ~(differs | within)
            differs |= undecided & (two_sided_p(mean / error, n - 1) <= self.level(n))
            nearer = upper_tail((self.margin - np.abs(mean)) / error, n - 1) <= self.level(n, sides=1)
            within |= undecided & ~differs & nearer
            used = np.where((differs | within).all(axis=1) & (used == self.most), n, used)
        return used, differs, within

    def _look(self, values: np.ndarray) -> str:
        n, centre = len(values), float(values.mean())
        error = float(values.std(ddof=1)) / math.sqrt(n)
        if error == 0:  # repeats of one run: no test
            return UNDECIDED
        if two_sided_p(centre / error, n - 1) <= self.level(n):
            return AHEAD if centre > 0 else BEHIND
        nearer = (self.margin - abs(centre)) / error
        return EQUIVALENT if upper_tail(nearer, n - 1) <= self.level(n, sides=1) else UNDECIDED
