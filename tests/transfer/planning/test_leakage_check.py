"""A plan compares its test sets with what it trains and pretrains on, and its report says what it found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.transfer.run_store import make_record
from tests.transfer.toy_data import coco_content, write_coco
from transfer.planning.leakage_check import RESULT, check_leakage, recorded_leakage, unchecked_inits
from transfer.planning.plan import load_plan

PLAN = """
name: leaky
output: {folder}/out
inits:
  random: {{random: true}}
  moco: {{pretrain: {{argv: [{folder}/photos, --output, x], checkpoint: x/c.pth.tar}}}}
  other: {{pretrain: {{argv: [--seed, 1, {folder}/photos], checkpoint: y/c.pth.tar}}}}
  released: {{weights: w.pkl}}
configs:
  - config: demo_R18_FPN.yaml
    overrides: {{DATASETS.TRAIN: "('{name}@25%',)", DATASETS.TEST: "('{name}', '{name}@50%')"}}
seeds: [0]
"""


@pytest.fixture
def plan_path(tmp_path: Path) -> Path:
    name = write_coco(tmp_path / "data", coco_content(tmp_path / "data" / "images"))
    (tmp_path / "photos").mkdir()
    for k in range(3):
        (tmp_path / "photos" / f"{k}.png").write_bytes((tmp_path / "data" / "images" / f"img{k}.png").read_bytes())
    path = tmp_path / "leaky.yaml"
    path.write_text(PLAN.format(folder=tmp_path, name=name))
    return path


def test_every_test_set_is_compared_with_training_and_pretraining_images(plan_path: Path, capsys) -> None:
    plan = load_plan(plan_path)
    assert recorded_leakage(plan) == []
    check_leakage(plan)
    results = recorded_leakage(plan)
    assert [(r.test[-4:] == "@50%", r.against.endswith("photos")) for r in results] == [
        (False, False),
        (False, True),
        (True, False),
        (True, True),
    ]
    assert [sum(f.count for f in r.findings) for r in results[:3]] == [2, 3, 2]
    assert "3 test images in both (8 and 3 images)\n  test image with an equal file: 3" in capsys.readouterr().out
    assert unchecked_inits(plan) == ["other", "released"]
    (plan.output / RESULT).write_text('{"results": [{"test": 1}]}')
    assert recorded_leakage(plan) == []


def test_the_report_shows_it_or_says_that_it_is_off(plan_path: Path, run_cli) -> None:
    check_leakage(load_plan(plan_path))
    run = plan_path.parent / "out/demo_R18_FPN/random/seed0"  # a report on nothing is refused
    run.mkdir(parents=True)
    (run / "result.json").write_text(json.dumps(make_record()))
    command = ["transfer/measure_gap.py", str(plan_path), "--report-only", "--no-detections"]
    run_cli(command, check=0)
    folder = plan_path.parent / "out"
    page, text = (folder / "gap.html").read_text(), (folder / "gap.md").read_text()
    assert "test image with an equal file" in page
    assert "does not name the pretraining images of: other, released." in page
    assert "3 test images in both" in text
    plan_path.write_text(plan_path.read_text() + "leakage: false\n")
    run_cli(command, check=0)
    page, text = (folder / "gap.html").read_text(), (folder / "gap.md").read_text()
    assert "The plan switches this check off" in page
    assert "equal file" not in page
    assert "test images in both" not in text


def test_images_that_are_gone_are_named(plan_path: Path, capsys) -> None:
    for path in (plan_path.parent / "photos").iterdir():
        path.unlink()
    plan = load_plan(plan_path)
    check_leakage(plan)
    assert "not compared: no image in" in capsys.readouterr().out
    content = json.loads((plan.output / RESULT).read_text())
    assert [bool(record["reason"]) for record in content["results"]] == [False, True, False, True]
