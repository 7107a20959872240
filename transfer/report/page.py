"""The parts a page is built of: one self-contained document without scripts or requests, sections, tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from transfer.report.figures import Figure
from transfer.report.markup import NOTHING, Child, Markup, element
from transfer.report.style import GAP_STYLE, STYLE

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"  # the page itself forbids every request


@dataclass(frozen=True)
class FigureWithTable:
    """A figure with its numbers: the table is folded under the chart, and beside it on a wide screen."""

    figure: Figure
    summary: str  # what the table is called while it is folded
    table: Markup

    def html(self, section: str) -> Markup:
        """Chart and table."""
        numbers = element("details", element("summary", f"{self.summary}, {section}"), self.table, class_="numbers")
        return element("div", self.figure.html(section), numbers, class_="charted")


Part = Markup | Figure | FigureWithTable


@dataclass(frozen=True)
class Section:
    """A part of the page: an anchor, a heading, and markup and figures in order."""

    anchor: str
    heading: str
    parts: Sequence[Part]

    @property
    def figures(self) -> list[Figure]:
        """Its figures."""
        charts = (part.figure if isinstance(part, FigureWithTable) else part for part in self.parts)
        return [chart for chart in charts if isinstance(chart, Figure)]

    @property
    def html(self) -> Markup:
        """The section; its pictures are named after it, since other sections have pictures of the same name."""
        body = [part if isinstance(part, Markup) else part.html(self.heading) for part in self.parts]
        return element("section", element("h2", self.heading, id=self.anchor), *body, aria_labelledby=self.anchor)


@dataclass(frozen=True)
class Cell:
    """A cell of a table with a class of the style sheet."""

    content: Child
    class_: str | None = None


Row = list[Child | Cell]


def document(heading: str, first_screen: Markup, sections: Sequence[Section]) -> str:
    """The whole page as text."""
    links = [element("li", element("a", section.heading, href=f"#{section.anchor}")) for section in sections]
    contents = element("details", element("summary", "Contents"), element("ul", *links))
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width,initial-scale=1"),
        element("link", rel="icon", href="data:,"),
        element("title", heading),
        element("style", Markup(STYLE + GAP_STYLE)),
    )
    body = element(
        "body",
        element("a", "Skip to the results", class_="skip", href="#main"),
        element("header", element("h1", heading), first_screen),
        element("nav", contents, aria_label="Contents"),
        element("main", *(section.html for section in sections), id="main"),
    )
    return f"<!doctype html>{element('html', head, body, lang='en').source}\n"


def details(heading: str, *content: Child) -> Markup:
    """Content that is folded away under its heading."""
    return element("details", element("summary", heading), *content)


def paragraph(text: Child, class_: str | None = None) -> Markup:
    """A paragraph; "" gives nothing."""
    return element("p", text, class_=class_) if text else NOTHING


def alarm(*content: Child) -> Markup:
    """A paragraph in red: what is not comparable."""
    return element("p", *content, class_="alarm", role="note")


def table(
    head: Sequence[str | Cell],
    rows: Iterable[Sequence[Child | Cell]],
    caption: str,
    *,
    words: bool = False,
    within: str = "",
) -> Markup:
    """A table with a caption and scoped headers; the first cell of a row is its header.

    ``words``: the cells are text, aligned to the left. ``within``: what the table is part of, where the page has other
    tables with this caption; a screen reader lists them by name.
    """
    top = [_cell("th", cell, scope="col") for cell in head]
    lines = [
        element("tr", _cell("th", first, scope="row"), *(_cell("td", cell) for cell in rest)) for first, *rest in rows
    ]
    body = element(
        "table",
        element("caption", element("span", caption)),
        element("thead", element("tr", *top)),
        element("tbody", *lines),
        class_="words" if words else None,
    )
    return scrollable("div", body, f"{within}: {caption}" if within else caption, class_="scroll")


def preformatted(text: str, name: str) -> Markup:
    """Text with its line breaks, e.g. a command."""
    return scrollable("pre", text, name)


def scrollable(tag: str, content: Child, name: str, class_: str | None = None) -> Markup:
    """An element that may be wider than the page: the keyboard reaches it, and then scrolls it."""
    return element(tag, content, class_=class_, tabindex=0, role="region", aria_label=name)


def _cell(tag: str, cell: Child | Cell, **attributes: str) -> Markup:
    if isinstance(cell, Cell):
        return element(tag, cell.content, **attributes, class_=cell.class_)
    return element(tag, cell, **attributes)
