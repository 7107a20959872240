"""Two versions of the same runs, compared."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from runtime.errors import UserError
from tests.transfer.detection_arrays import make_detections
from tests.transfer.run_store import make_record
from transfer import compare_runs
from transfer.comparison.run_pairs import Pair, match, metric_pairs
from transfer.report.run_pairs import pairs_csv, pairs_markdown


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes one run with weights and detections and returns the folder of all runs of that engine."""

    def write(
        tree: str, seed: int, ap: float, weight: float = 1.0, score: float = 0.5, masks: Any = None, table: str = "toy"
    ) -> Path:
        metrics = {"bbox": {"AP": ap, "AP50": 2 * ap}}
        engine = {"name": tree, "versions": {"torch": "2"}}
        record = make_record(seed=seed, metrics=metrics, engine=engine, detections=["detections_0.npz"])
        folder = tmp_path / tree / table / "moco" / f"seed{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "result.json").write_text(json.dumps(record))
        torch.save({"model": {"w": torch.tensor([0.0, weight])}}, folder / "model_final.pth")
        make_detections(["a"], [0], [3], [[0, 0, 4, 4]], [score], masks).save(folder / "detections_0.npz")
        return tmp_path / tree

    return write


def report(pairs: list[Pair]) -> tuple[str, str, bool]:
    """Markdown, CSV, and whether every metric agrees."""
    agree = all(metric.verdict != "no" for metric in metric_pairs(pairs))
    return pairs_markdown(pairs), pairs_csv(pairs), agree


def test_equal_runs_are_called_equal_and_nothing_else_differs(write_run: Callable[..., Path]) -> None:
    for seed, ap in ((0, 10.0), (1, 11.0)):
        first, second = (write_run(tree, seed, ap) for tree in ("torchvision", "detectron2"))
    text, rows, agree = report(match(first, second))
    assert agree
    assert "| bbox AP | 10.5000 ± 0.7071 (n=2) | 10.5000 ± 0.7071 (n=2) | +0.0000 | 0.0000 | equal |" in text
    assert "differ in: nothing" in text
    assert [row["max_weight_difference"] for row in csv.DictReader(rows.splitlines())] == ["0.0"] * 4


def test_a_difference_below_the_spread_agrees_and_one_above_does_not(write_run: Callable[..., Path]) -> None:
    for seed, ap in ((0, 10.0), (1, 11.0)):
        first = write_run("torchvision", seed, ap)
        second = write_run("detectron2", seed, ap + 0.5, weight=1.25, score=0.75)
        third = write_run("third", seed, ap + 0.8)
    text, _, agree = report(match(first, second))
    assert agree
    assert "+0.5000 | 0.5000 | within the spread |" in text
    assert "seed0 | 0.25 | 0.25 |" in text
    assert not report(match(first, third))[2]


def test_rows_of_one_config_file_are_kept_apart(write_run: Callable[..., Path]) -> None:
    for table, ap in (("voc", 10.0), ("coco", 20.0)):
        first = write_run("torchvision", 0, ap, table=table)
        second = write_run("detectron2", 0, ap, table=table)
    text, rows, _ = report(match(first, second))
    assert "| voc | moco | bbox AP | 10.0000 (n=1)" in text
    assert "| coco | moco | bbox AP | 20.0000 (n=1)" in text
    assert {row["config"] for row in csv.DictReader(rows.splitlines())} == {"voc", "coco"}


def test_one_seed_has_no_spread(write_run: Callable[..., Path]) -> None:
    first, second = write_run("torchvision", 0, 10.0), write_run("detectron2", 0, 10.001)
    assert not report(match(first, second))[2]


def test_other_masks_are_a_difference(write_run: Callable[..., Path]) -> None:
    masks = [coco_mask.encode(np.asfortranarray(np.eye(4, k=k, dtype=np.uint8))) for k in (0, 1)]
    runs = [write_run(tree, 0, 1.0, masks=[mask]) for tree, mask in zip(("torchvision", "detectron2"), masks)]
    assert [pair.detections for pair in match(*runs)] == [float("inf")]


def test_a_run_without_a_partner_and_an_empty_folder_are_errors(write_run: Callable[..., Path], tmp_path: Path) -> None:
    write_run("torchvision", 1, 1.0)
    first, second = write_run("torchvision", 0, 1.0), write_run("detectron2", 0, 1.0)
    with pytest.raises(UserError, match=r"detectron2 lacks .*seed1"):
        match(first, second)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty has no finished runs"):
        match(first, tmp_path / "empty")


def test_the_command_writes_both_files_and_its_exit_code_is_the_verdict(
    write_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = write_run("torchvision", 0, 10.0), write_run("detectron2", 0, 10.0)
    name = tmp_path / "engines"
    monkeypatch.setattr("sys.argv", ["compare_runs.py", str(first), str(second), "--output", str(name)])
    assert compare_runs.main() == 0
    assert (tmp_path / "engines.md").read_text() == capsys.readouterr().out
    assert np.isclose(float((tmp_path / "engines.csv").read_text().splitlines()[1].split(",")[5]), 10.0)
    write_run("detectron2", 0, 10.5)
    assert compare_runs.main() == 1
