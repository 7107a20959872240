"""The MoCo step against the official one and lightly's: python benchmarks/step.py --arch resnet18 --size 96 --batch 32

Official is written down from the paper and its README: a float32 encoder in NCHW, the momentum update one parameter at
a time, shuffled and unshuffled keys, a cloned D x K queue, B x (K+1) logits, cross-entropy, top-5 accuracy each step.
Every candidate has its own process; ours tells the C library to keep freed memory, as a pretraining does. They take
turns in random order and are timed by process CPU time on one thread (by the clock, synchronised, on a GPU); a ratio is
the median over rounds of a round's ratio to the official step, with its quartiles.
lightly takes part when it can be imported. The loss is also compared with nothing but its two products of queries and
dictionary, which bound it. `--memory` measures the peak of each candidate in a process of its own.
"""

from __future__ import annotations

import os
import sys

if not __package__:  # run as a script: import from the repository, not from this folder
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import argparse
import copy
import json
import random
import resource
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.apart import Apart
from runtime.errors import run_entry

if TYPE_CHECKING:
    import torch

Step = Callable[[], Any]
PRODUCTS = {"two products fp32": "float32", "two products bf16": "bfloat16"}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--k", type=int, default=65536)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--parts", nargs="+", choices=["update", "loss", "step"], default=["update", "loss", "step"])
    parser.add_argument("--memory", action="store_true", help="peak memory of the step instead of time")
    parser.add_argument("--one", default=None, help=argparse.SUPPRESS)
    parser.add_argument("--json", default=None, metavar="FILE")
    return parser.parse_args(argv)


class OfficialStep:
    """The published step, for one process."""

    def __init__(self, encoder: Any, k: int, device: torch.device) -> None:
        import torch

        self.q, self.k = encoder.to(device), copy.deepcopy(encoder).to(device).requires_grad_(False)
        self.queue = torch.nn.functional.normalize(torch.randn(128, k, device=device), dim=0)
        self.pointer = torch.zeros(1, dtype=torch.long)
        self.optimizer = torch.optim.SGD(
            [*self.q.parameters(), *self.k.parameters()], 0.03, momentum=0.9, weight_decay=1e-4
        )

    def update(self) -> None:
        """Momentum update, parameter by parameter."""
        for p_q, p_k in zip(self.q.parameters(), self.k.parameters()):
            p_k.data = p_k.data * 0.999 + p_q.data * (1.0 - 0.999)

    def loss(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        """Loss, accuracy and enqueue for q and k (B x 128)."""
        import torch

        positive = torch.einsum("nc,nc->n", [q, k]).unsqueeze(-1)
        negative = torch.einsum("nc,ck->nk", [q, self.queue.clone().detach()])
        logits = torch.cat([positive, negative], dim=1) / 0.2
        labels = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
        with torch.no_grad():
            start = int(self.pointer)
            self.queue[:, start : start + len(k)] = k.T
            self.pointer[0] = (start + len(k)) % self.queue.shape[1]
        loss = torch.nn.functional.cross_entropy(logits, labels)
        with torch.no_grad():
            logits.topk(5, 1).indices.T.eq(labels[None]).float().sum().item()
        return loss

    def __call__(self, x_q: torch.Tensor, x_k: torch.Tensor) -> None:
        """One training step."""
        import torch
        from torch.nn.functional import normalize

        q = normalize(self.q(x_q), dim=1)
        with torch.no_grad():
            self.update()
            order = torch.randperm(len(x_k), device=x_k.device)
            k = normalize(self.k(x_k[order]), dim=1)[order.argsort()]
        loss = self.loss(q, k)
        loss.item()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


class LightlyStep(OfficialStep):
    """lightly's building blocks, as its MoCo example puts them together."""

    def __init__(self, encoder: Any, k: int, device: torch.device) -> None:
        from lightly.loss import NTXentLoss

        super().__init__(encoder, 256, device)
        self.criterion = NTXentLoss(temperature=0.2, memory_bank_size=(k, 128)).to(device)

    def update(self) -> None:
        """lightly's momentum update."""
        from lightly.models.utils import update_momentum

        update_momentum(self.q, self.k, 0.999)

    def loss(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        """lightly's loss and memory bank."""
        return self.criterion(q, k)


class OurStep:
    """pretrain.methods.moco in the loop's own step, with its finite check."""

    def __init__(self, encoder: Any, k: int, device: torch.device, bf16: bool) -> None:
        import torch

        from pretrain.methods.moco import MoCo
        from pretrain.training.loop import Stepper
        from pretrain.training.optimiser import SkippableSGD
        from pretrain.training.step_guard import StepGuard
        from pretrain.views.batch import Batch

        self.moco = MoCo(encoder, queue_size=k, temperature=0.2, bf16=bf16).to(device)
        self.moco.to(memory_format=torch.channels_last)
        self.update = self.moco.begin_step
        optimizer = SkippableSGD(self.moco.trained_parameters(), 0.03, momentum=0.9, weight_decay=1e-4)
        self.guard = StepGuard(Path(tempfile.gettempdir()))
        self.step = Stepper(self.moco, optimizer, self.guard)
        none = torch.zeros(1, dtype=torch.long)
        self.batch = Batch(step=0, epoch=0, indices=none, images=[], labels=none, params=torch.empty(0))

    def loss(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        """Loss and enqueue."""
        loss = self.moco.negatives(q, k, self.moco.queue.rows, 0.2)
        self.moco.queue.push(k)
        return loss

    def __call__(self, x_q: torch.Tensor, x_k: torch.Tensor) -> None:
        """One training step."""
        self.step(self.batch, [x_q, x_k])
        self.guard.read(late=1)


def build(args: argparse.Namespace, device: torch.device) -> dict[str, Callable[[], Any]]:
    """Candidates by name, each built on demand around the same encoder."""
    import importlib.util

    from pretrain.encoders import build_encoder

    encoder = build_encoder(args.arch, outputs=128, mlp=True)
    makers: dict[str, Callable[[], Any]] = {
        "official": lambda: OfficialStep(copy.deepcopy(encoder), args.k, device),
        "ours fp32": lambda: OurStep(copy.deepcopy(encoder), args.k, device, False),
        "ours bf16": lambda: OurStep(copy.deepcopy(encoder), args.k, device, True),
    }
    if importlib.util.find_spec("lightly"):
        makers["lightly"] = lambda: LightlyStep(copy.deepcopy(encoder), args.k, device)
    return makers


def actions(part: str, candidate: Any, args: argparse.Namespace, device: torch.device) -> Step:
    """What is timed: the momentum update, loss + queue with its backward, or a whole step."""
    import torch
    from torch.nn.functional import normalize

    if part == "update":
        return lambda: [candidate.update() for _ in range(3)]
    if part == "loss":
        q, k = (normalize(torch.randn(32, 128, device=device), dim=1) for _ in range(2))

        def loss_and_queue() -> None:
            candidate.loss(q.detach().requires_grad_(), k).backward()

        return loss_and_queue
    x_q, x_k = (torch.randn(args.batch, 3, args.size, args.size, device=device) for _ in range(2))
    if isinstance(candidate, OurStep):
        x_q, x_k = (x.to(memory_format=torch.channels_last) for x in (x_q, x_k))
    return lambda: candidate(x_q, x_k)


def products_alone(k: int, dtype: torch.dtype, device: torch.device) -> Step:
    """The logits of 32 queries and their gradient as two matrix products of `dtype`, and nothing else."""
    import torch

    rows, q = torch.randn(k, 128, device=device).to(dtype), torch.randn(32, 128, device=device).to(dtype)
    return lambda: (q @ rows.T) @ rows


def turns(name: str, args: argparse.Namespace, device_name: str) -> dict[str, Step]:
    """Every part of one candidate, in this process."""
    import torch

    from runtime.allocator import keep_freed_memory

    torch.set_num_threads(1)
    device = torch.device(device_name)
    if name in PRODUCTS:
        return {"loss": products_alone(args.k, getattr(torch, PRODUCTS[name]), device)}
    if name.startswith("ours") and device.type == "cpu":
        keep_freed_memory()
    torch.manual_seed(0)
    candidate = build(args, device)[name]()
    return {part: actions(part, candidate, args, device) for part in args.parts}


def compare(part: str, args: argparse.Namespace, candidates: dict[str, Apart], gpu: bool) -> dict[str, Any]:
    """{candidate: median seconds, median ratio to official, quartiles of the ratio}."""
    times: dict[str, list[float]] = {name: [] for name in candidates if part == "loss" or name not in PRODUCTS}
    rounds = args.rounds if part == "step" else 4 * args.rounds
    for turn in range(rounds + 1):
        for name in random.sample(list(times), len(times)):
            cost = candidates[name].measure(part)
            if turn:  # the first round warms up
                times[name].append(cost.wall if gpu else cost.cpu)
    found = {}
    for name, costs in times.items():
        ratios = [a / b for a, b in zip(times["official"], costs)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        found[name] = {"seconds": statistics.median(costs), "ratio": middle, "quartiles": [low, high]}
    return found


def peak_memory(args: argparse.Namespace) -> dict[str, Any]:
    """Peak memory in MB of two steps of each candidate, each in a process of its own."""
    import torch

    found = {}
    for name in build(args, torch.device("cpu")):
        command = [sys.executable, __file__, "--one", name, "--arch", args.arch, "--size", str(args.size)]
        command += ["--batch", str(args.batch), "--k", str(args.k)]
        found[name] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found


def one(args: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """Peak memory of this process after two steps of one candidate."""
    import torch

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    args.parts = ["step"]
    step = turns(args.one, args, str(device))["step"]
    step()
    step()
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    gpu = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else 0.0
    return {"host_mb": round(host), "above_imports_mb": round(host - before), "gpu_mb": round(gpu)}


def main() -> int:
    """Print the table."""
    args = parse()
    import torch

    from runtime.provenance import hardware

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if args.one:
        print(json.dumps(one(args, device)))
        return 0
    result: dict[str, Any] = {"hardware": hardware(), "settings": vars(args)}
    if args.memory:
        result["memory"] = peak_memory(args)
        for name, numbers in result["memory"].items():
            print(f"{name:24} {numbers}")
    parts = [] if args.memory else args.parts
    names = [*build(args, device), *(PRODUCTS if "loss" in parts else ())] if parts else []
    candidates = {name: Apart(turns, name, args, str(device)) for name in names}
    for part in parts:
        result[part] = compare(part, args, candidates, device.type == "cuda")
        print(f"{part} ({args.arch}, {args.size} px, batch {args.batch}, K {args.k}; {hardware()['cpu']}, {device})")
        for name, row in result[part].items():
            low, high = row["quartiles"]
            print(f"  {name:24} {1e3 * row['seconds']:9.1f} ms   x{row['ratio']:.2f}  ({low:.2f} - {high:.2f})")
    for candidate in candidates.values():
        candidate.close()
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    run_entry(main)
