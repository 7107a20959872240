"""Submits one stage of a plan to Slurm and waits for it; --launcher slurm starts this instead of the stage itself.

    python transfer/planning/slurm/wait_for_job.py STAGE_FOLDER   # the folder has a job.json; measure_gap.py writes it

It holds the stage's lock while the job runs. A job that outlives this process (a second Ctrl-C, a rebooted login node)
is found again by its id and waited for, not submitted twice. A signal makes the job save and exit; a job that is still
pending is cancelled.
"""

import os
import sys

if not __package__:  # run as a script: import from the repository, not from this folder
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

import signal
import subprocess
import time
from pathlib import Path

from runtime.atomic import read_json, write_json
from runtime.command_line import CommandParser
from runtime.errors import UserError, run_entry
from runtime.stop import StopSignal
from transfer.planning.slurm.scripts import SlurmStage
from transfer.planning.slurm.stage_job import EXIT, LOG, STOPPED_CODES

POLL_SECONDS = 0.5
SQUEUE_SECONDS = (2.0, 30.0)  # first and longest time between two calls of squeue, which loads the scheduler
GRACE_SECONDS = float(os.environ.get("TRANSFER_GAP_SLURM_GRACE", "30"))  # a network file system may show exit.json late
SUBMITTED = "submitted.json"
GONE, UNKNOWN = "GONE", "UNKNOWN"
STOPPED_BY_US = 128 + signal.SIGTERM


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
    """Exit code of the job's command; None while it runs."""
    ended = read_json(folder / EXIT)  # of an earlier job of this stage, if the id differs
    return int(ended["code"]) if ended.get("job") == job and isinstance(ended.get("code"), int) else None


def running_job(folder: Path, stage: SlurmStage) -> str | None:
    """The id of a job that was submitted for this stage earlier and has not ended."""
    submitted = read_json(folder / SUBMITTED)
    job = str(submitted.get("job", ""))
    if not job.isdigit() or exit_code(folder, job) is not None or job_state(job) == GONE:
        return None
    if submitted.get("command") != stage.resumed:
        raise UserError(f"Slurm job {job} still runs another command for this stage; wait for it, or scancel {job}")
    return job


def wait(folder: Path, job: str, stop: StopSignal) -> int:
    """Wait for the job's end; returns the exit code of its command. Raises UserError when it left none.

    The exit code is what ends the wait. The queue is asked as well, since a job that was killed (no memory, a failed
    node) leaves none: once Slurm no longer knows the job, the file gets ``GRACE_SECONDS`` to appear.
    """
    pause, stop_sent = SQUEUE_SECONDS[0], False
    next_look, gone_since = time.monotonic(), 0.0
    while (code := exit_code(folder, job)) is None:
        now = time.monotonic()
        if stop.requested and not stop_sent:
            stop_sent, next_look, pause = True, now, SQUEUE_SECONDS[0]
            _stop_job(job)
        if now >= next_look:
            next_look, pause = now + pause, min(2 * pause, SQUEUE_SECONDS[1])
            # UNKNOWN does not count: a scheduler that does not answer has not ended the job
            gone_since = (gone_since or now) if job_state(job) == GONE else 0.0
        if gone_since and (stop_sent or now - gone_since > GRACE_SECONDS):
            if stop_sent:  # cancelled while pending: it never ran, so it left no exit code
                return STOPPED_BY_US
            raise UserError(f"Slurm job {job} ended without an exit code: {_last_line(folder, job)}")
        time.sleep(POLL_SECONDS)
    return code


def _stop_job(job: str) -> None:
    # not USR2, on which submitit requeues: the job is to end
    pending = job_state(job) == "PENDING"
    command = ["scancel", job] if pending else ["scancel", "--signal=USR1", job]
    print(f"stopping Slurm job {job}: {' '.join(command)}", flush=True)
    subprocess.run(command, check=False)


def _last_line(folder: Path, job: str) -> str:
    """The last line that Slurm or the command wrote, e.g. that the job was cancelled or ran out of memory."""
    for path in (folder / "slurm" / f"{job}_0_log.out", folder / LOG):
        lines = path.read_text(errors="replace").split("\n") if path.is_file() else []
        if written := [line.strip() for line in lines if line.strip()]:
            return f"{written[-1][:300]} ({path})"
    return "neither Slurm nor the command wrote anything; see sacct"


def main() -> int:
    """Submit or find the job, wait, and exit with the code of its command."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("folder", metavar="FOLDER", help="a stage's folder with its job.json")
    folder = Path(parser.parse_args().folder)
    stage = SlurmStage.read(folder)
    with StopSignal() as stop:
        job = running_job(folder, stage)
        if job is None:
            (folder / EXIT).unlink(missing_ok=True)  # a reinstalled cluster numbers its jobs from 1 again
            job = stage.submit()
            write_json(folder / SUBMITTED, {"job": job, "command": stage.resumed})
        print(f"Slurm job {job} through {stage.via}", flush=True)
        code = wait(folder, job, stop)
    if code and code not in STOPPED_CODES:
        print(f"full output: {folder / LOG}", flush=True)
        print(f"error: {_error(folder)} (Slurm job {job})", file=sys.stderr)
    return code


def _error(folder: Path) -> str:
    from runtime.logs import last_error

    return last_error(folder / LOG)


if __name__ == "__main__":
    run_entry(main)
