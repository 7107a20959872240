"""The differences of every config: runs paired by seed, refused unless they differ only in the initialisation."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from runtime.errors import UserError
from transfer.comparison.differences import Difference, compare_pair
from transfer.comparison.intervals import Interval, mean, sample_std
from transfer.comparison.like_for_like import Allowed, check_equal
from transfer.comparison.run_arrays import all_different
from transfer.comparison.variance import Cells
from transfer.comparison.verdicts import Verdict
from transfer.evaluate.headline import headline
from transfer.records.run import Run

ImageInterval = Callable[[Run, Run, str, str], Interval]  # (run, reference run, task, metric) -> interval over images
ROLES = ("supervised", "random")  # of references


@dataclass(frozen=True)
class Gap:
    """One metric of one initialisation against a reference."""

    reference: str
    difference: Difference  # for the wider question that the runs can answer
    weights: Difference  # for these weights; where only one of the two questions has an answer, that one
    over_images: Interval | None = None  # of two single runs
    verdict: Verdict | None = None  # of headline metrics only, adjusted over the report


@dataclass(frozen=True)
class Row:
    """One metric of one initialisation: its own values, and its gaps by role of the reference."""

    init: str
    task: str
    metric: str
    cells: Cells  # pretraining run -> seed -> value; pretraining "" where nothing was repeated
    gaps: Mapping[str, Gap] = field(default_factory=dict)  # "supervised" | "random" -> Gap

    @functools.cached_property
    def _numbers(self) -> list[float]:
        return [value for seeds in self.cells.values() for value in seeds.values()]

    @property
    def n(self) -> int:
        """Number of runs."""
        return len(self._numbers)

    @property
    def repeats_everything(self) -> bool:
        """Whether every one of several pretraining runs has fine-tuning seeds of its own."""
        return len(self.cells) > 1 and all_different(seed for seeds in self.cells.values() for seed in seeds)

    @property
    def mean(self) -> float:
        """Mean over pretraining runs of their means over seeds."""
        return mean([mean(list(seeds.values())) for seeds in self.cells.values()])

    @property
    def std(self) -> float | None:
        """Sample standard deviation over all runs; None for one run."""
        return sample_std(self._numbers)


@dataclass(frozen=True)
class Table:
    """The metrics and differences of one config."""

    name: str
    inits: tuple[str, ...]
    rows: tuple[Row, ...]
    runs: tuple[Run, ...]
    allowed: tuple[Allowed, ...] = ()
    references: Mapping[str, str] = field(default_factory=dict)  # role -> init

    def row(self, init: str, task: str, metric: str) -> Row | None:
        """The row of one metric, or None when no run has it."""
        return self._index.get((init, task, metric))

    @functools.cached_property
    def _index(self) -> dict[tuple[str, str, str], Row]:
        return {(row.init, row.task, row.metric): row for row in self.rows}

    @property
    def metrics(self) -> list[tuple[str, str]]:
        """(task, metric) in the order in which the evaluator wrote them."""
        return list(dict.fromkeys((row.task, row.metric) for row in self.rows))

    @functools.cached_property
    def headline(self) -> tuple[str, str] | None:
        """(task, metric) of ``headline_rows``."""
        return headline(self.metrics)

    @property
    def headline_rows(self) -> list[Row]:
        """The rows that verdicts are about: AP of the first task that has it, or the recall of proposals."""
        judged = self.headline
        return [row for row in self.rows if (row.task, row.metric) == judged]

    def failures(self, init: str) -> list[Run]:
        """The failed runs of one initialisation; runs that have not been started are not among them."""
        return [run for run in self.runs if run.init == init and run.status == "failed"]

    @property
    def without_pretraining(self) -> list[str]:
        """Randomly initialised: their seeds are all there is to repeat."""
        kinds = {run.init: (run.record.get("init") or {}).get("kind") for run in self.runs if run.finished}
        return [init for init, kind in kinds.items() if kind == "random"]


def compare(
    runs: Sequence[Run],
    references: Mapping[str, str | None],
    *,
    allow: Collection[str] = (),
    allow_in: Mapping[str, Collection[str]] | None = None,
    image_interval: ImageInterval | None = None,
) -> list[Table]:
    """One Table per config.

    ``references`` maps a role ("supervised", "random") to an initialisation. ``allow`` names keys that may differ (a
    prefix such as ``engine`` covers all below it), ``allow_in`` such keys for single tables. ``image_interval`` gives
    the interval of a pair that has one seed. Raises UserError naming the first key in which runs of one table differ
    besides the initialisation.
    """
    by_table: dict[str, list[Run]] = {}
    for run in runs:
        by_table.setdefault(run.table, []).append(run)
    more = allow_in or {}
    return [
        _table(name, group, references, [*allow, *more.get(name, ())], image_interval)
        for name, group in by_table.items()
    ]


RunsOfInit = Mapping[tuple[str, int], Run]  # (pretraining run, seed) -> run


def _table(
    name: str,
    runs: Sequence[Run],
    references: Mapping[str, str | None],
    allow: Collection[str],
    image_interval: ImageInterval | None,
) -> Table:
    by_init: dict[str, dict[tuple[str, int], Run]] = {}
    for run in runs:
        group = by_init.setdefault(run.init, {})
        key = run.pretraining, run.seed
        other = group.get(key)
        if other is not None and other.finished and run.finished:
            raise UserError(f"{run.folder} and {other.folder} are both {run.name}")
        if other is None or run.finished:
            group[key] = run
    _fail_without_headline(by_init.values())
    judged = {run.folder: run for group in by_init.values() for run in group.values()}
    runs = [judged.get(run.folder, run) for run in runs]
    inits = tuple(by_init)
    present = {role: init for role, init in references.items() if init in by_init and init is not None}
    finished = {init: {key: r for key, r in sorted(by_init[init].items()) if r.finished} for init in inits}
    for group in finished.values():
        _refuse_repeated_weights(name, group)
    allowed = check_equal(name, [run for group in finished.values() for run in group.values()], allow)
    rows = [row for init, group in finished.items() for row in _rows(init, group)]
    table = Table(name, inits, tuple(rows), tuple(runs), tuple(allowed), present)
    return replace(table, rows=tuple(_with_gaps(table, finished, image_interval)))


def _fail_without_headline(groups: Iterable[dict[tuple[str, int], Run]]) -> None:
    """Replace a finished run without the metric of the verdicts by a failed one, so that it is counted and named.

    All runs of a table are scored on the same data: where one has an AP and another has none, the other's is NaN.
    """
    of_groups = list(groups)
    finished = [run for group in of_groups for run in group.values() if run.finished]
    fullest = max((run.metrics for run in finished), key=len, default={})
    judged = headline(fullest)
    for group in of_groups:
        for key, run in group.items():
            if run.finished and judged is not None and judged not in run.metrics:
                group[key] = replace(run, status="failed", error=f"its {' '.join(judged)} is not a number")


def _refuse_repeated_weights(name: str, group: RunsOfInit) -> None:
    """Raise UserError where runs outside pretrainN folders have the weights of one of these.

    A plan that is given ``pretrain_seeds`` later leaves the runs of its single pretraining in place. In a report on the
    whole folder the same weights would count as two pretraining runs, and pretraining would seem to vary less.
    """
    weights = {key: (run.record.get("init") or {}).get("sha256") for key, run in group.items()}
    outside = {weights[key]: run for key, run in group.items() if not key[0] and weights[key]}
    for key, run in group.items():
        twin = outside.get(weights[key])
        if key[0] and twin is not None:
            raise UserError(
                f"{name}: {twin.folder} and {run.folder} have the same weights, which would count as two pretraining "
                "runs; move the runs outside the pretrainN folders away, or report on the plan"
            )


def _rows(init: str, group: RunsOfInit) -> Iterator[Row]:
    for task, metric in dict.fromkeys(key for run in group.values() for key in run.metrics):
        cells: dict[str, dict[int, float]] = {}
        for (pretraining, seed), run in group.items():
            if (task, metric) in run.metrics:
                cells.setdefault(pretraining, {})[seed] = run.metrics[task, metric]
        yield Row(init, task, metric, cells)


def _with_gaps(table: Table, finished: Mapping[str, RunsOfInit], image_interval: ImageInterval | None) -> Iterator[Row]:
    """The rows with their gaps; a pair without a common seed has none, unless everything was repeated."""
    failed = {init: len(table.failures(init)) for init in table.inits}
    bare = table.without_pretraining
    for row in table.rows:
        gaps = {}
        for role, reference in table.references.items():
            other = table.row(reference, row.task, row.metric) if reference != row.init else None
            if other is None:
                continue
            lost = failed[row.init] + failed[reference]
            weights, method = compare_pair(
                (row.init, row.cells),
                (reference, other.cells),
                counts=(lost, lost + row.n + other.n),
                without_pretraining=bare,
            )
            if weights is None and method is None:
                continue
            over_images = None
            if weights is not None and method is None and len(weights.seeds) == 1 and image_interval is not None:
                (key,), (other_key,) = (
                    [(run, weights.seeds[0]) for run in cells] for cells in (row.cells, other.cells)
                )
                pair = finished[row.init][key], finished[reference][other_key]
                over_images = image_interval(*pair, row.task, row.metric)
            answered = [one for one in (weights, method) if one is not None]
            gaps[role] = Gap(reference, answered[-1], answered[0], over_images)
        yield replace(row, gaps=gaps)
