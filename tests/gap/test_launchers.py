"""Launchers and the dry run: commands, batch scripts and estimates without running anything."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from runtime.errors import UserError
from runtime.stop import StopSignal
from transfer.dry_run import dry_run
from transfer.launchers import Launcher, make_launcher, sbatch_script
from transfer.plan import load_plan
from transfer.runner import Runner
from transfer.stages import plan_stages


def files_below(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*")) if folder.exists() else []


def test_dry_run_writes_nothing(plan_file: Path) -> None:
    plan = load_plan(plan_file)
    text = dry_run(plan, plan_stages(plan), Launcher())
    assert "toy: 11 stages into runs/toy" in text
    assert "11 stages have nothing measured to estimate from" in text
    assert text.count("python transfer/train_net.py --config-file toy.yaml") == 6
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


def test_slurm_dry_run_prints_the_batch_script(plan_file: Path) -> None:
    plan = load_plan(plan_file)
    text = dry_run(plan, plan_stages(plan), make_launcher("slurm", 8, ["partition=gpu", "gres=gpu:8"]))
    assert text.count("#!/bin/bash") == 8  # two pretrainings, six trainings; conversion runs here
    assert "#SBATCH --partition=gpu\n#SBATCH --gres=gpu:8\n" in text
    assert "--nproc-per-node=8" in text
    assert "signal=USR1@120" in text
    assert files_below(plan.output) == []


def test_batch_script_is_valid_bash(tmp_path: Path) -> None:
    script = tmp_path / "job.sbatch"
    command = ("transfer/train_net.py", "DATASETS.TRAIN", "('a b',)", "x'y")
    script.write_text(sbatch_script(Launcher("slurm", 1), command, tmp_path / "stage"))
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert "exec srun" in script.read_text()


def test_torchrun_shares_trainings_only(tmp_path: Path) -> None:
    launcher = make_launcher("torchrun", 2, [])
    assert "torch.distributed.run" in launcher.command("train", ("transfer/train_net.py",), tmp_path)
    assert "torch.distributed.run" not in launcher.command("convert", ("convert/to_d2.py",), tmp_path)


def test_slurm_runs_through_sbatch(plan_file: Path, fake_repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sbatch = fake_repo / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(
        '#!/bin/bash\necho 4242\nfor last; do :; done\nsed -i "s/exec srun/exec/" "$last"\nbash "$last"\n'
    )
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sbatch.parent}:/usr/bin:/bin")
    plan = load_plan(plan_file)
    stages = [s for s in plan_stages(plan) if s.name.startswith(("prepare", "toy/random"))]
    outcomes = Runner(stages, plan.output, launcher=make_launcher("slurm", 1, [])).run(StopSignal())
    assert {o.status for o in outcomes.values()} == {"finished"}
    assert (plan.output / "stages/toy__random__seed1/log.txt").read_text().startswith("4242")


@pytest.mark.parametrize(("processes", "options"), [(0, []), (1, ["a\n#SBATCH --wrap=x"]), (1, [" "])])
def test_bad_options_are_one_line(processes: int, options: list[str]) -> None:
    with pytest.raises(UserError):
        make_launcher("slurm", processes, options)
