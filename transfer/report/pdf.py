"""The charts of a report as PDF, which pdflatex includes: an SVG file drawn by svglib and reportlab (optional)."""

from __future__ import annotations

import importlib.util
import io
import re

# rules for screens, print and browsers that have a feature; of the light and the dark style, paper has the light one
CONDITIONAL = re.compile(r"@(?:media|supports)[^{]*\{(?:[^{}]*\{[^{}]*\})*[^{}]*\}")
VARIABLE = re.compile(r"--([\w-]+):([^;}\n]+)")
USE = re.compile(r"var\(--([\w-]+)\)")


def can_draw() -> bool:
    """Whether svglib is installed."""
    return importlib.util.find_spec("svglib") is not None


def pdf_of(svg: str, title: str) -> bytes:
    """One page of the size of the picture. The bytes depend on the picture alone, not on the time.

    Neither library knows the variables of style sheets, so their values are put in first.
    """
    from reportlab.graphics import renderPDF
    from reportlab.pdfgen.canvas import Canvas
    from svglib.svglib import svg2rlg

    plain = CONDITIONAL.sub("", svg)
    values = dict(VARIABLE.findall(plain))
    drawing = svg2rlg(io.BytesIO(USE.sub(lambda use: values.get(use[1], "none"), plain).encode()))
    if drawing is None:
        raise ValueError(f"{title}: svglib cannot read this picture")
    page = io.BytesIO()
    canvas = Canvas(page, pagesize=(drawing.width, drawing.height), invariant=1)
    canvas.setTitle(title)
    renderPDF.draw(drawing, canvas, 0, 0)
    canvas.save()
    return page.getvalue()
