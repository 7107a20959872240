"""Reports written for tests, and readers of their page and csv."""

from __future__ import annotations

import csv
import html
import html.parser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transfer.comparison.comparison import complete
from transfer.comparison.gap import compare
from transfer.records.run import find_runs
from transfer.report.content import Report

REFERENCES = {"supervised": "supervised", "random": "random"}
COMMAND = "python transfer/measure_gap.py plan.yaml"
VOID = {"meta", "link", "img", "br", "line", "circle", "rect", "polygon", "polyline", "path"}


class Page(html.parser.HTMLParser):
    """Checks nesting and collects what the tests ask about."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.csv_cells: list[tuple[str, str]] = []
        self._cell: str | None = None
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        self._cell = dict(attrs).get("data-csv") or self._cell

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._cell:
            self.csv_cells.append((self._cell, data))
            self._cell = None


def report_on(root: Path, name: str = "toy", allow: Sequence[str] = (), **fields: Any) -> Report:
    """A report on the runs below ``root``."""
    tables = compare(list(find_runs(root)), REFERENCES, allow=allow)
    return Report(name, COMMAND, complete(tables), **fields)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
