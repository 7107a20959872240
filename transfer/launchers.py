"""How a stage's command is started: a process here, torchrun, or a Slurm job."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.atomic import write_text
from runtime.errors import UserError
from transfer.plan import REPOSITORY

SHARED_KINDS = ("pretrain", "train")  # the stages that several processes can share


@dataclass(frozen=True)
class Launcher:
    """``processes`` per node for torchrun and Slurm; ``options`` are #SBATCH options such as ``partition=gpu``."""

    name: str = "local"
    processes: int = 1
    options: tuple[str, ...] = ()

    def command(self, kind: str, command: Sequence[str], folder: Path) -> list[str]:
        """The argv of the process to start for ``command`` (a script of this repository and its arguments)."""
        return LAUNCHERS[self.name](self, kind, command, folder)

    def cancel(self, log: Path) -> None:
        """Stop what outlives the started process: a Slurm job goes on without its sbatch."""
        first = log.read_text(errors="replace").split(maxsplit=1)[:1] if log.is_file() else []
        if self.name == "slurm" and first and first[0].split(";")[0].isdigit():
            subprocess.run(["scancel", "--signal=TERM", "--full", first[0].split(";")[0]], check=False)


def _local(launcher: Launcher, kind: str, command: Sequence[str], folder: Path) -> list[str]:
    return [sys.executable, str(REPOSITORY / command[0]), *command[1:]]


def _torchrun(launcher: Launcher, kind: str, command: Sequence[str], folder: Path) -> list[str]:
    if kind not in SHARED_KINDS:
        return _local(launcher, kind, command, folder)
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={launcher.processes}"]
    return [*run, str(REPOSITORY / command[0]), *command[1:]]


def _slurm(launcher: Launcher, kind: str, command: Sequence[str], folder: Path) -> list[str]:
    if kind not in SHARED_KINDS:
        return _local(launcher, kind, command, folder)
    script = folder / "job.sbatch"
    write_text(script, sbatch_script(launcher, command, folder))
    return ["sbatch", "--parsable", "--wait", str(script)]


def sbatch_script(launcher: Launcher, command: Sequence[str], folder: Path) -> str:
    """A batch script for one stage. Slurm signals it two minutes before the limit, and it saves and is resumable."""
    name = f"{Path(command[0]).stem}-{folder.name}"[:60]
    options = [f"job-name={name}", f"output={folder / 'job.log'}", "signal=USR1@120", "nodes=1", "ntasks-per-node=1"]
    options += list(launcher.options)
    run = _torchrun if launcher.processes > 1 else _local
    started = shlex.join(run(launcher, "train", command, folder))
    header = "\n".join(f"#SBATCH --{option}" for option in options)
    return f"#!/bin/bash\n{header}\ncd {shlex.quote(str(Path.cwd()))}\nexec srun {started}\n"


LAUNCHERS: dict[str, Callable[[Launcher, str, Sequence[str], Path], list[str]]] = {
    "local": _local,
    "torchrun": _torchrun,
    "slurm": _slurm,
}


def make_launcher(name: str, processes: int, options: Sequence[str]) -> Launcher:
    """A checked Launcher. Raises UserError for options that could leave their #SBATCH line."""
    for option in options:
        if "\n" in option or not option.strip():
            raise UserError(f"--slurm-option {option!r} must be one line such as partition=gpu")
    if processes < 1:
        raise UserError(f"--nproc must be at least 1, not {processes}")
    return Launcher(name, processes, tuple(options))
