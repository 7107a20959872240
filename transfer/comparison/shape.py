"""Is the gain in AP75 larger than the gain in AP50? The ratio of the two, compared between initialisations.

Points do not compare: half of an AP75 of 1.2 is fewer points than half of an AP50 of 5.6. What is compared is
log(AP75 / AP50) of each initialisation. A single run's ratio is skewed where AP is small, so the logarithm is taken of
the ratio of means and linearised around them (delta method); the cells that come out are compared like a metric.
"""

from __future__ import annotations

import math

import numpy as np

from transfer.comparison.variance import Cells

LEAST_MEAN = 1.0  # points; the ratio of smaller means is noise
UNBOUNDED = (-math.inf, math.inf)  # the ``scale`` of a log ratio for compare_initialisations


def log_ratio(part: Cells, whole: Cells) -> Cells | str:
    """Cells whose mean is log(mean of ``part`` / mean of ``whole``), or why there are none.

    ``part`` and ``whole`` are two metrics of one initialisation, for example AP75 and AP50 in points; only cells with
    both are used. Give the result of every initialisation to ``compare_initialisations`` with ``scale=UNBOUNDED``: its
    differences are logs of ratios of ratios.
    """
    both = {
        run: {s: (part[run][s], whole[run][s]) for s in seeds if s in whole.get(run, {})} for run, seeds in part.items()
    }
    pairs = [pair for seeds in both.values() for pair in seeds.values()]
    if not pairs:
        return "no run has both metrics"
    means = np.mean(pairs, axis=0)
    if means.min() < LEAST_MEAN:
        return f"a mean below {LEAST_MEAN:g} point: its ratio is noise"
    centre = math.log(means[0] / means[1])
    return {
        run: {
            seed: centre + first / float(means[0]) - second / float(means[1]) for seed, (first, second) in seeds.items()
        }
        for run, seeds in both.items()
    }


def as_percent(log_difference: float) -> float:
    """A difference of log ratios in per cent: +10 means that AP75 kept 10 % more of AP50 than in the reference."""
    return 100 * math.expm1(log_difference)
