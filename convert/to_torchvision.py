#!/usr/bin/env python
"""Convert a Detectron2 backbone, or the one inside a fine-tuned model_final.pth, to torchvision's names.

python convert/to_torchvision.py model_final.pth           # -> model_final_torchvision.pth
python convert/to_torchvision.py backbone.pkl R-50.pkl --names caffe2
"""

from __future__ import annotations

import argparse
import gc
import os
import sys

if not __package__:  # run as a script: import from the repository, not from this folder
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    gc.disable()  # a short process without cycles: the collector would only rescan what imports make
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy starts its threads on import; nothing here uses them

from pathlib import Path

from convert.families import TABLE
from runtime.command_line import CommandParser
from runtime.errors import run_entry
from runtime.fast_exit import exit_immediately

FORMATS = {"torchvision": ("pth", "safetensors", "pkl"), "caffe2": ("pkl",)}


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = CommandParser(description=__doc__)
    parser.add_argument(
        "backbone", type=Path, help="a Detectron2 backbone or detector, or any checkpoint to_d2.py reads"
    )
    parser.add_argument("out", nargs="?", help="file, or folder with a slash (default: NAME_torchvision.pth beside it)")
    parser.add_argument(
        "--names", choices=list(FORMATS), default="torchvision", help="caffe2: the names of the MSRA models"
    )
    parser.add_argument("--family", choices=["auto", *TABLE], default="auto", metavar="NAME", help="see to_d2.py")
    parser.add_argument("--no-verify", action="store_true", help="skip the forward check")
    args = parser.parse_args()
    out = Path(args.out or "")
    form = out.suffix.lstrip(".")
    if args.names == "caffe2" and form in FORMATS["torchvision"] and form not in FORMATS["caffe2"]:
        parser.error(f"Caffe2 names are read from .pkl files only: name the output {out.with_suffix('.pkl')}")
    return args


def main() -> int:
    """Read, rename, verify, write, report."""
    args = parse_args()
    from convert.backbone_file import format_of, output_stem, replaced, write_caffe2, write_torchvision
    from convert.conversion import convert
    from convert.sidecar import report

    form = format_of(args.out)
    formats = (form,) if form in FORMATS[args.names] else FORMATS[args.names][:1]
    stem = output_stem(args.backbone, args.out, formats, tail=f"_{args.names}")
    backbone = convert(args.backbone, family=args.family, verify=not args.no_verify)
    write = write_caffe2 if args.names == "caffe2" else write_torchvision
    notes = replaced(backbone, stem)
    files = write(backbone, stem, formats)
    print("\n".join([report(backbone), *notes]))
    for file in files:
        print(f"wrote {file}")
    return 0


def console() -> None:
    """The command ``gap-convert-torchvision``."""
    with exit_immediately():
        run_entry(main)


if __name__ == "__main__":
    console()
