"""Prints published transfer results in the papers' layout, with gaps to supervised recomputed, in brackets.

    python transfer/published.py --task voc --detector R50-C4
    python transfer/published.py --paper "MoCo v1" --table 5a
    python transfer/published.py --list
    python transfer/published.py --explain runs/moco_voc/voc/moco/seed0   # against the nearest of the selected rows
    python transfer/published.py --html atlas.html            # every row on one page, to filter and sort offline
    python transfer/published.py --csv published.csv          # the selected rows, with a Croissant description
    python transfer/published.py --add rows.json              # validates, then adds to the collection

Rows share a table only when data, detector, schedule and protocol are the same.
"""

import os
import sys

if not __package__:  # run as a script: import from the repository, not from this folder
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import argparse
import collections
import re
from collections.abc import Sequence
from pathlib import Path

from runtime.atomic import write_text
from runtime.command_line import CommandParser
from runtime.errors import UserError, run_entry
from runtime.terminal import aligned
from transfer.literature.exports import add_rows, write_csv
from transfer.literature.rows import FILE, TASKS, Group, PublishedRow, grouped, load, row_name, select

# tables of the MoCo paper (arXiv 1911.05722v3) whose rows come from several sources
MOCO_TABLES = {  # table -> (words of the detector, initialisations in the paper's order, pretraining data)
    "2a": ("R50-dilated-C5", ("random", "supervised", "MoCo v1"), (None, "IN-1M", "IG-1B")),
    "2b": ("Faster R-CNN R50-C4", ("random", "supervised", "MoCo v1"), (None, "IN-1M", "IG-1B")),
    "3": ("", ("end-to-end", "memory bank", "MoCo v1"), ("IN-1M",)),
}


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("--task", choices=sorted(TASKS), help="data the detector was fine-tuned on")
    parser.add_argument("--detector", metavar="TEXT", help="e.g. R50-C4, R50-FPN")
    parser.add_argument("--schedule", metavar="TEXT", help="e.g. 24k, 1x")
    parser.add_argument("--init", metavar="TEXT", help='e.g. "MoCo v2"')
    parser.add_argument("--protocol", metavar="TEXT", help="e.g. moco")
    parser.add_argument("--paper", metavar="TEXT", help='words of the source, e.g. "MoCo v1"')
    parser.add_argument("--table", metavar="N", help="table of that paper, e.g. 5a")
    parser.add_argument("--sources", action="store_true", help="name the source of every row")
    parser.add_argument("--list", action="store_true", help="list the sources and exit")
    parser.add_argument("--explain", metavar="RUN", type=Path, help="what separates a run from the nearest row")
    parser.add_argument("--html", metavar="FILE", type=Path, help="write the page of all rows, to filter and sort")
    parser.add_argument(
        "--csv", metavar="FILE", type=Path, help="write the selected rows as CSV, and FILE.croissant.json"
    )
    parser.add_argument("--add", metavar="FILE.json", type=Path, help="check new rows and add them to the collection")
    return parser.parse_args(argv)


def check_together(args: argparse.Namespace) -> None:
    """Refuse options that would have no effect together; raises UserError that names them."""
    tasks = [name for name in ("list", "explain", "html", "csv", "add") if getattr(args, name)]
    if len(tasks) > 1:
        raise UserError(f"--{tasks[0]} and --{tasks[1]} are two tasks: give one command each")
    choices = ("task", "detector", "schedule", "init", "protocol", "paper", "table", "sources")
    ignored = {"list": choices, "html": choices, "add": choices, "explain": ("sources",), "csv": ("sources",)}
    for task in tasks:
        unused = [name for name in ignored[task] if getattr(args, name)]
        if unused:
            raise UserError(f"--{task} does not use --{unused[0]}: leave it out")


def chosen_rows(args: argparse.Namespace) -> list[PublishedRow]:
    """The rows that the command line selects."""
    if args.table and "moco v1" in (args.paper or "MoCo v1").lower() and args.table in ("2", *MOCO_TABLES):
        return [row for name in MOCO_TABLES if name.startswith(args.table) for row in moco_table(name)]
    table = re.compile(rf"Table {re.escape(args.table)}(?!\d)", re.IGNORECASE) if args.table else None  # 1 is not 13
    fields = {key: getattr(args, key) for key in ("detector", "schedule", "init", "protocol")}
    rows = select(load(), task=args.task, paper=args.paper or ("MoCo v1" if table else None), **fields)
    rows = [row for row in rows if table is None or table.search(row["source"])]
    if args.init:  # a gap needs the supervised row of the same source
        sources = {row["source"] for row in rows}
        of_every_init = select(load(), task=args.task, paper=args.paper, **{**fields, "init": None})
        rows = [r for r in of_every_init if r in rows or (r["init"] == "supervised" and r["source"] in sources)]
    return rows


def moco_table(name: str) -> list[PublishedRow]:
    """Rows of one table of the MoCo paper, whichever table they were copied from."""
    detector, inits, data = MOCO_TABLES[name]
    rows = select(load(), task="voc07+12", detector=detector, schedule="24k", paper="MoCo v1, He et al.")
    rows = [r for r in rows if r["protocol"] == "moco" and r["init"] in inits and r.get("pretrain_data") in data]
    return sorted(rows, key=lambda row: inits.index(row["init"]))


def text_table(group: Group, sources: bool = False, gaps: bool = True) -> str:
    """One group as aligned text: every number, with its gap to supervised in brackets."""
    head = ["init", *group.metrics, *(["source"] if sources else [])]
    lines = [head]
    for row in group.rows:
        cells = [_cell(group, row, metric, gaps) for metric in group.metrics]
        lines.append([row_name(row), *cells, *(["; ".join(row["sources"])] if sources else [])])
    trials = {row.get("n_trials") for row in group.rows} - {None}
    n = f", mean of {trials.pop()} trials" if len(trials) == 1 else ""
    heading = f"{group.dataset}\n{group.detector}, {group.schedule}{n}; protocol: {group.protocol}"
    notes = [f"  note: {row_name(row)}: {row['notes']}" for row in group.rows if row.get("notes")]
    notes += [f"  note: {row_name(row)}: {text}" for row in group.rows if gaps and (text := _printed_note(group, row))]
    return "\n".join([heading, aligned(lines), *dict.fromkeys(notes)])


def _cell(group: Group, row: PublishedRow, metric: str, gaps: bool) -> str:
    value = row["metrics"].get(metric)
    return "" if value is None else f"{value} {group.shown_gap(row, metric) if gaps else ''}".rstrip()


def _printed_note(group: Group, row: PublishedRow) -> str:
    """What the source prints where its own gap is to another baseline, e.g. to one with another backbone norm."""
    printed = row.get("printed_gaps", {})
    others = [f"{name} {gap:+g}" for name, gap in printed.items() if f"{group.gap(row, name)}" != f"{gap:.1f}"]
    return f"the source prints {', '.join(others)}, to a supervised row with another setup" if others else ""


def explained(folder: Path, rows: Sequence[PublishedRow]) -> str:
    """What separates a finished run from the nearest of ``rows``."""
    from transfer.literature.explain import explain, explanation_text  # numpy, which --help does without
    from transfer.records.run import read_run

    if not (folder / "result.json").is_file():
        inside = next((path.parent for path in sorted(folder.rglob("result.json"))), None)
        hint = f", e.g. {inside}" if inside else ""
        raise UserError(f"{folder} has no result.json: --explain takes the folder of one finished run{hint}")
    run = read_run(folder)
    if not run.finished:
        raise UserError(f"{folder} has no finished run: {run.error}")
    return explanation_text(explain(run.record, rows), str(folder))


def write_page(path: Path) -> str:
    """Write the page of all rows; returns what the command says."""
    from transfer.report.atlas import atlas  # numpy, which --help does without

    write_text(path, atlas(load()))
    return f"wrote {len(load())} rows to {path}"


def main() -> int:
    """Print the tables."""
    args = parse()
    check_together(args)
    if args.list:
        for source, count in collections.Counter(row["source"] for row in load()).items():
            print(f"{count:4d}  {source}")
        return 0
    if args.add:
        print(f"added {add_rows(args.add)} rows to {FILE}")
        return 0
    if args.html:
        print(write_page(args.html))
        return 0
    rows = chosen_rows(args)
    if not rows:
        raise UserError("no published row matches; see --list for the sources, --help for the tasks")
    if args.csv:
        print(f"wrote {len(rows)} rows to {args.csv}, described in {write_csv(rows, args.csv)}")
        return 0
    if args.explain:
        print(explained(args.explain, rows))
        return 0
    gaps = args.table != "3"  # which compares the mechanisms with each other
    print("\n\n".join(text_table(group, args.sources, gaps) for group in grouped(rows)))
    return 0


def console() -> None:
    """The command ``gap-published``."""
    run_entry(main)


if __name__ == "__main__":
    console()
