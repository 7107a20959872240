"""Ratios of metrics and orders of learning curves, with the coverage that they claim."""

from __future__ import annotations

import math

import numpy as np
import pytest

from transfer.comparison.curve_order import Overtaking, Standing, overtaking, standings
from transfer.comparison.differences import compare_initialisations
from transfer.comparison.shape import UNBOUNDED, as_percent, log_ratio


def seeds(values: list[float] | np.ndarray) -> dict[str, dict[int, float]]:
    return {"weights": {s: float(v) for s, v in enumerate(values)}}


def test_the_mean_of_the_cells_is_the_log_ratio_of_the_means() -> None:
    part, whole = [20.0, 22.0, 27.0], [40.0, 41.0, 50.0]
    cells = log_ratio(seeds(part), seeds(whole))
    assert isinstance(cells, dict)
    assert np.mean(list(cells["weights"].values())) == pytest.approx(math.log(sum(part) / sum(whole)))
    assert as_percent(math.log(1.1)) == pytest.approx(10)


@pytest.mark.parametrize(
    ("part", "whole", "reason"),
    [
        (seeds([0.2, 0.4]), seeds([5.0, 6.0]), "a mean below 1 point: its ratio is noise"),
        ({"weights": {0: 9.0}}, {"weights": {1: 9.0}}, "no run has both metrics"),
    ],
)
def test_no_ratio_says_why(part: dict, whole: dict, reason: str) -> None:
    assert log_ratio(part, whole) == reason


def shape_coverage(draws: int, n: int, spread: float) -> float:
    rng = np.random.default_rng(0)
    means = {"own": (40.0, 20.0), "reference": (50.0, 30.0)}
    truth = math.log(20 / 40) - math.log(30 / 50)
    inside = 0
    for _ in range(draws):
        block, cells = rng.standard_normal(n), {}
        for init, (whole, part) in means.items():
            run = 0.7 * block + 0.6 * rng.standard_normal(n)
            noise = rng.standard_normal((2, n))
            cells[init] = log_ratio(
                seeds(part * (1 + spread * 1.5 * (run + 0.4 * noise[0]))),
                seeds(whole * (1 + spread * (run + 0.4 * noise[1]))),
            )
            assert isinstance(cells[init], dict)
        found = compare_initialisations(cells, "reference", scale=UNBOUNDED)["own"].difference  # type: ignore[arg-type]
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        inside += found.low <= truth <= found.high
    return inside / draws


def test_the_interval_of_a_ratio_covers() -> None:
    assert shape_coverage(600, 3, 0.1) == pytest.approx(0.95, abs=0.03)


def curves(values: np.ndarray) -> dict[int, dict[int, float]]:
    return {s: {100 * (k + 1): float(v) for k, v in enumerate(row)} for s, row in enumerate(values)}


def test_standings_are_bonferroni_paired_t() -> None:
    import scipy.stats

    rng = np.random.default_rng(2)
    own, other = rng.normal(10, 1, (4, 3)), rng.normal(9, 1, (4, 3))
    found = standings(curves(own), curves(other), comparisons=2)
    assert [one.iteration for one in found] == [100, 200, 300]
    for k, one in enumerate(found):
        interval = scipy.stats.ttest_rel(own[:, k], other[:, k]).confidence_interval(1 - 0.05 / 6)
        assert (one.low, one.high) == pytest.approx((interval.low, interval.high), abs=1e-9)


def test_equal_curves_are_in_order_anywhere_in_at_most_5_per_cent() -> None:
    rng = np.random.default_rng(3)
    reports, wrong = 2000, 0
    for _ in range(reports):
        own, other = rng.normal(10, 1, (2, 3, 4))
        wrong += any(one.word != "undecided" for one in standings(curves(own), curves(other)))
    assert wrong / reports <= 0.05 + 3 * (0.05 * 0.95 / reports) ** 0.5
    assert wrong > 0


def test_only_common_seeds_and_iterations_count() -> None:
    own = {0: {100: 1.0, 200: 2.0}, 1: {100: 1.5, 200: 2.0}, 5: {100: 0.0}}
    other = {0: {100: 0.5, 300: 1.0}, 1: {100: 0.7, 200: 1.0}}
    assert [(one.iteration, one.n) for one in standings(own, other)] == [(100, 2)]
    assert standings({0: {100: 1.0}}, {0: {100: 2.0}}) == []


def standing(iteration: int, low: float, high: float) -> Standing:
    return Standing(iteration, (low + high) / 2, low, high, 3)


def test_overtaking_needs_both_sides_of_zero() -> None:
    behind, unsure, ahead = (-2.0, -1.0), (-1.0, 1.0), (1.0, 2.0)
    course = [standing(100 * (k + 1), *bounds) for k, bounds in enumerate([behind, behind, unsure, ahead, ahead])]
    assert overtaking(course) == Overtaking(200, 400)
    assert overtaking(course[2:]) is None
    assert overtaking(course[:3]) is None
    assert overtaking(list(reversed(course))) is None
    again = [standing(100 * (k + 1), *bounds) for k, bounds in enumerate([behind, ahead, behind, ahead, unsure])]
    assert overtaking(again) == Overtaking(300, 400)
    assert overtaking([]) is None
