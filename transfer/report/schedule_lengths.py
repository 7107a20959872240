"""The same comparison under several lengths of schedule: does the gap shrink when everybody trains longer?

MoCo's Tables 5 and A.1 compare 1x, 2x and 6x; with long schedules random initialisation catches up (He et al.,
Rethinking ImageNet Pre-training, arXiv 1811.08883). A learning curve cannot show this: in the middle of a long schedule
the rate has not been lowered yet. Here every point is the end of a schedule of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from transfer.comparison.curves import by_schedule, crossings
from transfer.comparison.gap import Table
from transfer.report import charts as plots
from transfer.report.page import Numbers, Section, escape, figure, table
from transfer.report.tables import ROLES, Index


def schedules_section(tables: Sequence[Table], indices: Mapping[str, Index], numbers: Numbers) -> Section | None:
    """AP at the end of every schedule, with the gap; None when no two tables differ in their schedule alone."""
    body = "".join(_group_html(group, indices, numbers) for group in by_schedule(tables))
    return Section("schedules", "Longer schedules", body) if body else None


def _group_html(
    group: Mapping[int, Table], indices: Mapping[str, Index], numbers: Numbers, task: str = "bbox", metric: str = "AP"
) -> str:
    inits = list(dict.fromkeys(init for one in group.values() for init in one.inits))
    role = next((r for r in ROLES if any(r in one.references for one in group.values())), ROLES[0])
    rows, curves = [], {}
    for init in inits:
        found = {i: r for i, one in group.items() if (r := indices[one.name].get(init, task, metric))}
        cells = [f"{numbers.value(r)} {numbers.gap(r, role)}" if (r := found.get(i)) else "" for i in group]
        rows.append([escape(init), *(f'<td class="num">{cell}</td>' for cell in cells)])
        if len(found) > 1:
            curves[init] = [(float(i), float(r["mean"])) for i, r in found.items()]
    names = ", ".join(one.name for one in group.values())
    caption = f"{metric} at the end of each schedule ({names}); in brackets the difference to {role}"
    body = table(["init", *(f"{i} iterations" for i in group)], rows, caption)
    if not curves:
        return body
    name = f"{metric} at the end of schedules of different lengths"
    styles = {init: i for i, init in enumerate(inits)}
    said = [f"{c.winner} overtakes {c.loser} at about {c.iteration:.0f} iterations." for c in crossings(curves)[:12]]
    text = " ".join(said or ["No order changes with the length."])
    picture = figure(plots.curves(curves, styles, name, "iterations of the schedule"), name)
    return f"{body}{picture}<p>{escape(text)}</p>"
