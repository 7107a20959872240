"""The gap table as plain text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from transfer.report_tables import MAIN, Record, by_config, shown, title


def gap_table(rows: Sequence[Record]) -> str:
    """Mean, spread, and in brackets the difference to supervised, per config."""
    parts = []
    for config, index in by_config(rows).items():
        columns = index.columns(MAIN)
        lines = [["init", "n", *(title(*c) for c in columns)]]
        for init in index.inits:
            found = [index.get(init, *c) for c in columns]
            n = next((r["n"] for r in found if r), "0")
            lines.append([init, n, *(_cell(r) if r else "" for r in found)])
        parts.append(f"{config}\n{aligned(lines)}")
    return "\n\n".join(parts)


def _cell(record: Record) -> str:
    gap = f" ({record['vs_supervised']})" if record["vs_supervised"] else ""
    return shown(record) + gap


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Columns padded to their widest cell; the first is left-aligned."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = []
    for line in lines:
        cells = [cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths))]
        text.append("  " + "  ".join(cells).rstrip())
    return "\n".join(text)
