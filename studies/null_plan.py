"""False verdicts of reports in which nothing differs: python studies/null_plan.py [--reports N]

Reports of the size of the shipped plans, with single intervals and with the verdicts of the reports; all pairs of eight
runs of one method (an A/A test); and how often a difference of the margin is called equivalent. Writes null_plan.csv.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the repository, not this folder

import argparse
import itertools

import numpy as np

from studies.draws import draw_methods, draw_seeds
from studies.tables import save, show
from transfer.comparison.differences import Difference, between_methods, compare_initialisations, paired
from transfer.comparison.student import ALPHA, two_sided_p, upper_tail
from transfer.comparison.verdicts import AHEAD, BEHIND, MARGIN, verdicts

PLANS = {"demo": (3, 1), "imagenette_voc_cpu": (5, 2), "moco_voc": (6, 3), "large": (10, 6)}  # initialisations, configs
SEEDS = (2, 3, 5, 10)


def false_words(p: np.ndarray) -> tuple[float, float]:
    """Share of reports with a false ahead or behind, from p[reports, comparisons]: each alone, and by Holm.

    Holm says something in a report if and only if its smallest p passes the first step.
    """
    smallest = p.min(axis=1)
    return float((smallest <= ALPHA).mean()), float((smallest <= ALPHA / p.shape[1]).mean())


def of_weights(plan: str, seeds: int, correlation: float, reports: int) -> dict[str, object]:
    """Reports about these weights: every initialisation against one reference, on every config."""
    initialisations, configs = PLANS[plan]
    rng = np.random.default_rng(list(f"{plan}{seeds}{correlation}".encode()))
    columns = []
    for _ in range(configs):
        y = draw_seeds(rng, reports, np.ones(initialisations), seeds, correlation, "normal")
        estimate = paired(y[:, 1:] - y[:, :1])
        columns.append(two_sided_p(estimate.mean / np.sqrt(estimate.variance), estimate.df))
    single, adjusted = false_words(np.concatenate(columns, axis=1))
    return _row(plan, "these weights", f"{seeds} seeds", correlation, single, adjusted)


def of_methods(plan: str, runs: int, share: float, reports: int) -> dict[str, object]:
    """Reports about methods: ``runs`` pretraining runs each, three fine-tuning seeds."""
    initialisations, configs = PLANS[plan]
    rng = np.random.default_rng(list(f"{plan}{runs}{share}".encode()))
    columns = []
    for _ in range(configs):
        sides = [draw_methods(rng, reports, runs, 3, share=share) for _ in range(initialisations)]
        for own in sides[1:]:
            estimate = between_methods(own, sides[0])
            columns.append(two_sided_p(estimate.mean / np.sqrt(estimate.variance), estimate.df))
    single, adjusted = false_words(np.stack(columns, axis=1))
    return _row(plan, "the method", f"{runs} runs x 3 seeds", share, single, adjusted)


def _row(plan: str, question: str, size: str, share: float, single: float, adjusted: float) -> dict[str, object]:
    keys = ("report", "question", "size", "correlation or share", "single intervals", "verdicts")
    return dict(zip(keys, (plan, question, size, share, single, adjusted)))


def same_method(seeds: int, sd: float, repeats: int) -> dict[str, object]:
    """All 28 pairs of eight runs of one method, through the functions that the reports call."""
    rng = np.random.default_rng([seeds, int(10 * sd)])
    wrong_pairs = wrong_reports = 0
    for _ in range(repeats):
        values = {str(k): {"weights": dict(enumerate(map(float, rng.normal(20, sd, seeds))))} for k in range(8)}
        pairs: dict[tuple[str, str], Difference] = {}
        for reference in values:
            for init, result in compare_initialisations(values, reference).items():
                if init < reference and result.difference is not None:
                    pairs[init, reference] = result.difference
        wrong = sum(verdict.word in (AHEAD, BEHIND) for verdict in verdicts(pairs).values())
        wrong_pairs, wrong_reports = wrong_pairs + wrong, wrong_reports + bool(wrong)
    share = wrong_pairs / (28 * repeats)
    return {"seeds": seeds, "sd": sd, "pairs called": share, "tests with a false verdict": wrong_reports / repeats}


def false_equivalence(seeds: int, sd: float, comparisons: int, reports: int) -> dict[str, object]:
    """How often a report in which every comparison differs by the margin calls one of them equivalent."""
    rng = np.random.default_rng([seeds, int(1000 * sd), comparisons])
    estimate = paired(MARGIN + sd * np.sqrt(2) * rng.standard_normal((reports, comparisons, seeds)))
    p = upper_tail((MARGIN - np.abs(estimate.mean)) / np.sqrt(estimate.variance), estimate.df)
    wrong = float((p.min(axis=1) <= ALPHA / comparisons).mean())
    return {"seeds": seeds, "sd": sd, "comparisons": comparisons, "called equivalent": wrong}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reports", type=int, default=20_000)
    reports = parser.parse_args().reports
    null = [of_weights(plan, n, rho, reports) for plan, n, rho in itertools.product(PLANS, SEEDS, (0.0, 0.7))]
    null += [of_methods(plan, n, share, reports) for plan, n, share in itertools.product(PLANS, (2, 3, 5), (0.0, 0.5))]
    pairs = [same_method(n, sd, 1000) for n, sd in itertools.product((1, 2, 3, 5), (1.5, 3.0, 5.2))]
    equal = [
        false_equivalence(n, sd, number, reports) for n, sd, number in itertools.product(SEEDS, (0.1, 0.2), (1, 8))
    ]
    save("null_plan", null)
    save("same_method", pairs)
    save("false_equivalence", equal)
    show("False ahead or behind in a report in which nothing differs", null)
    show("Eight runs of one method, 28 pairs", pairs)
    show("Differences of the margin (0.5) called equivalent", equal)


if __name__ == "__main__":
    main()
