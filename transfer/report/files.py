"""Writes gap.csv, gap.md, gap.tex and gap.html from a report, and on request its figures."""

from __future__ import annotations

from pathlib import Path

from runtime.atomic import write_text
from transfer.report.config_section import CsvCells, config_section
from transfer.report.content import Report
from transfer.report.csv_rows import to_csv
from transfer.report.figures import write_figures
from transfer.report.findings_section import findings_section
from transfer.report.first_screen import first_screen
from transfer.report.latex import latex
from transfer.report.leakage_section import leakage_section
from transfer.report.markdown import markdown
from transfer.report.page import Cell, Section, document, table
from transfer.report.provenance_sections import again_section, runs_section
from transfer.report.published_section import published_section
from transfer.report.schedules_section import schedules_section


def write_report(folder: Path, report: Report, *, figures: bool = False) -> dict[str, Path]:
    """Write the four files into ``folder``, with ``figures`` also ``figures/*.svg``; returns every path by its name."""
    parts = sections(report)
    files = {
        "gap.csv": to_csv(report.rows),
        "gap.md": markdown(report),
        "gap.tex": latex(report),
        "gap.html": document(report.title, first_screen(report), parts),
    }
    for name, content in files.items():
        write_text(folder / name, content)
    pictures = (
        write_figures(((part.heading, figure) for part in parts for figure in part.figures), folder / "figures")
        if figures
        else []
    )
    return {**{name: folder / name for name in files}, **{f"figures/{path.name}": path for path in pictures}}


def sections(report: Report) -> list[Section]:
    """The page's sections in order."""
    cells = CsvCells(report.rows)
    parts = [
        config_section(config, report.rows_by_config[config.table.name], i + 1, cells)
        for i, config in enumerate(report.comparison.configs)
    ]
    if (longer := schedules_section(report.comparison.schedules, report.rows_by_config, cells)) is not None:
        parts.append(longer)
    if report.searches:
        parts.append(_search_section(report))
    if report.published is not None:
        parts.append(published_section(report.published))
    if (findings := findings_section(report.comparison.tables)) is not None:
        parts.append(findings)
    if (leakage := leakage_section(report)) is not None:
        parts.append(leakage)
    return [*parts, runs_section(report.comparison.tables), again_section(report)]


def _search_section(report: Report) -> Section:
    body = table(
        ["config / initialisation", "held-out AP by learning rate"],
        [[name, Cell(str(search), "left")] for name, search in report.searches.items()],
        "Searched on a part of train that no run of the table was scored on",
    )
    return Section("search", "Learning-rate search", [body])
