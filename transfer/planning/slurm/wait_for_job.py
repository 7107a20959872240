"""Submits one stage of a plan to Slurm and waits for it: what --launcher slurm starts in a process's place.

    python transfer/planning/slurm/wait_for_job.py STAGE_FOLDER   # the folder has a job.json; measure_gap.py writes it

It holds the stage's lock for as long as the job lives. A job that outlived its waiter (a second Ctrl-C, a rebooted
login node) is found again by its id and waited for, not doubled. A signal makes the job save and leave; one that still
waits in the queue is cancelled.
"""

import os
import sys

if not __package__:  # run as a script: import from the repository, not from this folder
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

import argparse
import dataclasses
import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from runtime.atomic import write_json
from runtime.errors import UserError, run_entry
from runtime.stop import StopSignal
from transfer.planning.slurm.scripts import REQUEST, SlurmStage
from transfer.planning.slurm.stage_job import EXIT, LOG, STOPPED_CODES

POLL_SECONDS = 0.5
SQUEUE_SECONDS = (2.0, 30.0)  # first and longest wait between two looks at the queue
GRACE_SECONDS = float(os.environ.get("TRANSFER_GAP_SLURM_GRACE", "30"))  # a network file system shows files late
SUBMITTED = "submitted.json"
GONE, UNKNOWN = "GONE", "UNKNOWN"
STOPPED_BY_US = 128 + signal.SIGTERM


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def job_state(job: str) -> str:
    """Slurm's state of a job in the queue (PENDING, RUNNING ...), GONE, or UNKNOWN when Slurm does not answer."""
    command = ["squeue", "--noheader", "--jobs", job, "--format", "%T"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return UNKNOWN
    if done.returncode:
        return GONE if "Invalid job id" in done.stderr else UNKNOWN
    return done.stdout.strip() or GONE


def exit_code(folder: Path, job: str) -> int | None:
    """What the job's command ended with; None while it has not."""
    left = _read(folder / EXIT)
    return int(left["code"]) if left.get("job") == job and isinstance(left.get("code"), int) else None


def living_job(folder: Path, stage: SlurmStage) -> str | None:
    """The id of a job that was submitted for this stage before and has not ended."""
    left = _read(folder / SUBMITTED)
    job = str(left.get("job", ""))
    if not job.isdigit() or exit_code(folder, job) is not None or job_state(job) == GONE:
        return None
    if left.get("command") != stage.resumed:
        raise UserError(f"Slurm job {job} still runs another command for this stage; scancel {job} or wait for it")
    return job


def wait(folder: Path, job: str, stop: StopSignal) -> int:
    """Wait for the job's end; returns the exit code of its command. Raises UserError when it left none."""
    pause, told = SQUEUE_SECONDS[0], False
    look, gone_since = time.monotonic(), 0.0
    while (code := exit_code(folder, job)) is None:
        now = time.monotonic()
        if stop.requested and not told:
            told, look, pause = True, now, SQUEUE_SECONDS[0]
            _stop_job(job)
        if now >= look:
            look, pause = now + pause, min(2 * pause, SQUEUE_SECONDS[1])
            gone_since = (gone_since or now) if job_state(job) == GONE else 0.0
        if gone_since and (told or now - gone_since > GRACE_SECONDS):
            if told:
                return STOPPED_BY_US
            raise UserError(f"Slurm job {job} ended without an exit code: {_last_words(folder, job)}")
        time.sleep(POLL_SECONDS)
    return code


def _stop_job(job: str) -> None:
    # USR1 is not the signal on which submitit requeues: the job shall leave for good
    pending = job_state(job) == "PENDING"
    command = ["scancel", job] if pending else ["scancel", "--signal=USR1", job]
    print(f"stopping Slurm job {job}: {' '.join(command)}", flush=True)
    subprocess.run(command, check=False)


def _last_words(folder: Path, job: str) -> str:
    """The last line Slurm or the command wrote, e.g. that the job was cancelled or had no memory."""
    for path in (folder / "slurm" / f"{job}_0_log.out", folder / LOG):
        lines = path.read_text(errors="replace").split("\n") if path.is_file() else []
        if said := [line.strip() for line in lines if line.strip()]:
            return f"{said[-1][:300]} ({path})"
    return "nothing was written; sacct may know"


def main() -> int:
    """Submit or find the job, wait, and leave with the exit code of its command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", help="a stage's folder with its job.json")
    folder = Path(parser.parse_args().folder)
    request = _read(folder / REQUEST)
    if set(request) != {field.name for field in dataclasses.fields(SlurmStage)}:
        raise UserError(f"{folder / REQUEST} describes no Slurm job; it is written by measure_gap.py --launcher slurm")
    stage = SlurmStage(**request)
    with StopSignal() as stop:
        job = living_job(folder, stage)
        if job is None:
            (folder / EXIT).unlink(missing_ok=True)  # a cluster set up anew counts its jobs from 1 again
            job = stage.submit()
            write_json(folder / SUBMITTED, {"job": job, "command": stage.resumed})
        print(f"Slurm job {job} through {stage.via}", flush=True)
        code = wait(folder, job, stop)
    if code and code not in STOPPED_CODES:
        print(f"the whole output: {folder / LOG}", flush=True)
        print(f"error: {_error(folder)} (Slurm job {job})", file=sys.stderr)
    return code


def _error(folder: Path) -> str:
    from runtime.logs import last_error

    return last_error(folder / LOG)


if __name__ == "__main__":
    run_entry(main)
