"""AP against iterations and against schedule lengths: curves and where they cross."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transfer.comparison.gap import Table
from transfer.comparison.intervals import mean
from transfer.records.run import Run

Curve = list[tuple[float, float]]  # (iteration, value), ascending


@dataclass(frozen=True)
class Crossing:
    """``winner`` is behind ``loser`` up to ``iteration`` and ahead after it."""

    winner: str
    loser: str
    iteration: float


def history(run: Run, task: str, metric: str) -> dict[int, float]:
    """Iteration -> value of one run's evaluations during training, its final one included."""
    found = {}
    for entry in run.record.get("history") or []:
        value = ((entry.get("metrics") or {}).get(task) or {}).get(metric)
        if isinstance(value, int | float) and value == value and value >= 0:
            found[int(entry["iteration"])] = float(value)
    if (task, metric) in run.metrics:
        found[int(run.record["iterations"])] = run.metrics[task, metric]
    return found


def mean_curve(runs: Sequence[Run], task: str, metric: str) -> Curve:
    """Mean over runs at the iterations where every one of them was evaluated."""
    histories = [h for run in runs if (h := history(run, task, metric))]
    if not histories:
        return []
    shared = set.intersection(*(set(h) for h in histories))
    return [(float(i), mean([h[i] for h in histories])) for i in sorted(shared)]


def crossings(curves: Mapping[str, Curve]) -> list[Crossing]:
    """Every change of order between two curves, by linear interpolation between shared iterations."""
    found = []
    names = list(curves)
    for a, first in enumerate(names):
        for second in names[a + 1 :]:
            one, two = dict(curves[first]), dict(curves[second])
            gaps = [(i, one[i] - two[i]) for i in sorted(one.keys() & two.keys()) if one[i] != two[i]]
            for (i, before), (j, after) in itertools.pairwise(gaps):
                if before * after < 0:
                    winner, loser = (first, second) if after > 0 else (second, first)
                    found.append(Crossing(winner, loser, i + (j - i) * before / (before - after)))
    return sorted(found, key=lambda crossing: crossing.iteration)


LENGTH = ("iterations", "SOLVER.MAX_ITER", "SOLVER.STEPS", "SOLVER.CHECKPOINT_PERIOD", "TEST.EVAL_PERIOD")


def by_schedule(tables: Sequence[Table]) -> list[dict[int, Table]]:
    """Groups of tables whose runs differ in nothing but the length of the schedule: iterations -> table, ascending."""
    groups: dict[str, dict[int, Table]] = {}
    for one in tables:
        run = next((run for run in one.runs if run.finished), None)
        if run is not None:
            rest = {key: value for key, value in run.must_agree.items() if key not in LENGTH}
            group = groups.setdefault(json.dumps(rest, sort_keys=True, default=str), {})
            group.setdefault(int(run.record["iterations"]), one)
    return [dict(sorted(group.items())) for group in groups.values() if len(group) > 1]
