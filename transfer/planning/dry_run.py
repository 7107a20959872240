"""What a plan would run: every stage, its state, estimated time and disk, and its command. It writes nothing."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runtime.atomic import read_json
from runtime.errors import UserError
from runtime.pasteable import pasteable, python
from runtime.terminal import aligned
from transfer.planning.launchers import RESUME, SHARED_KINDS, Launcher, sbatch_script
from transfer.planning.own_data.record import predicted_seconds
from transfer.planning.plan import Plan
from transfer.planning.progress import last_record, max_iterations
from transfer.planning.stage import Stage
from transfer.planning.state import BROKEN, FINISHED, RECORD, stage_folder, stage_state, stored_result


def dry_run(plan: Plan, stages: Sequence[Stage], launcher: Launcher) -> str:
    """The text of ``--dry-run``."""
    measured = Measured(plan.output)
    lines = [["stage", "state", "time", "disk", "why"]]
    commands, total, unknown = [], 0.0, 0
    for stage in stages:
        state = stage_state(plan.output, stage)
        seconds = 0.0 if state.kind == FINISHED else measured.seconds(stage, resumed=state.kind == BROKEN)
        size = None if state.kind == FINISHED else measured.bytes(stage)
        total, unknown = total + (seconds or 0), unknown + (seconds is None)
        shown = "-" if state.kind == FINISHED else _duration(seconds)
        lines.append([stage.name, state.kind, shown, _size(size), state.why])
        if state.kind != FINISHED:
            commands.append(_command(plan, stage, launcher, state.kind == BROKEN))
    if not commands:
        estimate = "nothing"
    elif unknown == len(commands):
        estimate = f"{unknown} stages, time unknown: nothing like them has finished in {plan.output}"
    else:
        rest = f", and {unknown} stage{'s' * (unknown > 1)} of unknown time" if unknown else ""
        source = "as its probe predicts" if measured.predicted else "as measured on finished stages like them"
        estimate = f"{_duration(total)}, {source} in {plan.output}{rest}"
    return "\n".join(
        [f"{plan.name}: {len(stages)} stages into {plan.output}", aligned(lines), f"to do: {estimate}"]
        + (["", *commands] if commands else [])
    )


def _command(plan: Plan, stage: Stage, launcher: Launcher, resume: bool) -> str:
    try:
        command = stage.command()
    except UserError:
        sources = ", ".join((stage.needs + stage.after)[-3:])
        return f"{pasteable(stage.argv[0], stage.argv[1:])}  # plus arguments that depend on {sources}"
    extra = RESUME.get(stage.kind, ()) if resume else ()
    command = (command[0], *extra, *command[1:])  # before the KEY VALUE overrides, which end the command
    if launcher.name == "slurm" and stage.kind in SHARED_KINDS:
        return sbatch_script(launcher, stage.kind, command, stage_folder(plan.output, stage))
    if launcher.name == "torchrun" and stage.kind in SHARED_KINDS:
        return shlex.join([python(), *launcher.command(stage.kind, command, stage_folder(plan.output, stage))[1:]])
    return pasteable(command[0], command[1:])


class Measured:
    """Times and sizes of earlier runs in the same folder."""

    def __init__(self, output: Path) -> None:
        self._output = output
        self._seconds = predicted_seconds(output)
        self.predicted = bool(self._seconds)  # by the probe of a plan for own data, until a run has finished
        self._bytes: dict[str, int] = {}
        for path in sorted([*output.glob("*/*/seed*/result.json"), *output.glob("*/*/pretrain*/seed*/result.json")]):
            result = stored_result(path)
            if result.get("status") == "finished":
                table = path.relative_to(output).parts[0]
                self.predicted = False
                self._seconds[table] = _whole_run(result)
                self._bytes[table] = sum(f.stat().st_size for f in path.parent.rglob("*") if f.is_file())

    def seconds(self, stage: Stage, *, resumed: bool) -> float | None:
        """Estimated seconds left; None when nothing was measured.

        A training takes as long as a finished run of its config, any other stage as long as when it last finished. A
        ``resumed`` training has a part of its iterations behind it; before any run has finished, its own pace counts.
        """
        if stage.kind != "train" or stage.cell is None:
            record = read_json(stage_folder(self._output, stage) / RECORD)
            return float(record.get("seconds") or 0) or None if record.get("status") == FINISHED else None
        whole = self._seconds.get(stage.cell.table) or None
        if not resumed:
            return whole
        last, total = last_record(stage.folder / "metrics.json"), max_iterations(stage.folder / "config.yaml")
        left = max(0, total - 1 - int(last.get("iteration") or 0))
        if whole is not None and total:
            return whole * left / total
        return float(last["time"]) * left if total and last.get("time") else None

    def bytes(self, stage: Stage) -> int | None:
        """Size of a finished run of the same config; None when there is none."""
        return self._bytes.get(stage.cell.table) if stage.cell else None


def _whole_run(result: Mapping[str, Any]) -> float:
    """Seconds of an unbroken run like this finished one, evaluation of the final model included; 0 where unknown."""
    train = float(result.get("seconds_per_iteration") or 0) * int(result.get("iterations") or 0)
    seconds = result.get("seconds")
    evaluate = seconds.get("evaluate") if isinstance(seconds, dict) else None
    return train + float(evaluate) if train and isinstance(evaluate, int | float) else train


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _size(count: int | None) -> str:
    return "" if count is None else f"{count / 2**20:.0f} MB"
