"""The page of a GPU check: what ran where, what passed, and every figure."""

from __future__ import annotations

from typing import Any


def page(record: dict[str, Any]) -> str:
    """Markdown of the record that gpu_check.py writes as JSON."""
    lines = ["# GPU check", "", *heading(record), ""]
    lines += ["| section | result | seconds | |", "|---|---|---|---|"]
    for name, section in record["sections"].items():
        reason = section["reason"].replace("|", "\\|").replace("\n", " ")
        lines.append(f"| {name} | {section['status']} | {section['seconds']:.0f} | {reason} |")
    for name, section in record["sections"].items():
        if section["figures"]:
            lines += ["", f"## {name}", "", *figures(section["figures"])]
    return "\n".join(lines) + "\n"


def heading(record: dict[str, Any]) -> list[str]:
    """Hardware, versions and the command, one item a line."""
    hardware, git = record["provenance"]["hardware"], record["provenance"]["git"]
    gpus = ", ".join(hardware["gpus"]) or "no GPU"
    versions = ", ".join(f"{k} {v}" for k, v in record["provenance"]["versions"].items())
    state = "" if git["dirty"] is False else " with uncommitted changes" if git["dirty"] else ""
    lines = [
        f"- {gpus}; {hardware['cpu']}, {hardware['cores']} cores, {hardware['memory_gib']} GiB",
        f"- {versions}",
        f"- {record['provenance']['time']}, commit {git['commit'] or 'not known'}{state}",
        f"- {record['seconds']:.0f} s in all",
    ]
    if record["tiny"] or record["device"] == "cpu":
        lines.append("- **A rehearsal on a CPU at the smallest sizes. None of its times says anything about a GPU.**")
    if record["interrupted"]:
        lines.append("- **Interrupted: the sections below the last one did not run.**")
    return lines


def figures(values: dict[str, Any]) -> list[str]:
    """A table for what has rows and columns, a line for everything else."""
    lines: list[str] = []
    for name, value in values.items():
        rows = _rows(value)
        if rows is None:
            lines.append(f"- {name}: {_text(value)}")
            continue
        columns = list(dict.fromkeys(column for row in rows.values() for column in row))
        lines += ["", f"{name}:", "", f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
        lines += [f"| {r} | {' | '.join(_text(row.get(c, '')) for c in columns)} |" for r, row in rows.items()]
        lines.append("")
    return lines


def _rows(value: Any) -> dict[str, dict[str, Any]] | None:
    """name -> {column: number}, with a third level folded into the row's name; None for what is no table."""
    if not isinstance(value, dict) or not value or not all(isinstance(row, dict) for row in value.values()):
        return None
    rows: dict[str, dict[str, Any]] = {}
    for name, row in value.items():
        nested = {f"{name}, {key}": one for key, one in row.items() if isinstance(one, dict)}
        rows.update(nested or {name: row})
    return rows


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    if isinstance(value, list):
        return "; ".join(_text(one) for one in value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(one)}" for key, one in value.items())
    return "not known" if value is None else str(value)
