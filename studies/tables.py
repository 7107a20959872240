"""A study's rows as a csv in docs/results/statistics and as a markdown table on stdout."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from runtime.atomic import write_text

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "results" / "statistics"
Row = Mapping[str, object]


def save(name: str, rows: Sequence[Row]) -> Path:
    """Write ``rows`` (all with the same keys) to NAME.csv; numbers with 4 digits after the point."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _number(value, 4) for key, value in row.items()} for row in rows)
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.csv"
    write_text(path, out.getvalue())
    return path


def show(title: str, rows: Sequence[Row]) -> None:
    """Print ``rows`` as a markdown table under ``title``; numbers with 3 digits after the point."""
    columns = list(rows[0])
    print(f"\n{title}\n\n| {' | '.join(columns)} |\n|{'|'.join(' --- ' for _ in columns)}|")
    for row in rows:
        print(f"| {' | '.join(_number(row[column], 3) for column in columns)} |")


def _number(value: object, digits: int) -> str:
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)
