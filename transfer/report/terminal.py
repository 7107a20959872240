"""The gap table as plain text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.terminal import aligned
from transfer.report.tables import MAIN, Record, by_config, shown, title


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
