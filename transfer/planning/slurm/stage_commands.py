"""Which commands a Slurm job of a plan may run: this project's long stages, with this Python, and nothing else."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runtime.errors import UserError
from runtime.repository import REPOSITORY

AGENT = "torch.distributed.run"  # torchrun's module; it starts the training processes
SHARED_SCRIPTS = {"pretrain": "pretrain/main.py", "train": "transfer/train_net.py"}  # stages that become Slurm jobs
_PROCESSES = re.compile(r"--nproc-per-node=\d{1,4}")


def torchrun(processes: int) -> list[str]:
    """The words before the script that start it ``processes`` times on this machine."""
    return [sys.executable, "-m", AGENT, "--standalone", f"--nproc-per-node={processes}"]


def check_stage_command(command: Any, where: str) -> list[str]:
    """``command`` as a list if it starts a script of ``SHARED_SCRIPTS``, alone or by torchrun; UserError otherwise.

    The folder of a stage can come from someone else. What lies in it, or is passed for it, must not name a program.
    """
    words = _strings(command, where)
    rest = words[1:]
    if rest[:3] == torchrun(1)[1:4] and _PROCESSES.fullmatch(rest[3] if len(rest) > 3 else ""):
        rest = rest[4:]
    scripts = [(REPOSITORY / script).resolve() for script in SHARED_SCRIPTS.values()]
    own_python = bool(words) and os.path.realpath(words[0]) == os.path.realpath(sys.executable)
    if not own_python or not rest or Path(rest[0]).resolve() not in scripts:
        raise UserError(
            f"{where}: a job runs only {' or '.join(SHARED_SCRIPTS.values())} of this repository, "
            f"not {' '.join(words)[:200] or 'an empty command'}"
        )
    return words


def _strings(command: Any, where: str) -> list[str]:
    if isinstance(command, Sequence) and not isinstance(command, str) and all(isinstance(w, str) for w in command):
        return list(command)
    raise UserError(f"{where}: the command must be a list of words")
