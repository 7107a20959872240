"""Runs the stages of a plan as subprocesses: dependencies first, several at a time, stoppable and resumable."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from runtime.errors import UserError
from runtime.logs import last_error
from runtime.stop import StopSignal
from transfer.planning.launchers import RESUME, Launcher
from transfer.planning.progress import PlanProgress
from transfer.planning.stage import Stage
from transfer.planning.state import (
    BROKEN,
    FINISHED,
    STALE,
    Outcome,
    State,
    record_stage,
    recorded_command,
    recorded_outcomes,
    recorded_status,
    set_aside,
    stage_folder,
    stage_state,
)

POLL_SECONDS = 0.1
STOPPED_CODES = (130, 138, 143, -signal.SIGTERM, -signal.SIGINT)


@dataclass
class _Child:
    stage: Stage
    command: tuple[str, ...]
    process: subprocess.Popen[bytes]
    lock: IO[str]
    log: Path
    started: float


class Runner:
    """Runs ``stages``; ``outcomes`` says how each ended.

    A stage holds a kernel lock (flock) while it runs, and its process inherits the lock: a second runner on the same
    folder works on other stages or waits, even when the first runner was killed and its child still runs.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        output: Path,
        *,
        jobs: int = 1,
        launcher: Launcher | None = None,
        redo: bool = False,
    ) -> None:
        self.stages = list(stages)
        self.output = output
        self.jobs = jobs
        self.launcher = launcher or Launcher()
        self.redo = redo
        self.outcomes: dict[str, Outcome] = {}
        self._children: list[_Child] = []

    def run(self, stop: StopSignal) -> dict[str, Outcome]:
        """Run until every stage has an outcome or ``stop`` is requested; a failed stage does not stop the others."""
        with PlanProgress(self.stages) as progress:
            try:
                while len(self.outcomes) < len(self.stages) and not stop.requested:
                    if not self._start_some(progress):
                        time.sleep(POLL_SECONDS)
                    self._collect(progress)
                    progress.update({c.stage.name for c in self._children}, self.outcomes)
            finally:
                self._stop_children(progress)
        earlier = recorded_outcomes(self.output, self.stages)  # of the stages that were not reached
        for stage in self.stages:
            last = earlier.get(stage.name)
            self.outcomes.setdefault(stage.name, Outcome("stopped", last.error if last else None))
        return self.outcomes

    def _start_some(self, progress: PlanProgress) -> bool:
        """Start one stage, or give it an outcome without running it; False when nothing can be done now."""
        running = {child.stage.name for child in self._children}
        for stage in self.stages:
            if stage.name in self.outcomes or stage.name in running:
                continue
            if blocker := self._blocker(stage):
                self.outcomes[stage.name] = Outcome("blocked", f"{blocker} did not finish")
                return True
            if any(name not in self.outcomes for name in (*stage.needs, *stage.after)):
                continue
            if len(self._children) < self.jobs and self._start(stage, progress):
                return True
        return False

    def _blocker(self, stage: Stage) -> str | None:
        """A stage that ended in a way that keeps ``stage`` from running."""
        for names, accepted in ((stage.needs, ("finished",)), (stage.after, ("finished", "failed"))):
            for name in names:
                if name in self.outcomes and self.outcomes[name].status not in accepted:
                    return name
        return None

    def _start(self, stage: Stage, progress: PlanProgress) -> bool:
        folder = stage_folder(self.output, stage)
        lock = lock_stage(folder)
        if lock is None:
            progress.waiting(stage.name)
            return False
        try:
            state = stage_state(self.output, stage)
            if state.kind == STALE and self.redo:
                progress.say(f"{stage.name}: {state.why}; renamed to {set_aside(stage)}")
                state = stage_state(self.output, stage)
            if state.kind in (FINISHED, STALE):
                self.outcomes[stage.name] = self._settled(stage, state)
                lock.close()
                return True
            self._children.append(self._spawn(stage, state, folder, lock))
            progress.say(f"{stage.name}: {'resuming' if state.kind == BROKEN else 'started'}")
        except (UserError, OSError) as error:
            lock.close()
            self.outcomes[stage.name] = Outcome("failed", str(error))
        return True

    def _settled(self, stage: Stage, state: State) -> Outcome:
        if state.kind == STALE:
            return Outcome("failed", f"{stage.folder}: {state.why}; --redo renames it and runs the stage again")
        if recorded_status(self.output, stage) in (None, "running"):  # "running": its runner was killed meanwhile
            made_by = recorded_command(self.output, stage) or stage.command()
            record_stage(self.output, stage, made_by, status="finished", found=True)
        return Outcome("finished")

    def _spawn(self, stage: Stage, state: State, folder: Path, lock: IO[str]) -> _Child:
        command = stage.command()
        record_stage(self.output, stage, command, status="running")
        script, *arguments = command
        # --resume comes first: the KEY VALUE overrides at the end would take it as one of them
        started = (script, *resume_arguments(stage, state), *arguments)
        self.launcher.prepare(stage.kind, started, folder)
        argv = self.launcher.command(stage.kind, started, folder)
        log = folder / "log.txt"
        with open(log, "ab") as sink:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                pass_fds=(lock.fileno(),),
                start_new_session=True,  # Ctrl-C reaches only the runner, which asks its children to save and exit
            )
        return _Child(stage, command, process, lock, log, time.monotonic())

    def _collect(self, progress: PlanProgress) -> None:
        for child in [c for c in self._children if c.process.poll() is not None]:
            self._children.remove(child)
            self.outcomes[child.stage.name] = outcome = self._ended(child)
            child.lock.close()
            progress.say(f"{child.stage.name}: {outcome.status} after {outcome.seconds:.0f} s {outcome.error or ''}")

    def _ended(self, child: _Child) -> Outcome:
        code, seconds = child.process.returncode, time.monotonic() - child.started
        state = stage_state(self.output, child.stage)
        if code == 0 and state.kind == FINISHED:
            outcome = Outcome("finished", None, seconds)
        elif code in STOPPED_CODES:
            outcome = Outcome("stopped", "the same command continues it", seconds)
        elif code == 0:
            outcome = Outcome("failed", f"exit code 0, but {child.stage.proof} is missing or unfinished", seconds)
        else:
            outcome = Outcome("failed", f"{last_error(child.log)} (exit code {code}, log {child.log})", seconds)
        record_stage(self.output, child.stage, child.command, **vars(outcome))
        return outcome

    def _stop_children(self, progress: PlanProgress) -> None:
        """Ask every child to save and exit, and wait for it; a second Ctrl-C ends the wait and kills them."""
        try:
            for child in self._children:
                progress.say(f"{child.stage.name}: stopping")
                _signal_group(child.process, signal.SIGTERM)
            for child in self._children:
                child.process.wait()
            self._collect(progress)
        except KeyboardInterrupt:
            for child in self._children:
                _signal_group(child.process, signal.SIGKILL)
            raise


def _signal_group(process: subprocess.Popen[bytes], signum: int) -> None:
    # SIGTERM goes to the leader alone: its loader workers must live until it has saved
    if process.poll() is None:
        (os.killpg if signum == signal.SIGKILL else os.kill)(process.pid, signum)


def resume_arguments(stage: Stage, state: State) -> tuple[str, ...]:
    """Arguments that make a broken stage continue."""
    if state.kind != BROKEN:
        return ()
    return RESUME.get(stage.kind, ())


def lock_stage(folder: Path) -> IO[str] | None:
    """Take the stage's lock without waiting; None when another runner, or the child of a killed one, holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = open(folder / ".lock", "a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file
