"""The sequential plan: its spending functions, its exact bounds and the errors it makes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from transfer.comparison.sequential import SequentialPlan, Spending, levels, spent
from transfer.comparison.verdicts import AHEAD, BEHIND, EQUIVALENT, UNDECIDED

SPENDING: tuple[Spending, ...] = ("pocock", "obrien_fleming")


@pytest.mark.parametrize("spending", SPENDING)
def test_alpha_is_spent_in_full_and_never_taken_back(spending: Spending) -> None:
    used = [spent(fraction, 0.05, spending) for fraction in np.linspace(0.01, 1, 100)]
    assert used[-1] == 0.05
    assert np.all(np.diff(used) >= 0)


def test_spending_functions_by_hand() -> None:
    # Lan and DeMets 1983: 2 - 2 Phi(z / sqrt(t)) and alpha log(1 + (e - 1) t)
    z = scipy.stats.norm.isf(0.025)
    assert spent(0.5, 0.05, "obrien_fleming") == pytest.approx(2 * scipy.stats.norm.sf(z / math.sqrt(0.5)))
    assert spent(0.5, 0.05, "pocock") == pytest.approx(0.05 * math.log(1 + (math.e - 1) / 2))


def test_one_look_is_the_fixed_test() -> None:
    for sides in (1, 2):
        assert levels((6,), 0.05, "pocock", sides)[0] == pytest.approx(0.05, rel=1e-3)


def test_the_first_level_is_what_is_spent_there() -> None:
    assert levels((2, 3, 4), 0.05, "pocock")[0] == pytest.approx(spent(0.5, 0.05, "pocock"), rel=1e-9)


@pytest.mark.slow
def test_many_seeds_give_the_bounds_of_a_normal_statistic() -> None:
    # with each side at 2.5 %: the tables of Lan and DeMets's program, five equal looks
    expected = {
        "obrien_fleming": [4.8769, 3.3569, 2.6803, 2.2898, 2.0310],
        "pocock": [2.4380, 2.4268, 2.4101, 2.3966, 2.3859],
    }
    for spending in SPENDING:
        found = levels((10, 20, 30, 40, 50), 0.05, spending)
        z = scipy.stats.norm.isf(np.array(found) / 2)
        assert z[1:] == pytest.approx(expected[spending][1:], rel=0.02)


def false_alarms(plan: SequentialPlan, sides: int, draws: int, seed: int = 0) -> float:
    x = np.random.default_rng(seed).standard_normal((draws, plan.most))
    stopped = np.zeros(draws, dtype=bool)
    for n in plan.looks:
        t = x[:, :n].mean(1) / (x[:, :n].std(1, ddof=1) / math.sqrt(n))
        p = 2 * scipy.stats.t.sf(np.abs(t), n - 1) if sides == 2 else scipy.stats.t.sf(t, n - 1)
        stopped |= p <= plan.level(n, sides)
    return float(stopped.mean())


@pytest.mark.parametrize("spending", SPENDING)
@pytest.mark.parametrize(("least", "most"), [(2, 4), (3, 6)])
@pytest.mark.parametrize("sides", [1, 2])
def test_looks_share_5_per_cent(least: int, most: int, spending: Spending, sides: int) -> None:
    plan = SequentialPlan(least=least, most=most, spending=spending)
    draws = 100_000
    assert false_alarms(plan, sides, draws) == pytest.approx(0.05, abs=4 * (0.05 * 0.95 / draws) ** 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("spending", SPENDING)
@pytest.mark.parametrize("comparisons", [1, 20])
def test_ten_looks_share_what_they_are_given(spending: Spending, comparisons: int) -> None:
    plan = SequentialPlan(least=2, most=10, spending=spending, comparisons=comparisons)
    draws, alpha = 1_000_000, 0.05 / comparisons
    assert false_alarms(plan, 2, draws) == pytest.approx(alpha, abs=4 * (alpha / draws) ** 0.5)


def test_a_verdict_once_reached_stays() -> None:
    plan = SequentialPlan(least=2, most=6)
    decided = [2.0, 2.001, 2.0005]
    assert plan.decide(decided) == "ahead"
    assert plan.decide([-d for d in decided]) == "behind"
    assert plan.decide([*decided, -9.0, -9.0]) == "ahead"


def test_words_of_the_looks() -> None:
    plan = SequentialPlan(least=2, most=4, margin=0.5)
    assert plan.decide([1.0]) == "no verdict"
    assert plan.decide([5.0, -5.0]) == "undecided"
    assert plan.decide([0.01, -0.01, 0.012]) == "equivalent"
    assert plan.decide([0.0, 0.0, 0.0]) == "undecided"  # repeats of one run are not evidence


def test_more_comparisons_ask_for_more() -> None:
    one, many = SequentialPlan(most=5), SequentialPlan(most=5, comparisons=10)
    assert all(many.level(n) < one.level(n) for n in one.looks)


@pytest.mark.parametrize(("least", "most"), [(1, 5), (4, 3)])
def test_impossible_plans_are_refused(least: int, most: int) -> None:
    with pytest.raises(ValueError, match="2 <= least <= most"):
        SequentialPlan(least=least, most=most)
    with pytest.raises(ValueError, match="the plan allows 3"):
        SequentialPlan(most=3).decide([1.0] * 4)


def test_the_simulation_decides_as_the_plan_does() -> None:
    plan = SequentialPlan(least=2, most=6, margin=0.5, comparisons=2)
    draws = 0.6 + 0.4 * np.random.default_rng(3).standard_normal((60, 2, 6))
    used, differs, within = plan.simulate(draws)
    for row, seeds, apart, equal in zip(draws, used, differs, within):
        reached = [plan.reached(one) for one in row]
        assert [word in (AHEAD, BEHIND) for word, _ in reached] == apart.tolist()
        assert [word == EQUIVALENT for word, _ in reached] == equal.tolist()
        assert seeds == max(at if word != UNDECIDED else plan.most for word, at in reached)
    assert 0 < differs.mean() < 1
