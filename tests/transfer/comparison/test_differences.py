"""Differences of initialisations against scipy's tests, and what they say where there is no interval."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from transfer.comparison.differences import (
    METHOD,
    WEIGHTS,
    Difference,
    between_methods,
    compare_initialisations,
    paired,
)
from transfer.comparison.student import quantile
from transfer.comparison.variance import Cells


def as_cells(grid: np.ndarray, first_seed: int = 0) -> Cells:
    return {f"run{r}": {first_seed + s: float(v) for s, v in enumerate(row)} for r, row in enumerate(grid)}


def only(values: dict[str, Cells], **options: object) -> Difference:
    difference = compare_initialisations(values, "reference", **options)["moco"].difference  # type: ignore[arg-type]
    assert difference is not None
    return difference


def test_these_weights_are_scipys_paired_t() -> None:
    rng = np.random.default_rng(0)
    own, reference = rng.normal(30, 1, (1, 5)), rng.normal(29, 1, (1, 5))
    found = only({"moco": as_cells(own), "reference": as_cells(reference)})
    theirs = scipy.stats.ttest_rel(own[0], reference[0])
    interval = theirs.confidence_interval(0.95)
    assert found.question == WEIGHTS
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-9)
    assert found.p == pytest.approx(theirs.pvalue, abs=1e-12)
    assert found.method == "paired t over seeds, n=5"


def test_methods_with_one_seed_are_scipys_welch_on_run_means() -> None:
    rng = np.random.default_rng(1)
    own, reference = rng.normal(30, 1, (4, 1)), rng.normal(29, 2, (4, 1))
    found = only({"moco": as_cells(own), "reference": as_cells(reference)})
    theirs = scipy.stats.ttest_ind(own.mean(1), reference.mean(1), equal_var=False)
    interval = theirs.confidence_interval(0.95)
    assert found.question == METHOD
    assert found.runs == (4, 4)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-9)
    assert found.p == pytest.approx(theirs.pvalue, abs=1e-12)


def repeated(values: np.ndarray) -> Cells:
    return {f"run{k}": {k: float(value)} for k, value in enumerate(values)}


def test_repetitions_of_everything_are_scipys_welch() -> None:
    rng = np.random.default_rng(5)
    own, reference = rng.normal(30, 1, 4), rng.normal(29, 1.2, 4)
    found = only({"moco": repeated(own), "reference": repeated(reference)})
    theirs = scipy.stats.ttest_ind(own, reference, equal_var=False)
    interval = theirs.confidence_interval(0.95)
    assert (found.question, found.runs, found.seeds, found.n) == (METHOD, (4, 4), (), 4)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-9)
    assert found.p == pytest.approx(theirs.pvalue, abs=1e-12)
    assert found.method == f"t over repetitions, n=4 and 4, {found.df:.1f} df"
    assert (
        compare_initialisations({"moco": repeated(own), "reference": repeated(reference)}, "reference")["moco"].weights
        is None
    )  # one seed of each of these weights says nothing about them


def test_repetitions_against_random_weights_take_each_of_its_seeds() -> None:
    rng = np.random.default_rng(6)
    own, reference = rng.normal(30, 1, 3), rng.normal(29, 1, 5)
    values = {"moco": repeated(own), "reference": {"": dict(enumerate(map(float, reference)))}}
    found = only(values, without_pretraining=["reference"])
    theirs = scipy.stats.ttest_ind(own, reference, equal_var=False)
    assert (found.runs, found.note) == ((3, 5), "")
    assert found.p == pytest.approx(theirs.pvalue, abs=1e-12)
    once = only(values)  # weights that exist once: their pretraining was not repeated
    assert once.p == found.p
    assert once.note == "reference is one pretraining run: the sentence is about these weights of it"


def test_runs_that_share_a_seed_in_part_are_no_repetitions() -> None:
    own = {"run0": {0: 30.0, 1: 31.0}, "run1": {1: 32.0, 2: 33.0}}
    values = {"moco": own, "reference": {"": {3: 29.0, 4: 28.0}}}
    assert compare_initialisations(values, "reference")["moco"].difference is None


def test_one_repetition_that_finished_has_no_interval() -> None:
    found = only({"moco": {"run0": {0: 30.0}}, "reference": repeated(np.array([28.0, 29.0]))})
    assert found.low is None
    assert found.problem == "one seed, and one side has one pretraining run"


def test_an_effect_of_a_seed_on_one_side_widens_the_interval() -> None:
    rng = np.random.default_rng(6)
    own, reference = rng.normal(30, 1, (3, 4)), rng.normal(29, 1, (3, 4))
    effect = np.array([[-4.0, 4.0, 4.0, -4.0]])  # its mean is 0, so only the spread changes
    plain, shifted = between_methods(own, reference), between_methods(own + effect, reference)
    left = [side - side.mean(1, keepdims=True) - side.mean(0) + side.mean() for side in (own, reference)]
    counted = sum((part**2).sum() / 6 / 12 for part in left)
    over_seeds = (own.mean(0) + effect[0] - reference.mean(0)).var(ddof=1) / 4
    between = sum(side.mean(1).var(ddof=1) / 3 for side in (own, reference))
    assert float(shifted.variance) == pytest.approx(between + over_seeds - counted)
    assert float(shifted.variance) > 3 * float(plain.variance) >= 3 * between


def test_unequal_numbers_of_runs_cap_the_degrees_of_freedom() -> None:
    rng = np.random.default_rng(2)
    own = np.array([[10.0], [10.001]])  # little spread by chance would give scipy's Welch nearly 5 df
    reference = rng.normal(9, 1, (6, 1))
    estimate = between_methods(own, reference)
    assert scipy.stats.ttest_ind(own[:, 0], reference[:, 0], equal_var=False).df > 4.9
    # with equal variances: (1/2 + 1/6)^2 / ((1/2)^2 / 1 + (1/6)^2 / 5)
    assert float(estimate.df) == pytest.approx((4 / 6) ** 2 / (1 / 4 + 1 / 180))


@pytest.mark.parametrize(("runs", "reference_runs"), [(3, 3), (3, 1), (1, 3), (1, 1)])
def test_the_effect_of_a_seed_cancels_and_the_sign_turns(runs: int, reference_runs: int) -> None:
    rng = np.random.default_rng(3)
    own, reference = rng.normal(30, 1, (runs, 4)), rng.normal(29, 1, (reference_runs, 4))
    block = rng.normal(0, 50, (1, 4)).round()
    plain = only({"moco": as_cells(own), "reference": as_cells(reference)})
    shifted = only({"moco": as_cells(own + block), "reference": as_cells(reference + block)}, scale=(-999, 999))
    swapped = only({"moco": as_cells(reference), "reference": as_cells(own)})
    assert plain.low is not None
    assert (shifted.low, shifted.high, shifted.df) == pytest.approx((plain.low, plain.high, plain.df))
    assert (swapped.low, swapped.high) == pytest.approx((-plain.high, -plain.low))  # type: ignore[operator]


def test_a_reference_that_exists_once_adds_its_residual() -> None:
    own = np.array([[10.0, 12.0], [13.0, 13.0], [9.0, 10.0]])
    reference = np.array([[5.0, 9.0]])
    between = own.mean(1).var(ddof=1) / 3
    over_seeds = (reference[0] - own.mean(0)).var(ddof=1) / 2
    left = own - own.mean(1, keepdims=True) - own.mean(0, keepdims=True) + own.mean()
    twice = (left**2).sum() / 2 / 6
    estimate = between_methods(own, reference)
    assert float(estimate.variance) == pytest.approx(between + over_seeds - twice)
    df = (between + over_seeds - twice) ** 2 / (between**2 / 2 + over_seeds**2 + twice**2 / 2)
    assert float(estimate.df) == pytest.approx(np.clip(df, 1, 2))
    downloaded = only({"moco": as_cells(own), "reference": as_cells(reference)})
    assert downloaded.note == "reference is one pretraining run: the sentence is about these weights of it"
    random = only({"moco": as_cells(own), "reference": as_cells(reference)}, without_pretraining={"reference"})
    assert random.note == ""


def test_arrays_give_what_single_calls_give() -> None:
    rng = np.random.default_rng(4)
    own, other = rng.normal(size=(7, 3, 4)), rng.normal(size=(7, 3, 4))
    for estimate, single in (
        (paired(own[:, 0]), lambda k: paired(own[k, 0])),
        (between_methods(own, other), lambda k: between_methods(own[k], other[k])),
        (between_methods(own, other[:, :1]), lambda k: between_methods(own[k], other[k, :1])),
    ):
        for k in range(7):
            assert [float(part[k]) for part in estimate] == pytest.approx([float(part) for part in single(k)])


@pytest.mark.parametrize(
    ("own", "reference", "problem"),
    [
        ([[10.0]], [[9.0]], "one seed"),
        ([[10.0], [11.0]], [[9.0]], "one seed, and one side has one pretraining run"),
        ([[0.0, 0.0]], [[0.0, 0.0]], "all runs found nothing"),
        ([[10.0, 10.0]], [[9.0, 9.0]], "no spread between runs: repeats of one run, or a metric with few values"),
        ([[0.3, 0.1]], [[0.2, 0.0]], "no spread between runs: repeats of one run, or a metric with few values"),
    ],
)
def test_no_interval_says_why(own: list, reference: list, problem: str) -> None:
    found = only({"moco": as_cells(np.array(own)), "reference": as_cells(np.array(reference))})
    assert found.problem == problem
    assert (found.low, found.high, found.p, found.df) == (None, None, None, None)
    assert found.method == f"none ({problem})"


def test_one_seed_of_two_methods_has_an_interval_over_runs_only() -> None:
    values = {"moco": as_cells(np.array([[10.0], [11.0]])), "reference": as_cells(np.array([[8.0], [8.5]]))}
    result = compare_initialisations(values, "reference")["moco"]
    assert result.weights is not None
    assert result.weights.problem == "one seed"
    assert result.method is not None
    assert result.method.low is not None


def test_only_seeds_that_all_runs_have_are_compared() -> None:
    values = {"moco": {"a": {0: 10.0, 1: 11.0, 2: 40.0}}, "reference": {"b": {0: 9.0, 1: 9.5, 3: 0.0}}}
    found = only(values)  # type: ignore[arg-type]
    assert found.seeds == (0, 1)
    assert found.mean == pytest.approx(1.25)
    assert found.own_mean - found.reference_mean == pytest.approx(found.mean)
    lonely = compare_initialisations({"moco": {"a": {0: 1.0}}, "reference": {"b": {1: 1.0}}}, "reference")["moco"]
    assert lonely.difference is None


def test_failures_are_counted_and_named() -> None:
    values = {"moco": {"a": {0: 16.1, 1: 16.3}}, "reference": {"b": {0: 15.0, 1: 15.3, 2: 15.1}}}
    lost = {"moco": {"a": {2: "diverged at iteration 812"}}}
    result = compare_initialisations(values, "reference", failures=lost)["moco"]
    assert result.failures == {("a", 2): "diverged at iteration 812"}
    assert result.difference is not None
    assert (result.difference.failed, result.difference.planned) == (1, 6)


def test_an_interval_wider_than_the_metric_says_so_and_stays_within_it() -> None:
    values = {"moco": as_cells(np.array([[5.0, 40.0]])), "reference": as_cells(np.array([[5.0, 6.0]]))}
    found = only(values)
    assert found.note == "reaches beyond what the metric can be: there the runs do not bound the difference"
    assert found.high == 100.0
    assert found.low == -100.0


def test_real_degrees_of_freedom_agree_with_scipy() -> None:
    degrees = np.array([1.0, 1.3, 2.7, 9.0, 200.0])
    assert quantile(degrees) == pytest.approx(scipy.stats.t.ppf(0.975, degrees), rel=1e-9)
