"""Charts as PDF files."""

import base64
import importlib.util
import re
import zlib
from pathlib import Path

import pytest

from tests.transfer.report.report_files import report_on
from tests.transfer.run_store import INITS, write_store
from transfer.report import figures
from transfer.report.files import write_report

needs_svglib = pytest.mark.skipif(importlib.util.find_spec("svglib") is None, reason="needs svglib")


def content(path: Path) -> str:
    """The drawing commands of the pages of a file."""
    streams = re.findall(rb"stream\r?\n(.*?)endstream", path.read_bytes(), re.DOTALL)
    return "".join(zlib.decompress(base64.a85decode(b"<~" + s.strip(), adobe=True)).decode("latin-1") for s in streams)


@needs_svglib
def test_every_chart_has_a_pdf_with_its_text_and_colours(tmp_path):
    write_store(tmp_path / "runs", 2, INITS, 3, classes=5)
    written = write_report(tmp_path, report_on(tmp_path / "runs"), figures=True)
    pages = sorted(path for name, path in written.items() if name.endswith(".pdf"))
    assert [page.with_suffix(".svg") for page in pages] == sorted(p for n, p in written.items() if n.endswith(".svg"))
    differences = next(content(page) for page in pages if "Differences_to_supervised" in page.name)
    assert "(moco_v2) Tj" in differences
    assert "(difference to supervised, points) Tj" in differences
    curves = next(content(page) for page in pages if "against_iterations" in page.name)
    assert "0 .447059 .698039 RG" in curves  # --c0 of the light style, #0072b2
    before = [page.read_bytes() for page in pages]
    write_report(tmp_path, report_on(tmp_path / "runs"), figures=True)
    assert [page.read_bytes() for page in pages] == before


def test_without_svglib_there_are_svg_files_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "can_draw", lambda: False)
    write_store(tmp_path / "runs", 1, INITS, 2, classes=2)
    written = write_report(tmp_path, report_on(tmp_path / "runs"), figures=True)
    pictures = [name for name in written if name.startswith("figures/")]
    assert pictures
    assert all(name.endswith(".svg") for name in pictures)
