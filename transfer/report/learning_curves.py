"""AP against iterations for each initialisation, and where one overtakes another.

The paper's 1x / 2x / 6x argument: pretraining buys speed, and with a long schedule random initialisation catches up
(MoCo Table A.1; He et al., Rethinking ImageNet Pre-training, arXiv 1811.08883). A difference at one schedule is one
point of these curves.
"""

from __future__ import annotations

from transfer.comparison.curves import crossings, mean_curve
from transfer.comparison.gap import Table
from transfer.report import charts as plots
from transfer.report.page import escape, figure


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
