"""Writes gap.md, gap.csv, gap.tex and gap.html from compared runs."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.atomic import write_text
from runtime.provenance import provenance
from transfer.comparison.gap import Table
from transfer.records.run import Run
from transfer.report.learning_curves import convergence_html
from transfer.report.page import Numbers, Section, config_section, escape, page, summary_html, table
from transfer.report.schedule_lengths import schedules_section
from transfer.report.tables import NOT_INDEPENDENT, Index, by_config, latex, markdown, number, records, summary, to_csv


@dataclass(frozen=True)
class Report:
    """What a report is made of besides the tables."""

    name: str
    command: str  # makes the report again
    errors: Mapping[str, str] = field(default_factory=dict)  # run folder -> what the runner saw
    searches: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # "config/init" -> grid record
    limits: str = ""  # the first paragraph: what these runs can and cannot show
    plan: str = ""  # the plan's YAML
    details: Mapping[str, str] = field(default_factory=dict)  # table -> HTML from stored detections
    extra: Sequence[Section] = ()  # finished sections, e.g. published rows


def write_report(folder: Path, tables: Sequence[Table], report: Report) -> dict[str, Path]:
    """Write the four files into ``folder`` and return their paths."""
    rows = records(tables)
    failures = {t.name: _failures(t, report.errors) for t in tables}
    files = {
        "gap.csv": to_csv(rows),
        "gap.md": _markdown(tables, rows, failures, report),
        "gap.tex": latex(rows),
        "gap.html": _html(tables, rows, failures, report),
    }
    for name, content in files.items():
        write_text(folder / name, content)
    return {name: folder / name for name in files}


def _failures(one: Table, errors: Mapping[str, str]) -> list[tuple[str, str]]:
    """(init and seed, why) of every run without numbers."""
    return [
        (f"{run.init}, seed {run.seed}", " ".join(errors.get(str(run.folder), run.error or run.status).split()))
        for run in one.runs
        if not run.finished
    ]


def _markdown(
    tables: Sequence[Table], rows: Sequence[dict[str, str]], failures: Mapping[str, Any], report: Report
) -> str:
    parts = [f"# {report.name}: the gap\n"]
    parts += [report.limits + "\n"] if report.limits else []
    parts += [f"{sentence}\n" for sentence in summary(rows)]
    for one in tables:
        parts += [f"**Not like for like on {one.name}: {key}** ({shown}).\n" for key, shown in _allowed(one)]
    parts.append(markdown(rows, failures))
    if report.searches:
        parts.append("## Learning-rate search (held-out part of train)\n")
        parts += [f"- {name}: {_search_text(record)}" for name, record in report.searches.items()]
    parts.append(f"\n{NOT_INDEPENDENT}\n\nMade by `{report.command}`.\n")
    return "\n".join(parts)


def _allowed(one: Table) -> list[tuple[str, str]]:
    return [(a.key, ", ".join(f"{init}: {value}" for init, value in a.values.items())) for a in one.allowed]


def _search_text(record: Mapping[str, Any]) -> str:
    scores = ", ".join(f"{rate} -> {number(score) or 'failed'}" for rate, score in record["held_out_AP"].items())
    edge = "; the best is at the edge of the grid" if record["at_edge"] else ""
    return f"held-out AP {scores or 'not run yet'}; chosen {record['chosen']}{edge}"


def _html(tables: Sequence[Table], rows: list[dict[str, str]], failures: Mapping[str, Any], report: Report) -> str:
    numbers = Numbers(rows)
    sections = []
    indices = by_config(rows)
    for i, one in enumerate(tables):
        extra = _failed_table(failures[one.name]) + convergence_html(one) + report.details.get(one.name, "")
        styles = {init: k for k, init in enumerate(one.inits)}  # the same colours in all pictures of a table
        index = indices.get(one.name, Index([]))
        sections.append(config_section(index, one.name, i + 1, numbers, styles, _alarms(one), extra))
    if (longer := schedules_section(tables, indices, numbers)) is not None:
        sections.append(longer)
    if report.searches:
        body = table(
            ["config / initialisation", "held-out AP by learning rate"],
            [[escape(name), f'<td class="left">{escape(_search_text(r))}</td>'] for name, r in report.searches.items()],
            "Searched on a part of train that no run of the table was scored on",
        )
        sections.append(Section("search", "Learning-rate search", body))
    sections += report.extra
    sections.append(Section("provenance", "Provenance", _provenance(tables)))
    sections.append(Section("command", "Make it again", _again(report)))
    return page(f"{report.name}: the gap", summary_html(rows, report.limits), sections)


def _again(report: Report) -> str:
    """The command, the plan it read, and what wrote this page."""
    made = provenance([])
    code = f"{(made['git']['commit'] or 'unknown')[:12]}{' + changes' if made['git']['dirty'] else ''}"
    plan = f"<details><summary>The plan</summary><pre>{escape(report.plan)}</pre></details>" if report.plan else ""
    by = f"Written {made['time']} by version {made['version']} (code {code}, Python {made['python']})."
    return f'<pre>{escape(report.command)}</pre>{plan}<p class="soft">{escape(by)}</p>'


def _alarms(one: Table) -> str:
    return "".join(
        f'<p class="alarm" role="note">Not like for like: <strong>{escape(key)}</strong> differs ({escape(shown)}).</p>'
        for key, shown in _allowed(one)
    )


def _failed_table(failures: Sequence[tuple[str, str]]) -> str:
    if not failures:
        return ""
    body = [[escape(name), escape(error)] for name, error in failures]
    return table(["run", "why there is no number"], body, "Runs without a number", words=True)


def _provenance(tables: Sequence[Table]) -> str:
    """One line per run; the commands in full, since a command is what makes the run again."""
    head = [
        "run",
        "AP",
        "iterations",
        "train s",
        "backbone sha256",
        "data sha256",
        "engine",
        "hardware",
        "code",
        "command",
    ]
    parts = []
    for one in tables:
        rows = [_provenance_row(run) for run in one.runs if run.finished]
        if rows:
            body = table(head, rows, f"Runs of {one.name}", words=True)
            parts.append(f"<details><summary>{escape(one.name)}: {len(rows)} runs</summary>{body}</details>")
    return "".join(parts)


def _provenance_row(run: Run) -> list[str]:
    record = run.record
    made = record.get("provenance") or {}
    git = made.get("git") or {}
    hardware = record.get("hardware") or made.get("hardware") or {}
    ap = next((v for (_, metric), v in run.metrics.items() if metric == "AP"), None)
    data = [one["sha256"] or "" for part in record["datasets"].values() for one in part]
    cells = [
        f"{run.init}, seed {run.seed}",
        number(ap),
        record["iterations"],
        f"{(record.get('seconds') or {}).get('train') or 0:.0f}",
        (record["init"].get("sha256") or "none")[:12],
        " ".join(d[:12] for d in data),
        " ".join([record["engine"]["name"], *(f"{k} {v}" for k, v in record["engine"]["versions"].items())]),
        ", ".join(str(v) for v in [hardware.get("cpu"), *(hardware.get("gpus") or [])] if v),
        (git.get("commit") or "unknown")[:12] + (" + changes" if git.get("dirty") else ""),
        shlex.join(map(str, made.get("argv") or [])),
    ]
    return [escape(cell) for cell in cells]
