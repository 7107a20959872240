"""How often a ladder drops the best initialisation: python studies/ladder.py [--plans N]

At every rung all initialisations are equal, or one is ahead of all others. Writes ladder.csv and prints it.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the repository, not this folder

import argparse
import itertools

import numpy as np

from studies.draws import draw_seeds, spreads
from studies.tables import save, show
from transfer.comparison.differences import paired
from transfer.comparison.ladder import ERROR
from transfer.comparison.student import quantile


def climb(
    rng: np.random.Generator,
    plans: int,
    *,
    initialisations: int,
    seeds: int,
    rungs: int,
    lead: float,
    correlation: float = 0.5,
    ratio: float = 1.0,
    tails: str = "normal",
) -> tuple[float, float]:
    """(share of plans that drop the best initialisation, mean share of the others that are dropped in the end).

    The first is ``lead`` standard deviations ahead of all others at every rung, as ``ladder.ruled_out`` sees them: an
    initialisation that was dropped takes part no more, and the level is shared by those that are left.
    """
    sds = spreads("every second", initialisations, ratio)
    here = np.ones((plans, initialisations), dtype=bool)
    others = np.arange(1, initialisations)
    width = np.array([np.inf, *(quantile(seeds - 1, 2 * ERROR / (count * rungs)) for count in others)])
    for _ in range(rungs):
        y = draw_seeds(rng, plans, sds, seeds, correlation, tails)
        y[:, 0] += lead
        behind = np.zeros_like(here)
        left = here.sum(axis=1)
        for own, other in itertools.permutations(range(initialisations), 2):
            estimate = paired(y[:, other] - y[:, own])
            low = estimate.mean - width[np.maximum(left - 1, 1)] * np.sqrt(estimate.variance)
            behind[:, own] |= here[:, own] & here[:, other] & (low > 0)
        here &= ~behind
    return float(1 - here[:, 0].mean()), float(1 - here[:, 1:].mean())


def main() -> None:
    """Run the grid."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plans", type=int, default=20_000)
    plans = parser.parse_args().plans
    rows = []
    for count, seeds, rungs, lead in itertools.product((3, 5, 8), (2, 3, 5), (1, 2), (0.0, 1.0, 3.0)):
        for ratio, tails in ((1.0, "normal"), (4.0, "normal"), (1.0, "t4"), (1.0, "collapse")):
            rng = np.random.default_rng(list(f"{count}{seeds}{rungs}{lead}{ratio}{tails}".encode()))
            best, others = climb(
                rng, plans, initialisations=count, seeds=seeds, rungs=rungs, lead=lead, ratio=ratio, tails=tails
            )
            row = {"initialisations": count, "seeds": seeds, "rungs": rungs, "lead": lead, "variance ratio": ratio}
            rows.append({**row, "tails": tails, "best dropped": best, "others dropped": others})
    save("ladder", rows)
    shown = [r for r in rows if r["initialisations"] == 5 and r["rungs"] == 2 and r["variance ratio"] == 1.0]
    show("Five initialisations, two rungs", [r for r in shown if r["tails"] == "normal"])
    worst = max(rows, key=lambda r: float(str(r["best dropped"])))
    show("The largest share of plans that drop the best", [worst])


if __name__ == "__main__":
    main()
