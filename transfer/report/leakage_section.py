"""The page's table of test images that are also among training or pretraining images."""

from __future__ import annotations

from transfer.report.content import Report
from transfer.report.markup import Child
from transfer.report.page import Section, paragraph, table

COLUMNS = ["test set", "against", "shared test images", "what", "example", "effect"]


def leakage_section(report: Report) -> Section | None:
    """One line per kind of copy; a comparison without one has a line of its own. None for a report without a plan."""
    if not report.leakage and not report.leakage_note:
        return None
    rows: list[list[Child]] = []
    for result in report.leakage:
        names = [result.test, result.against]
        rows += [[*names, str(f.count), f.kind, f.example, f.message] for f in result.findings]
        if result.reason:
            rows.append([*names, "?", "not compared", "", result.reason])
        elif not result.findings:
            sizes = f"{result.images} and {result.against_images} images compared"
            rows.append([*names, "0", sizes, "", ""])
    parts = [paragraph(report.leakage_note)] if report.leakage_note else []
    if rows:
        parts.append(table(COLUMNS, rows, "Test images among training and pretraining images", words=True))
    return Section("leakage", "Leakage", parts)
