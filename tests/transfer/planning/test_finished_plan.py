"""A plan that an earlier version finished (commit 83bf840, plans/demo.yaml): nothing is run again, no number changes.

``tests/fixtures/finished_plan`` is its output folder without logs and detections. Its weights are replaced by short
texts, and the sha256 of those texts stand in the records in place of the originals.
"""

from __future__ import annotations

import csv
import json
import re
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


def test_a_config_file_that_was_edited_in_place_is_noticed(finished: Path, repo: Path) -> None:
    text = (repo / "configs" / "demo_R18_C4.yaml").read_text().replace("_BASE_: ", f"_BASE_: {repo}/configs/")
    (finished / "demo_R18_C4.yaml").write_text(text)
    assert set(states(finished / "plan.yaml").values()) == {"finished"}
    (finished / "demo_R18_C4.yaml").write_text(text.replace("MAX_ITER: 240", "MAX_ITER: 239"))
    plan = load_plan(finished / "plan.yaml")
    found = {stage.name: stage_state(plan.output, stage) for stage in plan_stages(plan) if stage.kind == "train"}
    assert {state.kind for state in found.values()} == {"stale"}
    assert all(re.search("SOLVER.MAX_ITER was 240, is 239$", state.why) for state in found.values())


def test_annotations_that_were_replaced_are_noticed(finished: Path) -> None:
    file = finished / "runs/demo/data/coco/annotations/instances_val.json"
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    (finished / "runs/demo/data/coco/val").mkdir()
    plan = load_plan(finished / "plan.yaml")
    (state,) = {stage_state(plan.output, stage).why for stage in plan_stages(plan) if stage.kind == "train"}
    assert re.search(r"the annotations of coco:\S+/instances_val.json:\S+ have changed$", state)


def test_a_copied_run_folder_is_not_taken(finished: Path) -> None:
    runs = finished / "runs/demo/demo_R18_C4"
    shutil.rmtree(runs / "random")
    shutil.copytree(runs / "supervised", runs / "random")
    for record in (finished / "runs/demo/stages").glob("*random*"):
        shutil.rmtree(record)
    plan = load_plan(finished / "plan.yaml")
    found = {stage.name: stage_state(plan.output, stage) for stage in plan_stages(plan)}
    assert "initialisation was supervised, is random" in found["demo_R18_C4/random/seed0"].why
    assert found["demo_R18_C4/supervised/seed0"].kind == "finished"


def test_a_stale_run_has_no_number_in_the_report(
    finished: Path, run_cli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    command = ["transfer/measure_gap.py", "plan.yaml", "--report-only", "--no-detections"]
    run_cli([*command, "--set", "SOLVER.MAX_ITER=7"], cwd=finished, check=0)
    text = (finished / "runs/demo/gap.md").read_text()
    assert "stale: it was made with other settings: SOLVER.MAX_ITER was " in text
    assert read_csv(finished / "runs/demo/gap.csv") == []


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
