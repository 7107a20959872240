"""What would stop the runs of a plan, found before its first stage: every config with every initialisation."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path

from runtime.errors import UserError
from runtime.listing import listed
from runtime.logs import get_logger, held_warnings
from transfer.planning.launchers import Launcher
from transfer.planning.recorded_run import OF_THE_RUN, split_command
from transfer.planning.stage import Stage
from transfer.planning.state import FINISHED, stage_state
from transfer.planning.subsets import subset_refusal

log = get_logger("plan")
ARCHITECTURE = re.compile(r"(?:^|\s)(?:-a|--arch)[ =]resnet(\d+)(?=\s|$)")


def refusals(output: Path, stages: Sequence[Stage], launcher: Launcher) -> dict[str, list[str]]:
    """Reason -> the unfinished runs among ``stages`` that would be refused for it, in order. Nothing is written.

    What the checks only warn of is logged, once for all the runs that it is about.
    """
    by_name = {stage.name: stage for stage in stages}
    has_data = all(stage.proof.is_file() for stage in stages if stage.kind == "prepare")
    draws = functools.cache(lambda name: _split_refusal(by_name[name]))
    known: dict[tuple[str, ...], str | None] = {}
    warnings: dict[tuple[str, ...], list[str]] = {}
    found: dict[str, list[str]] = {}
    warned: dict[str, list[str]] = {}
    for stage in stages:
        if stage.kind != "train" or stage_state(output, stage).kind == FINISHED:
            continue
        reason = _missing_weights(stage, by_name)
        if reason is None:
            flags, opts = _parts(stage)
            shared = tuple(word for pair in zip(opts[::2], opts[1::2]) if pair[0] not in OF_THE_RUN for word in pair)
            key = (
                flags["--config-file"],
                flags["--init"],
                flags.get("--engine", "auto"),
                flags.get("--evaluator", "auto"),
                *shared,
            )
            if key not in known:
                with held_warnings() as warnings[key]:
                    known[key] = _refusal(key, _depth(stage, by_name), launcher, has_data)
            reason = known[key]
            for text in dict.fromkeys(warnings[key]):
                warned.setdefault(text, []).append(stage.name)
        if reason is None and has_data:
            reason = next(filter(None, (draws(name) for name in stage.needs if name in by_name)), None)
        if reason is not None:
            found.setdefault(reason, []).append(stage.name)
    for text, names in warned.items():
        log.warning("warning: %s (%s)", text, listed(names, 3))
    return found


def refusal_lines(found: dict[str, list[str]]) -> list[str]:
    """One line per reason."""
    return [
        f"{len(names)} run{'s' if len(names) > 1 else ''} would be refused ({listed(names, 3)}): {reason}"
        for reason, names in found.items()
    ]


def refuse_hopeless_plan(found: dict[str, list[str]], output: Path, stages: Sequence[Stage]) -> None:
    """Raise UserError where every run that is still to do would be refused for one reason."""
    to_do = [s.name for s in stages if s.kind == "train" and stage_state(output, s).kind != FINISHED]
    for reason, names in found.items():
        if len(names) == len(to_do):
            raise UserError(f"every run of the plan would be refused: {reason}")


def _refusal(key: tuple[str, ...], depth: int | None, launcher: Launcher, has_data: bool) -> str | None:
    # imports torch, which a plan with nothing to do does not need
    from transfer.fine_tuning.preflight import Circumstances, refusal

    where = Circumstances(launcher.processes, has_data, elsewhere=launcher.name == "slurm")
    config, init, engine, evaluator, *opts = key
    return refusal(config, opts, init=init, engine=engine, evaluator=evaluator, depth=depth, where=where)


def _split_refusal(stage: Stage) -> str | None:
    """Why a stage that splits the training images would be refused; None for any other, and for one that has run."""
    return None if stage.kind != "split" or stage.proof.is_file() else subset_refusal(stage)


def _parts(stage: Stage) -> tuple[dict[str, str], list[str]]:
    """Flags and KEY VALUE overrides of a training. Without its late arguments, where their sources are missing."""
    try:
        words = stage.command()
    except UserError:
        words = stage.argv
    return split_command(words)


def _missing_weights(stage: Stage, by_name: dict[str, Stage]) -> str | None:
    """Why the weights of a training can never exist: no file, and no stage that makes it."""
    made = {other.proof for other in by_name.values()}
    sources = [stage, *(by_name[name] for name in stage.needs if name in by_name and by_name[name].kind == "convert")]
    for source in sources:
        if source.weights is not None and source.weights not in made and not source.weights.is_file():
            return f"weights {source.weights}: no such file, and no stage of the plan makes it"
    return None


def _depth(stage: Stage, by_name: dict[str, Stage]) -> int | None:
    """Depth of the ResNet that is pretrained for a training, where its pretraining names it."""
    converted = [by_name[name] for name in stage.needs if name in by_name]
    for name in (name for conversion in converted for name in conversion.needs):
        if name in by_name and by_name[name].kind == "pretrain":
            match = ARCHITECTURE.search(" ".join(by_name[name].argv))
            return int(match[1]) if match else None
    return None
