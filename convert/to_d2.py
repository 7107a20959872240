#!/usr/bin/env python
"""Convert the ResNet or ViT of a self-supervised or supervised checkpoint to a Detectron2 backbone, and verify it.

python convert/to_d2.py checkpoint_0199.pth.tar            # -> checkpoint_0199.pkl and .json beside it
python convert/to_d2.py ckpt.pth backbones/moco.pkl --format pkl,safetensors --emit-config
python convert/to_d2.py model_final.pth --reverse          # back to torchvision's names
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

from convert.families import TABLE, list_families
from convert.preprocessing import PREPROCESSING
from runtime.command_line import CommandParser
from runtime.errors import run_entry
from runtime.fast_exit import exit_immediately

FORMATS = ("pkl", "pth", "safetensors")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, nargs="?", help="the file to convert")
    parser.add_argument("out", nargs="?", help="file, or folder with a slash (default: beside the checkpoint, as .pkl)")
    source = parser.add_argument_group("source")
    source.add_argument(
        "--family", choices=["auto", *TABLE], default="auto", metavar="NAME", help="see --list-families"
    )
    source.add_argument("--encoder", choices=sorted({e for row in TABLE.values() for e in row.encoders}))
    source.add_argument("--prefix", help="take the network under this prefix, whatever its family")
    source.add_argument("--heads", type=int, metavar="N", help="attention heads of a ViT, which no tensor shows")
    source.add_argument(
        "--patch-size",
        type=int,
        metavar="P",
        help="resample a ViT's patch embedding to P pixels, e.g. DINOv2's 14 to 16",
    )
    source.add_argument(
        "--preprocessing", choices=list(PREPROCESSING), help="how its images were normalised, if unusual"
    )
    source.add_argument("--list-families", action="store_true", help="print the families and exit")
    proof = parser.add_argument_group("verification")
    proof.add_argument(
        "--no-verify", action="store_true", help="skip forward check, checksums and sha256 of the source"
    )
    proof.add_argument(
        "--against", choices=["detectron2", "torchvision"], help="also compare with that package's model"
    )
    output = parser.add_argument_group("output")
    output.add_argument("--format", type=_formats, help=f"comma list of {', '.join(FORMATS)} (default: as OUT, or pkl)")
    output.add_argument(
        "--emit-config", action="store_true", help="write the Detectron2 keys it needs as .yaml beside it"
    )
    output.add_argument(
        "--reverse", action="store_true", help="write torchvision's names (as convert/to_torchvision.py)"
    )
    args = parser.parse_args(argv)
    if args.checkpoint is None and not args.list_families:
        parser.error("the checkpoint to convert is missing")
    if args.prefix is not None and (args.family != "auto" or args.encoder):
        parser.error("--prefix already names the network: leave out --family and --encoder")
    if args.heads is not None and args.heads < 1:
        parser.error(f"argument --heads: {args.heads} is not a number of attention heads")
    if args.reverse and args.emit_config:
        parser.error("--emit-config writes Detectron2's keys: leave it out with --reverse")
    return args


def _formats(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    if unknown := [n for n in names if n not in FORMATS]:
        raise argparse.ArgumentTypeError(f"unknown format {unknown[0]!r} (choose from {', '.join(FORMATS)})")
    return names


def main() -> int:
    """Read, convert, verify, write, report."""
    args = parse_args()
    if args.list_families:
        print(list_families())
        return 0
    from convert.backbone_file import format_of, output_stem, replaced, write_backbone, write_torchvision
    from convert.conversion import convert
    from convert.sidecar import report

    form = format_of(args.out)
    formats = args.format or ((form,) if form in FORMATS else ("pth" if args.reverse else "pkl",))
    stem = output_stem(args.checkpoint, args.out, formats, tail="_torchvision" if args.reverse else "")
    backbone = convert(
        args.checkpoint,
        family=args.family,
        encoder=args.encoder,
        prefix=args.prefix,
        heads=args.heads,
        patch_size=args.patch_size,
        preprocessing=PREPROCESSING.get(args.preprocessing),
        verify=not args.no_verify,
        against=args.against,
    )
    notes = replaced(backbone, stem)
    if args.reverse:
        files = write_torchvision(backbone, stem, formats)
    else:
        files = write_backbone(backbone, stem, formats, emit_config=args.emit_config)
    print("\n".join([report(backbone), *notes]))
    for file in files:
        print(f"wrote {file}")
    return 0


def console() -> None:
    """The command ``gap-convert``."""
    with exit_immediately():
        run_entry(main)


if __name__ == "__main__":
    console()
