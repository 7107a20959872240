"""The runner: no stage runs twice, broken ones resume, failures are reported, two runners share a folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runtime.stop import StopSignal
from transfer.planning.plan import load_plan
from transfer.planning.runner import Runner, lock_stage
from transfer.planning.stages import plan_stages
from transfer.planning.state import Outcome, stage_folder


def run(plan_file: Path, *, jobs: int = 1, redo: bool = False) -> dict[str, Outcome]:
    plan = load_plan(plan_file)
    return Runner(plan_stages(plan), plan.output, jobs=jobs, redo=redo).run(StopSignal())


def calls(folder: str) -> list[str]:
    path = Path(folder) / "calls.txt"
    return path.read_text().splitlines() if path.exists() else []


def test_everything_runs_once(plan_file: Path) -> None:
    assert {o.status for o in run(plan_file, jobs=2).values()} == {"finished"}
    assert {o.seconds for o in run(plan_file).values()} == {0.0}
    for init in ("random", "supervised", "moco"):
        assert [len(calls(f"runs/toy/toy/{init}/seed{s}")) for s in (0, 1)] == [1, 1]
    assert len(calls("runs/toy/moco")) == 1


def test_failed_run_is_in_the_table_and_the_next_call_resumes_it(plan_file: Path, measure_gap: list[str]) -> None:
    broken = Path("runs/toy/toy/moco/seed1")
    broken.mkdir(parents=True)
    (broken / "fail_once").touch()
    outcomes = run(plan_file)
    assert [n for n, o in outcomes.items() if o.status != "finished"] == ["toy/moco/seed1"]
    subprocess.run([*measure_gap, "--report-only"], check=True, capture_output=True, timeout=360)
    text = Path("runs/toy/gap.md").read_text()
    assert "moco, seed 1: failed: loss is not finite at step 7 (exit code 2" in text
    assert "| moco | 1 of 2 |" in text
    assert "1 of 4 runs failed (moco, seed 1: failed: loss is not finite at step 7" in text
    assert {o.status for o in run(plan_file).values()} == {"finished"}
    assert [("--resume" in call) for call in calls(str(broken))] == [False, True]


def test_a_report_on_nothing_is_an_error(plan_file: Path, measure_gap: list[str]) -> None:
    done = subprocess.run([*measure_gap, "--report-only"], capture_output=True, text=True, timeout=360)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "nothing of toy_plan.yaml has run in runs/toy yet" in done.stderr
    assert not Path("runs/toy/gap.md").exists()


def test_report_only_runs_nothing_and_shows_what_is_missing(plan_file: Path, measure_gap: list[str]) -> None:
    run(plan_file)
    (Path("runs/toy/toy/moco/seed1") / "result.json").unlink()
    before = calls("runs/toy/toy/moco/seed1")
    done = subprocess.run([*measure_gap, "--report-only"], capture_output=True, text=True, timeout=360)
    assert done.returncode == 0, done.stderr
    assert calls("runs/toy/toy/moco/seed1") == before
    assert "- moco, seed 1: not run yet" in Path("runs/toy/gap.md").read_text()
    refused = subprocess.run([*measure_gap, "--random", "moco"], capture_output=True, text=True, timeout=360)
    assert (refused.returncode, refused.stderr[:26]) == (2, "error: --random does not a")


@pytest.mark.parametrize("settings", [[], ["--set", "protocol=frozen", "--set", "features=cached"]])
def test_a_plan_removes_its_caches_and_nothing_else(
    settings: list[str], plan_file: Path, measure_gap: list[str]
) -> None:
    caches = Path("runs/toy/feature_cache")
    (caches / "1f0c").mkdir(parents=True)
    (caches / "1f0c" / "made_with.json").write_text("{}")
    (caches / "mine.txt").write_text("mine")
    done = subprocess.run([*measure_gap, *settings], capture_output=True, text=True, timeout=360)
    assert done.returncode == 0, done.stderr
    assert (caches / "mine.txt").read_text() == "mine"
    assert (caches / "1f0c").exists() == (not settings)


def test_a_plan_of_published_rows_reports_without_a_run(plan_file: Path, measure_gap: list[str]) -> None:
    rows = 'inits={v2: {published: {init: "MoCo v2", pretrain_data: IN-1M}}}'
    done = subprocess.run(
        [*measure_gap, "--set", rows, "--report-only"],
        capture_output=True,
        text=True,
        timeout=360,
    )
    assert done.returncode == 0, done.stderr
    assert Path("runs/toy/gap.md").is_file()


def test_plan_and_command_line_allow_a_difference(plan_file: Path, measure_gap: list[str]) -> None:
    run(plan_file)
    path = Path("runs/toy/toy/moco/seed1/result.json")
    record = json.loads(path.read_text())
    record["config"]["flat"]["INPUT.FORMAT"] = "BGR"
    path.write_text(json.dumps(record))
    refused = subprocess.run(measure_gap, capture_output=True, text=True, timeout=360)
    assert refused.returncode == 2
    assert "--allow INPUT.FORMAT" in refused.stderr
    for more in (["--allow", "INPUT.FORMAT"], ["--set", "allow=[INPUT.FORMAT]"]):
        subprocess.run([*measure_gap, *more], check=True, capture_output=True, timeout=360)
        assert "**Not like for like on toy: INPUT.FORMAT**" in Path("runs/toy/gap.md").read_text()
        Path("runs/toy/gap.md").unlink()


def test_failed_pretraining_blocks_only_what_needs_it(plan_file: Path, fake_repo: Path) -> None:
    script = fake_repo / "pretrain" / "main.py"
    script.write_text(script.read_text().replace('b"weights of "', 'b"broken "'))
    outcomes = run(plan_file)
    assert outcomes["convert/moco"].status == "failed"
    assert "HTML page" in str(outcomes["convert/moco"].error)
    assert outcomes["toy/moco/seed0"].status == "blocked"
    assert outcomes["toy/random/seed1"].status == "finished"


def test_changed_weights_or_command_are_stale_until_redo(plan_file: Path) -> None:
    run(plan_file)
    Path("runs/toy/moco/checkpoint_0001.pth.tar").write_bytes(b"other weights")
    outcomes = run(plan_file)
    assert "started from other weights" in str(outcomes["toy/moco/seed0"].error)
    assert outcomes["toy/supervised/seed0"].status == "finished"
    assert {o.status for o in run(plan_file, redo=True).values()} == {"finished"}
    assert Path("runs/toy/toy/moco/seed0.old1/result.json").is_file()
    plan_file.write_text(plan_file.read_text() + "overrides: {SOLVER.MAX_ITER: 9}\n")
    error = str(run(plan_file)["toy/random/seed0"].error)
    assert "it was made with other settings: " in error
    assert "SOLVER.MAX_ITER" in error


def test_result_of_another_seed_is_not_taken(plan_file: Path) -> None:
    run(plan_file)
    path = Path("runs/toy/toy/random/seed0/result.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "seed": 7}))
    assert "seed 7" in str(run(plan_file)["toy/random/seed0"].error)


def test_torn_result_is_run_again(plan_file: Path) -> None:
    run(plan_file)
    path = Path("runs/toy/toy/random/seed0/result.json")
    path.write_text(path.read_text()[:40])
    assert run(plan_file)["toy/random/seed0"].status == "finished"
    assert len(calls(str(path.parent))) == 2


def test_interrupt_stops_resumably_and_again_continues(plan_file: Path, measure_gap: list[str]) -> None:
    env = {**os.environ, "FAKE_STEPS": "100000"}
    first = subprocess.Popen([*measure_gap, "--jobs", "2"], env=env, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not list(Path("runs/toy/toy").glob("*/*/at")) and time.monotonic() < deadline:
        time.sleep(0.05)
    first.send_signal(signal.SIGINT)
    out, _ = first.communicate(timeout=360)
    assert first.returncode == 130
    assert "the same command continues" in out
    begun = [p.parent for p in Path("runs/toy/toy").glob("*/*/at")]
    assert begun
    second = subprocess.run(
        measure_gap, env={**os.environ, "FAKE_STEPS": "2"}, capture_output=True, text=True, timeout=120
    )
    assert second.returncode == 0, second.stdout + second.stderr
    assert all("--resume" in calls(str(folder))[-1] for folder in begun)
    assert "moco against supervised on toy" in second.stdout


def test_a_stage_that_outlived_its_runner_is_recorded_as_finished(plan_file: Path) -> None:
    """Killed while a stage ran, or in the write of its end: the record would say "running" for ever."""
    run(plan_file)
    folder = Path("runs/toy/stages/toy__random__seed0")
    record = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps({"argv": record["argv"], "proof": None, "status": "running"}))
    assert run(plan_file)["toy/random/seed0"].status == "finished"
    now = json.loads((folder / "record.json").read_text())
    assert (now["status"], now["argv"], now["proof"]) == ("finished", record["argv"], record["proof"])
    assert len(calls("runs/toy/toy/random/seed0")) == 1


def test_two_runners_share_the_work(plan_file: Path, measure_gap: list[str]) -> None:
    runners = [
        subprocess.Popen(measure_gap, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)
    ]
    outputs = [runner.communicate(timeout=360)[0] for runner in runners]
    assert [runner.returncode for runner in runners] == [0, 0], outputs
    every = [*Path("runs/toy/toy").glob("*/*/calls.txt"), *Path("runs/toy").glob("*/calls.txt")]
    assert len(every) == 8
    assert all(len(path.read_text().splitlines()) == 1 for path in every)


def test_stage_lock_outlives_a_killed_runner(plan_file: Path) -> None:
    plan = load_plan(plan_file)
    folder = stage_folder(plan.output, plan_stages(plan)[0])
    lock = lock_stage(folder)
    assert lock is not None
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock.fileno(),))
    lock.close()  # what the kernel does when the runner dies
    assert lock_stage(folder) is None
    child.communicate(b"\n", timeout=360)
    assert lock_stage(folder) is not None
