"""A plan's stages as Slurm jobs: their batch scripts, and submitting them through submitit or by sbatch."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runtime.atomic import read_json, write_json, write_text
from runtime.errors import UserError
from runtime.repository import REPOSITORY
from transfer.planning.slurm.stage_commands import check_stage_command
from transfer.planning.slurm.stage_job import REQUEST, StageJob

SAVE_SECONDS = 120  # between Slurm's signal and the time limit
REQUEUES = 20  # times that submitit lets one job run into its time limit
TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<parts>\d+(?::\d+){0,2})")
NO_SBATCH = "sbatch is not on PATH: --launcher slurm runs on a machine that submits to Slurm"


@dataclass(frozen=True)
class SlurmStage:
    """A stage as a Slurm job. ``resumed`` is the command that continues it; ``options`` such as ``partition=gpu``."""

    folder: str
    name: str
    argv: list[str]
    resumed: list[str]
    options: list[str]
    via: str  # submitit | sbatch

    def __post_init__(self) -> None:
        if not f"{self.name}{self.folder}".isprintable():  # each is part of an #SBATCH line
            raise UserError(f"{self.folder!r}: the folder of a Slurm job must have a name without control characters")

    @classmethod
    def read(cls, folder: Path) -> SlurmStage:
        """The job that ``write`` left in ``folder``. Raises UserError for anything that it would not have written."""
        path = folder / REQUEST
        content = read_json(path)
        lists: dict[str, Any] = {key: content.get(key) for key in ("argv", "resumed", "options")}
        words = {key: content.get(key) for key in ("folder", "name", "via")}
        if (
            set(content) != {*lists, *words}
            or not all(isinstance(word, str) for word in words.values())
            or not all(isinstance(part, list) for part in lists.values())
            or not all(isinstance(word, str) for part in lists.values() for word in part)
            or words["via"] not in ("submitit", "sbatch")
        ):
            raise UserError(f"{path} does not describe a Slurm job; measure_gap.py --launcher slurm writes it")
        for key in ("argv", "resumed"):
            check_stage_command(content[key], f"{path}: {key}")
        check_options(content["options"], content["via"])
        return cls(**content)

    def script(self) -> str:
        """The batch script that would be submitted now."""
        return _submitit_script(self) if self.via == "submitit" else _batch_script(self)

    def write(self) -> None:
        """Write it into the stage's folder, from which ``wait_for_job.py`` reads and submits it."""
        write_json(Path(self.folder) / REQUEST, asdict(self))

    def submit(self) -> str:
        """Submit it; returns the job's id. Raises UserError with Slurm's message."""
        return _submit_with_submitit(self) if self.via == "submitit" else _sbatch(self)


def submission_method(via: str) -> str:
    """submitit where it is installed, else sbatch. Raises UserError when submitit is asked for and not installed."""
    if via != "sbatch" and importlib.util.find_spec("submitit") is not None:
        return "submitit"
    if via == "submitit":
        raise UserError("--slurm-via submitit: submitit is not installed; pip install submitit, or --slurm-via sbatch")
    return "sbatch"


def _slurm_log(stage: SlurmStage) -> str:
    return str(Path(stage.folder) / "slurm" / "%j_0_log.out")  # submitit's own name for it


def _batch_script(stage: SlurmStage) -> str:
    options = [f"job-name={stage.name}", f"output={_slurm_log(stage)}", f"signal=USR1@{SAVE_SECONDS}"]
    options += ["nodes=1", "ntasks-per-node=1", *stage.options]
    header = "\n".join(f"#SBATCH --{option}" for option in options)
    started = shlex.join(
        [
            sys.executable,
            str(REPOSITORY / "transfer" / "planning" / "slurm" / "stage_job.py"),
            stage.folder,
            *stage.argv,
        ]
    )
    return f"#!/bin/bash\n{header}\ncd {shlex.quote(str(Path.cwd()))}\nexec srun {started}\n"


def _sbatch(stage: SlurmStage) -> str:
    script = Path(stage.folder) / "job.sbatch"
    (script.parent / "slurm").mkdir(exist_ok=True)  # Slurm does not create the folder of its logs
    write_text(script, _batch_script(stage))
    try:
        done = subprocess.run(["sbatch", "--parsable", str(script)], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UserError(NO_SBATCH) from None
    job = done.stdout.split(";")[0].strip()
    if done.returncode or not job.isdigit():
        raise UserError(f"sbatch refused the job: {_last_line(done.stderr) or _last_line(done.stdout)}")
    return job


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("sbatch: ").removeprefix("error: ") if lines else "no output"


def _executor(stage: SlurmStage) -> Any:
    """A submitit executor for one stage, which can also print its script where Slurm is not installed."""
    import submitit

    class Executor(submitit.SlurmExecutor):
        @classmethod
        def affinity(cls) -> int:
            return 2  # submitit asks Slurm for this, and could not print a script without it

        def _make_submission_file_text(self, command: str, uid: str) -> str:
            text: str = super()._make_submission_file_text(command, uid)
            # without a time option the partition's limit applies, as for any batch job; submitit asks for 5 minutes
            return text if self.parameters["time"] else text.replace("#SBATCH --time=0\n", "")

    options = dict(_key_value(option) for option in stage.options)
    executor = Executor(folder=str(Path(stage.folder) / "slurm"), max_num_timeout=REQUEUES)
    executor.update_parameters(
        job_name=stage.name,
        time=minutes(str(options.pop("time", "0"))),
        nodes=1,
        ntasks_per_node=1,
        signal_delay_s=SAVE_SECONDS,
        stderr_to_stdout=True,
        wckey=None,
        setup=[
            f"export PYTHONPATH={shlex.quote(str(REPOSITORY))}${{PYTHONPATH:+:$PYTHONPATH}}"
        ],  # to unpickle StageJob
        additional_parameters=options,
    )
    return executor


def _key_value(option: str) -> tuple[str, str | bool]:
    key, equals, value = option.partition("=")
    return key, value if equals else True


def minutes(text: str) -> int:
    """Slurm's notations of a time limit ("90", "1:30:00", "2-12", "1-0:30") in minutes, rounded up."""
    match = TIME.fullmatch(text)
    if match is None:
        raise UserError(f"--slurm-option time={text}: write minutes, HH:MM:SS or DAYS-HH:MM:SS")
    parts = [int(part) for part in match["parts"].split(":")]
    if match["days"] is not None:
        hours, mins, seconds = (parts + [0, 0])[:3]
        return int(match["days"]) * 1440 + hours * 60 + mins + (seconds > 0)
    if len(parts) == 3:
        return parts[0] * 60 + parts[1] + (parts[2] > 0)
    return parts[0] + (len(parts) == 2 and parts[1] > 0)


def _submitit_script(stage: SlurmStage) -> str:
    executor = _executor(stage)
    text: str = executor._make_submission_file_text(executor._submitit_command_str, "")
    return f"{text.rstrip()}\n# the pickled command: {shlex.join(stage.argv)}\n"


def _submit_with_submitit(stage: SlurmStage) -> str:
    import submitit

    try:
        job = _executor(stage).submit(StageJob(stage.folder, stage.argv, stage.resumed, os.getcwd()))
    except FileNotFoundError:
        raise UserError(NO_SBATCH) from None
    except submitit.core.utils.UncompletedJobError as error:  # its subclasses quote sbatch's message
        raise UserError(f"sbatch refused the job: {_last_line(str(error))}") from error
    return str(job.job_id)


def check_options(options: Sequence[str], via: str) -> None:
    """Raise UserError for options that would break out of their #SBATCH line, and for a time submitit cannot read."""
    for option in options:
        if not option.isprintable() or not option.strip():
            raise UserError(f"--slurm-option {option!r} must be one line such as partition=gpu")
        if via == "submitit" and option.startswith("time="):
            minutes(option.removeprefix("time="))
