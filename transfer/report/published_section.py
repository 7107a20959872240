"""The report's section on published numbers: matching rows beside one's own, others under what they differ in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from transfer.comparison.gap import Table
from transfer.literature.rows import Group, Record, load, matching, protocol_of, row_name, shown_gap
from transfer.report.page import Section, escape, table

SAME = {"AP": ("AP", "APbb"), "AP50": ("AP50", "APbb50"), "AP75": ("AP75", "APbb75")}  # box metrics by either name


def published_section(tables: Sequence[Table], wanted: Sequence[Mapping[str, str]] = ()) -> Section:
    """Own means and published rows; a table holds published rows only when their protocol is that of the runs.

    ``wanted``: words that a row's fields must contain (a plan's published initialisations); references always stay.
    """
    parts = []
    records = [r for r in load() if not wanted or r["init"] in ("supervised", "random") or _is_wanted(r, wanted)]
    for one in tables:
        finished = [run for run in one.runs if run.finished]
        if not finished:
            continue
        own = protocol_of(finished[0].record)
        exact, nearest = matching(records, own)
        parts.append(f"<h3>{escape(one.name)}</h3>")
        parts.append(f"<p>{escape(f'These runs: {own.detector}, {own.schedule}, {own.dataset}; {own.heads}.')}</p>")
        parts += [_beside(one, group) for group in exact]
        if not exact:
            parts.append("<p>No published row has this protocol, so none is put beside these runs.</p>")
        for group, differs in nearest[:3]:
            note = f'<p class="alarm" role="note">Not comparable; differs in {escape("; ".join(differs))}.</p>'
            rows = _group_table(group, f"Published under another protocol: {group.detector}, {group.schedule}")
            parts.append(
                f"<details><summary>{escape(f'{group.detector}, {group.schedule}')}</summary>{note}{rows}</details>"
            )
    return Section("published", "Published numbers", "".join(parts))


def _is_wanted(record: Record, wanted: Sequence[Mapping[str, str]]) -> bool:
    return any(all(v.lower() in str(record.get(k, "")).lower() for k, v in words.items()) for words in wanted)


def _beside(one: Table, group: Group) -> str:
    columns = [name for name, names in SAME.items() if any(n in group.metrics for n in names)]
    rows = []
    for init in one.inits:
        found = [one.row(init, "bbox", name) for name in columns]
        n = next((f.n for f in found if f), 0)
        cells = [f"{f.mean:.2f}" if f else "" for f in found]
        rows.append([escape(init), *cells, f'<td class="left">these runs, n={n}</td>'])
    for row in group.rows:
        cells = []
        for name in columns:
            key = next((n for n in SAME[name] if n in row["metrics"]), None)
            cells.append(f"{row['metrics'][key]} {shown_gap(group.gap(row, key))}" if key else "")
        rows.append([escape(row_name(row)), *cells, f'<td class="left">{escape("; ".join(row["sources"]))}</td>'])
    return table(["init", *columns, "source"], rows, "These runs and published rows of the same protocol")


def _group_table(group: Group, caption: str) -> str:
    rows = []
    for row in group.rows:
        cells = [
            f"{row['metrics'][m]} {shown_gap(group.gap(row, m))}" if m in row["metrics"] else "" for m in group.metrics
        ]
        source = f'<td class="left">{escape("; ".join(row["sources"]))}</td>'
        rows.append([escape(row_name(row)), *(escape(cell) for cell in cells), source])
    return table(["init", *group.metrics, "source"], rows, caption)
