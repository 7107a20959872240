"""The pictures of gap.html as files of their own, for a README or a paper: SVG with the page's style inside."""

from __future__ import annotations

import re
from pathlib import Path

from runtime.atomic import write_text
from transfer.report.style import STYLE

SECTION = re.compile(r'<section [^>]*><h2 id="[^"]*">(.*?)</h2>(.*?)</section>', re.DOTALL)
PICTURE = re.compile(r"<svg (.*?)>(<title>(.*?)</title>.*?)</svg>", re.DOTALL)
GROUND = "svg{background:var(--bg)}"  # a page may be light where the reader's screen is dark


def write_figures(page: str, folder: Path) -> list[Path]:
    """Write every chart of a report's HTML into ``folder`` as SECTION-TITLE.svg; returns the files."""
    written: list[Path] = []
    for heading, body in SECTION.findall(page):
        for attributes, shapes, title in PICTURE.findall(body):
            path = folder / f"{_slug(heading)}-{_slug(title)}.svg"
            style = f"<style>{STYLE}{GROUND}</style>"
            write_text(path, f'<svg xmlns="http://www.w3.org/2000/svg" {attributes}>{style}{shapes}</svg>\n')
            written.append(path)
    return written


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", text).strip("_")[:80]
