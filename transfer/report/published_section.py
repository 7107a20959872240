"""The section on published numbers: own runs with rows of their protocol, and separately the most similar others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from transfer.comparison.gap import Table
from transfer.literature.protocols import PublishedMatch
from transfer.literature.rows import Group, PublishedRow, row_name
from transfer.report.markup import Markup, element
from transfer.report.page import Cell, Row, Section, alarm, details, paragraph, table

# box metrics by the names that papers use; tables of boxes and masks say APbb
SAME = {"AP": ("AP", "APbb"), "AP50": ("AP50", "APbb50"), "AP75": ("AP75", "APbb75")}


def published_section(matches: Sequence[PublishedMatch]) -> Section:
    """Own means and published rows; a table holds published rows only when their protocol is that of the runs."""
    return Section("published", "Published numbers", [part for match in matches for part in _parts(match)])


def _parts(match: PublishedMatch) -> list[Markup]:
    own = match.own
    parts = [
        element("h3", match.table.name),
        paragraph(f"These runs: {own.detector}, {own.schedule}, {own.dataset}; {own.heads}."),
        *(_beside(match.table, group) for group in match.exact),
    ]
    if not match.exact:
        parts.append(paragraph("No published row has this protocol, so none is compared with these runs."))
    for group, differs in match.nearest:
        name = f"{group.detector}, {group.schedule}"
        note = alarm(f"Not comparable; differs in {'; '.join(differs)}.")
        parts.append(
            details(name, note, _group_table(group, f"Published under another protocol: {name}", match.table.name))
        )
    return parts


def _beside(own: Table, group: Group) -> Markup:
    columns = {name: _published_name(names, group.metrics) for name, names in SAME.items()}
    columns = {name: published for name, published in columns.items() if published is not None}
    rows: list[Row] = []
    for init in own.inits:
        values = [own.row(init, "bbox", name) for name in columns]
        n = next((row.n for row in values if row), 0)
        numbers = [f"{row.mean:.2f}" if row else "" for row in values]
        rows.append([init, *numbers, Cell(f"these runs, n={n}", "left")])
    for row in group.rows:
        names = [_published_name(SAME[name], row["metrics"]) for name in columns]
        rows.append([row_name(row), *(_value(group, row, name) for name in names), _sources(row)])
    caption = f"These runs and published rows of the same protocol ({group.detector}, {group.schedule})"
    return table(["init", *columns, "source"], rows, caption, within=own.name)


def _published_name(names: Sequence[str], metrics: Sequence[str] | Mapping[str, object]) -> str | None:
    return next((name for name in names if name in metrics), None)


def _group_table(group: Group, caption: str, config: str) -> Markup:
    rows: list[Row] = [
        [row_name(row), *(_value(group, row, metric) for metric in group.metrics), _sources(row)] for row in group.rows
    ]
    return table(["init", *group.metrics, "source"], rows, caption, within=config)


def _value(group: Group, row: PublishedRow, metric: str | None) -> str:
    if metric is None or metric not in row["metrics"]:
        return ""
    return f"{row['metrics'][metric]} {group.shown_gap(row, metric)}"


def _sources(row: PublishedRow) -> Cell:
    return Cell("; ".join(row["sources"]), "left")
