"""Launchers and the dry run: commands, batch scripts and estimates without running anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime.errors import UserError
from runtime.repository import REPOSITORY
from runtime.stop import StopSignal
from transfer.planning.dry_run import dry_run
from transfer.planning.launchers import Launcher, make_launcher
from transfer.planning.plan import load_plan
from transfer.planning.runner import Runner
from transfer.planning.stages import plan_stages

WAIT_FOR_JOB = REPOSITORY / "transfer" / "planning" / "slurm" / "wait_for_job.py"


def files_below(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*")) if folder.exists() else []


def test_dry_run_writes_nothing(plan_file: Path) -> None:
    plan = load_plan(plan_file)
    text = dry_run(plan, plan_stages(plan), Launcher())
    assert "toy: 11 stages into runs/toy" in text
    assert "to do: 11 stages, time unknown: nothing like them has finished in runs/toy" in text
    assert text.count("transfer/train_net.py --config-file toy.yaml") == 6
    assert files_below(plan.output) == []


def test_dry_run_estimates_from_measured_pace(plan_file: Path) -> None:
    plan = load_plan(plan_file)
    stages = plan_stages(plan)
    Runner([s for s in stages if s.name.startswith(("prepare", "toy/random/seed0"))], plan.output).run(StopSignal())
    path = plan.output / "toy/random/seed0/result.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "seconds_per_iteration": 60.0, "iterations": 50}))
    lines = {
        line.split()[0]: line for line in dry_run(plan, stages, Launcher()).splitlines() if line.startswith("  toy")
    }
    assert "finished" in lines["toy/random/seed0"]
    assert "50 min" in lines["toy/moco/seed1"]
    assert "as measured on finished stages like them in runs/toy, and 4 stages of unknown time" in "".join(
        line for line in dry_run(plan, stages, Launcher()).splitlines() if line.startswith("to do: ")
    )
    (path.parent / "model_final.pth").write_bytes(bytes(3 << 20))
    again = dry_run(plan, stages, Launcher())
    assert next(line for line in again.splitlines() if "toy/moco/seed1" in line).split()[-2:] == ["3", "MB"]


def test_a_stale_run_takes_as_long_as_a_whole_one(plan_file: Path) -> None:
    plan = load_plan(plan_file)
    stages = plan_stages(plan)
    Runner([s for s in stages if s.name.startswith(("prepare", "toy/random/seed0"))], plan.output).run(StopSignal())
    folder = plan.output / "toy/random/seed0"
    record = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(
        json.dumps({**record, "seconds_per_iteration": 3.0, "iterations": 50, "seed": 7})
    )
    (folder / "metrics.json").write_text('{"iteration": 49, "time": 3.0}\n')
    line = next(x for x in dry_run(plan, stages, Launcher()).splitlines() if "toy/random/seed0" in x)
    assert line.split()[1:4] == ["stale", "3", "min"]  # 150 s of training and 1 s of evaluation


@pytest.mark.parametrize(
    ("name", "processes", "options", "message"),
    [("local", 8, [], "--nproc 8 needs --launcher"), ("torchrun", 2, ["partition=gpu"], "needs --launcher slurm")],
)
def test_what_a_launcher_would_ignore_is_an_error(name: str, processes: int, options: list, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_launcher(name, processes, options)


def test_torchrun_shares_trainings_only(tmp_path: Path) -> None:
    launcher = make_launcher("torchrun", 2, [])
    assert "torch.distributed.run" in launcher.command("train", ("transfer/train_net.py",), tmp_path)
    assert "torch.distributed.run" not in launcher.command("convert", ("convert/to_d2.py",), tmp_path)


def test_a_slurm_command_is_built_without_writing(tmp_path: Path) -> None:
    launcher, folder = Launcher("slurm"), tmp_path / "stage"
    command = launcher.command("train", ("transfer/train_net.py", "SEED", "0"), folder)
    assert command[1:] == [str(WAIT_FOR_JOB), str(folder)]
    assert files_below(tmp_path) == []
    launcher.prepare("convert", ("convert/to_d2.py",), folder)
    assert files_below(tmp_path) == []
    launcher.prepare("train", ("transfer/train_net.py", "SEED", "0"), folder)
    assert json.loads((folder / "job.json").read_text())["argv"][-2:] == ["SEED", "0"]


def test_dry_run_prints_commands_that_can_be_started(plan_file: Path) -> None:
    """--resume comes before the KEY VALUE overrides, which end the command; torchrun is named."""
    plan = load_plan(plan_file)
    run = plan.output / "toy/random/seed0"
    run.mkdir(parents=True)
    (run / "last_checkpoint").write_text("model_0000009.pth")
    stages = plan_stages(plan)
    line = next(x for x in dry_run(plan, stages, Launcher()).splitlines() if "random/seed0" in x and "python" in x)
    assert "transfer/train_net.py --resume --config-file" in line
    text = dry_run(plan, stages, make_launcher("torchrun", 2, []))
    assert text.count(" -m torch.distributed.run --standalone --nproc-per-node=2") == 8
