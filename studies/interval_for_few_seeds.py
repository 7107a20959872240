"""Which interval holds 95 % for the worst comparison of a table: python studies/interval_for_few_seeds.py [--draws N]

Two to ten initialisations with two to ten seeds, unequal spreads, correlated seeds, heavy tails and collapsing runs.
Writes interval_for_few_seeds.csv (a row per cell of the grid) and prints the summary of docs/statistics.md.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the repository, not this folder

import argparse
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from studies.candidates import CANDIDATES, mixed
from studies.draws import TAILS, draw_seeds, spreads
from studies.tables import save, show

WEIGHTS = (0.1, 0.5, 1.0)  # of the pooled part in the calibrated mixtures
PATTERNS = ("every second", "one", "reference", "both")
GAP = 3.0  # standard deviations of a run, for the power


@dataclass(frozen=True)
class Cell:
    """One setting of the simulation."""

    initialisations: int
    seeds: int
    pattern: str
    ratio: float
    correlation: float
    tails: str

    def draw(self, draws: int, stream: int = 0) -> np.ndarray:
        """float[draws, initialisations, seeds]; another ``stream`` gives other numbers."""
        key = f"{self}{stream}".encode()
        rng = np.random.default_rng(list(key))
        sds = spreads(self.pattern, self.initialisations, self.ratio)
        return draw_seeds(rng, draws, sds, self.seeds, self.correlation, self.tails)


def grid(
    initialisations: Sequence[int],
    seeds: Sequence[int],
    *,
    ratios: Sequence[float] = (4.0, 9.0),
    correlations: Sequence[float] = (0.0, 0.3, 0.9),
    tails: Sequence[str] = TAILS,
) -> Iterator[Cell]:
    """Equal spreads, and every pattern with every ratio."""
    unequal = [*itertools.product(PATTERNS, ratios)]
    for numbers in itertools.product(initialisations, seeds):
        for (pattern, ratio), correlation, tail in itertools.product([("equal", 1.0), *unequal], correlations, tails):
            yield Cell(*numbers, pattern, ratio, correlation, tail)


def calibrate(initialisations: int, seeds: int, draws: int) -> dict[str, float]:
    """The critical value with which each mixture covers 95 % in the worst normal cell up to a variance ratio of 9."""
    critical = {f"mixture, {weight:.0%} pooled": 0.0 for weight in WEIGHTS}
    for cell in grid([initialisations], [seeds], tails=["normal"]):
        y = cell.draw(draws, stream=1)
        for name, weight in zip(critical, WEIGHTS):
            mean, error = mixed(y, weight)
            critical[name] = max(critical[name], float(np.quantile(np.abs(mean) / error, 0.95, axis=0).max()))
    return critical


def evaluate(cell: Cell, draws: int, critical: dict[str, float]) -> Iterator[dict[str, object]]:
    """A row per candidate: coverage of the worst comparison, and mean power at the gap."""
    y = cell.draw(draws)
    bounds = {name: candidate(y) for name, candidate in CANDIDATES.items()}
    for (name, value), weight in zip(critical.items(), WEIGHTS):
        mean, error = mixed(y, weight)
        bounds[name] = (mean, error, np.full(mean.shape, value))
    for name, (mean, error, limit) in bounds.items():
        yield {
            **vars(cell),
            "interval": name,
            "worst_coverage": float((np.abs(mean) <= limit * error).mean(0).min()),
            "power": float((np.abs(mean + GAP) > limit * error).mean()),
        }


def study(cells: Sequence[Cell], draws: int) -> list[dict[str, object]]:
    """All rows; the mixtures are calibrated once for each number of initialisations and seeds."""
    critical: dict[tuple[int, int], dict[str, float]] = {}
    rows: list[dict[str, object]] = []
    for cell in cells:
        size = (cell.initialisations, cell.seeds)
        if size not in critical:
            critical[size] = calibrate(*size, draws)
        rows.extend(evaluate(cell, draws, critical[size]))
    return rows


def summary(rows: Sequence[dict], beyond: Sequence[dict]) -> list[dict[str, object]]:
    """Per interval and number of seeds: the range of coverage over the grid, and the power with equal spreads."""
    table = []
    for seeds, name in itertools.product(
        sorted({r["seeds"] for r in rows}), dict.fromkeys(r["interval"] for r in rows)
    ):
        own = [r for r in rows if (r["seeds"], r["interval"]) == (seeds, name)]
        coverage = {t: [r["worst_coverage"] for r in own if r["tails"] == t] for t in TAILS}
        plain = [r for r in own if r["initialisations"] == 5 and r["pattern"] == "equal" and r["tails"] == "normal"]
        power = {r["correlation"]: r["power"] for r in plain}
        outside = [r["worst_coverage"] for r in beyond if (r["seeds"], r["interval"]) == (seeds, name)]
        table.append(
            {
                "seeds": seeds,
                "interval": name,
                **{tail: f"{min(values):.3f}-{max(values):.3f}" for tail, values in coverage.items()},
                "1:100": min(outside),
                **{f"power, rho {rho:g}": value for rho, value in power.items()},
            }
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=8_000)
    draws = parser.parse_args().draws
    rows = study(list(grid((2, 3, 5, 10), (2, 3, 5, 10))), draws)
    # a ratio that the mixtures were not calibrated for: an initialisation that learned nothing hardly varies
    far = grid((3, 5, 10), (2, 3, 5, 10), ratios=(100.0,), tails=["normal"])
    beyond = study([cell for cell in far if cell.ratio == 100], draws)
    save("interval_for_few_seeds", [*rows, *beyond])
    show(f"Coverage of the worst comparison over the grid ({draws} draws a cell)", summary(rows, beyond))


if __name__ == "__main__":
    main()
