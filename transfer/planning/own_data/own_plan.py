"""Own data -> a plan in the output folder: look at data, weights and machine, probe, choose, write."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from runtime.atomic import write_text
from runtime.errors import UserError
from runtime.listing import counted
from runtime.pasteable import pasteable
from transfer.planning.leakage_check import check_leakage
from transfer.planning.own_data.detector import Choice, Detector, choose_detector
from transfer.planning.own_data.image_size import smaller_side, trains_enough, why_smaller
from transfer.planning.own_data.looking import DataLook, look_at_data, look_at_machine, look_at_weights
from transfer.planning.own_data.plan_file import Draft, plan_text
from transfer.planning.own_data.probe import probe
from transfer.planning.own_data.record import predicted_seconds, recorded_problem, recorded_request, write_record
from transfer.planning.own_data.request import Request
from transfer.planning.own_data.schedule import Pace, Schedule, choose_schedule, wanted_steps
from transfer.planning.plan import load_plan
from transfer.planning.stages import plan_stages
from transfer.planning.state import FINISHED, recorded_outcomes

SCRIPT = "transfer/measure_gap.py"


def own_plan(args: argparse.Namespace, words: Sequence[str]) -> Path:
    """The plan for a command line with --data, made unless the same command has made it before.

    ``words``: the command line as typed, without the script. Raises UserError for data, weights or hours with which
    nothing can be measured, and where the output folder holds another plan.
    """
    request = Request.of(args, words)
    path = request.plan_path
    run = pasteable(SCRIPT, [path])
    if path.exists():
        _check_same(request, run)
        print(f"{path}: made by this command before and used as it is now; remove it to plan anew")
    else:
        draft = _draft(request, run)
        too_short = "" if draft.schedule.fits else f"--hours {request.hours:g} is too short: {draft.schedule.short}"
        write_record(request.output, request.as_record(), draft.seconds, too_short)
        write_text(path, plan_text(draft))
        print("\n".join(_summary(draft)))
        check_leakage(load_plan(path))
    if (problem := recorded_problem(request.output)) and not args.dry_run:
        raise UserError(f"{problem}; to plan anew, remove {path}; to run it all the same: {run}")
    return path


def _summary(draft: Draft) -> list[str]:
    inits, schedule = len(draft.request.names), draft.schedule
    hours = f"{schedule.total_hours(inits, schedule.least):.2f} h for {counted(schedule.least, 'seed', 'seeds')}"
    if schedule.most > schedule.least:
        hours += f", {schedule.total_hours(inits, schedule.most):.2f} h for {counted(schedule.most, 'seed', 'seeds')}"
    each = f"{schedule.steps.value} steps a run, predicted {_duration(schedule.seconds)} each"
    lines = [f"wrote {draft.request.plan_path}; to run it after a change: {draft.run}"]
    lines += [f"plan: {inits} initialisations, {each}: {hours}"]
    return lines + ([f"note: {schedule.short}"] if schedule.short else [])


def _check_same(request: Request, run: str) -> None:
    before, now = recorded_request(request.output), request.as_record()
    if not before:
        raise UserError(
            f"{request.plan_path} exists and was not made by this command; run it ({run}), or give --output"
        )
    if changed := [key for key in now if before.get(key) != now[key]]:
        key = changed[0]
        raise UserError(
            f"{request.plan_path} was made for other arguments (--{key} was {_shown(before.get(key))}, is "
            f"{_shown(now[key])}); run it ({run}), or give another --output"
        )


def _shown(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else "not set" if value is None else str(value)


def _draft(request: Request, run: str) -> Draft:
    """The plan before it is written."""
    architecture = look_at_weights(request.inits)
    look = look_at_data(request.data, request.test)
    machine = look_at_machine()
    facts = [*look.lines(), machine.line()]
    print("\n".join(facts), flush=True)
    detector = choose_detector(architecture, look, machine)
    pace = _measured(request, detector, look)
    schedule = _schedule(request, detector, look, pace)
    facts.append(pace.line())
    print(pace.line(), flush=True)
    if (smaller := _smaller(request, detector, look, pace, schedule)) is not None:
        detector = choose_detector(architecture, look, machine, smaller)
        second = _measured(request, detector, look)
        pace = replace(second, spent=pace.spent + second.spent)
        schedule = _schedule(request, detector, look, pace)
        facts.append(f"{pace.line()}, with images of {detector.side} pixels")
        print(facts[-1], flush=True)
    if held_up := pace.held_up():
        facts.append(held_up)
        print(held_up, flush=True)
    return Draft(request, architecture, detector, schedule, facts, run)


def _smaller(request: Request, detector: Detector, look: DataLook, pace: Pace, schedule: Schedule) -> Choice | None:
    """A smaller short side, where the hours are too few for the usual one and smaller images help."""
    wanted = wanted_steps(look.train_images, detector.batch)
    if request.hours is None or trains_enough(schedule, wanted):
        return None
    side = smaller_side(look, detector.side, pace, lambda p: _schedule(request, detector, look, p), wanted)
    if side == detector.side:
        return None
    return Choice(side, why_smaller(detector.side, schedule.steps.value, wanted, request.hours))


def _measured(request: Request, detector: Detector, look: DataLook) -> Pace:
    folder = request.output / "probe"
    return probe(detector.config.value, detector.values(), request.data, request.test, look.test_images, folder)


def _schedule(request: Request, detector: Detector, look: DataLook, pace: Pace) -> Schedule:
    return choose_schedule(
        images=look.train_images,
        test_images=look.test_images,
        batch=detector.batch,
        inits=request.names,
        pace=pace,
        hours=request.hours,
        margin=request.margin,
    )


def prediction_line(path: Path) -> str:
    """Predicted and measured time of a run of a finished plan; "" for plans without a prediction."""
    plan = load_plan(path)
    predicted = predicted_seconds(plan.output)
    stages = [stage for stage in plan_stages(plan) if stage.kind == "train" and stage.cell is not None]
    outcomes = recorded_outcomes(plan.output, stages)
    parts = []
    for name, expected in predicted.items():
        taken = [
            outcomes[stage.name].seconds
            for stage in stages
            if stage.cell is not None and stage.cell.table == name and stage.name in outcomes
            if outcomes[stage.name].status == FINISHED and outcomes[stage.name].seconds > 0
        ]
        if taken and expected > 0:
            mean = sum(taken) / len(taken)
            parts.append(
                f"{name} {_duration(expected)} predicted, {_duration(mean)} measured ({mean / expected:.2f} times)"
            )
    return f"time of a run: {'; '.join(parts)}" if parts else ""


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
