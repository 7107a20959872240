"""The page's last sections: the runs behind its numbers, and how to make the page again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from runtime.provenance import provenance
from transfer.comparison.gap import Table
from transfer.evaluate.headline import headline
from transfer.records.run import Run
from transfer.report.content import Report
from transfer.report.csv_rows import number
from transfer.report.markup import Markup
from transfer.report.page import Section, details, paragraph, preformatted, table

COLUMNS = [
    *("run", "AP or AR", "iterations", "train s", "backbone sha256", "data sha256"),
    *("engine", "hardware", "code", "command"),
]
DIGITS = 12  # of a sha256 or a commit: enough to recognise it


def runs_section(tables: Sequence[Table]) -> Section:
    """One line per run; the commands in full, since a command is what makes the run again."""
    parts: list[Markup] = []
    for one in tables:
        if rows := [_row(run) for run in one.runs if run.finished]:
            body = table(COLUMNS, rows, f"Runs of {one.name}", words=True)
            parts.append(details(f"{one.name}: {len(rows)} runs", body))
    return Section("provenance", "Provenance", parts)


def _row(run: Run) -> list[str]:
    record = run.record
    origin = record.get("provenance") or {}
    git = origin.get("git") or {}
    hardware = record.get("hardware") or origin.get("hardware") or {}
    data = [one["sha256"] or "" for part in record["datasets"].values() for one in part]
    return [
        run.name,
        number(run.metrics.get(headline(run.metrics) or ("", ""))),
        str(record["iterations"]),
        f"{(record.get('seconds') or {}).get('train') or 0:.0f}",
        (record["init"].get("sha256") or "none")[:DIGITS],
        " ".join(sha[:DIGITS] for sha in data),
        " ".join([record["engine"]["name"], *(f"{k} {v}" for k, v in record["engine"]["versions"].items())]),
        ", ".join(str(v) for v in [hardware.get("cpu"), *(hardware.get("gpus") or [])] if v),
        _code(git.get("commit"), git.get("dirty")),
        shlex.join(map(str, origin.get("argv") or [])),
    ]


def _code(commit: str | None, dirty: bool | None) -> str:
    return (commit or "unknown")[:DIGITS] + (" + changes" if dirty else "")


def again_section(report: Report) -> Section:
    """The command, the plan it read, and what wrote this page."""
    now = provenance([])
    code = _code(now["git"]["commit"], now["git"]["dirty"])
    by = f"Written {now['time']} by version {now['version']} (code {code}, Python {now['python']})."
    parts = [preformatted(report.command, "Command"), paragraph(by, "soft")]
    if report.plan:
        parts.insert(1, details("The plan", preformatted(report.plan, "The plan")))
    return Section("command", "Make it again", parts)
