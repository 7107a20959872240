"""The work of each of two gloo processes in test_processes.py, in a module of its own so that spawn can import it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

VIEWS = {"moco": 2, "end_to_end": 2, "invaspread": 2, "memory_bank": 1}  # views per image of each method


def meet(port: int, rank: int) -> None:
    """Join a world of two on this machine."""
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)


def encoder() -> nn.Module:
    """The same small encoder on every rank, with BatchNorm."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 8))


def batch(step: int) -> list[torch.Tensor]:
    """Two views of the global batch of 8 images."""
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(8, 3, 4, 4, generator=generator) for _ in range(2)]


def step_methods(rank: int, port: int, folder: str) -> None:
    """Three steps of every method on this rank's half of the batch; rank states to files."""
    from pretrain.methods.exchange import average_gradients

    meet(port, rank)
    mine = slice(rank * 4, rank * 4 + 4)
    results: dict[str, Any] = {}
    for name, method in build_methods(bn_splits=1).items():
        results[name] = run(method, VIEWS[name], mine, average_gradients)
    results["guard"] = judge(rank, Path(folder))
    torch.save(results, Path(folder) / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()


def judge(rank: int, folder: Path) -> dict[str, torch.Tensor]:
    """What this rank's guard says of two steps: rank 1 has a bad loss in the first, rank 0 is told to stop there."""
    from pretrain.training.step_guard import StepGuard

    guard, weight = StepGuard(folder, tolerated=1), nn.Parameter(torch.zeros(2))
    weight.grad = torch.ones(2)
    verdicts = []
    for step, loss in enumerate([torch.tensor(float("nan") if rank else 1.0), torch.tensor(1.0)]):
        images = torch.tensor([10 * step, 10 * step + 1]) + 2 * rank
        verdicts.append(guard.judge(loss, [weight], step, images, stopping=rank == step == 0))
        guard.read(late=1)
        verdicts.append(torch.tensor(guard.stop_agreed))
    return {"verdicts": torch.stack(verdicts)}


def build_methods(bn_splits: int) -> dict[str, Any]:
    """Methods whose steps two ranks must take together."""
    from pretrain.methods.in_batch import EndToEnd, InvariantSpreading
    from pretrain.methods.memory_bank import BankMethod
    from pretrain.methods.moco import MoCo

    def split(module: nn.Module) -> nn.Module:
        from pretrain.encoders import SplitBatchNorm2d

        if bn_splits > 1:
            module[1] = SplitBatchNorm2d(4, num_splits=bn_splits)  # type: ignore[operator]
        return module

    queue = {"dim": 8, "queue_size": 16, "momentum": 0.9, "temperature": 0.2}
    makers = {
        "moco": lambda: MoCo(split(encoder()), bn_splits=bn_splits, **queue),  # type: ignore[arg-type]
        "end_to_end": lambda: EndToEnd(split(encoder()), temperature=0.2, bn_splits=bn_splits),
        "invaspread": lambda: InvariantSpreading(split(encoder())),
        "memory_bank": lambda: BankMethod(split(encoder()), images=8, dim=8, negatives=6),
    }
    return {name: make() for name, make in makers.items()}


def run(method: Any, count: int, mine: slice, after_backward: Any, steps: int = 3) -> dict[str, torch.Tensor]:
    """The state after a few steps on ``count`` views of the images ``mine``, as one flat dictionary."""
    optimizer = torch.optim.SGD(method.trained_parameters(), 0.1, momentum=0.9)
    for step in range(steps):
        torch.manual_seed(100 + step)
        method.begin_step()
        indices = torch.arange(8)[mine]
        method.loss([view[mine] for view in batch(step)][:count], indices, indices).backward()
        after_backward(method.trained_parameters())
        optimizer.step()
        optimizer.zero_grad()
        method.end_step()
    return {k: v for k, v in method.state_dict().items() if "running" not in k and "batches" not in k}
