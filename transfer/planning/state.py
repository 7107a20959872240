"""Is a stage finished? Decided by the files it left, never by a flag alone: status, weights and command must agree."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.atomic import read_json, sha256_file, write_json
from runtime.errors import UserError
from transfer.planning.command_settings import differences
from transfer.planning.recorded_run import contradictions
from transfer.planning.stage import Stage
from transfer.records.fields import result_problem

RECORD = "record.json"
FINISHED, BROKEN, TO_DO, STALE = "finished", "broken", "to do", "stale"


@dataclass(frozen=True)
class State:
    """``kind`` is finished, broken (resume it), to do, or stale (not made by what the plan says now)."""

    kind: str
    why: str = ""


def stored_result(path: Path) -> dict[str, Any]:
    """A result.json, or {} when it is absent, truncated or malformed."""
    content = read_json(path)
    return {} if result_problem(content) else content


_DIGESTS: dict[tuple[str, int, int], str] = {}


def digest(path: Path) -> str:
    """sha256 of a file, cached while its size and modification time stay (2,000 runs share a few backbones)."""
    stat = path.stat()
    key = (str(path), stat.st_size, stat.st_mtime_ns)
    if key not in _DIGESTS:
        _DIGESTS[key] = sha256_file(path)
    return _DIGESTS[key]


def stage_folder(output: Path, stage: Stage) -> Path:
    """Where the log, the lock and the record of a stage are."""
    return output / "stages" / stage.name.replace("/", "__")


@dataclass
class Outcome:
    """How a stage ended: finished, failed, blocked (something it needs failed) or stopped."""

    status: str
    error: str | None = None
    seconds: float = 0.0


def recorded_outcomes(output: Path, stages: Sequence[Stage]) -> dict[str, Outcome]:
    """By stage name, how each stage ended when it was last run; stages that were never run are absent."""
    records = {stage.name: read_json(stage_folder(output, stage) / RECORD) for stage in stages}
    return {
        name: Outcome(str(record.get("status")), record.get("error"), float(record.get("seconds") or 0))
        for name, record in records.items()
        if record
    }


def record_stage(output: Path, stage: Stage, command: Sequence[str], **outcome: Any) -> None:
    """Write what was run and how it ended, so that a changed plan is noticed and a failure is shown in the report."""
    proof = {"path": str(stage.proof), "sha256": digest(stage.proof)} if stage.proof.is_file() else None
    write_json(stage_folder(output, stage) / RECORD, {"argv": list(command), "proof": proof, **outcome})


def stage_state(output: Path, stage: Stage) -> State:
    """The state of one stage from the files on disk.

    A stage that has finished, or that would be resumed, is stale when its recorded command sets something else than the
    one the plan gives now: the table would mix results of two plans. Order and spelling do not matter, but relative
    paths are compared as they are written, since they are relative to the same working folder; so a moved output folder
    or a renamed option makes a stage stale, which is safe, since nothing is deleted.
    """
    state = CHECKS.get(stage.kind, _proof_state)(stage)
    if state.kind != FINISHED and not (state.kind == BROKEN and _has_checkpoint(stage)):
        return state
    made_by = recorded_command(output, stage)
    try:
        command = list(stage.command())
    except UserError:
        return state  # the command cannot be built without its inputs; the result is kept
    if made_by and (changed := differences(stage.kind, made_by, command)):
        return State(STALE, f"it was made with other settings: {changed}")
    if state.kind == FINISHED and (changed := _differing_result(stage)):
        return State(STALE, f"it was made with other settings: {changed}")
    return state


def recorded_command(output: Path, stage: Stage) -> list[str]:
    """The command of the stage's last run; empty when it was never run, or its record is malformed."""
    argv = read_json(stage_folder(output, stage) / RECORD).get("argv")
    return argv if isinstance(argv, list) and all(isinstance(word, str) for word in argv) else []


def recorded_status(output: Path, stage: Stage) -> str | None:
    """How the stage's record says that it ended, ``running`` where nothing recorded an end; None without a record."""
    status = read_json(stage_folder(output, stage) / RECORD).get("status")
    return status if isinstance(status, str) else None


def _has_checkpoint(stage: Stage) -> bool:
    return (stage.folder / "last_checkpoint").is_file() or newest_checkpoint(stage.folder) is not None


def _proof_state(stage: Stage) -> State:
    return State(FINISHED) if stage.proof.is_file() else State(TO_DO)


def _pretrain_state(stage: Stage) -> State:
    if stage.proof.is_file():
        return State(FINISHED)
    return State(BROKEN, "unfinished checkpoints") if newest_checkpoint(stage.folder) else State(TO_DO)


def newest_checkpoint(folder: Path) -> Path | None:
    """The pretraining checkpoint written last in ``folder``."""
    paths = sorted(folder.glob("checkpoint*.pth.tar"), key=os.path.getmtime) if folder.is_dir() else []
    return paths[-1] if paths else None


def _convert_state(stage: Stage) -> State:
    sidecar = read_json(stage.proof.with_suffix(".json"))
    source = stage.weights
    if not stage.proof.is_file() or not sidecar:
        return State(TO_DO)
    files, made_from = (value if isinstance(value := sidecar.get(k), dict) else {} for k in ("files", "source"))
    if files.get(stage.proof.name) != digest(stage.proof):
        return State(TO_DO, "the backbone differs from the one its sidecar describes")
    if source is not None and source.is_file() and made_from.get("sha256") != digest(source):
        return State(TO_DO, "the checkpoint has changed since it was converted")
    return State(FINISHED)


def _train_state(stage: Stage) -> State:
    result = stored_result(stage.proof)
    if result.get("status") != "finished":
        resumable = (stage.folder / "last_checkpoint").is_file()
        return State(BROKEN, str(result.get("error") or "interrupted")) if resumable or result else State(TO_DO)
    if result.get("seed") != stage.seed:
        return State(STALE, f"it holds a run with seed {result.get('seed')}")
    # a pretraining that was run again leaves another backbone under the same name; the command alone would not show it
    weights = stage.weights if stage.weights is not None and stage.weights.is_file() else None
    if weights is not None and result.get("init", {}).get("sha256") != digest(weights):
        return State(STALE, f"its run started from other weights than {weights} contains now")
    return State(FINISHED)


def _differing_result(stage: Stage) -> str:
    """What the result of a finished training says that its stage does not; "" for other stages."""
    return contradictions(stage, stored_result(stage.proof)) if stage.kind == "train" else ""


CHECKS = {"pretrain": _pretrain_state, "convert": _convert_state, "train": _train_state}


def set_aside(stage: Stage) -> Path:
    """Rename the output of a stale stage so that it can run again; nothing is deleted. Returns the new name."""
    output = stage.folder if stage.kind in ("train", "pretrain") else stage.proof
    for number in range(1, 1000):
        aside = output.with_name(f"{output.name}.old{number}")
        if not aside.exists():
            output.rename(aside)
            return aside
    raise UserError(f"{output}.old1 to .old999 all exist; remove some of them")
