"""Seconds per training step with a frozen backbone: its maps computed in the batch, an image at a time, and cached.

    python benchmarks/frozen_features.py [--case fpn] [--size 320] [--batch 2] [--repeat 7] [--bf16]

The three take turns in one process, on the same random images, detector and targets; the maps are in the cache when the
clock starts. Wall and CPU seconds are medians; ratios (batch / other, above 1: the other is faster) are medians over
neighbouring turns, with their quartiles. Reading and resizing images is not part of a step.
"""

from __future__ import annotations

import os
import sys

if not __package__:  # run as a script: import from the repository, not from this folder
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.apart import measure
from benchmarks.detect import draw_batch, quartiles, settle
from runtime.errors import run_entry

CASES = {
    "fpn": ("coco_R50_FPN.yaml", ["MODEL.FPN.NORM", ""]),
    "faster": ("coco_faster_R50_FPN.yaml", ["MODEL.FPN.NORM", ""]),
    "c4": ("voc_R50_C4.yaml", []),
    "r18": ("small_R18_FPN_voc.yaml", []),
    "r18c4": ("small_R18_C4_voc.yaml", []),
}
KINDS = ("batch", "image", "cached")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=sorted(CASES), default="fpn")
    parser.add_argument("--size", type=int, default=320, help="side of the images in pixels")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--bf16", action="store_true")
    return parser.parse_args()


def main() -> int:
    """Measure and print."""
    import torch

    from runtime.provenance import provenance

    args = parse()
    record = provenance(sys.argv)
    print(f"{record['hardware']}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"{CASES[args.case][0]}, frozen, {args.batch} images of {args.size} x {args.size}, {args.repeat} turns each")
    with tempfile.TemporaryDirectory() as folder:
        step = build(args, Path(folder))
        for kind in KINDS:
            step(kind), step(kind)  # fills the cache, allocates
        turns = [{kind: measure(lambda kind=kind: step(kind)) for kind in KINDS} for _ in range(args.repeat)]  # type: ignore[misc]
    for kind in KINDS:
        wall, cpu = (statistics.median(turn[kind][part] for turn in turns) for part in (0, 1))
        pairs = [(turn[kind], turn["batch"]) for turn in turns]
        ratios = "".join("{1:8.2f}  {0:.2f} .. {2:.2f}".format(*quartiles(pairs, part)) for part in (0, 1))
        print(f"{kind:8} {wall:.3f} s ({cpu:.3f} CPU s) {ratios}")
    return 0


def build(args: argparse.Namespace, folder: Path) -> Any:
    """``step(kind)``: one training step whose frozen maps are made in that way."""
    import torch
    from PIL import Image

    from transfer.config import load_config
    from transfer.engines.torchvision.builder import build_model
    from transfer.engines.torchvision.feature_cache import FeatureCache
    from transfer.engines.torchvision.frozen_features import FrozenFeatures
    from transfer.engines.torchvision.loop import Training
    from transfer.engines.torchvision.run import prepare_device
    from transfer.engines.training.precision import Precision
    from transfer.engines.training.solver import build_solver

    config, more = CASES[args.case]
    cfg = load_config(config, ["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.FREEZE_AT", "5", *more])
    batch = draw_batch(args, cfg.MODEL.ROI_HEADS.NUM_CLASSES)
    for index, item in enumerate(batch):
        file = folder / f"{index}.png"
        Image.new("L", (1, 1)).save(file)
        item.update(file_name=str(file), view=(args.size, False))
        item["instances"].pop("keypoints")
        if not cfg.MODEL.MASK_ON:
            item["instances"]["masks"] = None
    device = prepare_device(cfg)
    torch.manual_seed(0)
    model = build_model(cfg).to(device)
    settle(model, batch)
    model.train()
    optimizer, schedule = build_solver(cfg, model)
    schedule.set(0)
    training = Training(model, optimizer, schedule, Precision(args.bf16, "bfloat16", device), lambda parameters: None)
    sources = {"batch": None, "image": FrozenFeatures(), "cached": FrozenFeatures(FeatureCache(folder, {}))}

    def step(kind: str) -> None:
        model.frozen_stages = sources[kind]
        training.step(batch, 0)

    return step


if __name__ == "__main__":
    run_entry(main)
