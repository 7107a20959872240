"""Coverage of the interval of AP75 / AP50, and false orders of learning curves: python studies/shapes_and_orders.py

Writes ratio_of_metrics.csv and curve_orders.csv and prints them (--draws N).
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the repository, not this folder

import argparse
import itertools

import numpy as np

from studies.draws import noise
from studies.tables import save, show
from transfer.comparison.curve_order import overtaking, standings
from transfer.comparison.differences import compare_initialisations
from transfer.comparison.shape import UNBOUNDED, log_ratio

MEANS = {"own": (40.0, 20.0), "reference": (50.0, 30.0)}  # AP50, AP75
TRUTH = float(np.log(20 / 40) - np.log(30 / 50))


def ratio_coverage(seeds: int, spread: float, correlation: float, tails: str, draws: int) -> dict[str, object]:
    """``spread`` is the standard deviation of AP50 as a share of its mean; that of AP75 is 1.5 times as large.

    Runs with one seed are correlated by ``correlation``; AP50 and AP75 of a run share 70 % of the rest.
    """
    rng = np.random.default_rng([seeds, int(100 * spread), int(10 * correlation), len(tails)])
    inside = defined = 0
    for _ in range(draws):
        block, cells = noise(rng, (seeds,), tails), {}
        for init, means in MEANS.items():
            run, own = noise(rng, (seeds,), tails), noise(rng, (2, seeds), tails)
            z = np.sqrt(correlation) * block + np.sqrt(1 - correlation) * (np.sqrt(0.7) * run + np.sqrt(0.3) * own)
            metrics = [
                {"weights": dict(enumerate(map(float, np.maximum(mean * (1 + width * spread * column), 0.0))))}
                for mean, width, column in zip(means, (1.0, 1.5), z)
            ]
            ratio = log_ratio(metrics[1], metrics[0])
            if not isinstance(ratio, str):
                cells[init] = ratio
        if len(cells) < 2:
            continue
        found = compare_initialisations(cells, "reference", scale=UNBOUNDED)["own"].difference
        if found is not None and found.low is not None and found.high is not None:
            defined += 1
            inside += found.low <= TRUTH <= found.high
    keys = ("seeds", "spread", "correlation", "tails", "coverage")
    return dict(zip(keys, (seeds, spread, correlation, tails, inside / defined)))


def false_orders(seeds: int, evaluations: int, memory: float, reports: int) -> dict[str, object]:
    """Five equal curves, all ten pairs: reports that put any pair in order, and that say that one overtakes another.

    ``memory`` is the correlation of neighbouring evaluations of a run.
    """
    rng = np.random.default_rng([seeds, evaluations, int(10 * memory)])
    ordered = overtaken = 0
    for _ in range(reports):
        steps = rng.standard_normal((5, seeds, evaluations))
        for k in range(1, evaluations):
            steps[..., k] = memory * steps[..., k - 1] + np.sqrt(1 - memory**2) * steps[..., k]
        curves = [{s: dict(enumerate(map(float, run))) for s, run in enumerate(init)} for init in steps]
        courses = [standings(a, b, comparisons=10) for a, b in itertools.combinations(curves, 2)]
        ordered += any(one.word != "undecided" for course in courses for one in course)
        overtaken += any(overtaking(course) for course in courses)
    keys = ("seeds", "evaluations", "memory", "any order", "any overtaking")
    return dict(zip(keys, (seeds, evaluations, memory, ordered / reports, overtaken / reports)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=4_000)
    draws = parser.parse_args().draws
    settings = itertools.product((2, 3, 5, 10), (0.02, 0.1, 0.2), (0.0, 0.6), ("normal", "t4"))
    ratios = [ratio_coverage(*setting, draws) for setting in settings]
    orders = [false_orders(*setting, draws // 2) for setting in itertools.product((2, 3, 5), (3, 6), (0.0, 0.9))]
    save("ratio_of_metrics", ratios)
    save("curve_orders", orders)
    show("Coverage of the log ratio of AP75 / AP50", ratios)
    show("Five equal curves, ten pairs", orders)


if __name__ == "__main__":
    main()
