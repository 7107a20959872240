"""Power against statsmodels and simulation, and the plans that follow from it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from transfer.comparison.power import (
    PUBLISHED_SPREADS,
    Method,
    cheapest_plan,
    equivalence_power,
    half_width,
    method_error,
    power_of_t,
    seeds_for,
    standard_error_of_pairs,
    visible_gap,
)


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


def test_equivalence_power_is_the_simulated() -> None:
    rng = np.random.default_rng(0)
    n, sd, margin = 5, 0.3, 0.5
    for gap in (0.0, 0.2, 0.5):
        draws = rng.normal(gap, sd, (100_000, n))
        half = scipy.stats.t.ppf(0.95, n - 1) * draws.std(1, ddof=1) / math.sqrt(n)
        equivalent = np.mean(np.abs(draws.mean(1)) + half < margin)
        assert equivalence_power(margin, sd / math.sqrt(n), n - 1, gap=gap) == pytest.approx(equivalent, abs=0.006)


def test_method_error_is_what_simulation_spreads() -> None:
    rng = np.random.default_rng(1)
    own, once, seeds, draws = Method(1.0, 0.5, 3), Method(0.0, 0.8, 1), 4, 40_000
    block = rng.normal(0, 5, (draws, 1, seeds))
    first = block + rng.normal(0, 1.0, (draws, 3, 1)) + rng.normal(0, 0.5, (draws, 3, seeds))
    second = block + rng.normal(0, 0.8, (draws, 1, seeds))
    error, df = method_error(own, once, seeds)
    assert (first.mean((1, 2)) - second.mean((1, 2))).std() == pytest.approx(error, rel=0.02)
    terms = (1.0 + 0.25 / 4) / 3, 0.64 / 4  # three runs (2 df) and four seeds (3 df)
    assert df == pytest.approx(sum(terms) ** 2 / (terms[0] ** 2 / 2 + terms[1] ** 2 / 3))


def test_methods_need_runs_that_can_vary() -> None:
    with pytest.raises(ValueError, match="two seeds"):
        method_error(Method(1, 1, 3), Method(0, 1, 1), 1)
    with pytest.raises(ValueError, match="two seeds"):
        method_error(Method(1, 1, 1), Method(0, 1, 1), 1)
    assert method_error(Method(1, 1, 1), Method(0, 1, 1), 3)[1] == 2


def test_another_pretraining_run_buys_more_where_pretraining_varies() -> None:
    now = half_width(Method(1.0, 0.2, 3), Method(1.0, 0.2, 3), 3)
    more_seeds = half_width(Method(1.0, 0.2, 3), Method(1.0, 0.2, 3), 4)
    more_runs = half_width(Method(1.0, 0.2, 4), Method(1.0, 0.2, 4), 3)
    assert more_runs < 0.8 * now < 0.99 * more_seeds


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
