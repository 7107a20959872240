"""Where the spread of a method's results comes from: pretraining runs, fine-tuning seeds, and what is left.

The model of one initialisation on one config, with pretraining runs r and fine-tuning seeds s:

    y[r, s] = mean + pretraining[r] + seed[s] + residual[r, s]

A fine-tuning seed fixes the order of the data for every run that uses it, so it is a block: all runs share ``seed[s]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Cells = Mapping[str, Mapping[int, float]]  # pretraining run -> fine-tuning seed -> value of a metric, in points


@dataclass(frozen=True)
class Component:
    """One variance in squared points. ``value`` is never negative; ``truncated`` says that the estimate was."""

    value: float
    df: int
    truncated: bool = False


@dataclass(frozen=True)
class Components:
    """The three variances; None for one that the runs cannot tell (it needs two pretraining runs, two seeds, or both).

    With one pretraining run, or with one seed, the parts that cannot be separated stand in ``residual`` together, and
    ``residual_contains`` names them.
    """

    pretraining: Component | None
    seed: Component | None
    residual: Component | None
    residual_contains: tuple[str, ...] = ("residual",)

    @property
    def pretraining_share(self) -> float | None:
        """Share of a single run's variance that is the pretraining run's, 0 to 1; None when it is not known."""
        if self.pretraining is None or self.seed is None or self.residual is None:
            return None
        total = self.pretraining.value + self.seed.value + self.residual.value
        return self.pretraining.value / total if total > 0 else None


def components(cells: Cells) -> Components:
    """Variance components of one initialisation, by Henderson's method 3; some runs may lack some seeds.

    Each sum of squares is set equal to its expectation. With equal numbers this is the two-way analysis of variance
    (Searle, Casella and McCulloch 1992, section 4.2), and restricted maximum likelihood where no estimate is negative.
    """
    entries = [(run, seed, value) for run, seeds in cells.items() for seed, value in seeds.items()]
    if len(entries) < 2:
        return Components(None, None, None)
    y = np.array([value for _, _, value in entries], dtype=float)
    runs, seeds = _indicators([run for run, _, _ in entries]), _indicators([seed for _, seed, _ in entries])
    if runs.shape[1] == 1:
        return Components(None, None, _total(y), ("seed", "residual"))
    if seeds.shape[1] == 1:
        return Components(None, None, _total(y), ("pretraining", "residual"))
    both = np.hstack([runs, seeds])
    residual_df = len(y) - int(np.linalg.matrix_rank(both))
    if residual_df == 0:  # e.g. every run with seeds of its own: one value a cell of a nested table
        return Components(None, None, _total(y), ("pretraining", "seed", "residual"))
    left = y - _projection(both) @ y
    residual = float(left @ left) / residual_df
    return Components(
        _adjusted(y, runs, seeds, residual),
        _adjusted(y, seeds, runs, residual),
        Component(residual, residual_df),
    )


def _adjusted(y: np.ndarray, own: np.ndarray, other: np.ndarray, residual: float) -> Component | None:
    """The variance of the effect ``own`` from its sum of squares adjusted for ``other``."""
    both = np.hstack([own, other])
    contrast = _projection(both) - _projection(other)
    df = int(np.linalg.matrix_rank(both) - np.linalg.matrix_rank(other))
    weight = float(np.trace(own.T @ contrast @ own))
    if df == 0:
        return None
    value = (float(y @ contrast @ y) - df * residual) / weight
    return Component(max(value, 0.0), df, value < 0)


def _total(y: np.ndarray) -> Component:
    return Component(float(np.var(y, ddof=1)), len(y) - 1)


def _indicators(labels: list) -> np.ndarray:
    """float[values x levels]: 1 where a value belongs to a level."""
    levels = list(dict.fromkeys(labels))
    return np.array([[float(label == level) for level in levels] for label in labels])


def _projection(design: np.ndarray) -> np.ndarray:
    """The orthogonal projection onto the columns of ``design``."""
    return design @ np.linalg.pinv(design)
