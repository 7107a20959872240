"""AP against iterations and against schedule lengths: curves, and which initialisation overtakes another.

MoCo's Tables 5 and A.1 compare 1x, 2x and 6x schedules: pretraining buys speed, and with a long schedule random
initialisation catches up (He et al., Rethinking ImageNet Pre-training, arXiv 1811.08883). A difference at one schedule
is one point of these curves. A learning curve cannot replace runs of several lengths: in the middle of a long schedule
the learning rate has not been lowered yet, so the points of ``ScheduleLengths`` each end a schedule of their own.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transfer.comparison.curve_order import overtaking, standings
from transfer.comparison.gap import Table
from transfer.comparison.intervals import mean
from transfer.comparison.run_arrays import all_different
from transfer.records.run import Run

Curve = list[tuple[float, float]]  # (iteration, value), ascending
BySeed = Mapping[int, Mapping[int, float]]  # seed -> iteration -> value
# keys in which runs of one config differ when only the length of their schedule does
LENGTH_KEYS = ("iterations", "SOLVER.MAX_ITER", "SOLVER.STEPS", "SOLVER.CHECKPOINT_PERIOD", "TEST.EVAL_PERIOD")


@dataclass(frozen=True)
class OrderChange:
    """``winner`` is behind ``loser`` at one iteration and ahead at a later one, beyond the intervals of both."""

    winner: str
    loser: str
    behind_at: int
    ahead_at: int


@dataclass(frozen=True)
class Curves:
    """Curves per initialisation (those with two points or more), and the changes of order that the seeds show.

    ``tested``: number of pairs of curves with two common seeds or more; without any, no change of order can be shown.
    """

    by_init: Mapping[str, Curve]
    order_changes: Sequence[OrderChange] = ()
    tested: int = 0


@dataclass(frozen=True)
class ScheduleLengths:
    """Tables that differ in the length of their schedule alone, by iterations, and their headline metric."""

    tables: Mapping[int, Table]  # ascending
    curves: Curves

    @property
    def inits(self) -> list[str]:
        """Every initialisation of these tables."""
        return list(dict.fromkeys(init for table in self.tables.values() for init in table.inits))


def learning_curves(tables: Sequence[Table]) -> list[Curves]:
    """Mean headline metric over runs at the evaluations during training, for every table.

    No curves where nothing was evaluated before the end.
    """
    means, by_seed = [], []
    for table in tables:
        by_init = {init: [run for run in table.runs if run.init == init and run.finished] for init in table.inits}
        shown = table.headline
        means.append({init: mean_curve(runs, *shown) if shown else [] for init, runs in by_init.items()})
        by_seed.append({init: _by_seed(runs, *shown) if shown else {} for init, runs in by_init.items()})
    return _curves(means, by_seed)


def _by_seed(runs: Sequence[Run], task: str, metric: str) -> BySeed:
    """The curve of every comparable seed, as a mean over its pretraining runs."""
    seeds = _comparable([run.seed for run in runs], len({run.pretraining for run in runs}))
    curves = {seed: mean_curve([run for run in runs if run.seed == seed], task, metric) for seed in seeds}
    return {seed: {int(iteration): value for iteration, value in curve} for seed, curve in curves.items()}


def _comparable(seeds: Sequence[int], pretraining_runs: int) -> list[int]:
    """The seeds that pair curves, from the seed of each run: those of all pretraining runs, so that it cancels.

    Where each run has a seed of its own, everything was repeated: then a seed names a repetition, and all are paired.
    """
    alone = all_different(seeds)
    return [seed for seed, runs in Counter(seeds).items() if alone or runs == pretraining_runs]


def schedule_lengths(tables: Sequence[Table]) -> list[ScheduleLengths]:
    """Groups of tables whose runs differ in nothing but the length of the schedule."""
    groups = by_schedule(tables)
    means, by_seed = [], []
    for group in groups:
        curves: dict[str, Curve] = {}
        seeds: dict[str, dict[int, dict[int, float]]] = {}
        for init in dict.fromkeys(init for table in group.values() for init in table.inits):
            by_length = {length: table.row(init, *table.headline) for length, table in group.items() if table.headline}
            rows = {length: row for length, row in by_length.items() if row}
            curves[init] = [(float(length), row.mean) for length, row in rows.items()]
            for length, row in rows.items():
                for seed in _comparable([seed for run in row.cells.values() for seed in run], len(row.cells)):
                    values = [run[seed] for run in row.cells.values() if seed in run]
                    seeds.setdefault(init, {}).setdefault(seed, {})[length] = mean(values)
        means.append(curves)
        by_seed.append(seeds)
    return [ScheduleLengths(group, curves) for group, curves in zip(groups, _curves(means, by_seed))]


def _curves(means: Sequence[Mapping[str, Curve]], by_seed: Sequence[Mapping[str, BySeed]]) -> list[Curves]:
    """Curves of every table, and their changes of order, with intervals that hold for all pairs of all tables."""
    drawn = [{init: curve for init, curve in table.items() if len(curve) > 1} for table in means]
    pairs = [
        [pair for pair in itertools.combinations(table, 2) if len(seeds[pair[0]].keys() & seeds[pair[1]].keys()) > 1]
        for table, seeds in zip(drawn, by_seed)
    ]
    comparisons = max(1, sum(map(len, pairs)))
    return [
        Curves(
            table,
            [
                OrderChange(winner, loser, change.behind_at, change.ahead_at)
                for first, second in of_table
                for winner, loser in ((first, second), (second, first))
                if (change := overtaking(standings(seeds[winner], seeds[loser], comparisons=comparisons)))
            ],
            len(of_table),
        )
        for table, seeds, of_table in zip(drawn, by_seed, pairs)
    ]


def history(run: Run, task: str, metric: str) -> dict[int, float]:
    """Iteration -> value of one run's evaluations during training, its final one included."""
    values = {}
    for entry in run.record.get("history") or []:
        value = ((entry.get("metrics") or {}).get(task) or {}).get(metric)
        if isinstance(value, int | float) and value == value and value >= 0:
            values[int(entry["iteration"])] = float(value)
    if (task, metric) in run.metrics:
        values[int(run.record["iterations"])] = run.metrics[task, metric]
    return values


def mean_curve(runs: Sequence[Run], task: str, metric: str) -> Curve:
    """Mean over runs at the iterations where every one of them was evaluated."""
    histories = [h for run in runs if (h := history(run, task, metric))]
    if not histories:
        return []
    in_all = set.intersection(*(set(h) for h in histories))
    return [(float(i), mean([h[i] for h in histories])) for i in sorted(in_all)]


def by_schedule(tables: Sequence[Table]) -> list[dict[int, Table]]:
    """Groups of two or more tables whose runs differ only in ``LENGTH_KEYS``: iterations -> table, ascending."""
    groups: dict[str, dict[int, Table]] = {}
    for table in tables:
        run = next((run for run in table.runs if run.finished), None)
        if run is not None:
            rest = {key: value for key, value in run.must_agree.items() if key not in LENGTH_KEYS}
            group = groups.setdefault(json.dumps(rest, sort_keys=True, default=str), {})
            group.setdefault(int(run.record["iterations"]), table)
    return [dict(sorted(group.items())) for group in groups.values() if len(group) > 1]
