"""Power against statsmodels and simulation, and the plans that follow from it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from transfer.comparison.differences import between_methods, paired
from transfer.comparison.power import (
    PUBLISHED_SPREADS,
    Method,
    cheapest_plan,
    power_of_t,
    prospect,
    seeds_for,
    standard_error_of_pairs,
    visible_gap,
)
from transfer.comparison.student import quantile


def test_power_is_statsmodels() -> None:
    power = pytest.importorskip("statsmodels.stats.power")
    for n in (2, 3, 5, 10, 40):
        for gap in (0.0, 0.2, 1.0, 3.0):
            one, two = power.TTestPower().power(gap, n, 0.05), power.TTestIndPower().power(gap, n, 0.05)
            if not math.isnan(one):
                assert power_of_t(gap, 1 / math.sqrt(n), n - 1) == pytest.approx(one, abs=1e-9)
            if not math.isnan(two):
                assert power_of_t(gap, math.sqrt(2 / n), 2 * n - 2) == pytest.approx(two, abs=1e-9)


def test_seeds_are_statsmodels() -> None:
    power = pytest.importorskip("statsmodels.stats.power")
    for effect in (0.3, 0.8, 1.7):
        exact = power.TTestPower().solve_power(effect_size=effect, alpha=0.05, power=0.8)
        assert seeds_for(effect * math.sqrt(2), 1.0) == math.ceil(exact)


def test_power_is_a_number_at_every_gap() -> None:
    gaps = np.linspace(0, 60, 121)
    for df in (1, 3, 9, 20):
        power = power_of_t(gaps, 1.0, df)
        assert power[0] == pytest.approx(0.05, abs=1e-9)
        assert np.all(np.diff(power) > -1e-12)


def test_visible_gap_is_the_audits() -> None:
    gaps = [visible_gap(1 / math.sqrt(n), n - 1) for n in (2, 3, 5, 10)]
    assert [round(gap, 1) for gap in gaps] == [11.5, 3.3, 1.7, 1.0]
    assert power_of_t(gaps[2], 1 / math.sqrt(5), 4) == pytest.approx(0.8, abs=1e-9)


def test_more_comparisons_and_less_correlation_need_more_seeds() -> None:
    one = seeds_for(0.5, 0.2)
    assert one == 5
    assert seeds_for(0.5, 0.2, comparisons=8) > one  # type: ignore[operator]
    assert seeds_for(0.5, 0.2, correlation=0.7) < one  # type: ignore[operator]
    assert seeds_for(0.01, 5.0, most=20) is None


@pytest.mark.parametrize(("runs", "reference_runs", "seeds"), [(2, 2, 1), (3, 3, 4), (3, 1, 4), (1, 4, 2), (1, 1, 3)])
def test_a_prospect_is_what_simulated_runs_show(runs: int, reference_runs: int, seeds: int) -> None:
    rng = np.random.default_rng(1)
    draws, gap = 20_000, 2.5
    own, other = Method(1.0, 0.5, runs), Method(0.7, 0.8, reference_runs)
    block = rng.normal(0, 5, (draws, 1, seeds))
    grids = []
    for side in (own, other):
        between = rng.normal(0, side.pretraining_sd, (draws, side.runs, 1)) if side.runs > 1 else 0.0
        grids.append(block + between + rng.normal(0, side.residual_sd, (draws, side.runs, seeds)))
    if runs == reference_runs == 1:
        estimate = paired(grids[0][:, 0] - grids[1][:, 0])
    else:
        estimate = between_methods(*grids)
    half = quantile(estimate.df) * np.sqrt(estimate.variance)
    expected = prospect(own, other, seeds, draws=20_000)
    assert expected.standard_error == pytest.approx(float(estimate.mean.std()), rel=0.02)
    assert expected.half_width == pytest.approx(float(half.mean()), rel=0.03)
    assert expected.power(gap) == pytest.approx(float((np.abs(estimate.mean + gap) > half).mean()), abs=0.012)
    assert expected.power(expected.visible_gap(0.8)) == pytest.approx(0.8, abs=1e-9)


def test_paired_seeds_are_the_noncentral_t() -> None:
    weights = prospect(Method(0.0, 0.5), Method(0.0, 0.5), 4, draws=100_000)
    exact = power_of_t(1.0, standard_error_of_pairs(0.5, 4), 3)
    assert weights.power(1.0) == pytest.approx(float(exact), abs=0.005)


def test_methods_need_runs_that_can_vary() -> None:
    with pytest.raises(ValueError, match="two seeds"):
        prospect(Method(1, 1, 3), Method(0, 1, 1), 1)
    with pytest.raises(ValueError, match="two seeds"):
        prospect(Method(1, 1, 1), Method(0, 1, 1), 1)


def test_another_pretraining_run_buys_more_where_pretraining_varies() -> None:
    def width(runs: int, seeds: int) -> float:
        return prospect(Method(1.0, 0.2, runs), Method(1.0, 0.2, runs), seeds).half_width

    assert width(4, 3) < 0.85 * width(3, 3)
    assert width(3, 4) > 0.95 * width(3, 3)


def test_the_cheapest_plan_reaches_its_power_and_follows_the_prices() -> None:
    dear = cheapest_plan(2.0, 0.8, 1.0, pretraining_hours=50, fine_tuning_hours=1)
    cheap = cheapest_plan(2.0, 0.8, 1.0, pretraining_hours=0.1, fine_tuning_hours=1)
    assert dear is not None
    assert cheap is not None
    assert dear.power >= 0.8
    assert dear.hours == 2 * dear.runs * 50 + 2 * dear.runs * dear.seeds
    assert dear.runs < cheap.runs
    assert dear.seeds > cheap.seeds
    assert cheapest_plan(0.001, 1.0, 1.0, pretraining_hours=1, fine_tuning_hours=1) is None
    fixed = cheapest_plan(3.0, 0.8, 0.5, pretraining_hours=5, fine_tuning_hours=1, other=Method(0, 0.5))
    assert fixed is not None
    assert fixed.seeds >= 2


def test_published_spreads_have_a_source() -> None:
    assert {name: spread.sd for name, spread in PUBLISHED_SPREADS.items()} == {"voc": 0.2, "coco": 0.1, "lvis": 0.3}
    assert all("README" in spread.source for spread in PUBLISHED_SPREADS.values())
    assert standard_error_of_pairs(0.2, 5) == pytest.approx(0.2 * math.sqrt(2 / 5))
