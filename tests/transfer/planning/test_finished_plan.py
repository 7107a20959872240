"""A plan that an earlier version finished (commit 83bf840, plans/demo.yaml): nothing is run again, no number changes.

``tests/fixtures/finished_plan`` is its output folder without logs and detections. Its weights are replaced by short
texts, and the sha256 of those texts stand in the records in place of the originals.
"""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from transfer.planning.plan import load_plan
from transfer.planning.stages import plan_stages
from transfer.planning.state import stage_state


@pytest.fixture
def finished(tmp_path: Path, repo: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the stored plan; the current folder, as its recorded paths are relative."""
    folder = shutil.copytree(repo / "tests" / "fixtures" / "finished_plan", tmp_path / "work")
    monkeypatch.chdir(folder)
    return folder


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def states(plan_file: Path) -> dict[str, str]:
    plan = load_plan(plan_file)
    return {stage.name: stage_state(plan.output, stage).kind for stage in plan_stages(plan)}


def test_every_stage_is_finished(finished: Path) -> None:
    found = states(finished / "plan.yaml")
    assert len(found) == 11
    assert set(found.values()) == {"finished"}


def test_a_changed_backbone_or_command_is_noticed(finished: Path) -> None:
    record = finished / "runs/demo/stages/demo_R18_C4__random__seed1/record.json"
    content = json.loads(record.read_text())
    record.write_text(json.dumps({**content, "argv": [*content["argv"], "SOLVER.MAX_ITER", "7"]}))
    (finished / "runs/demo/backbones/moco.pkl").write_text("other weights\n")
    found = states(finished / "plan.yaml")
    stale = {name for name, kind in found.items() if kind == "stale"}
    assert stale == {"demo_R18_C4/random/seed1", "demo_R18_C4/moco/seed0", "demo_R18_C4/moco/seed1"}
    assert found["convert/moco"] == "to do"


def test_the_report_has_the_numbers_of_the_earlier_version(
    finished: Path, run_cli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    run_cli(
        ["transfer/measure_gap.py", "plan.yaml", "--report-only", "--no-detections"],  # detections are not stored
        cwd=finished,
        check=0,
    )
    earlier, now = (read_csv(path) for path in (finished / "gap.csv", finished / "runs/demo/gap.csv"))
    assert len(now) == len(earlier) > 10
    # the verdict was that of each single interval; the kind of interval has another name
    reworded = {column for column in earlier[0] if column.endswith(("_verdict", "_interval"))}
    for before, after in zip(earlier, now):
        assert {k: v for k, v in after.items() if k in before and k not in reworded} == {
            k: v for k, v in before.items() if k not in reworded
        }
        for role in ("supervised", "random"):
            kind = before[f"vs_{role}_interval"].replace("paired t,", "paired t over seeds,")
            assert after[f"vs_{role}_interval"] == kind
            assert (after[f"vs_{role}_verdict"] != "") == (kind != "" and before["metric"] == "AP")
