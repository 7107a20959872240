"""What a number of seeds can see, by formula and by simulation: python studies/power_of_seeds.py [--draws N]

Writes power_of_seeds.csv (power of paired t), seeds_needed.csv (for published spreads) and runs_needed.csv (for the
method), and prints them.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the repository, not this folder

import argparse
import itertools
import math

import numpy as np

from studies.candidates import paired_t
from studies.draws import draw_methods, draw_seeds
from studies.tables import save, show
from transfer.comparison.differences import between_methods
from transfer.comparison.power import (
    PUBLISHED_SPREADS,
    Method,
    power_of_t,
    prospect,
    seeds_for,
    standard_error_of_pairs,
)
from transfer.comparison.student import quantile


def of_paired_t(seeds: int, correlation: float, gap: float, draws: int) -> dict[str, object]:
    """Power at ``gap`` standard deviations of a run, by formula and in ``draws`` simulated tables."""
    rng = np.random.default_rng([seeds, int(10 * correlation), int(gap)])
    mean, error, limit = paired_t(draw_seeds(rng, draws, np.ones(2), seeds, correlation, "normal"))
    exact = power_of_t(gap, standard_error_of_pairs(1.0, seeds, correlation), seeds - 1)
    simulated = float((np.abs(mean + gap) > limit * error).mean())
    keys = ("seeds", "correlation", "gap in sd", "formula", "simulated")
    return dict(zip(keys, (seeds, correlation, gap, float(exact), simulated)))


def needed(data: str, gap: float, correlation: float) -> dict[str, object]:
    """Seeds for 80 % power with a published spread, for one comparison and for the first step of Holm over eight."""
    sd = PUBLISHED_SPREADS[data].sd
    row: dict[str, object] = {"data": data, "sd": sd, "gap": gap, "correlation": correlation}
    for comparisons in (1, 8):
        row[f"seeds, {comparisons} comparisons"] = seeds_for(
            gap, sd, correlation=correlation, comparisons=comparisons, most=2000
        )
    return row


def of_method(runs: int, seeds: int, share: float, draws: int) -> dict[str, object]:
    """What a comparison of two methods sees, in standard deviations of a run; planned for 80 % power."""
    method = Method(math.sqrt(share), math.sqrt(1 - share), runs)
    gap = prospect(method, method, seeds).visible_gap()
    rng = np.random.default_rng([runs, seeds, int(10 * share)])
    own, other = (draw_methods(rng, draws, runs, seeds, share=share) for _ in range(2))
    estimate = between_methods(own + gap, other)
    simulated = float((np.abs(estimate.mean) > quantile(estimate.df) * np.sqrt(estimate.variance)).mean())
    keys = ("runs", "seeds", "share of pretraining", "visible gap in sd", "simulated power")
    return dict(zip(keys, (runs, seeds, share, gap, simulated)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=20_000)
    draws = parser.parse_args().draws
    power = [of_paired_t(*cell, draws) for cell in itertools.product((2, 3, 5, 10), (0.0, 0.3, 0.7), (1.0, 2.0, 3.0))]
    seeds = [needed(*cell) for cell in itertools.product(PUBLISHED_SPREADS, (0.2, 0.5, 1.0), (0.0, 0.7))]
    runs = [of_method(*cell, draws) for cell in itertools.product((2, 3, 5, 10), (1, 3, 5), (0.2, 0.5, 0.9))]
    save("power_of_seeds", power)
    save("seeds_needed", seeds)
    save("runs_needed", runs)
    show("Power of paired t at 5 %", [row for row in power if row["gap in sd"] == 3.0])
    show("Seeds for 80 % power", seeds)
    show("Methods: the difference seen with 80 % power", [row for row in runs if row["share of pretraining"] == 0.5])


if __name__ == "__main__":
    main()
