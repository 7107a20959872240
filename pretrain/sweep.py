"""Run a table of pretrainings that differ in a few flags, and compare their kNN accuracies.

    python pretrain/sweep.py plans/ablation_pretrain.yaml [--only GROUP ...] [--jobs N]

Finished runs are not repeated, unfinished ones continue. A finished run whose flags or images differ from what the plan
says now is stale, and refused by name. The table is written to OUTPUT/table.md. A plan has the keys output, base (flags
of every run, the folder of images first), seeds, and groups, which are named tables of runs, each a list of flags. A
run that another group already has is written as that run's name, GROUP/RUN. All runs of one seed come before those of
the next.
"""

import os
import sys

if not __package__:  # run as a script: import from the repository, not from this folder
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import argparse
import itertools
import re
import statistics
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.command_line import CommandParser
from runtime.errors import UserError, run_entry
from runtime.listing import listed
from runtime.pasteable import pasteable
from runtime.repository import REPOSITORY, find_file

if TYPE_CHECKING:
    from pretrain.settings.values import Settings

KEYS = {"output", "base", "seeds", "groups"}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,79}")  # names become folder names
OWN_FLAGS = ("--seed", "--output", "--resume")
NO_RUN = ("--dry-run", "--help", "-h")  # leave with exit code 0 and would pass for a finished run


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("plan", help="YAML file")
    parser.add_argument("--only", nargs="+", default=[], metavar="GROUP", help="these groups of the plan only")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at once (set OMP_NUM_THREADS)")
    parser.add_argument("--table-only", action="store_true", help="run nothing, compare the finished runs")
    parser.add_argument("--redo", action="store_true", help="rename stale runs and run them again")
    return parser.parse_args(argv)


def read_plan(path: Path) -> dict[str, Any]:
    """A checked plan; UserError names what is wrong with it."""
    from runtime.strict_yaml import read_yaml

    plan = read_yaml(path, f"plan {path}")
    if {"inits", "configs"} <= set(plan):
        run = pasteable("transfer/measure_gap.py", [path])
        raise UserError(f"{path} is a plan of fine-tunings, not a table of pretrainings; run it by {run}")
    if set(plan) != KEYS:
        raise UserError(f"{path} needs exactly the keys {', '.join(sorted(KEYS))}")
    groups = plan["groups"]
    if not isinstance(groups, dict) or not all(isinstance(runs, dict) for runs in groups.values()):
        raise UserError(f"groups of {path} must be named tables of runs: {{GROUP: {{RUN: [flags]}}}}")
    runs_by_name = {f"{group}/{name}": flags for group, runs in groups.items() for name, flags in runs.items()}
    for name, flags in runs_by_name.items():
        if isinstance(flags, str) and not isinstance(runs_by_name.get(flags), list):
            raise UserError(
                f"{name} of {path} refers to {flags!r}, which is not a run with its own list of flags (GROUP/RUN)"
            )
    own = {name: flags for name, flags in runs_by_name.items() if not isinstance(flags, str)}
    if not all(isinstance(part, list) for part in (plan["base"], plan["seeds"], *own.values())):
        raise UserError(
            f"base, seeds and every run of {path} must be lists (a run may also be the name of another, GROUP/RUN)"
        )
    _check_names(path, plan)
    for name, flags in {"base": plan["base"], **own}.items():
        _check_flags(f"{name} of {path}", flags)
    return plan


def _check_names(path: Path, plan: dict[str, Any]) -> None:
    """Raise UserError where two runs would share a folder, or one would lie outside of the output folder."""
    if not isinstance(plan["output"], str) or not plan["output"]:
        raise UserError(f"output of {path} must be the name of a folder, not {plan['output']!r}")
    for name in (*plan["groups"], *itertools.chain(*plan["groups"].values())):
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise UserError(
                f"{path}: {name!r} is not a valid name of a group or run: a folder is named so, use letters, digits "
                "and ._+-"
            )
    seeds = plan["seeds"]
    if not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds) or len(set(seeds)) < len(seeds):
        raise UserError(f"seeds of {path} must be different integers, 0 or more, not {seeds}")


def _check_flags(where: str, flags: list[Any]) -> None:
    """Raise UserError for a flag that the sweep sets itself, abbreviated or not, and for one that starts no run.

    The table would show a flag that the run did not have.
    """
    for flag in flags:
        if isinstance(flag, bool) or not isinstance(flag, str | int | float):
            raise UserError(f"{where}: {flag!r} is not a flag or its value; write it as text")
        word = str(flag).partition("=")[0]
        if any(own == word or (len(word) > 3 and own.startswith(word)) for own in (*OWN_FLAGS, *NO_RUN)):
            raise UserError(f"{where}: {flag} cannot be given here; the sweep sets {', '.join(OWN_FLAGS)} itself")


def place(plan: dict[str, Any], group: str, name: str, seed: int) -> tuple[Path, list[Any]]:
    """Folder and flags of one run; where it refers to a run of another group, those of that run."""
    flags = plan["groups"][group][name]
    if isinstance(flags, str):
        group, name = flags.split("/", 1)
        flags = plan["groups"][group][name]
    return Path(plan["output"]) / group / name / f"seed{seed}", flags


def last_knn(folder: Path) -> float | None:
    """The last kNN accuracy of a finished run, None where the run is not finished or recorded none."""
    from pretrain.training.finished_run import is_finished
    from runtime.metrics import read_metrics

    if not is_finished(folder):
        return None
    values = [record["knn"] for record in read_metrics(folder / "metrics.json") if "knn" in record]
    return values[-1] if values else None


def run(flags: list[Any], folder: Path, seed: int) -> None:
    """Run or continue one pretraining; UserError when it fails."""
    script = REPOSITORY / "pretrain" / "main.py"
    command = [sys.executable, str(script), *map(str, flags), "--seed", str(seed), "--output", str(folder), "--resume"]
    print(" ".join(command), flush=True)
    done = subprocess.run(command)
    if done.returncode:
        raise UserError(f"{folder} ended with exit code {done.returncode}; the command above shows why")
    from pretrain.training.finished_run import mark_finished

    mark_finished(folder, settings_of(flags, folder, seed))


def settings_of(flags: list[Any], folder: Path, seed: int) -> "Settings":
    """What the flags of a run mean."""
    from pretrain.settings.options import parse as parse_flags

    return parse_flags([*map(str, flags), "--seed", str(seed), "--output", str(folder)])


def set_aside_stale(runs: dict[Path, tuple[list[Any], int]], redo: bool) -> None:
    """Rename the folders of finished runs whose flags or images are others now, or without ``redo`` refuse to go on."""
    from pretrain.training.finished_run import differences, is_finished

    stale = {}
    for folder, (flags, seed) in runs.items():
        if is_finished(folder) and (texts := differences(folder, settings_of(flags, folder, seed))):
            stale[folder] = f"{folder}: {'; '.join(texts)}"
    if stale and not redo:
        raise UserError(
            f"{len(stale)} finished runs are stale: {listed(list(stale.values()), 4)}. Restore the plan or the images, "
            "or add --redo, which renames their folders and runs them again"
        )
    for folder in stale:
        numbers = (folder.with_name(f"{folder.name}.old{number}") for number in itertools.count(1))
        folder.rename(next(name for name in numbers if not name.exists()))


def run_all(missing: dict[Path, tuple[list[Any], int]], jobs: int) -> None:
    """Run every missing run, ``jobs`` at a time; after a failure no further run is started."""
    with ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
        futures = [pool.submit(run, flags, folder, seed) for folder, (flags, seed) in missing.items()]
        try:
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def table(plan: dict[str, Any], groups: list[str]) -> str:
    """A table in Markdown: each run's flags beyond the base, mean and sample standard deviation of kNN over seeds."""
    lines = [f"Base: `{' '.join(map(str, plan['base']))}`; kNN top-1 in %, mean ± sample std over seeds.", ""]
    for group in groups:
        lines += [f"**{group}**", "", "| run | flags | kNN | seeds |", "|---|---|---|---|"]
        for name in plan["groups"][group]:
            placed = [place(plan, group, name, seed) for seed in plan["seeds"]]
            folders, flags = [folder for folder, _ in placed], placed[0][1]
            values = [value for value in map(last_knn, folders) if value is not None]
            spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            shown = f"{statistics.mean(values):.2f}{spread}" if values else "not run"
            lines.append(f"| {name} | `{' '.join(map(str, flags))}` | {shown} | {len(values)} |")
        lines.append("")
    return "\n".join(lines)


def main() -> int:
    """Run the missing runs, then write the table."""
    args = parse()
    plan = read_plan(find_file(args.plan, "plans"))
    if unknown := [group for group in args.only if group not in plan["groups"]]:
        raise UserError(f"{args.plan} has no group {unknown[0]}; choose from {', '.join(plan['groups'])}")
    from runtime.atomic import write_text

    groups = args.only or list(plan["groups"])
    runs: dict[Path, tuple[list[Any], int]] = {}
    for seed in plan["seeds"]:
        for group in groups:
            for name in plan["groups"][group]:
                folder, flags = place(plan, group, name, seed)
                runs[folder] = ([*plan["base"], *flags], seed)
    set_aside_stale(runs, args.redo and not args.table_only)
    if not args.table_only:
        run_all({folder: run for folder, run in runs.items() if last_knn(folder) is None}, args.jobs)
    text = table(plan, groups)
    write_text(Path(plan["output"]) / "table.md", text)
    print(text)
    return 0


def console() -> None:
    """The command ``gap-sweep``."""
    run_entry(main)


if __name__ == "__main__":
    console()
