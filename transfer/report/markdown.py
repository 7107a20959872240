"""gap.md: the comparisons in words, tables of values, and differences with their intervals."""

from __future__ import annotations

from collections.abc import Sequence

from transfer.comparison.comparison import Failure
from transfer.report.content import Report
from transfer.report.csv_rows import MAIN, ROLES, SINGLE_INTERVALS, SIZES, ConfigRows, interval, mean_and_spread, title
from transfer.report.escaping import markdown_code, markdown_text
from transfer.report.sentences import protocol_sentences, spread_sentence


def markdown(report: Report) -> str:
    """The whole file."""
    parts = [f"# {markdown_text(report.title)}\n"]
    parts += [f"{markdown_text(text)}\n" for text in (report.limits, *report.sentences, report.next_step) if text]
    for table in report.comparison.tables:
        for allowed in table.allowed:
            heading = markdown_text(f"Not like for like on {table.name}: {allowed.key}")
            parts.append(f"**{heading}** ({markdown_text(allowed.by_init)}).\n")
    for config in report.comparison.configs:
        rows = report.rows_by_config[config.table.name]
        parts += [f"## {markdown_text(config.table.name)}\n"]
        parts += [f"{markdown_text(sentence)}\n" for sentence in protocol_sentences(config.table)]
        parts += [_values(rows) + _differences(rows)]
        parts += _failures(config.failures)
        parts += [f"- {markdown_text(spread_sentence(spread))}\n" for spread in config.spreads]
    if report.searches:
        parts.append("## Learning-rate search (held-out part of train)\n")
        parts += [markdown_text(f"- {name}: {search}") for name, search in report.searches.items()]
    for result in report.leakage:
        parts += [f"**{markdown_text(result.line())}**\n"] if result.findings else []
    parts.append(f"\n{SINGLE_INTERVALS}\n\nMade by {markdown_code(report.command)}.\n")
    return "\n".join(parts)


def _failures(failures: Sequence[Failure]) -> list[str]:
    lines = "".join(f"- {markdown_text(f'{failure.run}: {failure.error}')}\n" for failure in failures)
    return ["Runs without a number:\n", lines] if failures else []


def _values(rows: ConfigRows) -> str:
    columns = rows.columns(MAIN)
    if not columns:
        return "No finished run.\n"
    text = _line(["init", "n", *(title(*column) for column in columns)])
    text += _line(["---", *["---:"] * (len(columns) + 1)])
    for init in rows.inits:
        values = [rows.get(init, *column) for column in columns]
        text += _line([init, rows.n(init, columns), *(mean_and_spread(row) if row else "" for row in values)])
    return text + "\n"


def _differences(rows: ConfigRows) -> str:
    text = ""
    for role in ROLES:
        differences = [
            (title(*column), row)
            for init in rows.inits
            for column in rows.columns((*MAIN, *SIZES))
            if (row := rows.get(init, *column)) and row[f"vs_{role}"]
        ]
        if differences:
            reference = differences[0][1][f"vs_{role}_init"]
            text += _line(["init", "metric", f"difference to {reference}", "95 % interval", "n", "verdict"])
            text += _line(["---", "---", "---:", "---", "---:", "---"])
            for metric, row in differences:
                numbers = [row[f"vs_{role}"], interval(row, role), row[f"vs_{role}_n"], row[f"vs_{role}_verdict_text"]]
                text += _line([row["init"], metric, *numbers])
            text += "\n"
    return text


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(markdown_text, cells)) + " |\n"
