"""A plan from someone else starts no program of its choice, in whatever way it names one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

from runtime.errors import UserError
from transfer.planning.launchers import Launcher, sbatch_script
from transfer.planning.plan import load_plan
from transfer.planning.prepare_scripts import PREPARE_SCRIPTS
from transfer.planning.slurm.scripts import SlurmStage
from transfer.planning.slurm.stage_job import StageJob

SHELL = ["sh", "-c", "touch hit"]
TORCHRUN = ["--no-python", "--nproc-per-node", "1", *SHELL]
# every one names a file that exists
ATTACKS = {
    "a stage's job": ["transfer/planning/slurm/stage_job.py", "stage", *SHELL],
    "a stage's wait": ["transfer/planning/slurm/wait_for_job.py", "stage"],
    "the runner": ["transfer/measure_gap.py", "toy_plan.yaml"],
    "the environment": [".venv/lib/torch/distributed/run.py", *TORCHRUN],
    "a finished run": ["runs/x/evil.py"],
    "downloaded data": ["datasets/evil.py"],
    "the long way": ["demo/../runs/x/evil.py"],
    "the long way to a listed one": ["./demo/draw.py"],
    "an absolute path": [sys.executable, "-c", "open('hit', 'w')"],
    "a module": ["-m", "torch.distributed.run", *TORCHRUN],
    "nothing": [],
    "a test": ["tests/runtime/programs/exit_codes.py"],
}


@pytest.mark.parametrize("name", ATTACKS)
def test_prepare_starts_scripts_of_the_list_only(name: str, plan_file: Path) -> None:
    argv = ATTACKS[name]
    if argv and "/" in argv[0]:
        (plan_file.parent / argv[0]).parent.mkdir(parents=True, exist_ok=True)
        (plan_file.parent / "runs/x").mkdir(parents=True, exist_ok=True)
        if not argv[0].startswith("/"):
            (plan_file.parent / argv[0]).touch()
    plan = yaml.safe_load(plan_file.read_text())
    plan["prepare"] = [{"argv": argv, "done": "x"}]
    plan_file.write_text(yaml.safe_dump(plan))
    with pytest.raises(UserError, match=f"must begin with one of {', '.join(PREPARE_SCRIPTS)}"):
        load_plan(plan_file)


def test_scripts_of_the_list_exist(repo: Path) -> None:
    assert all((repo / script).is_file() for script in PREPARE_SCRIPTS)


@pytest.mark.parametrize("where", ["output", "argv", "done", "weights", "family"])
def test_a_line_break_in_a_plan_is_refused(where: str, plan_file: Path) -> None:
    """In a batch script it would begin a command."""
    plan = yaml.safe_load(plan_file.read_text())
    bad = "runs/x\ntouch hit\n"
    if where == "output":
        plan["output"] = bad
    elif where in ("argv", "done"):
        plan["prepare"][0][where] = [*plan["prepare"][0]["argv"], bad] if where == "argv" else bad
    else:
        plan["inits"]["other"] = {"weights": "a.pth", where: bad}
    plan_file.write_text(yaml.safe_dump(plan))
    with pytest.raises(UserError, match="control character"):
        load_plan(plan_file)
    with pytest.raises(UserError, match="control character"):
        sbatch_script(Launcher("slurm"), "train", ("transfer/train_net.py",), Path(bad))


def test_a_nul_in_an_argument_is_refused(plan_file: Path) -> None:
    plan_file.write_text(plan_file.read_text().replace("--seed, ", '"a\\0b", --seed, ', 1))
    with pytest.raises(UserError, match="holds a NUL character; remove it"):
        load_plan(plan_file)


PYTHON = sys.executable
COMMANDS = {
    "a shell": SHELL,
    "this Python with code": [PYTHON, "-c", "open('hit', 'w')"],
    "torchrun of anything": [PYTHON, "-m", "torch.distributed.run", "--no-python", *SHELL],
    "torchrun of a shell": [PYTHON, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1", *SHELL],
    "another script": [PYTHON, "transfer/measure_gap.py"],
    "a script of this name elsewhere": [PYTHON, "/tmp/transfer/train_net.py"],
    "another interpreter": ["/bin/sh", "transfer/train_net.py"],
    "no script": [PYTHON],
    "nothing": [],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_job_runs_stages_only(name: str, tmp_path: Path, run_cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = COMMANDS[name]
    sound = [PYTHON, str(Path(__file__).parents[3] / "transfer/train_net.py")]
    with pytest.raises(UserError, match=r"runs only pretrain/main\.py or transfer/train_net\.py"):
        StageJob(str(tmp_path), command, sound, str(tmp_path)).run()
    with pytest.raises(UserError, match=r"runs only pretrain/main\.py or transfer/train_net\.py"):
        StageJob(str(tmp_path), sound, command, str(tmp_path)).run()
    request = {"folder": ".", "name": "x", "argv": command, "resumed": sound, "options": [], "via": "sbatch"}
    (tmp_path / "job.json").write_text(json.dumps(request))
    with pytest.raises(UserError, match="runs only"):
        SlurmStage.read(tmp_path)
    done = run_cli(["transfer/planning/slurm/stage_job.py", ".", *(command or ["x"])], cwd=tmp_path, check=2)
    assert done.stderr.startswith("error: ")
    assert [p.name for p in tmp_path.iterdir()] == ["job.json"]


@pytest.mark.parametrize(
    "change",
    [{"argv": 1}, {"argv": [1]}, {"via": "sh"}, {"options": ["a\nb"]}, {"name": "a\nb"}, {"folder": None}, {"more": 1}],
)
def test_a_job_description_that_was_not_written_here_is_refused(change: dict, tmp_path: Path) -> None:
    sound = [PYTHON, str(Path(__file__).parents[3] / "transfer/train_net.py")]
    request = {"folder": ".", "name": "x", "argv": sound, "resumed": sound, "options": [], "via": "sbatch"}
    (tmp_path / "job.json").write_text(json.dumps(request))
    assert SlurmStage.read(tmp_path).argv == sound
    (tmp_path / "job.json").write_text(json.dumps({**request, **change}))
    with pytest.raises(UserError):
        SlurmStage.read(tmp_path)
