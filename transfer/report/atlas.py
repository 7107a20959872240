"""One offline page of every published row: filter, sort, compare two protocols. Without its script it is a table."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from transfer.literature.effects import BROUGHT, Effect, effects
from transfer.literature.exports import LICENCE
from transfer.literature.noise import TYPICAL_SOURCES
from transfer.literature.rows import PublishedRow
from transfer.literature.setups import FIELDS, protocols, setup_of, value_text
from transfer.report.atlas_table import published_table, short_dataset
from transfer.report.escaping import minus_signs
from transfer.report.markup import Markup, element, join
from transfer.report.page import Cell, Row, details, paragraph, table
from transfer.report.style import STYLE

SCRIPT, OWN_STYLE = (Path(__file__).with_name(f"atlas.{kind}") for kind in ("js", "css"))
TITLE = "Published transfer results"


def atlas(rows: Sequence[PublishedRow]) -> str:
    """The whole page as text."""
    script = SCRIPT.read_text(encoding="utf-8")
    anchors = {name: f"p{i}" for i, name in enumerate(dict.fromkeys(row["protocol"] for row in rows))}
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_policy(script)),
        element("meta", name="viewport", content="width=device-width,initial-scale=1"),
        element("link", rel="icon", href="data:,"),
        element("title", TITLE),
        element("style", Markup(STYLE + OWN_STYLE.read_text(encoding="utf-8"))),
    )
    main = element(
        "main",
        _filters(),
        element("p", f"{len(rows)} results", id="count", role="status"),
        element("section", id="comparison", aria_live="polite", aria_label="Two rows compared"),
        published_table(rows, anchors),
        *_sections(rows, anchors),
        id="main",
    )
    body = element(
        "body",
        element("a", "Skip to the results", class_="skip", href="#main"),
        element("header", element("h1", TITLE), *_introduction(rows)),
        main,
        element("script", Markup(_data(rows)), type="application/json", id="atlas-data"),
        element("script", Markup(script)),
    )
    return f"<!doctype html>{element('html', head, body, lang='en').source}\n"


def _policy(script: str) -> str:
    """No request, and no script but this one."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"


def _introduction(rows: Sequence[PublishedRow]) -> list[Markup]:
    papers = len({row["paper"] for row in rows})
    return [
        paragraph(
            f"{len(rows)} results from {papers} papers and repositories: how well pretrained backbones transfer to "
            "detection and segmentation. Every row names its source.",
            "summary",
        ),
        paragraph(
            "A gap is to the supervised row of the same paper, data, detector, schedule and protocol. Where that paper "
            "has none, the row names the paper whose supervised row is used. Rows without either have no gap."
        ),
        details(
            "How to read the gaps and their bars",
            paragraph(
                "The bar is the 95 % noise of the gap's trials, the tick is the gap, on a scale from "
                "\N{MINUS SIGN}6 to +6 points. The noise comes from the spread that the source gives, or (*) from a "
                f"typical one, for single runs: {'; '.join(TYPICAL_SOURCES)}. A row that states no trials counts as "
                "one run."
            ),
            paragraph(
                "A gap within its noise says nothing about the method. Beyond it, it is about these weights: the "
                "pretraining is one run in almost every row, and no spread contains it."
            ),
        ),
    ]


def _filters() -> Markup:
    names = {"data": "Data", "family": "Detector", "backbone": "Backbone", "protocol": "Protocol", "year": "Year"}
    lists = [
        element("label", label, element("select", element("option", "all", value=""), name=name))
        for name, label in names.items()
    ]
    return element(
        "form",
        element("label", "Words in the row", element("input", type="search", name="search", autocomplete="off")),
        *lists,
        element("button", "Show all", type="reset"),
        element("button", "Compare two rows", type="button", id="compare-mode", aria_pressed="false"),
        id="filters",
        hidden=True,
        aria_label="Filter the results",
    )


def _sections(rows: Sequence[PublishedRow], anchors: Mapping[str, str]) -> list[Markup]:
    datasets = dict.fromkeys(row["dataset"] for row in rows)
    names: list[Row] = [[short_dataset(name), Cell(name, "left")] for name in datasets if short_dataset(name) != name]
    return [
        element("h2", "What a difference of protocol was worth"),
        paragraph(
            "Medians over pairs of rows of the same weights that differ in this one field. A difference that no pair "
            "shows is not listed; that does not make it zero."
        ),
        _effect_table(),
        element("h2", "Protocols"),
        *(_protocol(name, anchor) for name, anchor in anchors.items()),
        element("h2", "Data sets"),
        table(["name", "training and test sets"], names, "Names of data sets in full", words=True),
        element("h2", "Licence"),
        paragraph(LICENCE),
    ]


def _effect_table() -> Markup:
    words = [Cell(name, "left") for name in ("from", "to")]
    head: list[str | Cell] = ["field", *words, "points", "lowest to highest", "pairs", Cell("source", "left")]
    return table(head, [_effect_row(effect) for effect in effects()], "Effects of protocol differences, in points")


def _effect_row(effect: Effect) -> Row:
    span = minus_signs(f"{effect.low:+.1f} to {effect.high:+.1f}") if effect.pairs > 1 else ""
    pairs = str(effect.pairs) if effect.pairs else "stated"
    values = [Cell(short_dataset(value_text(value)), "left") for value in (effect.before, effect.after)]
    points = minus_signs(f"{effect.points:+.2f} {effect.metric}")
    return [
        FIELDS[effect.field],
        *values,
        Cell(points, "nowrap"),
        Cell(span, "nowrap"),
        pairs,
        Cell(effect.source, "left"),
    ]


def _protocol(name: str, anchor: str) -> Markup:
    entry = protocols()[name]
    fields = {**entry["setup"]}
    stated = [f"{FIELDS[field]}: {value_text(fields[field])}" for field in FIELDS if field in fields]
    for extra, kind in (("by_dataset", "on"), ("by_neck", "with")):
        for words, setup in entry[extra].items():
            stated += [f"{FIELDS[field]} {kind} {words}: {value_text(value)}" for field, value in setup.items()]
    items = (
        element("ul", *(element("li", text) for text in stated)) if stated else join(["No further field is stated."])
    )
    body = details(f"{entry['family']}: {entry['summary']}", paragraph(f"Named “{name}” in the rows."), items)
    return element("div", body, id=anchor)


def _data(rows: Sequence[PublishedRow]) -> str:
    """What the script compares rows with: the distinct setups, the setup of every row, the effects."""
    setups: dict[str, int] = {}
    numbers = [setups.setdefault(json.dumps(setup_of(row)), len(setups)) for row in rows]
    content = {
        "fields": FIELDS,
        "brought": {field: sorted(others) for field, others in BROUGHT.items()},
        "setups": [json.loads(setup) for setup in setups],
        "rows": numbers,
        "effects": [
            {key: getattr(effect, key) for key in ("field", "before", "after", "points", "pairs", "source", "metric")}
            for effect in effects()
        ],
    }
    return json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")  # cannot end the script element
