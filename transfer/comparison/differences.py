"""The difference of two initialisations with its interval, for the two questions a report may be asked.

*These weights*: would these checkpoints keep their order with other fine-tuning seeds? Paired t over seeds.
*The method*: would the methods keep their order if they were pretrained again? The pretraining run is the unit.
docs/statistics.md has the model, why these intervals and no others, and what they cover in simulation.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from transfer.comparison.run_arrays import common_seeds, over_repetitions, over_seeds
from transfer.comparison.student import ALPHA, quantile, satterthwaite, two_sided_p
from transfer.comparison.variance import Cells, Components, components

WEIGHTS, METHOD = "these weights", "the method"
BEYOND = "reaches beyond what the metric can be"
SPREAD_FLOOR = 1e-9  # points; two metrics that differ by less are the same number after rounding errors


class Estimate(NamedTuple):
    """A difference in points, the variance of the estimate and its degrees of freedom; numbers, or arrays of them."""

    mean: Any
    variance: Any
    df: Any


def paired(differences: np.ndarray) -> Estimate:
    """Paired t: ``differences`` is float[..., seeds], with two seeds or more."""
    n = differences.shape[-1]
    variance = differences.var(axis=-1, ddof=1) / n
    return Estimate(differences.mean(axis=-1), variance, np.full(variance.shape, float(n - 1)))


def between_methods(own: np.ndarray, other: np.ndarray) -> Estimate:
    """The difference of two methods: float[..., runs, seeds] of both, with the same seeds; one side may have one run.

    The pretraining run is the unit. All runs share the seeds, so the effect of a seed is the same in every run's mean
    and cancels. Two things vary:

    * the means of the runs of a side that has two or more: pretraining + residual / seeds;
    * the differences per seed, beyond the residuals that those means contain: the residual of a side that exists once
      (one set of weights, or no pretraining at all), and an effect that a seed has on one side only.

    Satterthwaite's degrees of freedom are too many when the term that matters is small by chance, so they are capped
    (2 against 6 runs cover 0.89 without the cap). docs/statistics.md has the coverage.
    """
    seeds = own.shape[-1]
    repeated = [side for side in (own, other) if side.shape[-2] > 1]
    between = [side.mean(axis=-1).var(axis=-1, ddof=1) / side.shape[-2] for side in repeated]
    shifts = counted = None
    if seeds > 1:
        shifts = (own.mean(axis=-2) - other.mean(axis=-2)).var(axis=-1, ddof=1) / seeds
        counted = sum(_residual_variance(side) for side in repeated)
    degrees = [side.shape[-2] - 1 for side in repeated]
    variance, df = combine(between, degrees, seeds, shifts, counted)
    return Estimate(own.mean(axis=(-2, -1)) - other.mean(axis=(-2, -1)), variance, df)


def combine(between: Sequence[Any], degrees: Sequence[int], seeds: int, shifts: Any, counted: Any) -> tuple[Any, Any]:
    """(variance, degrees of freedom) of a difference of methods from its parts, as ``between_methods`` names them.

    ``between``: of each side with two runs or more, with its runs - 1 in ``degrees``. ``shifts``: what the differences
    per seed vary; ``counted``: the residuals of it that ``between`` contains. Both are ignored with one seed.
    """
    terms, term_degrees = list(between), list(degrees)
    if seeds > 1 and len(between) == 2:
        terms.append(np.maximum(shifts - counted, 0.0))
        term_degrees.append(seeds - 1)
    elif seeds > 1:  # here this part is large, and the error of what is subtracted counts
        terms += [shifts, -counted]
        term_degrees += [seeds - 1, degrees[0] * (seeds - 1)]
    variance = np.maximum(sum(terms), sum(between))
    return variance, np.clip(satterthwaite(terms, term_degrees, variance), 1.0, most_degrees(degrees, seeds))


def most_degrees(degrees: Sequence[int], seeds: int) -> float:
    """The cap: ``degrees`` are runs - 1 of the sides that have two runs or more."""
    if len(degrees) == 1:
        return 2.0 * min(degrees[0], seeds - 1)
    as_if_equal = satterthwaite([1 / (df + 1) for df in degrees], degrees)  # runs that vary as much on both sides
    return min(2.0 * min(degrees), float(as_if_equal))


def _residual_variance(side: np.ndarray) -> np.ndarray:
    """The part of the variance of the mean of float[..., runs, seeds] that comes from the residual."""
    runs, seeds = side.shape[-2:]
    left = side - side.mean(-1, keepdims=True) - side.mean(-2, keepdims=True) + side.mean((-2, -1), keepdims=True)
    return (left**2).sum(axis=(-2, -1)) / ((runs - 1) * (seeds - 1) * runs * seeds)


@dataclass(frozen=True)
class Difference:
    """A mean difference in points over the cells both sides have; ``problem`` says why there is no interval."""

    question: str  # WEIGHTS or METHOD
    mean: float
    own_mean: float  # over the same cells, so that mean = own_mean - reference_mean
    reference_mean: float
    runs: tuple[int, int]  # pretraining runs of the two sides
    seeds: tuple[int, ...]  # fine-tuning seeds that every run of both sides has; () for repetitions of everything
    standard_error: float | None = None
    df: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None  # of "no difference", two-sided, not adjusted for other comparisons
    problem: str = ""
    note: str = ""  # what a reader must know about the interval
    failed: int = 0  # cells of both sides that were planned and have no value
    planned: int = 0

    @property
    def method(self) -> str:
        """Short name of the interval for a table cell."""
        if self.df is None:
            return f"none ({self.problem})"
        if self.question == WEIGHTS:
            return f"paired t over seeds, n={len(self.seeds)}"
        unit = "pretraining runs" if self.seeds else "repetitions"
        return f"t over {unit}, n={self.runs[0]} and {self.runs[1]}, {self.df:.1f} df"

    @property
    def n(self) -> int:
        """Seeds that both sides share, or the repetitions of everything of the side that has fewer."""
        return len(self.seeds) or min(self.runs)


@dataclass(frozen=True)
class Result:
    """One initialisation: its own numbers, and its differences to the reference (None for the reference itself)."""

    init: str
    mean: float | None  # mean of the means of its runs
    std: float | None  # over all its cells
    runs: int
    cells: int
    components: Components
    failures: Mapping[tuple[str, int], str]  # (pretraining run, seed) -> what happened
    weights: Difference | None = None
    method: Difference | None = None

    @property
    def difference(self) -> Difference | None:
        """The answer to the wider question that the runs can answer."""
        return self.method or self.weights


Failures = Mapping[str, Mapping[str, Mapping[int, str]]]
Side = tuple[str, Cells]  # an initialisation and its values


def compare_initialisations(
    values: Mapping[str, Cells],
    reference: str,
    *,
    without_pretraining: Collection[str] = (),
    failures: Failures | None = None,
    scale: tuple[float, float] = (0.0, 100.0),
    alpha: float = ALPHA,
) -> dict[str, Result]:
    """Every initialisation of one config and metric against ``reference``.

    ``values[init][pretraining run][seed]`` is the metric; ``failures`` has the same keys and says what became of the
    cells without a value. Initialisations ``without_pretraining`` have one entry in place of pretraining runs, which
    is all of the method and not a sample of it. ``scale`` is what the metric can be. Raises KeyError when ``reference``
    has no entry.
    """
    lost = failures or {}
    results = {}
    for init, cells in values.items():
        numbers = [value for seeds in cells.values() for value in seeds.values()]
        run_means = [float(np.mean(list(seeds.values()))) for seeds in cells.values() if seeds]
        weights = method = None
        if init != reference:
            counts = [_counts(values[one], lost.get(one, {})) for one in (init, reference)]
            weights, method = compare_pair(
                (init, cells),
                (reference, values[reference]),
                counts=(counts[0][0] + counts[1][0], counts[0][1] + counts[1][1]),
                without_pretraining=without_pretraining,
                scale=scale,
                alpha=alpha,
            )
        results[init] = Result(
            init,
            float(np.mean(run_means)) if run_means else None,
            float(np.std(numbers, ddof=1)) if len(numbers) > 1 else None,
            len(run_means),
            len(numbers),
            components(cells),
            {(run, seed): reason for run, seeds in lost.get(init, {}).items() for seed, reason in seeds.items()},
            weights,
            method,
        )
    return results


def compare_pair(
    own: Side,
    other: Side,
    *,
    counts: tuple[int, int] = (0, 0),
    without_pretraining: Collection[str] = (),
    scale: tuple[float, float] = (0.0, 100.0),
    alpha: float = ALPHA,
) -> tuple[Difference | None, Difference | None]:
    """(these weights, the method): the difference of ``own`` to ``other`` in one metric, for both questions.

    ``counts``: (failed, planned) cells of both sides. The second is None when neither side was pretrained twice. The
    first is when the sides share no seed, and so is the second, unless every run of a side has seeds of its own.
    """
    options: Any = {"counts": counts, "scale": scale, "alpha": alpha, "without_pretraining": without_pretraining}
    weights = _difference(WEIGHTS, own, other, **options)
    repeated = max(sum(map(bool, cells.values())) for _, cells in (own, other)) > 1
    return weights, _difference(METHOD, own, other, **options) if repeated else None


def _counts(cells: Cells, lost: Mapping[str, Mapping[int, str]]) -> tuple[int, int]:
    """(failed, planned) cells of one initialisation."""
    failed = sum(len(seeds) for seeds in lost.values())
    return failed, failed + sum(len(seeds) for seeds in cells.values())


def _difference(
    question: str,
    own: Side,
    other: Side,
    *,
    counts: tuple[int, int],
    scale: tuple[float, float],
    alpha: float,
    without_pretraining: Collection[str],
) -> Difference | None:
    """None when the two sides share no seed, and are no repetitions of everything either."""
    seeds = common_seeds(own[1], other[1])
    sides = (own, other)
    grids = [over_seeds(cells, seeds) if seeds else over_repetitions(cells) for _, cells in sides]
    if (a := grids[0]) is None or (b := grids[1]) is None or (not seeds and question == WEIGHTS):
        return None
    own_mean, other_mean = float(a.mean()), float(b.mean())
    bare = Difference(question, float(a.mean() - b.mean()), own_mean, other_mean, (len(a), len(b)), seeds)
    bare = replace(bare, failed=counts[0], planned=counts[1])
    estimate = _estimate(question, a, b)
    if isinstance(estimate, str):
        return replace(bare, problem=estimate)
    if not (a.any() or b.any()):
        return replace(bare, problem="all runs found nothing")
    if float(estimate.variance) ** 0.5 <= SPREAD_FLOOR:
        return replace(bare, problem="no spread between runs: repeats of one run, or a metric with few values")
    asked = sides if question == METHOD else ()
    notes = [note for side in asked if (note := _missing_pretraining(side, without_pretraining))]
    return _finish(bare, estimate, notes, scale, alpha)


def _estimate(question: str, own: np.ndarray, other: np.ndarray) -> Estimate | str:
    """The estimate from float[runs, seeds] of both sides, or why there is none."""
    seeds = own.shape[1]
    if question == WEIGHTS:
        return paired(own.mean(axis=0) - other.mean(axis=0)) if seeds > 1 else "one seed"
    if seeds < 2 and min(len(own), len(other)) < 2:
        return "one seed, and one side has one pretraining run"
    return between_methods(own, other)


def _finish(
    bare: Difference, estimate: Estimate, notes: list[str], scale: tuple[float, float], alpha: float
) -> Difference:
    error, df = float(estimate.variance) ** 0.5, float(estimate.df)
    half = float(quantile(df, alpha)) * error
    low, high = bare.mean - half, bare.mean + half
    if low < scale[0] - bare.reference_mean or high > scale[1] - bare.reference_mean:
        notes.append(f"{BEYOND}: there the runs do not bound the difference")
    widest = scale[1] - scale[0]
    return replace(
        bare,
        standard_error=error,
        df=df,
        low=max(low, -widest),
        high=min(high, widest),
        p=float(two_sided_p(bare.mean / error, df)),
        note="; ".join(notes),
    )


def _missing_pretraining(side: Side, without_pretraining: Collection[str]) -> str:
    init, cells = side
    if sum(map(bool, cells.values())) > 1 or init in without_pretraining:
        return ""
    return f"{init} is one pretraining run: the sentence is about these weights of it"
