"""Measures the gap between initialisations: runs the stages that a plan still needs, and writes the report.

    python transfer/measure_gap.py plans/demo.yaml
    python transfer/measure_gap.py plans/demo.yaml --dry-run
    python transfer/measure_gap.py plans/demo.yaml --power 0.5   # how many seeds see a difference of 0.5 AP?
    python transfer/measure_gap.py runs/demo                     # report on a folder of finished runs

Own data: a plan is made for the data and this machine, explained line by line, and run.

    python transfer/measure_gap.py --data coco:train.json:images --test coco:val.json:images --init mine=x.pth --hours 4

Exit codes: 0 every stage has finished, 1 a stage failed (the report says which run has no number), 2 the plan or an
argument is wrong, 130 / 138 / 143 stopped by a signal; the same command continues.
"""

import os
import sys

if not __package__:  # run as a script: import from the repository, not from this folder
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from runtime.command_line import CommandParser
from runtime.errors import UserError, run_entry


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("plan", nargs="?", metavar="PLAN", help="plan YAML, or a folder of finished runs")
    _add_own_data(parser)
    what = parser.add_argument_group("what to run")
    what.add_argument(
        "--dry-run", action="store_true", help="print stages, state, estimated time and disk; run nothing"
    )
    what.add_argument(
        "--power", type=float, metavar="AP", help="print the seeds and pretraining runs that see this; run nothing"
    )
    what.add_argument("--report-only", action="store_true", help="write the report on finished runs; run nothing")
    what.add_argument(
        "--only", action="append", default=[], metavar="GLOB", help="run these stages and what they depend on"
    )
    what.add_argument(
        "--ladder",
        action="store_true",
        help="run the configs in their order, each without the initialisations that those before it ruled out",
    )
    what.add_argument("--redo", action="store_true", help="rename stale results and run their stages again")
    what.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. seeds=[0,1], SOLVER.MAX_ITER=90"
    )
    what.add_argument("--output", metavar="DIR", help="output folder, instead of the plan's")
    what.add_argument(
        "--seed-offset", type=int, default=0, metavar="N", help="add N to data, pretraining and run seeds"
    )
    launch = parser.add_argument_group("how to run")
    launch.add_argument("--jobs", type=int, default=1, metavar="N", help="stages run at a time (default 1)")
    launch.add_argument("--launcher", choices=("local", "torchrun", "slurm"), default="local")
    launch.add_argument("--nproc", type=int, default=1, metavar="N", help="processes per training (torchrun, slurm)")
    launch.add_argument(
        "--slurm-option", action="append", default=[], metavar="K=V", help="e.g. partition=gpu, time=600"
    )
    launch.add_argument(
        "--slurm-via", choices=("auto", "submitit", "sbatch"), default="auto", help="submitit if installed (default)"
    )
    _add_comparison(parser)
    args = parser.parse_args(argv)
    for name in ("margin", "power"):
        if (value := getattr(args, name)) is not None and not 0 < value < 100:
            parser.error(f"--{name} must be between 0 and 100 points of AP")
    if (args.plan is None) != bool(args.data):
        parser.error("give a plan or a folder of runs, or own data with --data, --test and --init, and not both")
    if args.ladder and args.report_only:
        parser.error("--ladder runs the plan; --report-only shows what it ran without the flag")
    if args.jobs < 1:
        parser.error("--jobs must be at least 1")
    return args


def _add_comparison(parser: argparse.ArgumentParser) -> None:
    report = parser.add_argument_group("the comparison")
    report.add_argument(
        "--allow", action="append", default=[], metavar="KEY", help="let runs differ in KEY; the report shows it in red"
    )
    report.add_argument("--supervised", metavar="INIT", help="the supervised initialisation (for a folder of runs)")
    report.add_argument("--random", metavar="INIT", help="the random initialisation (for a folder of runs)")
    report.add_argument(
        "--margin",
        type=float,
        metavar="AP",
        help="differences below this count as equivalent (of a plan: margin)",
    )
    report.add_argument("--published", action="store_true", help="show published rows of the same protocol")
    report.add_argument(
        "--figures", action="store_true", help="also write the charts into figures/, as SVG; with svglib as PDF"
    )
    report.add_argument("--no-examples", action="store_true", help="leave images of the data set out of the report")
    report.add_argument(
        "--no-detections", action="store_true", help="skip error types, example images and image bootstrap"
    )


def _add_own_data(parser: argparse.ArgumentParser) -> None:
    own = parser.add_argument_group("own data, instead of a plan")
    own.add_argument(
        "--data", action="append", default=[], metavar="SET", help="to train on: coco:train.json:images ..."
    )
    own.add_argument("--test", action="append", default=[], metavar="SET", help="to test on, e.g. voc:DIR")
    own.add_argument("--init", action="append", default=[], metavar="NAME=FILE", help="weights to compare with random")
    own.add_argument("--hours", type=float, metavar="H", help="what all runs together may take (default: no limit)")


PLAN_ONLY = ("dry_run", "report_only", "ladder", "only", "redo", "set", "seed_offset", "power")
FOLDER_ONLY = ("supervised", "random", "margin")
OWN_DATA_ONLY = ("test", "init", "hours")
NOT_WITH_OWN_DATA = ("report_only", "ladder", "only", "redo", "set", "seed_offset", "power", "supervised", "random")


def check_arguments(args: argparse.Namespace) -> None:
    """Raise UserError for an option that would be ignored: some apply only to a plan, some only to a folder of runs."""
    own = bool(args.data)
    for name in NOT_WITH_OWN_DATA if own else OWN_DATA_ONLY:
        if getattr(args, name) not in (None, False, 0, []):
            flag = f"--{name.replace('_', '-')}"
            hint = "run the plan that --data makes with it" if own else "it belongs to --data"
            raise UserError(f"{flag} does not apply to {'--data' if own else args.plan}; {hint}")
    if own and args.launcher != "local":
        raise UserError(
            f"--launcher {args.launcher} does not apply to --data, whose probe runs here; make the plan with --dry-run "
            "where the runs will be, then run the plan with it"
        )
    if own:
        return
    folder = Path(args.plan).is_dir()
    for name in PLAN_ONLY if folder else FOLDER_ONLY:
        if getattr(args, name) not in (None, False, 0, []):
            flag = f"--{name.replace('_', '-')}"
            what = "a folder of finished runs" if folder else "a plan"
            hint = "it needs a plan" if folder else f"in a plan write --set {name}=..."
            raise UserError(f"{flag} does not apply to {args.plan}, which is {what}; {hint}")


def main() -> int:
    """Load the plan, run what is missing, report."""
    args = parse()
    check_arguments(args)
    from transfer.planning import measure

    if args.data:
        return measure.run_own_data(args, sys.argv[1:])
    command = shlex.join(["python", "transfer/measure_gap.py", *sys.argv[1:]])
    return measure.report_folder(args, command) if Path(args.plan).is_dir() else measure.run_plan(args, command)


def console() -> None:
    """The command ``gap-measure``."""
    run_entry(main)


if __name__ == "__main__":
    console()
