"""Slurm jobs: both ways of submitting, requeueing at the time limit, stopping, and finding a job again."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.errors import UserError
from runtime.stop import StopSignal
from transfer.planning.dry_run import dry_run
from transfer.planning.launchers import Launcher, make_launcher, sbatch_script
from transfer.planning.plan import load_plan
from transfer.planning.runner import Runner
from transfer.planning.slurm.scripts import minutes
from transfer.planning.slurm.stage_job import children
from transfer.planning.stages import plan_stages
from transfer.planning.state import Outcome

HAS_SUBMITIT = importlib.util.find_spec("submitit") is not None
WAYS = [
    "sbatch",
    pytest.param("submitit", marks=pytest.mark.skipif(not HAS_SUBMITIT, reason="submitit is not installed")),
]
RUN, STAGE = Path("runs/toy/toy/random/seed0"), Path("runs/toy/stages/toy__random__seed0")


@pytest.fixture
def cluster(fake_repo: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Slurm's commands on PATH; the folder where they keep their jobs."""
    commands, jobs = fake_repo / "bin", fake_repo / "slurm_jobs"
    commands.mkdir()
    jobs.mkdir()
    body = (Path(__file__).parent / "fake_slurm.py").read_text()
    for name in ("sbatch", "srun", "squeue", "scancel", "scontrol", "sacct"):
        (commands / name).write_text(f"#!{sys.executable}\n{body}")
        (commands / name).chmod(0o755)
    monkeypatch.setenv("FAKE_SLURM", str(jobs))
    monkeypatch.setenv("TRANSFER_GAP_SLURM_GRACE", "1")
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    return jobs


def run(
    plan_file: Path, via: str, *names: str, options: tuple[str, ...] = (), processes: int = 1
) -> dict[str, Outcome]:
    plan = load_plan(plan_file)
    stages = [s for s in plan_stages(plan) if s.name.startswith(("prepare", *names))]
    launcher = make_launcher("slurm", processes, options, via)
    return Runner(stages, plan.output, launcher=launcher, jobs=4).run(StopSignal())


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def started(measure_gap: list[str]) -> Callable[..., subprocess.Popen[str]]:
    """Start measure_gap.py on one run with Slurm."""

    def start(via: str, *extra: str) -> subprocess.Popen[str]:
        options = ["--launcher", "slurm", "--slurm-via", via, "--only", "toy/random/seed0"]
        return subprocess.Popen(
            [*measure_gap, *options, *extra], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    return start


def test_dry_run_prints_the_batch_script(plan_file: Path) -> None:
    plan = load_plan(plan_file)
    launcher = make_launcher("slurm", 8, ["partition=gpu", "gres=gpu:8"], "sbatch")
    text = dry_run(plan, plan_stages(plan), launcher)
    assert text.count("#!/bin/bash") == 8  # two pretrainings, six trainings; conversion runs here
    assert "#SBATCH --partition=gpu\n#SBATCH --gres=gpu:8\n" in text
    assert "--nproc-per-node=8" in text
    assert "signal=USR1@120" in text
    assert not plan.output.exists()


@pytest.mark.skipif(not HAS_SUBMITIT, reason="submitit is not installed")
def test_dry_run_prints_the_script_that_submitit_submits(plan_file: Path, cluster: Path) -> None:
    plan = load_plan(plan_file)
    options = ("partition=gpu", "time=1-02:30:00", "exclusive")
    text = dry_run(plan, plan_stages(plan), make_launcher("slurm", 2, options))
    assert text.count("submitit.core._submit") == 8
    for line in ("partition=gpu", "time=1590", "exclusive\n", "signal=USR2@120"):
        assert f"#SBATCH --{line}" in text
    assert not plan.output.exists()
    run(plan_file, "submitit", "toy/random/seed0", options=options)
    submitted = (cluster / "4242.sh").read_text()
    printed = dry_run(plan, plan_stages(plan), make_launcher("slurm", 1, options))  # of seed 1: only the name differs
    assert submitted.strip().replace("seed0", "seed1") in printed


def test_batch_script_is_valid_bash(tmp_path: Path) -> None:
    script = tmp_path / "job.sbatch"
    command = ("transfer/train_net.py", "DATASETS.TRAIN", "('a b',)", "x'y")
    script.write_text(sbatch_script(Launcher("slurm", 1), "train", command, tmp_path / "stage"))
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert "exec srun" in script.read_text()


@pytest.mark.parametrize("via", WAYS)
def test_stages_run_as_jobs(plan_file: Path, cluster: Path, via: str) -> None:
    outcomes = run(plan_file, via, "pretrain", "convert", "toy/moco")
    assert {o.status for o in outcomes.values()} == {"finished"}
    assert len(list(cluster.glob("*.sh"))) == 4  # two pretrainings, two seeds; the conversions ran here
    assert f"through {via}" in (STAGE.parent / "toy__moco__seed0/log.txt").read_text()
    assert {o.seconds for o in run(plan_file, via, "pretrain", "convert", "toy/moco").values()} == {0.0}


@pytest.mark.parametrize("via", WAYS)
def test_error_of_a_job_reaches_the_table_and_it_is_resumed(plan_file: Path, cluster: Path, via: str) -> None:
    RUN.mkdir(parents=True)
    (RUN / "fail_once").touch()
    outcome = run(plan_file, via, "toy/random/seed0")["toy/random/seed0"]
    assert str(outcome.error).startswith("loss is not finite at step 7 (Slurm job 4242)")
    assert run(plan_file, via, "toy/random/seed0")["toy/random/seed0"].status == "finished"
    assert [("--resume" in call) for call in (RUN / "calls.txt").read_text().splitlines()] == [False, True]


@pytest.mark.parametrize("via", WAYS)
def test_refusal_by_slurm_is_named(plan_file: Path, cluster: Path, via: str) -> None:
    outcome = run(plan_file, via, "toy/random/seed0", options=("partition=nope",))["toy/random/seed0"]
    assert "Invalid partition name specified" in str(outcome.error)


@pytest.mark.parametrize("via", WAYS)
def test_job_that_vanishes_is_a_failure(
    plan_file: Path,
    cluster: Path,
    via: str,
    monkeypatch: pytest.MonkeyPatch,
    started: Callable[..., subprocess.Popen[str]],
) -> None:
    monkeypatch.setenv("FAKE_STEPS", "100000")
    runner = started(via)
    until(lambda: (RUN / "at").exists())
    task = int(next(cluster.glob("*.pid")).read_text())
    left = children(task)
    os.kill(task, signal.SIGKILL)  # the node's memory killer, say
    out, _ = runner.communicate(timeout=360)
    assert "Slurm job 4242 ended without an exit code" in out
    assert runner.returncode == 1
    for pid in left:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.skipif(not HAS_SUBMITIT, reason="submitit is not installed")
@pytest.mark.parametrize("processes", [1, 2])
def test_job_at_its_time_limit_saves_and_goes_on(
    plan_file: Path,
    cluster: Path,
    monkeypatch: pytest.MonkeyPatch,
    started: Callable[..., subprocess.Popen[str]],
    processes: int,
) -> None:
    monkeypatch.setenv("FAKE_STEPS", "400")
    runner = started("submitit", f"--nproc={processes}", "--slurm-option=time=60")
    until(lambda: (RUN / "at").exists() and int((RUN / "at").read_text() or 0) > 20)
    until(lambda: len((RUN / "calls.txt").read_text().splitlines()) == processes)  # each has its handlers by then
    os.kill(int((cluster / "4242.pid").read_text()), signal.SIGUSR2)  # Slurm, two minutes before the limit
    out, _ = runner.communicate(timeout=360)
    assert runner.returncode == 0, out
    calls = (RUN / "calls.txt").read_text().splitlines()
    assert [("--resume" in call) for call in calls] == [False] * processes + [True] * processes
    assert len(list(cluster.glob("*.sh"))) == 1  # one job, requeued


@pytest.mark.parametrize("via", WAYS)
def test_ctrl_c_makes_the_job_save_and_leave(
    cluster: Path, via: str, monkeypatch: pytest.MonkeyPatch, started: Callable[..., subprocess.Popen[str]]
) -> None:
    monkeypatch.setenv("FAKE_STEPS", "100000")
    runner = started(via)
    until(lambda: (RUN / "at").exists())
    runner.send_signal(signal.SIGINT)
    out, _ = runner.communicate(timeout=360)
    assert runner.returncode == 130, out
    assert json.loads((STAGE / "exit.json").read_text()) == {"job": "4242", "code": 138}
    assert not (cluster / "4242.requeue").exists()
    monkeypatch.setenv("FAKE_STEPS", "2")
    again = started(via)
    assert again.wait(timeout=360) == 0
    assert "--resume" in (RUN / "calls.txt").read_text().splitlines()[-1]


@pytest.mark.parametrize("via", WAYS)
def test_ctrl_c_cancels_a_job_that_waits_in_the_queue(
    cluster: Path, via: str, started: Callable[..., subprocess.Popen[str]]
) -> None:
    (cluster / "full").touch()
    runner = started(via)
    until(lambda: (STAGE / "submitted.json").exists())
    runner.send_signal(signal.SIGINT)
    runner.communicate(timeout=360)
    assert runner.returncode == 130
    assert not list(cluster.glob("*.state"))


@pytest.mark.parametrize("via", WAYS)
def test_job_that_outlives_its_runner_is_waited_for(
    cluster: Path, via: str, monkeypatch: pytest.MonkeyPatch, started: Callable[..., subprocess.Popen[str]]
) -> None:
    monkeypatch.setenv("FAKE_STEPS", "200")
    runner = started(via)
    until(lambda: (RUN / "at").exists())
    waiter = next(p for p in Path("/proc").glob("[0-9]*") if _is_waiter(p, runner.pid))
    os.kill(int(waiter.name), signal.SIGKILL)
    runner.kill()
    runner.communicate(timeout=360)
    again = started(via)
    out, _ = again.communicate(timeout=360)
    assert again.returncode == 0, out
    assert len((RUN / "calls.txt").read_text().splitlines()) == 1
    assert len(list(cluster.glob("*.sh"))) == 1


def _is_waiter(process: Path, parent: int) -> bool:
    try:
        return b"wait_for_job.py" in (process / "cmdline").read_bytes() and (
            int((process / "stat").read_text().rpartition(")")[2].split()[1]) == parent
        )
    except OSError:
        return False


def test_restarted_job_continues(plan_file: Path, cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm itself requeues the jobs of a failed node."""
    sbatch = cluster.parent / "bin" / "sbatch"
    sbatch.write_text(sbatch.read_text().replace("restarts = args[0], 0", "restarts = args[0], 1"))
    run(plan_file, "sbatch", "toy/random/seed0")
    assert "--resume" in (RUN / "calls.txt").read_text()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90), ("90:30", 91), ("1:30:00", 90), ("2-12", 3600), ("1-0:30", 1470), ("1-00:00:01", 1441)],
)
def test_time_limits_are_read_as_slurm_reads_them(text: str, expected: int) -> None:
    assert minutes(text) == expected


@pytest.mark.parametrize(("processes", "options"), [(0, []), (1, ["a\n#SBATCH --wrap=x"]), (1, [" "])])
def test_bad_options_are_one_line(processes: int, options: list[str]) -> None:
    with pytest.raises(UserError):
        make_launcher("slurm", processes, options)


def test_missing_submitit_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="submitit is not installed"):
        make_launcher("slurm", 1, [], "submitit")
    assert make_launcher("slurm", 1, []).via == "sbatch"
