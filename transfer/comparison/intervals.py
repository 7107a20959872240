"""Mean and spread of a few values, and percentile bootstrap intervals over images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from transfer.comparison.student import ALPHA

CONFIDENCE = 1 - ALPHA


@dataclass(frozen=True)
class Interval:
    """An interval and the method that gave it; ``low`` and ``high`` are None where no interval can be computed."""

    low: float | None
    high: float | None
    method: str


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean, correctly rounded sum."""
    return math.fsum(values) / len(values)


def sample_std(values: Sequence[float]) -> float | None:
    """Standard deviation with n-1 in the denominator; None for a single value, which has no spread."""
    if len(values) < 2:
        return None
    centre = mean(values)
    return math.sqrt(math.fsum((v - centre) ** 2 for v in values) / (len(values) - 1))


def resamples(images: int, replicates: int, seed: int) -> np.ndarray:
    """Indices of bootstrap samples, replicates x images, drawn as scipy.stats.bootstrap draws them."""
    return np.random.default_rng(seed).integers(0, images, (replicates, images))


def percentile_interval(values: np.ndarray, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Percentile bootstrap interval of replicate statistics (linear interpolation between order statistics)."""
    tail = 50 * (1 - confidence)
    low, high = np.percentile(values, (tail, 100 - tail))
    return float(low), float(high)
