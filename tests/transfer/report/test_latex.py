"""gap.tex: a float with caption and label, and every interval of gap.csv."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.transfer.report.report_files import read_csv, report_on
from tests.transfer.run_store import INITS, write_store
from transfer.report.files import write_report


def test_every_table_has_intervals_a_caption_and_a_label_of_its_own(tmp_path: Path) -> None:
    write_store(tmp_path / "runs", 2, INITS, 3, classes=1)
    files = write_report(tmp_path / "out", report_on(tmp_path / "runs"))
    text = files["gap.tex"].read_text()
    assert re.findall(r"\\label\{(.*)\}", text) == ["tab:config0", "tab:config1"]
    assert text.count("\\begin{table}") == text.count("\\end{table}") == text.count("\\caption{") == 2
    assert text.index("\\caption{") < text.index("\\label{") < text.index("\\begin{tabular}")
    assert "Below it the difference to supervised with its single 95 \\% interval (paired t over seeds, n=3)" in text
    for row in read_csv(files["gap.csv"]):
        if row["metric"] == "AP" and row["vs_supervised"]:
            gap, low, high = (row[f"vs_supervised{part}"] for part in ("", "_low", "_high"))
            assert f"{{\\footnotesize ${gap}$ [${low}$, ${high}$]}}" in text


def test_without_supervised_the_difference_is_to_random(store: Callable[..., Path], tmp_path: Path) -> None:
    store(init="random", metrics={"bbox": {"AP": 20.0}})
    root = store(init="moco", metrics={"bbox": {"AP": 33.0}})
    text = write_report(tmp_path / "out", report_on(root))["gap.tex"].read_text()
    assert "{\\footnotesize $+13.00$}" in text
    assert "Below it the difference to random (no interval)." in text


def test_labels_of_similar_names_differ_and_a_bracket_is_text(store: Callable[..., Path], tmp_path: Path) -> None:
    for config in ("voc 1x", "voc_1x"):
        store(init="supervised", config=config)
        root = store(init="[moco]", config=config)
    text = write_report(tmp_path / "out", report_on(root))["gap.tex"].read_text()
    assert re.findall(r"\\label\{(.*)\}", text) == ["tab:voc-1x", "tab:voc-1x-2"]
    assert "\n{[}moco] & 1 & " in text  # a bracket after the end of a row would be its argument


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_it_compiles(tmp_path: Path) -> None:
    write_store(tmp_path / "runs", 2, INITS, 3, classes=1)
    body = write_report(tmp_path, report_on(tmp_path / "runs"))["gap.tex"].read_text()
    whole = f"\\documentclass{{article}}\\usepackage{{booktabs}}\\begin{{document}}\n{body}\\end{{document}}\n"
    (tmp_path / "whole.tex").write_text(whole)
    subprocess.run(["pdflatex", "-halt-on-error", "whole.tex"], cwd=tmp_path, check=True, capture_output=True)
