"""Plan -> stages -> runs -> report: what measure_gap.py does after parsing."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from runtime.atomic import read_json
from runtime.errors import UserError
from runtime.stop import StopSignal
from transfer.comparison.gap import ImageInterval, Table, compare
from transfer.comparison.image_bootstrap import ImageBootstrap
from transfer.planning.dry_run import dry_run
from transfer.planning.launchers import make_launcher
from transfer.planning.lr_search import SEARCHED, grid_record, search_folder
from transfer.planning.plan import Plan, load_plan
from transfer.planning.runner import Outcome, Runner
from transfer.planning.stages import Stage, choose, plan_stages, trained_inits
from transfer.planning.state import stage_folder
from transfer.records.run import Run, find_runs, read_run
from transfer.report.detection_sections import detection_sections
from transfer.report.figures import write_figures
from transfer.report.files import Report, write_report
from transfer.report.published_section import published_section
from transfer.report.tables import records, summary
from transfer.report.terminal import gap_table


def run_plan(args: argparse.Namespace, command: str) -> int:
    """Run every missing stage of a plan and report; the exit code of measure_gap.py."""
    plan = load_plan(args.plan, settings=args.set, output=args.output, seed_offset=args.seed_offset)
    launcher = make_launcher(args.launcher, args.nproc, args.slurm_option, args.slurm_via)
    every = plan_stages(plan)
    chosen = choose(every, args.only)
    if args.dry_run:
        print(dry_run(plan, chosen, launcher))
        return 0
    outcomes: Mapping[str, Outcome] = {}
    stop = StopSignal()
    if not args.report_only:
        with stop:
            outcomes = Runner(chosen, plan.output, jobs=args.jobs, launcher=launcher, redo=args.redo).run(stop)
    bootstrap = None if args.no_detections else ImageBootstrap()
    tables, report = plan_report(plan, every, outcomes, command, [*plan.allow, *args.allow], bootstrap)
    wanted = [init.published for init in plan.inits if init.kind == "published"]
    published = args.published or plan.published or bool(wanted)
    report = _with_sections(tables, report, args, published, wanted)
    _finish(plan.output, tables, report, figures=args.figures)
    if stop.requested:
        done = sum(outcome.status == "finished" for outcome in outcomes.values())
        print(f"stopped: {done} of {len(chosen)} stages are finished; the same command continues")
        return stop.exit_code
    failed = {name: o for name, o in outcomes.items() if o.status != "finished"}
    for name, outcome in failed.items():
        print(f"{name}: {outcome.status}: {outcome.error}")
    return 1 if failed else 0


def plan_report(
    plan: Plan,
    stages: Sequence[Stage],
    outcomes: Mapping[str, Outcome],
    command: str,
    allow: Sequence[str],
    image_interval: ImageInterval | None = None,
) -> tuple[list[Table], Report]:
    """Compared tables of a plan, and what its report says besides."""
    cells = [stage for stage in stages if stage.cell and not stage.cell.table.endswith("search")]
    runs = _plan_runs(plan, cells)
    references = {"supervised": plan.supervised, "random": plan.random}
    tables = []
    for name in dict.fromkeys(run.table for run in runs):
        group = [run for run in runs if run.table == name]
        own_lr = ["SOLVER.BASE_LR"] if name.endswith(SEARCHED) else []
        tables += compare(group, references, allow=[*allow, *own_lr], image_interval=image_interval)
    searches = {
        f"{config.name}/{init.name}": grid_record(search_folder(plan.output, config.name, init.name), init.lr.search)
        for config in plan.configs
        for init in trained_inits(plan)
        if init.lr and init.lr.search
    }
    errors = _errors(plan.output, cells, outcomes)
    text = plan.path.read_text(encoding="utf-8")
    return tables, Report(plan.name, command, errors, searches, limits=plan.limits, plan=text)


def _plan_runs(plan: Plan, cells: Sequence[Stage]) -> list[Run]:
    """The runs of every table; in an own-rate table an initialisation without an own rate takes part as it is."""
    runs = [
        read_run(c.folder, table=c.table, init=c.init, seed=c.seed) for stage in cells if (c := stage.cell) is not None
    ]
    own = {(run.table, run.init) for run in runs if run.table.endswith(SEARCHED)}
    for table in {table for table, _ in own}:
        base = table.removesuffix(SEARCHED)
        for stage in cells:
            cell = stage.cell
            if cell is not None and cell.table == base and (table, cell.init) not in own:
                runs.append(read_run(cell.folder, table=table, init=cell.init, seed=cell.seed))
    return runs


def _errors(output: Path, cells: Sequence[Stage], outcomes: Mapping[str, Outcome]) -> dict[str, str]:
    """Why a run has no number: what the runner saw now, or recorded when it last tried."""
    errors = {}
    for stage in cells:
        outcome = outcomes.get(stage.name)
        recorded = read_json(stage_folder(output, stage) / "record.json").get("error")
        error = (outcome.error if outcome else None) or recorded
        if error:
            errors[str(stage.folder)] = f"{outcome.status}: {error}" if outcome else str(error)
    return errors


def report_folder(args: argparse.Namespace, command: str) -> int:
    """Report on every run found under a folder."""
    root = Path(args.plan)
    runs = list(find_runs(root))
    if not runs:
        raise UserError(f"{root} holds no result.json; give a plan, or a folder of finished runs")
    inits = list(dict.fromkeys(run.init for run in runs))
    references = {
        "supervised": args.supervised or next((i for i in inits if i.startswith("supervised")), None),
        "random": args.random or next((i for i in inits if i.startswith("random")), None),
    }
    for role in references:
        wanted = getattr(args, role)
        if wanted and wanted not in inits:
            raise UserError(f"--{role} {wanted} is none of the initialisations found: {', '.join(inits)}")
    first = [init for init in (references["random"], references["supervised"]) if init]  # the papers' order
    runs.sort(key=lambda run: first.index(run.init) if run.init in first else len(first))
    bootstrap = None if args.no_detections else ImageBootstrap()
    tables = compare(runs, references, allow=args.allow, image_interval=bootstrap)
    report = _with_sections(tables, Report(root.name, command), args, args.published)
    _finish(root if args.output is None else Path(args.output), tables, report, figures=args.figures)
    return 0


def _with_sections(
    tables: Sequence[Table],
    report: Report,
    args: argparse.Namespace,
    published: bool,
    wanted: Sequence[Mapping[str, str]] = (),
) -> Report:
    extra = [published_section(tables, wanted)] if published else []
    details = {} if args.no_detections else detection_sections(tables, examples=not args.no_examples)
    return dataclasses.replace(report, details=details, extra=extra)


def _finish(folder: Path, tables: Sequence[Table], report: Report, *, figures: bool) -> None:
    files = write_report(folder, tables, report)
    drawn = write_figures(files["gap.html"].read_text(encoding="utf-8"), folder / "figures") if figures else []
    rows = records(tables)
    print(gap_table(rows))
    for sentence in summary(rows):
        print(sentence)
    print("wrote " + "  ".join(str(path) for path in files.values()))
    if drawn:
        print(f"wrote {len(drawn)} figures into {folder / 'figures'}")
