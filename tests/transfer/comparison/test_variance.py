"""Variance components against the textbook's analysis of variance, restricted maximum likelihood and simulation."""

from __future__ import annotations

import numpy as np
import pytest

from transfer.comparison.variance import Cells, components


def as_cells(y: np.ndarray) -> Cells:
    return {f"run{r}": {s: float(value) for s, value in enumerate(row)} for r, row in enumerate(y)}


def draw(rng: np.random.Generator, runs: int, seeds: int, sds: tuple[float, float, float]) -> np.ndarray:
    return (
        30.0
        + sds[0] * rng.standard_normal((runs, 1))
        + sds[1] * rng.standard_normal((1, seeds))
        + sds[2] * rng.standard_normal((runs, seeds))
    )


def test_equal_numbers_give_the_textbooks_mean_squares() -> None:
    y = draw(np.random.default_rng(1), 4, 3, (2.0, 1.0, 0.5))
    by_run, by_seed = y.mean(1), y.mean(0)
    left = y - by_run[:, None] - by_seed[None] + y.mean()
    residual = (left**2).sum() / 6
    found = components(as_cells(y))
    assert found.residual is not None
    assert found.residual.value == pytest.approx(residual, rel=1e-12)
    assert found.residual.df == 6
    assert found.pretraining is not None
    assert found.pretraining.value == pytest.approx(by_run.var(ddof=1) - residual / 3, rel=1e-10)
    assert found.pretraining.df == 3
    assert found.seed is not None
    assert found.seed.value == pytest.approx(by_seed.var(ddof=1) - residual / 4, rel=1e-10)
    total = found.pretraining.value + found.seed.value + residual
    assert found.pretraining_share == pytest.approx(found.pretraining.value / total)


def test_equals_restricted_maximum_likelihood() -> None:
    pytest.importorskip("statsmodels")
    import pandas as pd
    import statsmodels.formula.api as smf

    y = draw(np.random.default_rng(3), 5, 4, (2.0, 1.5, 0.7))
    runs, seeds = np.indices(y.shape)
    frame = pd.DataFrame({"y": y.ravel(), "run": runs.ravel(), "seed": seeds.ravel(), "all": 1})
    parts = {"run": "0 + C(run)", "seed": "0 + C(seed)"}
    fit = smf.mixedlm("y ~ 1", frame, groups="all", re_formula="0", vc_formula=parts).fit(reml=True)
    found = components(as_cells(y))
    assert found.pretraining is not None
    assert found.seed is not None
    assert found.residual is not None
    ours = (found.pretraining.value, found.seed.value, found.residual.value)
    assert ours == pytest.approx((*fit.vcomp, fit.scale), rel=2e-3)


def test_unequal_numbers_are_unbiased() -> None:
    rng = np.random.default_rng(5)
    sums = np.zeros(3)
    draws = 3000
    for _ in range(draws):
        cells = {run: dict(seeds) for run, seeds in as_cells(draw(rng, 4, 4, (3.0, 2.0, 0.5))).items()}
        for run, seed in (("run0", 0), ("run0", 1), ("run2", 3), ("run3", 2)):
            del cells[run][seed]
        found = components(cells)
        assert found.pretraining is not None
        assert found.seed is not None
        assert found.residual is not None
        sums += (found.pretraining.value, found.seed.value, found.residual.value)
    # truncation at 0 is rare with these spreads; the tolerance is four standard errors of the mean
    assert sums / draws == pytest.approx([9.0, 4.0, 0.25], rel=0.07)


def test_a_negative_estimate_is_zero_and_says_so() -> None:
    y = np.array([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0]])  # equal run means, large residual
    found = components(as_cells(y))
    assert found.pretraining is not None
    assert found.pretraining.value == 0.0
    assert found.pretraining.truncated
    assert found.residual is not None
    assert not found.residual.truncated


@pytest.mark.parametrize(
    ("cells", "contains"),
    [
        ({"a": {0: 1.0, 1: 2.0, 2: 4.0}}, ("seed", "residual")),
        ({"a": {0: 1.0}, "b": {0: 2.0}}, ("pretraining", "residual")),
        ({"a": {0: 1.0}, "b": {1: 2.0}}, ("pretraining", "seed", "residual")),
    ],
)
def test_what_cannot_be_separated_is_named(cells: Cells, contains: tuple[str, ...]) -> None:
    found = components(cells)
    values = [value for seeds in cells.values() for value in seeds.values()]
    assert found.residual_contains == contains
    assert found.pretraining is None
    assert found.pretraining_share is None
    assert found.residual is not None
    assert found.residual.value == pytest.approx(np.var(values, ddof=1))


def test_one_value_has_no_variance() -> None:
    assert components({"a": {0: 1.0}}).residual is None
    assert components({}).residual is None
