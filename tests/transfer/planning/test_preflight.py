"""What would stop a plan's runs is said before its first stage, one line per reason."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import UserError
from tests.transfer.toy_data import write_coco
from tests.transfer.train_command import write_resnet18
from transfer.planning.launchers import Launcher
from transfer.planning.plan import load_plan
from transfer.planning.preflight import refusal_lines, refusals, refuse_hopeless_plan
from transfer.planning.stages import plan_stages

PLAN = """
name: toy
inits:
  random: {random: true}
  moco: {weights: S.pkl}
configs: [demo_R18_C4.yaml]
seeds: [0, 1]
engine: torchvision
overrides:
  MODEL.ROI_HEADS.NUM_CLASSES: 3
  DATASETS.TRAIN: ["@"]
  DATASETS.TEST: ["@"]
"""
RUNS = [f"demo_R18_C4/{init}/seed{seed}" for seed in (0, 1) for init in ("random", "moco")]
MOCO = RUNS[1::2]
PRETRAIN = """
    pretrain:
      argv: [--arch, resnet18]
      checkpoint: runs/toy/moco/checkpoint_0001.pth.tar"""


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A plan with real weights and data, in the current folder."""
    monkeypatch.chdir(tmp_path)
    write_resnet18(tmp_path / "S.pkl")
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN.replace("@", write_coco(tmp_path, count=3)))
    return path


def found(path: Path) -> dict[str, list[str]]:
    plan = load_plan(path)
    return refusals(plan.output, plan_stages(plan), Launcher())


def test_a_warning_is_said_once_with_its_runs(plan: Path, caplog: pytest.LogCaptureFixture) -> None:
    plan.write_text(plan.read_text() + "  SOLVER.MAX_ITER: 20\n  SOLVER.STEPS: (16,)\n")
    assert found(plan) == {}
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("warning: SOLVER.WARMUP_ITERS 20 does not end before SOLVER.MAX_ITER 20")
    assert line.endswith("(demo_R18_C4/random/seed0, demo_R18_C4/moco/seed0, demo_R18_C4/random/seed1 and 1 more)")


def test_a_plan_that_can_run_has_no_refusal(plan: Path) -> None:
    before = sorted(plan.parent.rglob("*"))
    assert found(plan) == {}
    assert sorted(plan.parent.rglob("*")) == before


@pytest.mark.parametrize(
    ("old", "new", "words", "runs"),
    [
        ("overrides:", "overrides:\n  SOLVER.BASE_RL: 0.1", "did you mean SOLVER.BASE_LR", RUNS),
        (
            "engine: torchvision",
            "engine: torchvision\nevaluator: fats",
            "evaluator 'fats': choose auto, official, fast",
            RUNS,
        ),
        ("engine: torchvision", "evaluator: auto-300", "evaluates up to 300 detections of a class in an image", RUNS),
        ("S.pkl", "absent.pkl", "weights absent.pkl: no such file, and no stage of the plan makes it", MOCO),
        ("S.pkl", "absent.pth", "weights absent.pth: no such file, and no stage of the plan makes it", MOCO),
        ('  DATASETS.TEST: ["', '  DATASETS.TEST: ["coco:gone.json:x", "', "gone.json", RUNS),
        ("overrides:", "overrides:\n  MODEL.RESNETS.DEPTH: 34", "MODEL.RESNETS.DEPTH is 34", MOCO),
        ("NUM_CLASSES: 3", "NUM_CLASSES: 7", "NUM_CLASSES is 7 (command line)", RUNS),
        ("overrides:", "overrides:\n  SOLVER.IMS_PER_BATCH: 0", "SOLVER.IMS_PER_BATCH 0 must be 1 or more", RUNS),
        ("overrides:", "overrides:\n  MODEL.KEYPOINT_ON: true", "names 0 keypoints in its categories", RUNS),
        ("demo_R18_C4.yaml", "lost.yaml", "its _BASE_ gone.yaml does not exist", None),
        (
            " {weights: S.pkl}",
            PRETRAIN.replace("18", "50"),
            "but runs/toy/backbones/moco.pkl will be a ResNet-50",
            MOCO,
        ),
    ],
)
def test_what_would_be_refused_is_named_once(
    plan: Path, old: str, new: str, words: str, runs: list[str] | None
) -> None:
    (plan.parent / "lost.yaml").write_text("_BASE_: gone.yaml\n")
    plan.write_text(plan.read_text().replace(old, new, 1))
    ((reason, names),) = found(plan).items()
    assert words in reason
    assert names == (runs or [name.replace("demo_R18_C4", "lost") for name in RUNS])


@pytest.mark.parametrize(
    ("share", "message"),
    [
        ("data_fraction: 1.0e-300", "a share of 1e-300 of its 3 images is less than one image"),
        ("data_fraction: 0.1", "a share of 0.1 of its 3 images is less than one image"),
        ("data_fraction: 0.4", None),
    ],
)
def test_a_share_without_an_image_is_refused_before_it_is_drawn(plan: Path, share: str, message: str | None) -> None:
    text = plan.read_text().replace("[demo_R18_C4.yaml]", f"[{{config: demo_R18_C4.yaml, name: demo_R18_C4, {share}}}]")
    plan.write_text(text)
    assert [names for reason, names in found(plan).items() if message and message in reason] == (
        [RUNS] if message else []
    )


def test_a_search_without_an_image_to_score_on_is_refused(plan: Path, run_cli: Callable[..., Any]) -> None:
    plan.write_text(f"{plan.read_text()}lr: {{search: [0.01, 0.02], held_out: 0.1}}\n")
    dry = run_cli(["transfer/measure_gap.py", str(plan), "--dry-run"], cwd=plan.parent, check=2)
    assert dry.stdout.splitlines()[-1].startswith("4 runs would be refused (lr_search/demo_R18_C4/random/lr0.01, ")
    assert "a share of 0.1 of its 3 images is less than one image" in dry.stdout.splitlines()[-1]


def test_different_reasons_are_different_lines(plan: Path) -> None:
    text = (
        plan.read_text().replace("S.pkl", "absent.pkl").replace("[demo_R18_C4.yaml]", "[demo_R18_C4.yaml, lost.yaml]")
    )
    (plan.parent / "lost.yaml").write_text("_BASE_: gone.yaml\n")
    plan.write_text(text)
    lines = refusal_lines(found(plan))
    assert [line.split(" (")[0] for line in lines] == ["4 runs would be refused", "2 runs would be refused"]
    refuse_hopeless_plan(found(plan), Path("runs/toy"), plan_stages(load_plan(plan)))  # the random runs can run


def test_an_initialisation_that_contradicts_the_config_is_named(plan: Path) -> None:
    plan.write_text(plan.read_text().replace("overrides:", "overrides:\n  INPUT.FORMAT: BGR"))
    reasons = found(plan)
    assert [reason.split("; ")[0] for reason in reasons] == [
        "INPUT.FORMAT is BGR in command line, but random initialisation needs RGB",
        "INPUT.FORMAT is BGR in command line, but S.pkl needs RGB",
    ]


def test_data_that_a_stage_makes_are_not_missed(plan: Path, repo: Path) -> None:
    prepare = "prepare: [{argv: [demo/draw.py, runs/data], done: runs/data/demo.json}]\n"
    plan.write_text(
        prepare + plan.read_text().replace('  DATASETS.TEST: ["', '  DATASETS.TEST: ["coco:gone.json:x", "')
    )
    assert found(plan) == {}
    (plan.parent / "runs" / "data").mkdir(parents=True)
    (plan.parent / "runs" / "data" / "demo.json").touch()
    assert len(found(plan)) == 1


def test_a_common_refusal_stops_the_plan_before_its_first_stage(
    plan: Path, run_cli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    plan.write_text(plan.read_text().replace("overrides:", "overrides:\n  SOLVER.BASE_RL: 0.1"))
    done = run_cli(["transfer/measure_gap.py", str(plan)], cwd=plan.parent, check=2)
    assert done.stderr.splitlines() == [
        line for line in done.stderr.splitlines() if "did you mean SOLVER.BASE_LR" in line
    ]
    assert not (plan.parent / "runs").exists()
    dry = run_cli(["transfer/measure_gap.py", str(plan), "--dry-run"], cwd=plan.parent, check=2)
    assert dry.stdout.splitlines()[-1].startswith("4 runs would be refused (demo_R18_C4/random/seed0, ")
    with pytest.raises(UserError, match="every run of the plan would be refused"):
        refuse_hopeless_plan(found(plan), Path("runs/toy"), plan_stages(load_plan(plan)))
