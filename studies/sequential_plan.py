"""Errors and mean number of seeds of the sequential plan: python studies/sequential_plan.py [--plans N]

A plan looks after each seed from two (or three) to ten and stops when every comparison has its verdict. Writes
sequential_plan.csv and prints it.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the repository, not this folder

import argparse
import itertools

import numpy as np

from studies.draws import noise
from studies.tables import save, show
from transfer.comparison.power import seeds_for
from transfer.comparison.sequential import SequentialPlan, Spending


def run_plans(
    plan: SequentialPlan, gap: float, sd: float, plans: int, tails: str = "normal"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(seeds used by each plan, share of each plan's comparisons that say different, and that say equivalent).

    ``sd`` is that of a run in points; the paired differences have sd sqrt(2).
    """
    rng = np.random.default_rng(list(f"{plan}{gap}{sd}{tails}".encode()))
    used, differs, within = plan.simulate(
        gap + sd * np.sqrt(2) * noise(rng, (plans, plan.comparisons, plan.most), tails)
    )
    return used, differs.mean(1), within.mean(1)


def row(plan: SequentialPlan, gap: float, sd: float, plans: int, tails: str = "normal") -> dict[str, object]:
    """One setting; ``wrong`` is the share of plans with at least one false verdict."""
    used, differs, within = run_plans(plan, gap, sd, plans, tails)
    wrong = (differs if gap == 0 else within) > 0 if gap == 0 or gap >= plan.margin else np.zeros(plans)
    fixed = seeds_for(gap, sd, comparisons=plan.comparisons, most=200) if gap else None
    return {
        "spending": plan.spending,
        "least": plan.least,
        "comparisons": plan.comparisons,
        "sd": sd,
        "tails": tails,
        "gap": gap,
        "wrong": float(wrong.mean()),
        "different": float(differs.mean()),
        "equivalent": float(within.mean()),
        "mean seeds": float(used.mean()),
        "fixed plan": fixed if fixed else "-",
    }


SPENDING: tuple[Spending, ...] = ("pocock", "obrien_fleming")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plans", type=int, default=20_000)
    plans = parser.parse_args().plans
    rows = []
    for spending, least, comparisons in itertools.product(SPENDING, (2, 3), (1, 4)):
        plan = SequentialPlan(least=least, comparisons=comparisons, spending=spending)
        rows += [row(plan, gap, sd, plans) for gap, sd in itertools.product((0.0, 0.25, 0.5, 1.0), (0.1, 0.2, 0.4))]
        rows += [row(plan, gap, 0.2, plans, "t4") for gap in (0.0, 0.5)]
    save("sequential_plan", rows)
    show(
        "Sequential plans, two to ten seeds, margin 0.5",
        [r for r in rows if r["least"] == 2 and r["comparisons"] == 1 and r["sd"] != 0.4],
    )
    worst: dict[tuple, float] = {}
    for r in rows:
        key = (r["spending"], r["least"], r["comparisons"])
        worst[key] = max(worst.get(key, 0.0), float(str(r["wrong"])))
    keys = ("spending", "least", "comparisons", "largest error")
    show("The largest error of any setting", [dict(zip(keys, (*key, error))) for key, error in worst.items()])


if __name__ == "__main__":
    main()
