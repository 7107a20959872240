"""Run a table of pretrainings that differ in a few flags, and compare their kNN accuracies.

    python pretrain/sweep.py plans/ablation_pretrain.yaml [--only GROUP ...] [--jobs N]

Runs that are there are kept and unfinished ones continued; the table is written to OUTPUT/table.md. A plan has
`output`, `base` (flags of every run, the folder of images first), `seeds`, and `groups` of named lists of flags; a run
that another group has already is written as that run's name, GROUP/RUN. All runs of one seed come before the next seed.
"""

import os
import sys

if not __package__:  # run as a script: import from the repository, not from this folder
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import argparse
import statistics
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from runtime.errors import UserError, run_entry
from runtime.repository import REPOSITORY, find_file

KEYS = {"output", "base", "seeds", "groups"}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", help="YAML file")
    parser.add_argument("--only", nargs="+", default=[], metavar="GROUP", help="these groups of the plan only")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at once (set OMP_NUM_THREADS)")
    parser.add_argument("--table-only", action="store_true", help="run nothing, compare what is there")
    return parser.parse_args(argv)


def read_plan(path: Path) -> dict[str, Any]:
    """A checked plan; UserError names what is wrong with it."""
    import yaml

    try:
        plan = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read the plan {path}: {' '.join(str(error).split())}") from error
    if not isinstance(plan, dict) or set(plan) != KEYS:
        raise UserError(f"{path} needs exactly the keys {', '.join(sorted(KEYS))}")
    groups = plan["groups"]
    if not isinstance(groups, dict) or not all(isinstance(runs, dict) for runs in groups.values()):
        raise UserError(f"groups of {path} are named tables of runs: {{GROUP: {{RUN: [flags]}}}}")
    every = {f"{group}/{name}": flags for group, runs in groups.items() for name, flags in runs.items()}
    for name, flags in every.items():
        if isinstance(flags, str) and not isinstance(every.get(flags), list):
            raise UserError(
                f"{name} of {path} is the same as {flags!r}, which is no run with flags of its own (GROUP/RUN)"
            )
    if not all(isinstance(part, list) for part in (plan["base"], plan["seeds"], *filter(_own, every.values()))):
        raise UserError(f"base, seeds and every run of {path} are lists (or a run is the name of another, GROUP/RUN)")
    return plan


def _own(flags: object) -> bool:
    return not isinstance(flags, str)


def place(plan: dict[str, Any], group: str, name: str, seed: int) -> tuple[Path, list[Any]]:
    """Folder and own flags of one run, those of the run it refers to where it is another group's."""
    flags = plan["groups"][group][name]
    if isinstance(flags, str):
        group, name = flags.split("/", 1)
        flags = plan["groups"][group][name]
    return Path(plan["output"]) / group / name / f"seed{seed}", flags


def last_knn(folder: Path) -> float | None:
    """kNN accuracy at the end of a finished run, None where there is none yet."""
    from runtime.metrics import read_metrics

    if not (folder / "finished").exists():
        return None
    found = [record["knn"] for record in read_metrics(folder / "metrics.json") if "knn" in record]
    return found[-1] if found else None


def run(flags: list[Any], folder: Path, seed: int) -> None:
    """One pretraining, continued where it stopped; UserError when it fails."""
    script = REPOSITORY / "pretrain" / "main.py"
    command = [sys.executable, str(script), *map(str, flags), "--seed", str(seed), "--output", str(folder), "--resume"]
    print(" ".join(command), flush=True)
    done = subprocess.run(command)
    if done.returncode:
        raise UserError(f"{folder} ended with exit code {done.returncode}; the command above shows why")
    (folder / "finished").touch()


def run_all(missing: dict[Path, tuple[list[Any], int]], jobs: int) -> None:
    """Every missing run, ``jobs`` at a time; the first that fails stops those that have not begun."""
    with ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
        futures = [pool.submit(run, flags, folder, seed) for folder, (flags, seed) in missing.items()]
        try:
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def table(plan: dict[str, Any], groups: list[str]) -> str:
    """Markdown: mean and sample standard deviation of kNN over seeds, and what each run adds to the base."""
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
    """Run what is missing, then compare."""
    args = parse()
    plan = read_plan(find_file(args.plan, "plans"))
    if unknown := [group for group in args.only if group not in plan["groups"]]:
        raise UserError(f"{args.plan} has no group {unknown[0]}; it has {', '.join(plan['groups'])}")
    from runtime.atomic import write_text

    groups = args.only or list(plan["groups"])
    missing: dict[Path, tuple[list[Any], int]] = {}
    for seed in [] if args.table_only else plan["seeds"]:
        for group in groups:
            for name in plan["groups"][group]:
                folder, flags = place(plan, group, name, seed)
                if last_knn(folder) is None:
                    missing[folder] = ([*plan["base"], *flags], seed)
    run_all(missing, args.jobs)
    text = table(plan, groups)
    write_text(Path(plan["output"]) / "table.md", text)
    print(text)
    return 0


if __name__ == "__main__":
    run_entry(main)
