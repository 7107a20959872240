"""AP against iterations and against schedule lengths: curves, and where one initialisation overtakes another.

MoCo's Tables 5 and A.1 compare 1x, 2x and 6x schedules: pretraining buys speed, and with a long schedule random
initialisation catches up (He et al., Rethinking ImageNet Pre-training, arXiv 1811.08883). A difference at one schedule
is one point of these curves. A learning curve cannot replace runs of several lengths: in the middle of a long schedule
the learning rate has not been lowered yet, so the points of ``ScheduleLengths`` each end a schedule of their own.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transfer.comparison.gap import Table
from transfer.comparison.intervals import mean
from transfer.records.run import Run

Curve = list[tuple[float, float]]  # (iteration, value), ascending
TASK, METRIC = "bbox", "AP"  # what the curves show
MOST_CROSSINGS = 12
# keys in which runs of one config differ when only the length of their schedule does
LENGTH_KEYS = ("iterations", "SOLVER.MAX_ITER", "SOLVER.STEPS", "SOLVER.CHECKPOINT_PERIOD", "TEST.EVAL_PERIOD")


@dataclass(frozen=True)
class Crossing:
    """``winner`` has lower AP than ``loser`` up to ``iteration`` and higher AP after it."""

    winner: str
    loser: str
    iteration: float


@dataclass(frozen=True)
class Curves:
    """Curves per initialisation (those with two points or more) and the first places where their order changes."""

    by_init: Mapping[str, Curve]
    crossings: Sequence[Crossing]


@dataclass(frozen=True)
class ScheduleLengths:
    """Tables that differ in the length of their schedule alone, by iterations, and AP at the end of each schedule."""

    tables: Mapping[int, Table]  # ascending
    curves: Curves

    @property
    def inits(self) -> list[str]:
        """Every initialisation of these tables."""
        return list(dict.fromkeys(init for table in self.tables.values() for init in table.inits))


def learning_curves(table: Table) -> Curves:
    """Mean AP over seeds at the evaluations during training; no curves when nothing was evaluated before the end."""
    by_init = {init: [run for run in table.runs if run.init == init and run.finished] for init in table.inits}
    return _curves({init: mean_curve(runs, TASK, METRIC) for init, runs in by_init.items()})


def schedule_lengths(tables: Sequence[Table]) -> list[ScheduleLengths]:
    """Groups of tables whose runs differ in nothing but the length of the schedule."""
    groups = []
    for group in by_schedule(tables):
        curves = {}
        for init in dict.fromkeys(init for table in group.values() for init in table.inits):
            rows = {length: row for length, table in group.items() if (row := table.row(init, TASK, METRIC))}
            # rounded as gap.csv prints them, so that a crossing agrees with the numbers in the table
            curves[init] = [(float(length), round(row.mean, 2)) for length, row in rows.items()]
        groups.append(ScheduleLengths(group, _curves(curves)))
    return groups


def _curves(by_init: Mapping[str, Curve]) -> Curves:
    longer = {init: curve for init, curve in by_init.items() if len(curve) > 1}
    return Curves(longer, crossings(longer)[:MOST_CROSSINGS])


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


def crossings(curves: Mapping[str, Curve]) -> list[Crossing]:
    """Every change of order between two curves, by linear interpolation between iterations that both have."""
    crossed = []
    for first, second in itertools.combinations(curves, 2):
        one, two = dict(curves[first]), dict(curves[second])
        gaps = [(i, one[i] - two[i]) for i in sorted(one.keys() & two.keys()) if one[i] != two[i]]
        for (i, before), (j, after) in itertools.pairwise(gaps):
            if before * after < 0:
                winner, loser = (first, second) if after > 0 else (second, first)
                crossed.append(Crossing(winner, loser, i + (j - i) * before / (before - after)))
    return sorted(crossed, key=lambda crossing: crossing.iteration)


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
