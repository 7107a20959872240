"""Runs a stage's command inside a Slurm job, and makes it save and exit when Slurm or the runner asks for it.

    python transfer/planning/slurm/stage_job.py FOLDER COMMAND...    # in the batch script; submitit calls StageJob

The command's output goes to FOLDER/job.log and its exit code to FOLDER/exit.json, so that waiting for the job needs no
accounting database. Slurm's proctrack plugins differ in which processes they signal (the task alone with cgroup, every
process of the step with linuxproc). Both have the same effect here: USR1 reaches the training processes and kills none.
"""

import os
import sys

if not __package__:  # run as a script: import from the repository, not from this folder
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from runtime.atomic import read_json, write_json
from runtime.errors import UserError, run_entry
from transfer.planning.slurm.stage_commands import AGENT, check_stage_command

POLL_SECONDS = 0.5
ASK_SECONDS = 5.0  # between two signals: one sent before the command has installed its handler is lost
STOPPED = 128 + signal.SIGUSR1
STOPPED_CODES = (128 + signal.SIGINT, 128 + signal.SIGUSR1, 128 + signal.SIGTERM)
REQUEST, LOG, EXIT = "job.json", "job.log", "exit.json"


class StageJob:
    """A callable for submitit: runs ``argv`` in ``cwd``; a requeued job continues with ``resumed``.

    ``folder`` is the stage's folder, for its log and exit code.
    """

    def __init__(self, folder: str, argv: Sequence[str], resumed: Sequence[str], cwd: str) -> None:
        self.folder, self.argv, self.resumed, self.cwd = folder, list(argv), list(resumed), cwd
        self._process: subprocess.Popen[bytes] | None = None
        self._stop_requested = False
        self._last_ask = 0.0

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: everything but a running process."""
        return {**vars(self), "_process": None}

    def __call__(self) -> int:
        """Called by submitit: ``run``, raising an error for a failure so that Slurm reports FAILED too."""
        code = self.run()
        if code and code not in STOPPED_CODES:
            raise RuntimeError(f"exit code {code}, log {Path(self.folder) / LOG}")
        return code

    def run(self) -> int:
        """Run the command to its end; write its exit code and return it. Raises UserError for any other command."""
        for command in (self.argv, self.resumed):
            check_stage_command(command, self.folder)
        try:
            code = self._run()
        except Exception:  # submitit's signal handler raises once it has requeued the job too often
            finished = self._process is not None and self._process.poll() == 0
            self._write_exit(0 if finished else STOPPED)
            raise
        self._write_exit(code)
        return code

    def checkpoint(self) -> Any:
        """Called by submitit before the time limit and on preemption: save, exit, and continue in a requeued job."""
        import submitit

        process = self._process
        while process is not None and not _has_ended(process.pid):
            self._ask(process)
            time.sleep(POLL_SECONDS)
        return submitit.helpers.DelayedSubmission(StageJob(self.folder, self.resumed, self.resumed, self.cwd))

    def ask_to_stop(self, signum: int, frame: FrameType | None) -> None:
        """Signal handler: ask the command to save and exit."""
        self._stop_requested = True

    def _run(self) -> int:
        if signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL:  # otherwise submitit uses it (SUBMITIT_PREEMPT_SIGNAL)
            signal.signal(signal.SIGUSR1, self.ask_to_stop)
        restarted = os.environ.get("SLURM_RESTART_COUNT", "0") != "0"  # Slurm itself requeues the jobs of a failed node
        with open(Path(self.folder) / LOG, "ab") as sink:
            self._process = process = subprocess.Popen(
                self.resumed if restarted else self.argv,
                cwd=self.cwd,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                preexec_fn=_ignore_user_signals,
            )
        while process.poll() is None:
            if self._stop_requested:
                self._ask(process)
            time.sleep(POLL_SECONDS)
        code = process.returncode if process.returncode >= 0 else 128 - process.returncode
        # torchrun reports processes that saved and exited as failed; the files they wrote decide, not its exit code
        return STOPPED if code and self._stop_requested and AGENT in self.argv else code

    def _ask(self, process: subprocess.Popen[bytes]) -> None:
        if time.monotonic() - self._last_ask < ASK_SECONDS:
            return
        self._last_ask = time.monotonic()
        # USR1 would kill torchrun itself
        for pid in children(process.pid) if AGENT in self.argv else [process.pid]:
            try:
                os.kill(pid, signal.SIGUSR1)
            except ProcessLookupError:
                continue  # it has just ended

    def _write_exit(self, code: int) -> None:
        write_json(Path(self.folder) / EXIT, {"job": os.environ.get("SLURM_JOB_ID", ""), "code": code})


def _ignore_user_signals() -> None:
    # the default action of both signals is to kill; torchrun never installs a handler, the command not at once
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def _has_ended(pid: int) -> bool:
    # Called in a signal handler that may have interrupted Popen.poll: poll would wait for a lock that poll holds.
    # WNOWAIT leaves the exit status for Popen to collect.
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def children(pid: int) -> list[int]:
    """Process ids of the direct children of ``pid``."""
    pids = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()  # the name before it may contain spaces and brackets
        except OSError:
            continue  # ended meanwhile
        if int(fields[1]) == pid:
            pids.append(int(entry.parent.name))
    return pids


def main() -> int:
    """Run the command that the batch script names."""
    if len(sys.argv) < 3:
        raise UserError("usage: stage_job.py FOLDER COMMAND...; measure_gap.py --launcher slurm calls it")
    folder, *argv = sys.argv[1:]
    check_stage_command(argv, folder)
    resumed = check_stage_command(read_json(Path(folder) / REQUEST).get("resumed"), str(Path(folder) / REQUEST))
    job = StageJob(folder, argv, resumed, os.getcwd())
    signal.signal(signal.SIGTERM, job.ask_to_stop)  # preemption; under submitit all signal handlers are submitit's
    return job.run()


if __name__ == "__main__":
    run_entry(main)
