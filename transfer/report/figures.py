"""A chart with its name and caption: the page shows it, and ``--figures`` writes it as SVG and PDF files of its own."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from runtime.atomic import atomic_path, write_text
from transfer.report.charts import Chart
from transfer.report.markup import Markup, element
from transfer.report.pdf import can_draw, pdf_of
from transfer.report.style import GAP_STYLE, STYLE

NAMESPACE = "http://www.w3.org/2000/svg"
BACKGROUND = "svg{background:var(--bg)}"  # the picture may be shown on a light page to a reader with a dark setting


@dataclass(frozen=True)
class Figure:
    """``data`` is the chart, i.e. the numbers that are drawn."""

    name: str
    data: Chart
    caption: str

    def html(self, section: str) -> Markup:
        """The picture and its caption, coloured by the style sheet of the page around it."""
        return element("figure", self.data.draw().svg(f"{self.name}, {section}"), element("figcaption", self.caption))

    @property
    def file(self) -> str:
        """The picture as an SVG file, which brings the page's style sheet along."""
        picture = self.data.draw()
        style = element("style", Markup(STYLE + GAP_STYLE + BACKGROUND))
        return replace(picture, shapes=[style, *picture.shapes]).svg(self.name, xmlns=NAMESPACE).source + "\n"


def write_figures(figures: Iterable[tuple[str, Figure]], folder: Path) -> list[Path]:
    """Write each (heading of its section, figure) into ``folder`` as SECTION-FIGURE.svg; returns the files.

    Beside it stands SECTION-FIGURE.pdf where svglib is installed.
    """
    written = []
    for heading, figure in figures:
        path = folder / f"{_slug(heading)}-{_slug(figure.name)}.svg"
        content = figure.file
        write_text(path, content)
        written.append(path)
        if can_draw():
            with atomic_path(path.with_suffix(".pdf")) as partial:
                Path(partial).write_bytes(pdf_of(content, figure.name))
            written.append(path.with_suffix(".pdf"))
    return written


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", text).strip("_")[:80]
