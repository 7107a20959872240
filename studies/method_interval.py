"""Coverage of the interval about a method: python studies/method_interval.py [--draws N]

Two to six pretraining runs on each side, one to five fine-tuning seeds, 0 to 90 % of a run's variance from pretraining,
spreads of 1:9 to 9:1, normal and heavy tails; a reference that exists once; an effect of the seed that differs between
initialisations, which the model leaves out; repetitions of everything, in which every run has a seed of its own.
Writes method_interval.csv and repetitions.csv and prints the tables of docs/statistics.md.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the repository, not this folder

import argparse
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from studies.draws import draw_methods, draw_seeds, noise
from studies.tables import save, show
from transfer.comparison.differences import Estimate, between_methods
from transfer.comparison.student import quantile

RATIOS = (1 / 9, 1 / 4, 1.0, 4.0, 9.0)
SHARES = (0.0, 0.3, 0.6, 0.9)
CORRELATIONS = (0.0, 0.3, 0.9)
BLOCK = 3.0  # standard deviation of the effect of a seed; it must cancel


@dataclass(frozen=True)
class Design:
    """One setting; ``reference_runs`` of 1 is a reference that exists once."""

    runs: int
    reference_runs: int
    seeds: int
    share: float
    ratio: float  # variance of the reference to that of the method
    tails: str = "normal"
    interaction: float = 0.0  # variance of an effect that a seed has on one initialisation only, as a share of a run's

    def estimate(self, draws: int) -> Estimate:
        """The estimates of ``draws`` comparisons of two methods that do not differ."""
        rng = np.random.default_rng(list(str(self).encode()))
        sides = []
        block = BLOCK * rng.standard_normal((draws, 1, self.seeds))
        for runs, sd in ((self.runs, 1.0), (self.reference_runs, self.ratio**0.5)):
            side = draw_methods(
                rng, draws, runs, self.seeds, share=self.share, sd=sd, pretrained=runs > 1, tails=self.tails
            )
            own = sd * self.interaction**0.5 * noise(rng, (draws, 1, self.seeds), self.tails)
            sides.append(side + block + own)
        return between_methods(*sides)

    def coverage(self, draws: int) -> float:
        """Share of 95 % intervals that contain the true difference, 0."""
        estimate = self.estimate(draws)
        return float((np.abs(estimate.mean) <= quantile(estimate.df) * np.sqrt(estimate.variance)).mean())


@dataclass(frozen=True)
class Repeated:
    """Repetitions of everything: run k of either side is fine-tuned with seed k alone.

    ``correlation``: of the runs of both sides with one seed. What else varies is independent, whether it comes from
    pretraining or not, so that a random initialisation is one side like another.
    """

    repetitions: int
    reference_repetitions: int
    correlation: float
    ratio: float  # variance of the reference to that of the method
    tails: str = "normal"

    def coverage(self, draws: int) -> float:
        """Share of 95 % intervals that contain the true difference, 0."""
        rng = np.random.default_rng(list(str(self).encode()))
        most = max(self.repetitions, self.reference_repetitions)
        both = draw_seeds(rng, draws, np.array([1.0, self.ratio**0.5]), most, self.correlation, self.tails)
        own, other = both[:, 0, : self.repetitions, None], both[:, 1, : self.reference_repetitions, None]
        estimate = between_methods(own, other)
        return float((np.abs(estimate.mean) <= quantile(estimate.df) * np.sqrt(estimate.variance)).mean())


def repetitions(numbers: Sequence[tuple[int, int]], tails: Sequence[str] = ("normal", "t4")) -> Iterator[Repeated]:
    """Every correlation and ratio for these numbers of repetitions (own, reference)."""
    for (own, reference), correlation, ratio, tail in itertools.product(numbers, CORRELATIONS, RATIOS, tails):
        yield Repeated(own, reference, correlation, ratio, tail)


def designs(
    runs: Sequence[tuple[int, int]], seeds: Sequence[int], tails: Sequence[str] = ("normal", "t4")
) -> Iterator[Design]:
    """Every share and ratio for these numbers of runs (own, reference) and seeds."""
    for (own, reference), number, share, ratio, tail in itertools.product(runs, seeds, SHARES, RATIOS, tails):
        yield Design(own, reference, number, share, ratio, tail)


def evaluate(settings: Sequence[Design | Repeated], draws: int) -> list[dict[str, object]]:
    """A row per design."""
    return [{**vars(design), "coverage": design.coverage(draws)} for design in settings]


def worst(rows: Sequence[dict], *keys: str) -> list[dict[str, object]]:
    """The range of the coverage for every value of ``keys``."""
    groups: dict[tuple, list[float]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row["coverage"])
    return [{**dict(zip(keys, values)), "lowest": min(c), "highest": max(c)} for values, c in groups.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=10_000)
    draws = parser.parse_args().draws
    equal = evaluate(list(designs([(n, n) for n in range(2, 7)], (1, 2, 3, 5))), draws)
    unequal = evaluate(list(designs([(2, 3), (2, 4), (2, 5), (2, 6), (3, 4), (3, 6), (4, 6)], (1, 3))), draws)
    once = evaluate(list(designs([(n, 1) for n in (2, 3, 4, 6)], (2, 3, 5))), draws)
    left_out = [
        Design(n, reference, s, 0.3, 1.0, "normal", interaction)
        for n, reference in ((3, 3), (6, 6), (3, 1))
        for s in (1, 2, 3, 5)
        for interaction in (0.1, 0.3)
        if s > 1 or reference > 1
    ]
    outside = evaluate(left_out, draws)
    everything = evaluate(list(repetitions([*((n, n) for n in range(2, 7)), (2, 3), (3, 5)])), draws)
    save("method_interval", [*equal, *unequal, *once, *outside])
    save("repetitions", everything)
    show("As many runs on both sides", worst(equal, "runs", "seeds"))
    show("More runs on one side", worst(unequal, "runs", "reference_runs", "seeds"))
    show("A reference that exists once", worst(once, "runs", "seeds"))
    show("Repetitions of everything", worst(everything, "repetitions", "reference_repetitions"))
    show(
        "An effect of the seed on one initialisation only",
        worst(outside, "runs", "reference_runs", "seeds", "interaction"),
    )


if __name__ == "__main__":
    main()
