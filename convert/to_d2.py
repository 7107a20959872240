#!/usr/bin/env python
"""Convert the ResNet of any self-supervised or supervised checkpoint to a Detectron2 backbone, and prove it.

python convert/to_d2.py checkpoint_0199.pth.tar            # -> checkpoint_0199.pkl and .json beside it
python convert/to_d2.py ckpt.pth backbones/moco.pkl --format pkl,safetensors --emit-config
"""

from __future__ import annotations

import argparse
import os
import sys

sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # the repository, not this folder

from pathlib import Path
from typing import TYPE_CHECKING

from runtime.errors import UserError, run_entry

if TYPE_CHECKING:
    from convert.backbone import Backbone

FORMATS = ("pkl", "pth", "safetensors")
ENCODERS = ("query", "key", "online", "target", "student", "teacher", "ema", "encoder")


def parse_args() -> argparse.Namespace:
    """The command line; FORMATS and ENCODERS are spelled here so that --help needs no import."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="the file to convert (.pth, .pth.tar, .pkl, .ckpt, .safetensors)")
    parser.add_argument("out", type=Path, nargs="?", help="output (default: beside the checkpoint, as .pkl)")
    parser.add_argument("--family", default="auto", help="checkpoint family (default: recognised by its keys)")
    parser.add_argument("--encoder", choices=ENCODERS, help="which encoder, where a checkpoint holds several")
    parser.add_argument("--format", type=_formats, default=None, help=f"comma list of {', '.join(FORMATS)}")
    parser.add_argument(
        "--no-verify", action="store_true", help="skip the forward check (faster; torch is not imported)"
    )
    return parser.parse_args()


def _formats(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    if unknown := [n for n in names if n not in FORMATS]:
        raise argparse.ArgumentTypeError(f"unknown format {unknown[0]!r} (choose from {', '.join(FORMATS)})")
    return names


def output_stem(checkpoint: Path, out: Path | None, formats: tuple[str, ...]) -> Path:
    """Where to write, without a format's suffix; refuses to write over the checkpoint itself."""
    named = out if out is not None else checkpoint
    stem = named.with_suffix("") if named.suffix in {f".{f}" for f in (*FORMATS, "tar", "ckpt", "pt")} else named
    stem = stem.with_suffix("") if out is None and stem.suffix == ".pth" else stem
    for name in formats:
        target = stem.with_name(f"{stem.name}.{name}")
        if target.exists() and target.resolve() == checkpoint.resolve():
            raise UserError(
                f"the output {target} would replace the checkpoint itself; name another: to_d2.py {checkpoint} OUT"
            )
    return stem


def main() -> int:
    """Read, convert, write, report."""
    args = parse_args()
    from convert.backbone_file import write_backbone
    from convert.conversion import convert

    formats = args.format or ((args.out.suffix[1:],) if args.out and args.out.suffix[1:] in FORMATS else ("pkl",))
    stem = output_stem(args.checkpoint, args.out, formats)
    backbone = convert(args.checkpoint, family=args.family, encoder=args.encoder, verify=not args.no_verify)
    files = write_backbone(backbone, stem, formats)
    print(report(backbone))
    for file in files:
        print(f"wrote {file}")
    return 0


def report(backbone: Backbone) -> str:
    """The table a user reads: what was recognised, how much is set per stage, the proof, the config it needs."""
    stages: dict[str, int] = {}
    for name in backbone.tensors:
        if not name.endswith("num_batches_tracked"):
            stages[name.split(".")[0]] = stages.get(name.split(".")[0], 0) + 1
    coverage, difference = backbone.coverage, backbone.max_abs_diff
    lines = [
        f"{backbone.source.name}: {backbone.architecture.name}, family {backbone.family}, encoder {backbone.encoder}",
        f"{'stage':8}{'tensors':>8}   max |diff|",
    ]
    lines += [f"{s:8}{n:8}   {'not checked' if difference is None else difference[s]}" for s, n in stages.items()]
    lines.append(
        f"{'total':8}{coverage.set:8}   of {coverage.backbone_tensors}; {len(coverage.dropped)} others left behind"
    )
    lines.append("needs: " + " ".join(f"{k} {str(v).replace(' ', '')}" for k, v in backbone.config.items()))
    lines += [f"note: {note}" for note in backbone.notes]
    return "\n".join(lines)


if __name__ == "__main__":
    run_entry(main)
