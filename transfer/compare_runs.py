"""Compares two folders of the same runs, made by two engines, on two machines or by two versions.

    python transfer/compare_runs.py runs/engines/torchvision runs/engines/detectron2 [--output NAME]

Runs are matched by their path below the folders (CONFIG/INIT/seedN in a plan's output). The output, with --output also
written as NAME.md and NAME.csv, has every metric of both, what else they differ in, the largest difference between
their final weights and between their detections, and whether the mean difference of a metric is within the spread over
seeds. Exit code 1 when it is not.
"""

import os
import sys

if not __package__:  # run as a script: import from the repository, not from this folder
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import argparse
from collections.abc import Sequence

from runtime.command_line import CommandParser
from runtime.errors import run_entry


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("first", metavar="FIRST", help="folder of finished runs")
    parser.add_argument("second", metavar="SECOND", help="folder of finished runs with the same names")
    parser.add_argument("--output", metavar="NAME", help="write NAME.md and NAME.csv too")
    return parser.parse_args(argv)


def main() -> int:
    """Match, compare, print."""
    args = parse()
    from runtime.atomic import write_text
    from transfer.comparison.run_pairs import match, metric_pairs
    from transfer.report.run_pairs import pairs_csv, pairs_markdown

    pairs = match(args.first, args.second)
    text = pairs_markdown(pairs)
    print(text)
    if args.output:
        write_text(f"{args.output}.md", text + "\n")
        write_text(f"{args.output}.csv", pairs_csv(pairs))
    return 1 if any(metric.verdict == "no" for metric in metric_pairs(pairs)) else 0


def console() -> None:
    """The command ``gap-compare-runs``."""
    run_entry(main)


if __name__ == "__main__":
    console()
