"""The same comparison under several lengths of schedule: does the gap shrink when everybody trains longer?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from transfer.comparison.curves import ScheduleLengths
from transfer.report.charts import Lines
from transfer.report.config_section import CsvCells, order_text
from transfer.report.csv_rows import ROLES, ConfigRows
from transfer.report.figures import Figure
from transfer.report.markup import join
from transfer.report.page import Cell, FigureWithTable, Part, Row, Section, paragraph, table


def schedules_section(
    schedules: Sequence[ScheduleLengths], rows: Mapping[str, ConfigRows], cells: CsvCells
) -> Section | None:
    """The headline metric at the end of every schedule, with the gap; None without tables that differ in that alone."""
    parts = [part for lengths in schedules for part in _parts(lengths, rows, cells)]
    return Section("schedules", "Longer schedules", parts) if parts else None


def _parts(lengths: ScheduleLengths, rows: Mapping[str, ConfigRows], cells: CsvCells) -> list[Part]:
    tables = lengths.tables
    metric = next((one.headline[1] for one in tables.values() if one.headline), "")
    role = next((r for r in ROLES if any(r in one.references for one in tables.values())), ROLES[0])
    body: list[Row] = []
    for init in lengths.inits:
        values = [rows[one.name].get(init, *one.headline) if one.headline else None for one in tables.values()]
        numbers = [join([cells.value(row), " ", cells.gap(row, role)]) if row else "" for row in values]
        body.append([init, *(Cell(number, "num") for number in numbers)])
    names = ", ".join(one.name for one in tables.values())
    caption = f"{metric} at the end of each schedule ({names}); in brackets the difference to {role}"
    by_length = table(["init", *(f"{i} iterations" for i in tables)], body, caption)
    if not lengths.curves.by_init:
        return [by_length]
    styles = {init: i for i, init in enumerate(lengths.inits)}
    name = f"{metric} at the end of the schedules of {names}"
    figure = Figure(name, Lines(lengths.curves.by_init, styles, "iterations of the schedule"), name)
    return [
        FigureWithTable(figure, f"Numbers of {names}", by_length),
        paragraph(order_text(lengths.curves, "iterations of the schedule")),
    ]
