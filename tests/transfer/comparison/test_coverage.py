"""What docs/statistics.md claims: the simulations of ``studies/`` on a small grid, in the slow tier on a large one."""

from __future__ import annotations

import numpy as np
import pytest

from studies.candidates import CANDIDATES, paired_t
from studies.draws import draw_seeds, spreads
from studies.interval_for_few_seeds import Cell, calibrate, evaluate, grid
from studies.method_interval import Design, Repeated, designs, repetitions
from studies.null_plan import false_equivalence, of_methods, of_weights, same_method
from studies.power_of_seeds import of_method, of_paired_t
from studies.sequential_plan import run_plans
from studies.shapes_and_orders import false_orders, ratio_coverage
from transfer.comparison.differences import compare_initialisations
from transfer.comparison.sequential import SequentialPlan


def error(share: float, draws: int) -> float:
    """Four standard errors of a simulated share."""
    return 4 * (share * (1 - share) / draws) ** 0.5


@pytest.mark.parametrize(
    "cell",
    [
        Cell(5, 2, "equal", 1.0, 0.3, "normal"),
        Cell(5, 2, "both", 9.0, 0.9, "normal"),
        Cell(3, 3, "one", 9.0, 0.0, "t4"),
        Cell(3, 5, "reference", 9.0, 0.3, "collapse"),
    ],
    ids=str,
)
def test_paired_t_covers_the_worst_comparison(cell: Cell) -> None:
    mean, standard_error, limit = paired_t(cell.draw(8000))
    coverage = (np.abs(mean) <= limit * standard_error).mean(0).min()
    assert 0.93 <= coverage <= (0.97 if cell.tails == "normal" else 1.0)  # heavy tails only cover more


def test_pooling_does_not_cover_the_noisiest_comparison() -> None:
    rows = evaluate(Cell(5, 2, "both", 9.0, 0.3, "normal"), 4000, {})
    coverage = {row["interval"]: row["worst_coverage"] for row in rows}
    assert coverage["pooled block residual"] < 0.88  # type: ignore[operator]
    assert coverage["moderated t"] < 0.93  # type: ignore[operator]


def test_no_honest_pooling_beats_paired_t_at_two_seeds() -> None:
    critical = calibrate(5, 2, 4000)
    rows = list(evaluate(Cell(5, 2, "equal", 1.0, 0.3, "normal"), 8000, critical))
    power = {str(row["interval"]): float(str(row["power"])) for row in rows}
    assert power["pooled block residual"] > 0.6  # what it would be if all spreads were equal
    assert all(power[name] < power["paired t"] + 0.04 for name in critical)


def test_the_study_uses_the_interval_of_the_reports() -> None:
    y = draw_seeds(np.random.default_rng(0), 1, spreads("one", 4, 9.0), 3, 0.3, "normal")[0]
    values = {str(i): {"weights": dict(enumerate(map(float, row)))} for i, row in enumerate(y)}
    results = compare_initialisations(values, "0")
    mean, standard_error, limit = (part[0] for part in CANDIDATES["paired t"](y[None]))
    for i in range(3):
        difference = results[str(i + 1)].weights
        assert difference is not None
        assert difference.high == pytest.approx(mean[i] + limit[i] * standard_error[i])


@pytest.mark.parametrize(
    "design",
    [
        Design(2, 2, 1, 0.6, 1.0),
        Design(3, 3, 3, 0.0, 9.0),
        Design(6, 6, 2, 0.9, 1 / 9),
        Design(2, 6, 1, 0.6, 1 / 9),
        Design(3, 1, 2, 0.3, 1.0),
        Design(6, 1, 2, 0.6, 9.0),
    ],
    ids=str,
)
def test_the_interval_of_a_method_covers(design: Design) -> None:
    assert design.coverage(8000) >= 0.93


@pytest.mark.parametrize(
    "design", [Repeated(3, 3, 0.0, 1.0), Repeated(2, 2, 0.3, 9.0), Repeated(3, 5, 0.9, 1 / 9, "t4")], ids=str
)
def test_the_interval_of_repetitions_covers(design: Repeated) -> None:
    assert design.coverage(8000) >= 0.93


def test_a_report_without_differences() -> None:
    draws = 10_000
    for row in (of_weights("moco_voc", 2, 0.7, draws), of_methods("imagenette_voc_cpu", 3, 0.5, draws)):
        assert float(str(row["verdicts"])) <= 0.05 + error(0.05, draws)
        assert float(str(row["single intervals"])) > 0.15
    assert false_equivalence(3, 0.2, 8, draws)["called equivalent"] <= 0.05 + error(0.05, draws)  # type: ignore[operator]
    assert same_method(1, 5.2, 20)["pairs called"] == 0


def test_power_is_what_was_planned() -> None:
    paired = of_paired_t(3, 0.3, 3.0, 10_000)
    assert paired["simulated"] == pytest.approx(paired["formula"], abs=error(0.6, 10_000))
    assert of_method(2, 3, 0.5, 10_000)["simulated power"] == pytest.approx(0.8, abs=0.03)
    assert of_method(5, 3, 0.5, 10_000)["simulated power"] == pytest.approx(0.8, abs=0.03)


def test_a_sequential_plan_at_once_is_the_plan_step_by_step() -> None:
    plan = SequentialPlan(most=5)
    used, differs, within = run_plans(plan, 0.5, 0.2, 200)
    rng = np.random.default_rng(list(f"{plan}{0.5}{0.2}normal".encode()))
    x = 0.5 + 0.2 * np.sqrt(2) * rng.standard_normal((200, 1, 5))
    words = [plan.decide(list(one[0])) for one in x]
    assert [bool(d) for d in differs] == [word in ("ahead", "behind") for word in words]
    assert [bool(w) for w in within] == [word == "equivalent" for word in words]
    first = [next((n for n in plan.looks if plan.decide(list(one[0, :n])) != "undecided"), 5) for one in x]
    assert list(used) == first


@pytest.mark.parametrize("gap", [0.0, 0.5])
def test_a_sequential_plan_errs_in_at_most_5_per_cent(gap: float) -> None:
    plans = 10_000
    _, differs, within = run_plans(SequentialPlan(most=6, comparisons=4), gap, 0.3, plans)
    wrong = differs if gap == 0 else within
    assert (wrong > 0).mean() <= 0.05 + error(0.05, plans)


def test_a_sequential_plan_stops_early_where_the_spread_is_small() -> None:
    used, _, within = run_plans(SequentialPlan(most=10), 0.0, 0.1, 2000)
    assert within.mean() > 0.95
    assert used.mean() < 4


def test_shapes_and_orders() -> None:
    assert ratio_coverage(3, 0.1, 0.6, "normal", 800)["coverage"] == pytest.approx(0.95, abs=error(0.05, 800))
    row = false_orders(3, 3, 0.0, 200)
    assert float(str(row["any order"])) <= 0.05 + error(0.05, 200)
    assert row["any overtaking"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_paired_t_covers_everywhere(seeds: int) -> None:
    draws = 10_000
    for cell in grid((2, 5, 10), (seeds,)):
        mean, standard_error, limit = paired_t(cell.draw(draws))
        coverage = (np.abs(mean) <= limit * standard_error).mean(0).min()
        assert 0.93 <= coverage <= (0.97 if cell.tails == "normal" else 1.0), cell


@pytest.mark.slow
@pytest.mark.parametrize("runs", [(2, 2), (3, 3), (6, 6), (2, 6), (3, 1), (6, 1)], ids=str)
def test_the_interval_of_a_method_covers_everywhere(runs: tuple[int, int]) -> None:
    for design in designs([runs], (1, 2, 5) if runs[1] > 1 else (2, 5)):
        assert design.coverage(10_000) >= 0.925, design


@pytest.mark.slow
def test_the_interval_of_repetitions_covers_everywhere() -> None:
    for design in repetitions([(2, 2), (3, 3), (6, 6), (2, 3), (3, 5)]):
        assert design.coverage(10_000) >= 0.925, design


@pytest.mark.slow
def test_a_large_report_without_differences() -> None:
    draws = 40_000
    for seeds in (2, 5):
        assert of_weights("large", seeds, 0.7, draws)["verdicts"] <= 0.05 + error(0.05, draws)  # type: ignore[operator]
