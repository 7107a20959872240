"""Intervals that were considered for few seeds: all comparisons of a table at once, many tables at a time.

Each takes float[draws, initialisations, seeds], the first initialisation being the reference, and returns the
differences, their standard errors and the critical values: float[draws, initialisations - 1] each.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import digamma, polygamma

from transfer.comparison.differences import paired
from transfer.comparison.student import quantile

Bounds = tuple[np.ndarray, np.ndarray, np.ndarray]
Candidate = Callable[[np.ndarray], Bounds]


def paired_t(y: np.ndarray) -> Bounds:
    """Each comparison from its own paired differences; what the reports print."""
    estimate = paired(y[:, 1:] - y[:, :1])
    return estimate.mean, np.sqrt(estimate.variance), np.full(estimate.mean.shape, quantile(y.shape[2] - 1))


def pooled_variance(y: np.ndarray) -> np.ndarray:
    """Residual mean square of the two-way analysis of variance, float[draws]; (I - 1)(n - 1) degrees of freedom."""
    left = y - y.mean(2, keepdims=True) - y.mean(1, keepdims=True) + y.mean((1, 2), keepdims=True)
    return (left**2).sum((1, 2)) / ((y.shape[1] - 1) * (y.shape[2] - 1))


def pooled(y: np.ndarray) -> Bounds:
    """The residual pooled over initialisations with seeds as blocks (as Dunnett, unadjusted)."""
    mean = y[:, 1:].mean(2) - y[:, :1].mean(2)
    error = np.sqrt(2 * pooled_variance(y) / y.shape[2])[:, None]
    df = (y.shape[1] - 1) * (y.shape[2] - 1)
    return mean, np.broadcast_to(error, mean.shape), np.full(mean.shape, quantile(df))


def welch(y: np.ndarray) -> Bounds:
    """Unpaired, unequal variances."""
    n = y.shape[2]
    own, reference = y[:, 1:].var(2, ddof=1) / n, y[:, :1].var(2, ddof=1) / n
    df = (own + reference) ** 2 * (n - 1) / (own**2 + reference**2)
    return y[:, 1:].mean(2) - y[:, :1].mean(2), np.sqrt(own + reference), quantile(df)


def separate_variances(y: np.ndarray) -> Bounds:
    """A residual variance per initialisation in the block model (Grubbs 1948), Satterthwaite degrees of freedom."""
    initialisations, n = y.shape[1:]
    if initialisations < 3:
        return paired_t(y)
    left = y - y.mean(2, keepdims=True) - y.mean(1, keepdims=True) + y.mean((1, 2), keepdims=True)
    squares = (left**2).sum(2) / (n - 1)
    total = squares.sum(1, keepdims=True) / (1 - 1 / initialisations)
    floor = 1e-3 * total / initialisations
    own = np.maximum((squares - total / initialisations**2) / (1 - 2 / initialisations), floor)
    variance = own[:, 1:] + own[:, :1]
    df = variance**2 * (n - 1) / (own[:, 1:] ** 2 + own[:, :1] ** 2)
    return y[:, 1:].mean(2) - y[:, :1].mean(2), np.sqrt(variance / n), quantile(df)


def moderated_t(y: np.ndarray) -> Bounds:
    """Variances of the paired differences shrunk towards each other by empirical Bayes (Smyth 2004, section 6.2)."""
    differences = y[:, 1:] - y[:, :1]
    comparisons, n = differences.shape[1:]
    if comparisons < 2:
        return paired_t(y)
    df = n - 1
    variances = differences.var(2, ddof=1)
    logs = np.log(variances) - digamma(df / 2) + np.log(df / 2)
    excess = logs.var(1, ddof=1) - polygamma(1, df / 2)
    prior_df = np.where(excess > 0, 2 * _inverse_trigamma(np.maximum(excess, 1e-6)), 1e6)
    prior = np.exp(logs.mean(1) + digamma(prior_df / 2) - np.log(prior_df / 2))
    shrunk = (prior_df * prior)[:, None] + df * variances
    shrunk /= prior_df[:, None] + df
    critical = quantile(np.minimum(prior_df + df, comparisons * df))[:, None]
    return differences.mean(2), np.sqrt(shrunk / n), np.broadcast_to(critical, shrunk.shape)


def _inverse_trigamma(value: np.ndarray) -> np.ndarray:
    """Newton's iteration of Smyth (2004), appendix."""
    x = 0.5 + 1 / value
    for _ in range(8):  # converges quadratically
        slope = polygamma(1, x)
        x = x + slope * (1 - slope / value) / polygamma(2, x)
    return np.maximum(x, 1e-6)


def mixed(y: np.ndarray, weight: float) -> tuple[np.ndarray, np.ndarray]:
    """Differences and standard errors from ``weight`` x pooled + (1 - weight) x own variance; no critical value yet."""
    own = paired(y[:, 1:] - y[:, :1])
    together = 2 * pooled_variance(y)[:, None] / y.shape[2]
    return own.mean, np.sqrt(weight * together + (1 - weight) * own.variance)


CANDIDATES: dict[str, Candidate] = {
    "paired t": paired_t,
    "pooled block residual": pooled,
    "separate variances": separate_variances,
    "moderated t": moderated_t,
    "Welch, unpaired": welch,
}
