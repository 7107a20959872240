"""How a stage's command is started: a process here, torchrun, or a Slurm job."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import UserError
from runtime.repository import REPOSITORY
from transfer.planning.slurm.scripts import SlurmStage, check_options, submission_method
from transfer.planning.slurm.stage_commands import SHARED_SCRIPTS, torchrun

RESUME = {"pretrain": ("--resume", "auto"), "train": ("--resume",)}  # placed right after the script
SHARED_KINDS = tuple(SHARED_SCRIPTS)  # the kinds of stages that several processes can share


@dataclass(frozen=True)
class Launcher:
    """``processes`` per node for torchrun and Slurm; ``options`` are #SBATCH options such as ``partition=gpu``.

    ``via``: submitit or sbatch, how Slurm jobs are submitted.
    """

    name: str = "local"
    processes: int = 1
    options: tuple[str, ...] = ()
    via: str = "sbatch"

    def command(self, kind: str, command: Sequence[str], folder: Path) -> list[str]:
        """The argv of the process to start for ``command`` (a script of this repository and its arguments)."""
        return LAUNCHERS[self.name](self, kind, command, folder)

    def prepare(self, kind: str, command: Sequence[str], folder: Path) -> None:
        """Write into the stage's ``folder`` what ``command()`` reads there: the description of a Slurm job."""
        if self.name == "slurm" and kind in SHARED_KINDS:
            slurm_stage(self, kind, command, folder).write()


def _local(launcher: Launcher, kind: str, command: Sequence[str], folder: Path) -> list[str]:
    return [sys.executable, str(REPOSITORY / command[0]), *command[1:]]


def _torchrun(launcher: Launcher, kind: str, command: Sequence[str], folder: Path) -> list[str]:
    if kind not in SHARED_KINDS:
        return _local(launcher, kind, command, folder)
    return [*torchrun(launcher.processes), str(REPOSITORY / command[0]), *command[1:]]


def _slurm(launcher: Launcher, kind: str, command: Sequence[str], folder: Path) -> list[str]:
    if kind not in SHARED_KINDS:
        return _local(launcher, kind, command, folder)
    return [sys.executable, str(REPOSITORY / "transfer" / "planning" / "slurm" / "wait_for_job.py"), str(folder)]


def slurm_stage(launcher: Launcher, kind: str, command: Sequence[str], folder: Path) -> SlurmStage:
    """A stage as a Slurm job. Slurm signals it two minutes before the time limit: it saves and can be resumed."""
    script, *arguments = command
    resume = RESUME[kind]
    if tuple(arguments[: len(resume)]) == resume:
        arguments = arguments[len(resume) :]
    run = _torchrun if launcher.processes > 1 else _local
    return SlurmStage(
        folder=str(folder.absolute()),
        name=f"{Path(script).stem}-{folder.name}"[:60],
        argv=run(launcher, kind, command, folder),
        resumed=run(launcher, kind, (script, *resume, *arguments), folder),
        options=list(launcher.options),
        via=launcher.via,
    )


def sbatch_script(launcher: Launcher, kind: str, command: Sequence[str], folder: Path) -> str:
    """The batch script that would be submitted for a stage."""
    return slurm_stage(launcher, kind, command, folder).script()


LAUNCHERS: dict[str, Callable[[Launcher, str, Sequence[str], Path], list[str]]] = {
    "local": _local,
    "torchrun": _torchrun,
    "slurm": _slurm,
}


def make_launcher(name: str, processes: int, options: Sequence[str], via: str = "auto") -> Launcher:
    """A checked Launcher.

    Raises UserError for options that are invalid or that ``name`` would ignore, and for a missing submitit.
    """
    if name == "local" and processes > 1:
        raise UserError(f"--nproc {processes} needs --launcher torchrun or slurm; local runs one process per stage")
    if name != "slurm" and options:
        raise UserError(f"--slurm-option {options[0]} needs --launcher slurm")
    method = submission_method(via) if name == "slurm" else "sbatch"
    check_options(options, method)
    if processes < 1:
        raise UserError(f"--nproc must be at least 1, not {processes}")
    return Launcher(name, processes, tuple(options), method)
