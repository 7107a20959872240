"""Plan -> stages -> runs -> comparison -> report: what measure_gap.py does after parsing its command line."""

from __future__ import annotations

import argparse
import contextlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from runtime.errors import EXIT_USER, UserError
from runtime.stop import StopSignal
from transfer.comparison.comparison import complete
from transfer.comparison.family import undecided, with_verdicts
from transfer.comparison.gap import ImageInterval, Table, compare
from transfer.comparison.image_bootstrap import ImageBootstrap
from transfer.comparison.intervals import mean
from transfer.comparison.verdicts import MARGIN
from transfer.engines.torchvision.feature_folder import SUBFOLDER, remove_caches
from transfer.literature.protocols import published_matches
from transfer.planning.dry_run import dry_run
from transfer.planning.ladder import RECORD as LADDER_RECORD
from transfer.planning.ladder import check_ladder, climb, ladder_sentences, read_dropped, without_dropped
from transfer.planning.launchers import Launcher, make_launcher
from transfer.planning.leakage_check import check_leakage, recorded_leakage, unchecked_inits
from transfer.planning.lr_search import SEARCHED, search_folder, search_record
from transfer.planning.needed_runs import power_text
from transfer.planning.own_data.own_plan import own_plan, prediction_line
from transfer.planning.plan import Plan, load_plan, trained_inits
from transfer.planning.preflight import refusal_lines, refusals, refuse_hopeless_plan
from transfer.planning.protocols import shared_folder
from transfer.planning.runner import Runner
from transfer.planning.stage import Cell, Stage
from transfer.planning.stages import choose, plan_stages, pretrain_stage
from transfer.planning.state import FINISHED, STALE, Outcome, recorded_outcomes, stage_state
from transfer.records.run import Run, find_runs, read_run
from transfer.report.content import RateSearch, Report
from transfer.report.files import write_report
from transfer.report.terminal import terminal


def run_own_data(args: argparse.Namespace, words: Sequence[str]) -> int:
    """Make a plan for own data and run it; the exit code of measure_gap.py."""
    path = own_plan(args, words)
    args.plan, args.output = str(path), None  # the plan names its folder
    code = run_plan(args, shlex.join(["python", "transfer/measure_gap.py", str(path)]))
    if not args.dry_run and (line := prediction_line(path)):
        print(line)
    return code


def run_plan(args: argparse.Namespace, command: str) -> int:
    """Run every missing stage of a plan and report; the exit code of measure_gap.py."""
    plan = load_plan(args.plan, settings=args.set, output=args.output, seed_offset=args.seed_offset)
    launcher = make_launcher(args.launcher, args.nproc, args.slurm_option, args.slurm_via)
    stages = plan_stages(plan)
    if args.ladder:
        check_ladder(plan, args.only)
    if args.power is not None:
        outcomes = recorded_outcomes(plan.output, stages)
        tables = _plan_tables(plan, stages, outcomes, [*plan.allow, *args.allow], None)
        print(power_text(plan, tables, pretraining_hours(plan, outcomes), args.power))
        return 0
    chosen = choose(stages, args.only)
    if args.report_only and trained_inits(plan) and not any(_has_results(plan, seed) for seed in plan.seeds):
        raise UserError(f"--report-only: nothing of {args.plan} has run in {plan.output} yet; run it without the flag")
    found = {} if args.report_only else refusals(plan.output, chosen, launcher)
    if args.dry_run:
        print("\n".join([dry_run(plan, chosen, launcher), *refusal_lines(found)]))
        if plan.stopping is not None:
            print(f"then one seed at a time until every comparison is decided, at most {plan.stopping.most} seeds")
        return EXIT_USER if found else 0
    stop = StopSignal()
    if not args.report_only:
        refuse_hopeless_plan(found, plan.output, chosen)
        for line in refusal_lines(found):
            print(line)
    with contextlib.nullcontext() if args.report_only else stop:
        plan, outcomes = (_climb if args.ladder else _run_stages)(plan, args, launcher, stop)
    finished = bool(outcomes) and all(outcome.status == FINISHED for outcome in outcomes.values())
    if finished and not args.only and any(shared_folder(plan.output, one.overrides) for one in plan.configs):
        remove_caches(plan.output / SUBFOLDER)
    if plan.leakage and not args.report_only and not stop.requested:
        check_leakage(plan)
    dropped = read_dropped(plan)
    stages = without_dropped(plan, plan_stages(plan), dropped)
    known = {**recorded_outcomes(plan.output, stages), **outcomes}
    report = plan_report(plan, stages, known, command, args)
    left_out = ladder_sentences(dropped, report.comparison.tables)
    report = replace(report, limits=" ".join(filter(None, (report.limits, left_out))))
    write_and_print(report, plan.output, figures=args.figures)
    if stop.requested:
        done = sum(outcome.status == FINISHED for outcome in outcomes.values())
        print(f"stopped: {done} of {len(outcomes)} stages are finished; the same command continues")
        return stop.exit_code
    failed = {name: outcome for name, outcome in outcomes.items() if outcome.status != FINISHED}
    for name, outcome in failed.items():
        print(f"{name}: {outcome.status}: {outcome.error}")
    return 1 if failed else 0


def _climb(
    plan: Plan, args: argparse.Namespace, launcher: Launcher, stop: StopSignal
) -> tuple[Plan, dict[str, Outcome]]:
    """Run the plan as a ladder: see ``transfer.planning.ladder``."""
    outcomes: dict[str, Outcome] = {}

    def run(stages: Sequence[Stage]) -> None:
        outcomes.update(Runner(stages, plan.output, jobs=args.jobs, launcher=launcher, redo=args.redo).run(stop))

    def tables(stages: Sequence[Stage]) -> list[Table]:
        known = {**recorded_outcomes(plan.output, stages), **outcomes}
        return _plan_tables(plan, stages, known, [*plan.allow, *args.allow], None)

    climb(plan, run, tables, lambda: stop.requested)
    return plan, outcomes


def _run_stages(
    plan: Plan, args: argparse.Namespace, launcher: Launcher, stop: StopSignal
) -> tuple[Plan, dict[str, Outcome]]:
    """Run the plan's stages. A plan that stops when decided gets one seed more as long as it is not."""
    outcomes: dict[str, Outcome] = {}
    if not args.report_only and not args.only:
        (plan.output / LADDER_RECORD).unlink(missing_ok=True)  # everything is run
    while True:
        stages = plan_stages(plan)
        if not args.report_only:
            chosen = choose(stages, args.only)
            outcomes |= Runner(chosen, plan.output, jobs=args.jobs, launcher=launcher, redo=args.redo).run(stop)
        if plan.stopping is None or args.only or stop.requested or len(plan.seeds) == plan.stopping.most:
            return plan, outcomes
        tables = _plan_tables(plan, stages, outcomes, [*plan.allow, *args.allow], None)
        longer = replace(plan, seeds=(*plan.seeds, plan.seeds[-1] + 1))
        judged = with_verdicts(tables, margin=plan.margin, stopping=plan.stopping)
        if not undecided(judged, plan.stopping.least):
            return plan, outcomes
        if args.report_only and not _has_results(longer, longer.seeds[-1]):
            return plan, outcomes
        plan = longer


def _has_results(plan: Plan, seed: int) -> bool:
    """Whether any run with this seed was started."""
    return any(stage.proof.is_file() for stage in plan_stages(plan) if stage.kind == "train" and stage.seed == seed)


def report_folder(args: argparse.Namespace, command: str) -> int:
    """Report on every run found under a folder; the exit code of measure_gap.py."""
    root = Path(args.plan)
    runs = list(find_runs(root))
    if not runs:
        raise UserError(f"{root} holds no result.json; give a plan, or a folder of finished runs")
    inits = list(dict.fromkeys(run.init for run in runs))
    references = {role: _folder_reference(role, getattr(args, role), inits) for role in ("supervised", "random")}
    first = [init for init in (references["random"], references["supervised"]) if init]  # the papers' order
    runs.sort(key=lambda run: first.index(run.init) if run.init in first else len(first))
    tables = compare(runs, references, allow=args.allow, image_interval=_image_interval(args))
    report = Report(
        root.name,
        command,
        complete(
            tables,
            margin=MARGIN if args.margin is None else args.margin,
            detections=not args.no_detections,
            examples=not args.no_examples,
        ),
        published_matches(tables) if args.published else None,
    )
    write_and_print(report, root if args.output is None else Path(args.output), figures=args.figures)
    return 0


def _folder_reference(role: str, named: str | None, inits: Sequence[str]) -> str | None:
    """The initialisation given for a role, or the first whose name begins with it."""
    if named and named not in inits:
        raise UserError(f"--{role} {named}: no such initialisation; available: {', '.join(inits)}")
    return named or next((init for init in inits if init.startswith(role)), None)


def plan_report(
    plan: Plan, stages: Sequence[Stage], outcomes: Mapping[str, Outcome], command: str, args: argparse.Namespace
) -> Report:
    """The report on a plan's runs. ``outcomes``: by stage name, how it ended now or when it was last run."""
    tables = _plan_tables(plan, stages, outcomes, [*plan.allow, *args.allow], _image_interval(args))
    wanted = [init.published for init in plan.inits if init.kind == "published"]
    published = args.published or plan.published or bool(wanted)
    return Report(
        plan.name,
        command,
        complete(
            tables,
            margin=plan.margin,
            stopping=plan.stopping,
            pretraining_hours=pretraining_hours(plan, outcomes),
            detections=not args.no_detections,
            examples=not args.no_examples,
        ),
        published_matches(tables, wanted) if published else None,
        _searches(plan),
        plan.limits,
        plan.path.read_text(encoding="utf-8"),
        recorded_leakage(plan) if plan.leakage else [],
        _leakage_note(plan),
    )


def _leakage_note(plan: Plan) -> str:
    if not plan.leakage:
        return "The plan switches this check off (leakage: false)."
    unchecked = unchecked_inits(plan)
    return f"The plan does not name the pretraining images of: {', '.join(unchecked)}." if unchecked else ""


def pretraining_hours(plan: Plan, outcomes: Mapping[str, Outcome]) -> dict[str, float]:
    """Measured hours of a pretraining run by initialisation, mean over its runs; those never measured are absent."""
    hours: dict[str, float] = {}
    for init in plan.inits:
        names = (pretrain_stage(init, run) for run in init.pretrainings)
        seconds = [outcomes[name].seconds for name in names if name in outcomes and outcomes[name].seconds]
        if seconds:
            hours[init.name] = mean(seconds) / 3600
    return hours


def _image_interval(args: argparse.Namespace) -> ImageInterval | None:
    return None if args.no_detections else ImageBootstrap()


def _plan_tables(
    plan: Plan,
    stages: Sequence[Stage],
    outcomes: Mapping[str, Outcome],
    allow: Sequence[str],
    image_interval: ImageInterval | None,
) -> list[Table]:
    runs = _plan_runs(plan.output, stages, outcomes)
    own_rate = {run.table: ["SOLVER.BASE_LR"] for run in runs if run.table.endswith(SEARCHED)}
    references = {"supervised": plan.supervised, "random": plan.random}
    return compare(runs, references, allow=allow, allow_in=own_rate, image_interval=image_interval)


def _plan_runs(output: Path, stages: Sequence[Stage], outcomes: Mapping[str, Outcome]) -> list[Run]:
    """The runs of every table; in an own-rate table an initialisation without an own rate takes part as it is."""
    runs = {}
    for stage in stages:
        if stage.cell and not stage.cell.is_search:
            runs[stage.cell] = _read(output, stage, stage.cell, outcomes.get(stage.name))
    own = {(run.table, run.init) for run in runs.values() if run.table.endswith(SEARCHED)}
    shown = list(runs.values())
    for table in dict.fromkeys(table for table, _ in own):
        base = table.removesuffix(SEARCHED)
        shown += [
            replace(run, table=table)
            for cell, run in runs.items()
            if cell.table == base and (table, cell.init) not in own
        ]
    return shown


def _read(output: Path, stage: Stage, cell: Cell, outcome: Outcome | None) -> Run:
    """One run. How its stage ended says more than a result.json that a killed process could not write.

    A finished run that the plan no longer describes has no number in its tables.
    """
    run = read_run(cell.folder, table=cell.table, init=cell.init, seed=cell.seed)
    if run.finished:
        state = stage_state(output, stage)
        if state.kind != STALE:
            return run
        return replace(run, status="failed", error=f"stale: {state.why}", metrics={}, must_agree={})
    if outcome is None or not outcome.error:
        return run
    status = "failed" if outcome.status in ("failed", "blocked") else run.status
    return replace(run, status=status, error=f"{outcome.status}: {outcome.error}")


def _searches(plan: Plan) -> dict[str, RateSearch]:
    return {
        f"{config.name}/{init.name}": search_record(search_folder(plan.output, config.name, init.name), init.lr.search)
        for config in plan.configs
        for init in trained_inits(plan)
        if init.lr and init.lr.search
    }


def write_and_print(report: Report, folder: Path, *, figures: bool) -> None:
    """Write the report's files, print its text and where the files are."""
    files = write_report(folder, report, figures=figures)
    print(terminal(report))
    pictures = [name for name in files if name.startswith("figures/")]
    print("wrote " + "  ".join(str(path) for name, path in files.items() if name not in pictures))
    if pictures:
        print(f"wrote {len(pictures)} figures into {folder / 'figures'}")
