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


def test_rows_braces_and_environments_are_whole(store: Callable[..., Path], tmp_path: Path) -> None:
    evil = "a_b {c} $d& 50% #e \\\\f ~g ^h"
    for config in (evil, "voc"):
        for seed in (0, 1):
            store(init="supervised", config=config, seed=seed)
            store(init=evil, config=config, seed=seed, metrics={"bbox": {"AP": 2.0 + seed}})
            root = store(init="random", config=config, seed=seed, metrics={"bbox": {"AP": 1.0}})
    assert_whole(write_report(tmp_path / "out", report_on(root))["gap.tex"].read_text())


def assert_whole(text: str) -> None:
    """What TeX would stop at: an open brace, formula or environment, a row of other columns, a bare special."""
    code = re.sub(r"(?<!\\)%.*", "", text)
    plain = re.sub(r"\\[\\{}$&%#_]", "", code)  # without escaped characters and ends of rows
    opened: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", code):
        opened.append(name) if kind == "begin" else None
        assert kind == "begin" or opened.pop() == name
    assert not opened
    depth = 0
    for character in plain:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0
    outside = re.sub(r"\$[^$]*\$", "", plain)  # underscores and carets stand in formulae
    assert not re.search(r"[$#_^~]", re.sub(r"\\(label|begin|end)\{[^}]*\}", "", outside))
    for columns, body in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", code, re.DOTALL):
        rows = [row for row in body.replace("\\&", "").split(r"\\") if "&" in row]
        assert rows
        assert {row.count("&") + 1 for row in rows} == {len(columns)}


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_it_compiles(tmp_path: Path) -> None:
    write_store(tmp_path / "runs", 2, INITS, 3, classes=1)
    body = write_report(tmp_path, report_on(tmp_path / "runs"))["gap.tex"].read_text()
    whole = f"\\documentclass{{article}}\\usepackage{{booktabs}}\\begin{{document}}\n{body}\\end{{document}}\n"
    (tmp_path / "whole.tex").write_text(whole)
    subprocess.run(["pdflatex", "-halt-on-error", "whole.tex"], cwd=tmp_path, check=True, capture_output=True)
