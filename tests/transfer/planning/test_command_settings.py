"""Equal settings are equal, however a plan writes them; a difference is named."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from transfer.planning.command_settings import differences
from transfer.planning.plan import load_plan
from transfer.planning.stage import Stage
from transfer.planning.stages import plan_stages
from transfer.planning.state import FINISHED, STALE, record_stage, stage_state

TRAIN = ["transfer/train_net.py", "--config-file", "a.yaml", "--init", "random"]
KEYS = ["SOLVER.BASE_LR", "0.02", "SOLVER.STEPS", "(9, 12)", "SEED", "0"]


@pytest.mark.parametrize(
    ("kind", "command", "other"),
    [
        ("train", [*TRAIN, *KEYS], [*TRAIN, *KEYS[4:], *KEYS[:4]]),
        ("train", [*TRAIN, *KEYS], [TRAIN[0], *TRAIN[3:], *TRAIN[1:3], *KEYS]),
        ("train", [*TRAIN, *KEYS], [*TRAIN, "SEED", "5", *KEYS]),  # the last one counts
        ("train", [*TRAIN, *KEYS], [*TRAIN, "SOLVER.BASE_LR", "2e-2", "SOLVER.STEPS", "[9,12]", "SEED", "0"]),
        ("pretrain", ["m.py", "-a", "resnet18", "--lr", "0.1"], ["m.py", "--lr=0.1", "-a", "resnet18"]),
        ("pretrain", ["m.py", "DATA", "--cos", "--lr", "-1"], ["m.py", "DATA", "--lr", "-1", "--cos"]),
    ],
)
def test_equal_settings_are_equal(kind: str, command: Sequence[str], other: Sequence[str]) -> None:
    assert differences(kind, command, other) == ""


@pytest.mark.parametrize(
    ("kind", "command", "other", "text"),
    [
        ("train", [*TRAIN, *KEYS], [*TRAIN, *KEYS[:-1], "1"], "SEED was 0, is 1"),
        ("train", [*TRAIN, *KEYS], [*TRAIN, *KEYS[2:]], "SOLVER.BASE_LR was 0.02, is not set"),
        ("train", [*TRAIN, *KEYS], [*TRAIN[:-1], "a.pkl", *KEYS], "--init was random, is a.pkl"),
        # swapped values: the same words, and yet another command
        (
            "train",
            [*TRAIN, "A.B", "1", "A.C", "2"],
            [*TRAIN, "A.B", "2", "A.C", "1"],
            "A.B was 1, is 2, A.C was 2, is 1",
        ),
        ("pretrain", ["m.py", "--cos"], ["m.py"], "--cos was set, is not set"),
        ("pretrain", ["m.py", "--schedule", "3", "5"], ["m.py", "--schedule", "5", "3"], "--schedule was 3 5, is 5 3"),
        ("convert", ["c.py", "a", "b"], ["c.py", "b", "a"], "arguments was a b, is b a"),
        ("prepare", ["a.py"], ["b.py"], "script was a.py, is b.py"),
    ],
)
def test_a_difference_is_always_named(kind: str, command: Sequence[str], other: Sequence[str], text: str) -> None:
    assert differences(kind, command, other) == text


def finished_run(plan_file: Path, name: str, **load: object) -> Stage:
    """The stage ``name``, recorded as finished."""
    (stage,) = (s for s in stages(plan_file, **load) if s.name == name)
    stage.folder.mkdir(parents=True)
    record = json.loads(Path("transfer/record.json").read_text())
    record["init"]["name"] = stage.cell.init if stage.cell else None
    record["config"]["flat"] |= {"SOLVER.BASE_LR": 0.01, "SOLVER.MAX_ITER": 90}
    stage.proof.write_text(json.dumps({**record, "seed": stage.seed}))
    record_stage(Path("runs/toy"), stage, stage.command(), status="finished")
    return stage


def stages(plan_file: Path, **load: object) -> list[Stage]:
    return plan_stages(load_plan(plan_file, **load))  # type: ignore[arg-type]


def test_an_override_may_move_from_the_command_line_into_the_plan(plan_file: Path) -> None:
    name = "toy/random/seed0"
    finished_run(plan_file, name, settings=["SOLVER.BASE_LR=0.01", "SOLVER.MAX_ITER=90"])
    text = plan_file.read_text()
    for overrides in (
        "{SOLVER.MAX_ITER: 90, SOLVER.BASE_LR: 0.01}",
        "{SOLVER.BASE_LR: 0.010, SOLVER.MAX_ITER: 90}",
        "{SOLVER.BASE_LR: 0.02, SOLVER.MAX_ITER: 90}",
    ):
        plan_file.write_text(text.replace("configs: [toy.yaml]", f"configs: [toy.yaml]\noverrides: {overrides}"))
        (stage,) = (s for s in stages(plan_file) if s.name == name)
        state = stage_state(Path("runs/toy"), stage)
        if "0.02" in overrides:
            assert state.kind == STALE
            assert state.why == "it was made with other settings: SOLVER.BASE_LR was 0.01, is 0.02"
        else:
            assert state.kind == FINISHED, state.why
