"""Runs drawn from the model: initialisations that share the effect of a seed, with unequal spreads and heavy tails."""

from __future__ import annotations

import numpy as np

TAILS = ("normal", "t4", "collapse")
COLLAPSE = 8.0  # standard deviations by which one run in ten falls


def noise(rng: np.random.Generator, shape: tuple[int, ...], tails: str) -> np.ndarray:
    """Standard deviation 1: normal (also for ``collapse``, which falls on whole runs) or Student's t with 4 df."""
    return rng.standard_t(4, shape) / np.sqrt(2) if tails == "t4" else rng.standard_normal(shape)


def draw_seeds(
    rng: np.random.Generator, draws: int, sds: np.ndarray, seeds: int, correlation: float, tails: str
) -> np.ndarray:
    """float[draws, initialisations, seeds], all with mean 0 (``collapse``: with the same mean).

    ``correlation`` is that of two runs with one seed. The effect of the seed scales with the spread of the
    initialisation, so between unequal ones a part of it remains in the paired difference.
    """
    block = noise(rng, (draws, 1, seeds), tails)
    own = noise(rng, (draws, len(sds), seeds), tails)
    y = np.sqrt(correlation) * block + np.sqrt(1 - correlation) * own
    if tails == "collapse":
        y -= COLLAPSE * (rng.random(y.shape) < 0.1)
    return y * sds[:, None]


def spreads(pattern: str, initialisations: int, ratio: float) -> np.ndarray:
    """Standard deviations; the first is the reference's. ``ratio`` is the variance of the noisy ones to the others'.

    Patterns: ``equal``; ``every second``; ``one`` (a single comparison is noisy); ``reference``; ``both`` (the
    reference and one comparison).
    """
    variances = np.ones(initialisations)
    places = range(initialisations)
    noisy = {"equal": (), "every second": places[1::2], "one": (1,), "reference": (0,), "both": (0, 1)}[pattern]
    variances[list(noisy)] = ratio
    return np.sqrt(variances)


def draw_methods(
    rng: np.random.Generator,
    draws: int,
    runs: int,
    seeds: int,
    *,
    share: float,
    sd: float = 1.0,
    pretrained: bool = True,
    tails: str = "normal",
) -> np.ndarray:
    """float[draws, runs, seeds] of one method without the effect of the seeds.

    A run has variance sd^2: ``share`` of it from pretraining, the rest from fine-tuning. Without pretraining only the
    latter is drawn.
    """
    residual = np.sqrt(1 - share) * noise(rng, (draws, runs, seeds), tails)
    if not pretrained:
        return sd * residual
    return sd * (np.sqrt(share) * noise(rng, (draws, runs, 1), tails) + residual)
