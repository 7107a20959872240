"""gap.tex: a booktabs table per config in the papers' layout, differences to supervised in brackets."""

from __future__ import annotations

from collections.abc import Sequence

from transfer.report.content import Report
from transfer.report.csv_rows import MAIN, ConfigRows, by_config, title
from transfer.report.escaping import one_line, tex_text


def latex(report: Report) -> str:
    """The whole file."""
    tables = [_table(config, rows) for config, rows in by_config(report.rows).items()]
    return "\n\n".join(["% needs \\usepackage{booktabs}", *tables]) + "\n"


def _table(config: str, rows: ConfigRows) -> str:
    columns = rows.columns(MAIN)
    head = " & ".join(["init", "$n$", *(tex_text(title(*column)) for column in columns)])
    lines = [f"{tex_text(init)} & {_cells(rows, init, columns)} \\\\" for init in rows.inits]
    return "\n".join(
        [
            f"% {one_line(config)}",
            f"\\begin{{tabular}}{{l{'r' * (len(columns) + 1)}}}",
            "\\toprule",
            f"{head} \\\\",
            "\\midrule",
            *lines,
            "\\bottomrule",
            "\\end{tabular}",
        ]
    )


def _cells(rows: ConfigRows, init: str, columns: Sequence[tuple[str, str]]) -> str:
    cells = [rows.n(init, columns)]
    for column in columns:
        row = rows.get(init, *column)
        if row is None:
            cells.append("--")
            continue
        spread = f"\\,$\\pm$\\,{row['std']}" if row["std"] else ""
        over = f" {row['vs_supervised_over']}" if row["vs_supervised_over"] else ""
        gap = f" (${row['vs_supervised']}${over})" if row["vs_supervised"] else ""
        cells.append(f"{row['mean']}{spread}{gap}")
    return " & ".join(cells)
