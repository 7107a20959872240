"""What choosing negatives and images costs a step: python benchmarks/choices.py

Our MoCo step with the plain queue, with negatives by cluster, active ones, PCL's prototypes and scores of images, each
after its warm-up and in a process of its own. They take turns in random order and are timed by process CPU time on one
thread; a ratio is the median over rounds of a round's ratio to the plain queue, with its quartiles.
"""

from __future__ import annotations

import os
import sys

if not __package__:  # run as a script: import from the repository, not from this folder
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import argparse
import random
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.apart import Apart
from runtime.errors import run_entry

IMAGES = 20_000  # of the data set that scores are kept of
CHOICES = ("queue", "cluster", "active top", "active sampled", "pcl", "queue, by loss")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--k", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5, help="two or more")
    parser.add_argument("--only", nargs="+", choices=CHOICES, default=CHOICES, help="with the plain queue in any case")
    return parser.parse_args(argv)


def build_method(name: str, args: argparse.Namespace) -> Any:
    """The method of a choice, in the state that it has after its warm-up."""
    import torch

    from pretrain.encoders import build_encoder
    from pretrain.methods.active import Active
    from pretrain.methods.clusters import ClusterMoCo, Clusters
    from pretrain.methods.moco import MoCo
    from pretrain.methods.pcl import Pcl, Prototypes

    encoder = build_encoder(args.arch, outputs=128, mlp=True)
    settings: dict[str, Any] = {"queue_size": args.k, "temperature": 0.2}
    if name == "cluster":
        return ClusterMoCo(encoder, Clusters(round(args.k**0.5), 128), **settings)
    if name == "pcl":
        pcl = Pcl(encoder, images=IMAGES, clusters=(1000, 2000), steps_per_epoch=IMAGES, **settings)
        for count in pcl.clusters:
            centres = torch.nn.functional.normalize(torch.randn(count, 128), dim=1)
            pcl.prototypes.append(Prototypes(centres, torch.arange(IMAGES) % count, torch.full((count,), 0.2)))
        return pcl
    if name.startswith("active"):
        return MoCo(encoder, negatives=Active(args.k // 4, name.endswith("sampled")), **settings)
    return MoCo(encoder, **settings)


def turns(name: str, args: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """A whole step of one choice, in this process."""
    import torch

    from pretrain.images.source import ImageSource
    from pretrain.methods.row import SamplingRule
    from pretrain.training.informed_epochs import InformedEpochs
    from pretrain.training.loop import Stepper
    from pretrain.training.optimiser import SkippableSGD
    from pretrain.training.step_guard import StepGuard
    from pretrain.views.batch import Batch
    from runtime.allocator import keep_freed_memory
    from runtime.distributed import World

    torch.set_num_threads(1)
    keep_freed_memory()
    torch.manual_seed(0)
    method = build_method(name, args).to(memory_format=torch.channels_last)
    optimizer = SkippableSGD(method.trained_parameters(), 0.03, momentum=0.9, weight_decay=1e-4)
    folder = Path(tempfile.gettempdir())
    guard, note = StepGuard(folder), None
    if name.endswith("by loss"):
        method.informed_by = "loss"
        source, world = ImageSource([str(n) for n in range(IMAGES)], None, None), World(1, 2, 0, torch.device("cpu"))
        note = InformedEpochs(SamplingRule("loss"), source, folder, world).note
    stepper, indices = Stepper(method, optimizer, guard, note=note), torch.arange(args.batch)
    views = [torch.randn(args.batch, 3, args.size, args.size).to(memory_format=torch.channels_last) for _ in range(2)]

    def step() -> None:
        stepper(Batch(0, 0, indices, [], indices, torch.empty(0)), views)
        guard.read(late=1)

    return {"step": step}


def main() -> int:
    """Print the table."""
    args = parse()
    from runtime.provenance import hardware

    names = [name for name in CHOICES if name == "queue" or name in args.only]
    candidates = {name: Apart(turns, name, args) for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(args.rounds + 1):
        for name in random.sample(names, len(names)):
            cost = candidates[name].measure("step")
            if turn:  # the first round warms up
                times[name].append(cost.cpu)
    print(f"step ({args.arch}, {args.size} px, batch {args.batch}, K {args.k}; {hardware()['cpu']}, one thread)")
    for name, costs in times.items():
        ratios = [cost / plain for cost, plain in zip(costs, times["queue"])]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"  {name:18} {statistics.median(costs):7.2f} s   x{middle:.3f}  ({low:.3f} - {high:.3f})")
    for candidate in candidates.values():
        candidate.close()
    return 0


if __name__ == "__main__":
    run_entry(main)
