"""The runs of two initialisations as arrays: over the seeds that all of them have, or as repetitions of everything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from transfer.comparison.variance import Cells


def common_seeds(own: Cells, other: Cells) -> tuple[int, ...]:
    """Seeds that every run with any value has; a seed that one run lacks would not cancel."""
    runs = [set(seeds) for cells in (own, other) for seeds in cells.values() if seeds]
    sides = any(own.values()) and any(other.values())
    return tuple(sorted(set.intersection(*runs))) if sides else ()


def over_seeds(cells: Cells, seeds: tuple[int, ...]) -> np.ndarray:
    """float[runs, seeds]."""
    return np.array([[run[seed] for seed in seeds] for run in cells.values() if run], dtype=float)


def over_repetitions(cells: Cells) -> np.ndarray | None:
    """float[repetitions, 1]: independent values of one initialisation, or None where two of its runs share a seed.

    In a repetition of everything each pretraining run has a fine-tuning seed of its own. Nothing is shared by the runs
    then, and what varies between them holds all sources: pretraining run, seed and residual. A run with several seeds
    gives their mean. An initialisation without repeated pretraining (random, or weights that exist once) gives one
    value for each seed: a fine-tuning is all of it that can be repeated.
    """
    runs = [list(seeds.values()) for seeds in cells.values() if seeds]
    if len(runs) == 1:
        return np.array(runs[0], dtype=float)[:, None]
    if not runs or not all_different(seed for seeds in cells.values() for seed in seeds):
        return None
    return np.array([np.mean(values) for values in runs])[:, None]


def all_different(seeds: Iterable[int]) -> bool:
    """Whether no two runs share a seed."""
    return all(count == 1 for count in Counter(seeds).values())
