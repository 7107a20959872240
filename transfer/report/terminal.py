"""The gap as plain text for a terminal: a table per config, then the comparisons in words."""

from __future__ import annotations

from runtime.terminal import aligned
from transfer.report.content import Report
from transfer.report.csv_rows import MAIN, CsvRow, bracket, by_config, mean_and_spread, title
from transfer.report.escaping import one_line
from transfer.report.sentences import spread_sentence


def terminal(report: Report) -> str:
    """Mean, spread, and in brackets the difference to supervised, per config; then the sentences."""
    tables = []
    for config, rows in by_config(report.rows).items():
        columns = rows.columns(MAIN)
        lines = [["init", "n", *(one_line(title(*column)) for column in columns)]]
        for init in rows.inits:
            values = [rows.get(init, *column) for column in columns]
            lines.append([one_line(init), rows.n(init, columns), *(_cell(row) if row else "" for row in values)])
        tables.append(f"{one_line(config)}\n{aligned(lines)}")
    return "\n".join(["\n\n".join(tables), *map(one_line, lines_of(report))])


def lines_of(report: Report) -> list[str]:
    """The comparisons in words, where the spread of repeated pretraining comes from, and what to do next."""
    spreads = [
        spread_sentence(spread)
        for config in report.comparison.configs
        for spread in config.spreads
        if spread.with_a_run is not None
    ]
    return [text for text in (*report.sentences, *spreads, report.next_step) if text]


def _cell(row: CsvRow) -> str:
    return f"{mean_and_spread(row)} {bracket(row, 'supervised')}".rstrip()
