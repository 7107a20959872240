"""Numbers about a checkpoint's features: kNN accuracy, alignment and uniformity.

python pretrain/features.py runs/moco/checkpoint_0199.pth.tar DIR      # DIR/train and DIR/val, class folders
"""

import os
import sys

if not __package__:  # run as a script: import from the repository, not from this folder
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import argparse
import json
from dataclasses import replace
from pathlib import Path

from runtime.arguments import positive, whole
from runtime.command_line import CommandParser
from runtime.errors import UserError, run_entry
from runtime.provenance import usable_cores


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = CommandParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", help="of pretrain/main.py, of official MoCo, or any file to_d2.py converts")
    parser.add_argument("data", metavar="DIR", help="folder with train/CLASS/ and val/CLASS/")
    parser.add_argument("--layer", choices=["backbone", "head"], default="backbone", help="whose output (backbone)")
    parser.add_argument("--image-size", type=positive, default=None, help="(the checkpoint's, else 224)")
    parser.add_argument("--images", type=whole, default=0, metavar="N", help="of each set at most (0: all)")
    parser.add_argument("--k", type=positive, default=200, help="neighbours (200)")
    parser.add_argument("--temperature", type=float, default=0.1, help="of their votes (0.1)")
    parser.add_argument("-j", "--workers", type=whole, default=4)
    parser.add_argument("--output", default=None, metavar="FILE", help="also write the numbers as JSON")
    args = parser.parse_args(argv)
    if not args.temperature > 0:
        parser.error("--temperature must be positive")
    return args


def main() -> int:
    """Print the numbers of one checkpoint."""
    args = parse()
    import torch

    from pretrain.encoders.reading import read_encoder
    from pretrain.images import open_images
    from pretrain.images.inspection import inspect_pixels, shared_images
    from pretrain.images.listing import validation_folder
    from pretrain.images.source import require_same_classes
    from pretrain.probes.knn import ProbeImages, alignment, encoder_function, extract, knn_accuracy, uniformity
    from pretrain.views import build_views, eval_kind
    from runtime.atomic import sha256_file, write_json
    from runtime.provenance import provenance

    source = read_encoder(args.checkpoint)
    print(f"{args.checkpoint}: {source.arch}, {source.origin}", file=sys.stderr)
    if args.layer == "head" and not source.has_head:
        raise UserError(f"{args.checkpoint} has no head that can be read; leave out --layer head")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder = source.network.to(device)
    size, kind = args.image_size or source.settings.get("image_size", 224), eval_kind(source.settings.get("views"))
    train = open_images(args.data, labels=True)
    val = open_images(validation_folder(Path(args.data)), labels=True, split=None)
    require_same_classes(train, val, args.data)
    findings = [*train.findings, *inspect_pixels(train), *shared_images(train, val)]
    for finding in findings:
        print(f"finding: {finding.line()}", file=sys.stderr)
    encode = encoder_function(encoder, args.layer)
    views = build_views(kind, image_size=size)
    images = ProbeImages(views, device, images=args.images, workers=min(args.workers, usable_cores()))
    (bank,), bank_labels = extract(encode, train, images)
    (queries,), labels = extract(encode, val, images)
    pairs = replace(images, views=build_views("v1", image_size=size))  # two random views of each image
    (first, second), _ = extract(encode, val, pairs)
    numbers = {
        "knn": knn_accuracy(bank, bank_labels, queries, labels, k=args.k, temperature=args.temperature),
        "alignment": alignment(first, second),
        "uniformity": uniformity(queries),
        "train_images": len(bank),
        "val_images": len(queries),
    }
    print(json.dumps(numbers, indent=1))
    if args.output:
        origin = {"checkpoint": args.checkpoint, "sha256": sha256_file(args.checkpoint), "image_size": size,
                  "findings": [finding.as_record() for finding in findings]}  # fmt: skip
        write_json(args.output, {**numbers, **origin, "layer": args.layer, "provenance": provenance()})
    return 0


def console() -> None:
    """The command ``gap-knn``."""
    run_entry(main)


if __name__ == "__main__":
    console()
