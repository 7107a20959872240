"""Find test images that are also among fine-tuning or pretraining images, by content.

    python transfer/leakage.py --test voc_2007_test --against voc_2007_trainval imagenet

DATASET is a name as in DATASETS.TEST; IMAGES is what pretrain/main.py reads: a folder, a list, shards or a cache.
Compared are files, decoded pixels, and appearance (a 64-bit perceptual hash, also of the mirror image).
"""

import os
import sys

if not __package__:  # run as a script: import from the repository, not from this folder
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import argparse
from pathlib import Path

from runtime.command_line import CommandParser
from runtime.errors import UserError, run_entry


def parse() -> argparse.Namespace:
    """The command line."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("--test", required=True, nargs="+", metavar="DATASET", help="test sets")
    parser.add_argument("--against", required=True, nargs="+", metavar="DATASET_OR_IMAGES", help="what was trained on")
    parser.add_argument(
        "--distance", type=int, metavar="BITS", help="of 64 in which near-duplicates may differ, 0 to 15 (default 4)"
    )
    parser.add_argument("--cache", type=Path, metavar="DIR", help="keep the hashes of every set there")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the result as JSON")
    args = parser.parse_args()
    if args.distance is not None and not 0 <= args.distance <= 15:
        parser.error("--distance must be between 0 and 15")
    return args


def main() -> int:
    """Compare every test set with everything that was trained on."""
    args = parse()
    from runtime.atomic import write_json
    from transfer.comparison.leakage import DISTANCE, compare_sets

    distance = DISTANCE if args.distance is None else args.distance
    results = [
        result for test in args.test for result in compare_sets(test, args.against, distance=distance, cache=args.cache)
    ]
    if failed := [result for result in results if result.reason]:
        raise UserError(failed[0].line())
    for result in results:
        print("\n  ".join([result.line(), *(finding.line() for finding in result.findings)]))
    if args.output is not None:
        write_json(args.output, {"distance": distance, "results": [result.as_record() for result in results]})
    return 0


def console() -> None:
    """The command ``gap-leakage``."""
    run_entry(main)


if __name__ == "__main__":
    console()
