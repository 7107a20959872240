"""The differences of one config: runs paired by seed, refused unless they differ only in the initialisation."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runtime.errors import UserError
from runtime.listing import listed
from transfer.comparison.intervals import Interval, mean, paired_t, sample_std
from transfer.records.run import Run

ImageInterval = Callable[[Run, Run, str, str], Interval]  # (run, reference run, task, metric) -> interval over images


@dataclass(frozen=True)
class Difference:
    """Mean paired difference of one metric to a reference initialisation."""

    reference: str
    seeds: tuple[int, ...]
    mean: float
    interval: Interval
    reference_mean: float  # of the reference's runs with these seeds

    @property
    def verdict(self) -> str:
        """ahead | behind | within noise | no interval"""
        return self.interval.verdict


@dataclass(frozen=True)
class Row:
    """One metric of one initialisation: its own mean and spread, and its differences by role of the reference."""

    init: str
    task: str
    metric: str
    values: Mapping[int, float]  # seed -> value
    differences: Mapping[str, Difference] = field(default_factory=dict)  # "supervised" | "random" -> Difference

    @property
    def n(self) -> int:
        """Number of runs."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return mean(list(self.values.values()))

    @property
    def std(self) -> float | None:
        """Sample standard deviation over seeds; None for one run."""
        return sample_std(list(self.values.values()))


@dataclass(frozen=True)
class Allowed:
    """A key in which the compared runs differ and may, by --allow; the report prints it in red."""

    key: str
    values: Mapping[str, Any]  # init -> value

    @property
    def by_init(self) -> str:
        """The values in words."""
        return ", ".join(f"{init}: {value}" for init, value in self.values.items())


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


def compare(
    runs: Sequence[Run],
    references: Mapping[str, str | None],
    *,
    allow: Collection[str] = (),
    image_interval: ImageInterval | None = None,
) -> list[Table]:
    """One Table per config.

    ``references`` maps a role ("supervised", "random") to an initialisation. ``allow`` names keys that may differ (a
    prefix such as ``engine`` covers all below it). ``image_interval`` gives the interval of a pair that has one seed.
    Raises UserError naming the first key in which runs of one table differ besides the initialisation.
    """
    by_table: dict[str, list[Run]] = {}
    for run in runs:
        by_table.setdefault(run.table, []).append(run)
    return [_table(name, group, references, allow, image_interval) for name, group in by_table.items()]


def _table(
    name: str,
    runs: Sequence[Run],
    references: Mapping[str, str | None],
    allow: Collection[str],
    image_interval: ImageInterval | None,
) -> Table:
    inits = tuple(dict.fromkeys(run.init for run in runs))
    present = {role: init for role, init in references.items() if init in inits and init is not None}
    by_init: dict[str, dict[int, Run]] = {init: {} for init in inits}
    for run in runs:
        other = by_init[run.init].get(run.seed)
        if other is not None and other.finished and run.finished:
            raise UserError(f"{run.folder} and {other.folder} are both {run.init}, seed {run.seed}")
        if other is None or run.finished:
            by_init[run.init][run.seed] = run
    finished = {init: {s: r for s, r in sorted(by_init[init].items()) if r.finished} for init in inits}
    allowed = check_equal(name, [run for group in finished.values() for run in group.values()], allow)
    rows = []
    for init, group in finished.items():
        names = dict.fromkeys(key for run in group.values() for key in run.metrics)
        for task, metric in names:
            values = {seed: run.metrics[task, metric] for seed, run in group.items() if (task, metric) in run.metrics}
            differences = {
                role: difference
                for role, reference in present.items()
                if reference != init
                if (difference := _difference(group, finished[reference], reference, task, metric, image_interval))
            }
            rows.append(Row(init, task, metric, values, differences))
    return Table(name, inits, tuple(rows), tuple(runs), tuple(allowed), present)


def _difference(
    group: Mapping[int, Run],
    reference_group: Mapping[int, Run],
    reference: str,
    task: str,
    metric: str,
    image_interval: ImageInterval | None,
) -> Difference | None:
    """The paired difference over the seeds that both have; None when they share none."""
    key = (task, metric)
    seeds = [
        seed
        for seed, run in group.items()
        if key in run.metrics and seed in reference_group and key in reference_group[seed].metrics
    ]
    if not seeds:
        return None
    paired = [group[seed].metrics[key] - reference_group[seed].metrics[key] for seed in seeds]
    interval = paired_t(paired)
    if len(seeds) == 1 and image_interval is not None:
        interval = image_interval(group[seeds[0]], reference_group[seeds[0]], task, metric)
    reference_mean = mean([reference_group[seed].metrics[key] for seed in seeds])
    return Difference(reference, tuple(seeds), mean(paired), interval, reference_mean)


def check_equal(table: str, runs: Sequence[Run], allow: Collection[str]) -> list[Allowed]:
    """Keys in which ``runs`` differ and may. Raises UserError naming every key that may not, and the first two runs.

    A run whose own settings changed on a resume is no better than two runs that differ in them: refused by key too.
    """
    if not runs:
        return []
    changed_on_resume = _check_changes(table, runs, allow)
    first = runs[0]
    differing: dict[str, Run] = {}
    for run in runs[1:]:
        if run.must_agree == first.must_agree:
            continue
        for key in first.must_agree.keys() | run.must_agree.keys():
            if first.must_agree.get(key) != run.must_agree.get(key):
                differing.setdefault(key, run)
    refused = sorted(key for key in differing if not _is_allowed(key, allow))
    if refused:
        key, other = refused[0], differing[refused[0]]
        raise UserError(
            f"{table}: runs differ in {listed(refused, 8)} besides their "
            f"initialisation ({key}: {first.must_agree.get(key)!r} in {first.folder}, {other.must_agree.get(key)!r} in "
            f"{other.folder}); not like for like: make them equal, or --allow {key} and see it in red in the report"
        )
    different = [Allowed(key, {run.init: run.must_agree.get(key) for run in runs}) for key in sorted(differing)]
    return [*different, *changed_on_resume]


def _check_changes(table: str, runs: Sequence[Run], allow: Collection[str]) -> list[Allowed]:
    """Settings that were changed when a run was resumed. Raises UserError naming run and key of one not allowed."""
    found: dict[str, dict[str, str]] = {}
    for run in runs:
        for change in run.record.get("changes") or []:
            for key, (before, now) in change["changed"].items():
                text = f"{before} until iteration {change['iteration']}, then {now}"
                if not _is_allowed(key, allow):
                    raise UserError(
                        f"{table}: {run.folder} was not made with one setting throughout: {key} was {text}; run it "
                        f"again, or --allow {key} and see it in red in the report"
                    )
                values = found.setdefault(f"{key} (changed on resume)", {})
                values[run.init] = f"{values[run.init]}; {text}" if run.init in values else text
    return [Allowed(key, values) for key, values in sorted(found.items())]


def _is_allowed(key: str, allow: Collection[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in allow)
