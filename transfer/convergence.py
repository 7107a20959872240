"""AP against iterations for each initialisation, and where one overtakes another.

The paper's 1x / 2x / 6x argument: pretraining buys speed, and with a long schedule random initialisation catches up
(MoCo Table A.1; He et al., Rethinking ImageNet Pre-training, arXiv 1811.08883). A difference at one schedule is one
point of these curves.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transfer import plots
from transfer.gap import Table
from transfer.intervals import mean
from transfer.report_html import escape, figure
from transfer.runs import Run

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


def convergence_html(table: Table, task: str = "bbox", metric: str = "AP") -> str:
    """The learning curves of one table and the iterations at which their order changes; "" without a history."""
    by_init = {i: [r for r in table.runs if r.init == i and r.finished] for i in table.inits}
    curves = {init: curve for init, runs in by_init.items() if len(curve := mean_curve(runs, task, metric)) > 1}
    if not curves:
        return ""
    styles = {init: i for i, init in enumerate(table.inits)}
    name = f"{metric} against iterations, mean over seeds"
    said = [
        f"{c.winner} overtakes {c.loser} at about iteration {c.iteration:.0f}." for c in crossings(curves)[:12]
    ] or ["No curve crosses another."]
    picture = figure(plots.curves(curves, styles, name, "iteration"), name)
    return f"<h3>Learning curves</h3>{picture}<p>{escape(' '.join(said))}</p>"
