"""gap.html: one self-contained page without scripts or requests; every gap in it is a string of gap.csv."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from transfer.report import charts as plots
from transfer.report.style import STYLE
from transfer.report.tables import MAIN, NOT_INDEPENDENT, ROLES, SIZES, Index, Record, span, summary, title

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"  # the page itself forbids every request
MOST_SENTENCES = 6  # comparisons in words before the first table


@dataclass(frozen=True)
class Section:
    """A part of the page: an anchor, a heading and finished HTML."""

    anchor: str
    heading: str
    body: str


def escape(value: object) -> str:
    """Text for HTML, also inside attributes."""
    return html.escape(str(value), quote=True)


def page(heading: str, lead: str, sections: Sequence[Section]) -> str:
    """The whole document."""
    links = "".join(f'<li><a href="#{s.anchor}">{escape(s.heading)}</a></li>' for s in sections)
    body = "".join(
        f'<section aria-labelledby="{s.anchor}"><h2 id="{s.anchor}">{escape(s.heading)}</h2>{s.body}</section>'
        for s in sections
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(heading)}</title><style>{STYLE}</style></head><body>"
        f'<a class="skip" href="#main">Skip to the results</a><header><h1>{escape(heading)}</h1>{lead}</header>'
        f'<nav aria-label="Contents"><details><summary>Contents</summary><ul>{links}</ul></details></nav>'
        f'<main id="main">{body}</main></body></html>\n'
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str, words: bool = False) -> str:
    """A real table with a caption and scoped headers. Cells: finished HTML, ``<td ...>``, ``<th ...>`` or inner text.

    ``words``: the cells are text, aligned to the left.
    """
    top = "".join(c if c.startswith("<th") else f'<th scope="col">{c}</th>' for c in head)
    lines = []
    for row in rows:
        first = f'<th scope="row">{row[0]}</th>'
        lines.append(f"<tr>{first}{''.join(c if c.startswith('<td') else f'<td>{c}</td>' for c in row[1:])}</tr>")
    kind = " class=words" if words else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table{kind}>'
        f"<caption><span>{escape(caption)}</span></caption><thead><tr>{top}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def summary_html(rows: Sequence[Record], limits: str = "") -> str:
    """What comes first: the main sentence, the limits of the runs, the other comparisons (many are folded away)."""
    said = summary(rows) or [
        "No comparison can be made yet: no two initialisations have a finished run with equal seed."
    ]
    first = f'<p class="summary"><strong>{escape(said[0])}</strong></p>'
    note = f'<p class="note">{escape(limits)}</p>' if limits else ""
    others = [f"<li>{escape(sentence)}</li>" for sentence in said[1:]]
    shown, folded = "".join(others[:MOST_SENTENCES]), others[MOST_SENTENCES:]
    more = f"{len(folded)} more comparisons"
    return (
        first
        + note
        + (f"<ul>{shown}</ul>" if shown else "")
        + (f"<details><summary>{more}</summary><ul>{''.join(folded)}</ul></details>" if folded else "")
    )


class Numbers:
    """Cells whose text is a field of gap.csv; each names its line and column there."""

    def __init__(self, rows: Sequence[Record]) -> None:
        self._line = {id(row): i for i, row in enumerate(rows)}

    def cell(self, record: Record | None, column: str) -> str:
        """One number of gap.csv, marked with where it stands."""
        if record is None or not record[column]:
            return ""
        return f'<span data-csv="{self._line[id(record)]}.{column}">{escape(record[column])}</span>'

    def value(self, record: Record | None) -> str:
        """Mean and spread."""
        if record is None:
            return ""
        spread = f" ± {self.cell(record, 'std')}" if record["std"] else ""
        return self.cell(record, "mean") + spread

    def gap(self, record: Record | None, role: str) -> str:
        """A coloured difference in brackets; its sign and verdict are also words, so colour is never alone."""
        if record is None or not record[f"vs_{role}"]:
            return ""
        verdict = record[f"vs_{role}_verdict"]
        hint = f'title="{escape(verdict)}" class="{verdict.replace(" ", "-")}"'
        return f"<span {hint}>({self.cell(record, f'vs_{role}')})</span>"


def values_table(index: Index, numbers: Numbers) -> str:
    """Mean, spread and difference to supervised (or to random without it), as in the papers."""
    columns = index.columns(MAIN)
    role = next((r for r in ROLES if any(row[f"vs_{r}"] for row in index.rows)), ROLES[0])
    rows = []
    for init in index.inits:
        found = [index.get(init, *c) for c in columns]
        n = next((r["n"] for r in found if r), "0")
        cells = [f'<td class="num">{numbers.value(r)} {numbers.gap(r, role)}</td>' for r in found]
        rows.append([escape(init), n, *cells])
    reference = next((r[f"vs_{role}_init"] for r in index.rows if r[f"vs_{role}_init"]), None)
    note = f"in brackets the difference to {reference}" if reference else "no reference to compare with"
    spread = (
        " ± sample standard deviation over seeds" if any(r["std"] for r in index.rows) else " (one run each: no spread)"
    )
    return table(["init", "n", *(title(*c) for c in columns)], rows, f"Mean{spread}; {note}")


def differences_table(index: Index, role: str, names: Sequence[str], numbers: Numbers) -> str:
    """The differences to one reference in the metrics ``names``, with verdict and interval."""
    rows, reference, methods = [], "", set()
    for init in index.inits:
        for column in index.columns(names):
            r = index.get(init, *column)
            if r is None or not r[f"vs_{role}"]:
                continue
            reference = r[f"vs_{role}_init"]
            methods.add(r[f"vs_{role}_interval"])
            verdict = r[f"vs_{role}_verdict"]
            bounds = f"[{numbers.cell(r, f'vs_{role}_low')}, {numbers.cell(r, f'vs_{role}_high')}]"
            cells = [
                f'<td class="num">{numbers.cell(r, f"vs_{role}")}</td>',
                f'<td class="left nowrap {verdict.replace(" ", "-")}">{verdict}</td>',
                f'<td class="num">{bounds if span(r, role) else "none"}</td>',
                r[f"vs_{role}_n"],
            ]
            rows.append([f"{escape(init)}, {title(*column)}", *cells])
    if not rows:
        return ""
    head = ["comparison", "difference", '<th scope="col" class="left">verdict</th>', "95 % interval", "n"]
    return table(head, rows, f"Difference to {reference} ({'; '.join(sorted(methods))})")


def dots_figure(index: Index, role: str) -> str:
    """The differences of the main metrics as dots with intervals."""
    dots, reference = [], ""
    for column in index.columns(MAIN):
        for init in plotted(index, role):
            r = index.get(init, *column)
            if r is not None and r[f"vs_{role}"]:
                reference = r[f"vs_{role}_init"]
                low, high = (float(r[f"vs_{role}_{k}"]) if r[f"vs_{role}_{k}"] else None for k in ("low", "high"))
                value, verdict = float(r[f"vs_{role}"]), r[f"vs_{role}_verdict"]
                dots.append(plots.Dot(title(*column), init, value, low, high, verdict))
    if not dots:
        return ""
    name = f"Differences to {reference}"
    kind = " with 95 % intervals" if any(dot.low is not None for dot in dots) else " (one run each: no interval)"
    return figure(plots.dot_intervals(dots[:60], name, f"difference to {reference}, AP"), name + kind)


def plotted(index: Index, role: str) -> list[str]:
    """Initialisations drawn against a reference.

    Random initialisation is far behind the supervised one: beside others it would set the scale and hide them, and the
    plot of differences to random shows the same distance.
    """
    random = {row["vs_random_init"] for row in index.rows}
    return [i for i in index.inits if i not in random] if role == "supervised" and len(index.inits) > 2 else index.inits


def figure(picture: str, caption: str) -> str:
    """A picture with a caption."""
    return f"<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>"


def class_figure(index: Index, role: str, styles: dict[str, int]) -> str:
    """Per-class differences, largest first; a long tail is cut in the middle and the csv has all of it."""
    columns = [(task, metric) for task in ("bbox", "segm") for metric in index.classes(task)][:2000]
    groups: dict[str, dict[str, float]] = {}
    for column in columns:
        if column[0] != columns[0][0]:
            break
        found = {i: r for i in plotted(index, role) if (r := index.get(i, *column)) and r[f"vs_{role}"]}
        if found:
            groups[column[1].removeprefix("AP-")] = {i: float(r[f"vs_{role}"]) for i, r in found.items()}
    if not groups:
        return ""
    order = sorted(groups, key=lambda name: -max(groups[name].values()))
    kept = order if len(order) <= 24 else order[:12] + order[-12:]
    reference = next(r[f"vs_{role}_init"] for r in index.rows if r[f"vs_{role}_init"])
    cut = "" if len(order) == len(kept) else f" (the 12 largest and 12 smallest of {len(order)}; gap.csv has all)"
    name = f"AP per class, difference to {reference}{cut}"
    picture = plots.bars({k: groups[k] for k in kept}, styles, name, f"difference to {reference}, AP")
    return "<h3>Classes</h3>" + figure(picture, name)


def config_section(
    index: Index, config: str, number: int, numbers: Numbers, styles: dict[str, int], alarms: str, extra: str
) -> Section:
    """Tables and plots of one config: what is not like for like before any number, ``extra`` before the classes."""
    if not index.rows:
        return Section(f"config{number}", config, "<p>No finished run.</p>" + extra)
    body = alarms + values_table(index, numbers)
    for role in ROLES:
        body += dots_figure(index, role) + differences_table(index, role, MAIN, numbers)
        sizes = differences_table(index, role, SIZES, numbers)
        body += f"<details><summary>By object size and frequency</summary>{sizes}</details>" if sizes else ""
    body += f'<p class="soft">{escape(NOT_INDEPENDENT)}</p>' + extra
    role = next((r for r in ROLES if any(row[f"vs_{r}"] for row in index.rows)), ROLES[0])
    body += class_figure(index, role, styles)
    return Section(f"config{number}", config, body)
