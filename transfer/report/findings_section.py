"""The page's table of findings: facts about the data that a number should not be read without."""

from __future__ import annotations

from collections.abc import Sequence

from transfer.comparison.gap import Table
from transfer.records.run import findings_of
from transfer.report.page import Section, paragraph, table

COLUMNS = ["config", "data set", "finding", "count", "example", "effect"]


def findings_section(tables: Sequence[Table]) -> Section | None:
    """Every finding of each config's runs once; None where there is none."""
    rows = [
        [one.name, name, finding.kind, str(finding.count), finding.example, finding.message]
        for one in tables
        for name, finding in dict.fromkeys(pair for run in one.runs for pair in findings_of(run))
    ]
    if not rows:
        return None
    text = "What the readers of the data noticed. All initialisations of a config share its data and these findings."
    return Section("findings", "Data findings", [paragraph(text), table(COLUMNS, rows, "Findings", words=True)])
