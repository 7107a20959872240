"""gap.tex: a booktabs table per config in the papers' layout, with caption and label.

Under every mean is its difference to the reference with the 95 % interval.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from transfer.report.content import Report
from transfer.report.csv_rows import (
    MAIN,
    ConfigRows,
    CsvRow,
    by_config,
    interval_methods,
    mean_caption,
    title,
    unbounded,
)
from transfer.report.escaping import one_line, tex_text

NEEDS = r"% needs \usepackage{booktabs}"
BEYOND = "* The interval reaches beyond what the metric can be: there the runs do not bound the difference."


def latex(report: Report) -> str:
    """The whole file."""
    labels: set[str] = set()
    tables = [_table(config, rows, _label(config, labels)) for config, rows in by_config(report.rows).items()]
    return "\n\n".join([NEEDS, *tables]) + "\n"


def _table(config: str, rows: ConfigRows, label: str) -> str:
    columns, role = rows.columns(MAIN), rows.role()
    head = " & ".join(["init", "$n$", *(tex_text(title(*column)) for column in columns)])
    lines = []
    for init in rows.inits:
        found = [rows.get(init, *column) for column in columns]
        lines.append(_line([tex_text(init), rows.n(init, columns), *map(_mean, found)]))
        if any(row and row[f"vs_{role}"] for row in found):
            lines.append(_line(["", "", *(_difference(row, role) for row in found)]))
    return "\n".join(
        [
            f"% {one_line(config)}",
            r"\begin{table}",
            r"\centering",
            f"\\caption{{{_caption(config, rows, columns, role)}}}",
            f"\\label{{{label}}}",
            f"\\begin{{tabular}}{{l{'r' * (len(columns) + 1)}}}",
            r"\toprule",
            _line([head]),
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _mean(row: CsvRow | None) -> str:
    if row is None:
        return "--"
    return f"{row['mean']}\\,$\\pm$\\,{row['std']}" if row["std"] else row["mean"]


def _difference(row: CsvRow | None, role: str) -> str:
    if row is None or not row[f"vs_{role}"]:
        return ""
    low, high = row[f"vs_{role}_low"], row[f"vs_{role}_high"]
    interval = f" [${low}$, ${high}$]{unbounded(row, role)}" if low else ""
    over = f" {row[f'vs_{role}_over']}" if row[f"vs_{role}_over"] else ""
    return f"{{\\footnotesize ${row[f'vs_{role}']}${interval}{over}}}"


def _caption(config: str, rows: ConfigRows, columns: Sequence[tuple[str, str]], role: str) -> str:
    """What the numbers are, of which runs, and what kind of interval they have."""
    shown = [row for init in rows.inits for column in columns if (row := rows.get(init, *column)) is not None]
    compared = [row for row in shown if row[f"vs_{role}"]]
    parts = [f"{tex_text(config)}: {tex_text(mean_caption(rows))}."]
    if compared:
        kinds = interval_methods([row for row in compared if row[f"vs_{role}_low"]], role)
        interval = f"with its single 95 % interval ({kinds})" if kinds else "(no interval)"
        parts.append(f"Below it the difference to {tex_text(compared[0][f'vs_{role}_init'])} {tex_text(interval)}.")
    if any(unbounded(row, role) for row in compared):
        parts.append(BEYOND)
    return " ".join(parts).replace("±", r"$\pm$")


def _label(config: str, taken: set[str]) -> str:
    """``tab:CONFIG`` of letters, digits and hyphens, numbered where two configs would share it."""
    name = "tab:" + (re.sub(r"[^A-Za-z0-9]+", "-", config).strip("-") or "config")
    label, number = name, 1
    while label in taken:
        number += 1
        label = f"{name}-{number}"
    taken.add(label)
    return label
