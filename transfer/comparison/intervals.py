"""Mean, spread and 95 % intervals: paired t over seeds, percentile bootstrap over images."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """An interval and the method that gave it; ``low`` and ``high`` are None where no interval can be computed."""

    low: float | None
    high: float | None
    method: str

    @property
    def verdict(self) -> str:
        """ahead, behind or within noise; "no interval" for a single run, which says nothing about the spread."""
        if self.low is None or self.high is None:
            return "no interval"
        return "ahead" if self.low > 0 else "behind" if self.high < 0 else "within noise"


NO_INTERVAL = Interval(None, None, "none (n=1)")


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean, correctly rounded sum."""
    return math.fsum(values) / len(values)


def sample_std(values: Sequence[float]) -> float | None:
    """Standard deviation with n-1 in the denominator; None for a single value, which has no spread."""
    if len(values) < 2:
        return None
    centre = mean(values)
    return math.sqrt(math.fsum((v - centre) ** 2 for v in values) / (len(values) - 1))


@functools.cache
def t_quantile(degrees: int, confidence: float = CONFIDENCE) -> float:
    """Two-sided quantile of Student's t distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.5 + confidence / 2))


def paired_t(differences: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Interval of the mean of paired differences, one per seed: mean +- t(n-1) s / sqrt(n)."""
    spread = sample_std(differences)
    if spread is None:
        return NO_INTERVAL
    half = t_quantile(len(differences) - 1, confidence) * spread / math.sqrt(len(differences))
    centre = mean(differences)
    return Interval(centre - half, centre + half, f"paired t, n={len(differences)}")


def resamples(images: int, replicates: int, seed: int) -> np.ndarray:
    """Indices of bootstrap samples, replicates x images, drawn as scipy.stats.bootstrap draws them."""
    return np.random.default_rng(seed).integers(0, images, (replicates, images))


def percentile_interval(values: np.ndarray, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Percentile bootstrap interval of replicate statistics (linear interpolation between order statistics)."""
    tail = 50 * (1 - confidence)
    low, high = np.percentile(values, (tail, 100 - tail))
    return float(low), float(high)
