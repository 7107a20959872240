"""benchmarks/predict.py runs: both passes see the same images, and a ratio is printed for each."""

from __future__ import annotations

import re

from tests.transfer.prediction.trained import write_detector
from tests.transfer.toy_data import write_coco


def test_it_compares_the_two_passes(tmp_path, run_cli):
    data = write_coco(tmp_path)
    write_detector(tmp_path / "run", data)
    out = run_cli(["benchmarks/predict.py", tmp_path / "run", "--images", 2, "--repeat", 2], check=0).stdout
    assert f"2 images of {data}" in out
    rows = re.findall(r"^(\w+) +([\d.]+) images/s +x([\d.]+) \(([\d.]+) to ([\d.]+)\)$", out, re.MULTILINE)
    assert [row[0] for row in rows] == ["evaluation", "predict", "pictures"]
    assert rows[0][2:] == ("1.00", "1.00", "1.00")
    assert all(float(number) > 0 for row in rows for number in row[1:])
