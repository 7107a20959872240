"""``main.py --dry-run``: how long a step takes on this machine, by a few steps of which nothing is kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from pretrain.methods.base import Method
from pretrain.training.loop import Stepper
from pretrain.training.optimiser import Skippable
from pretrain.training.step_guard import StepGuard
from pretrain.views.batch import Batch
from runtime.allocator import keep_freed_memory
from runtime.metrics import read_metrics

TIMED = 2  # steps after the first, which also allocates memory and starts the loader
PATIENCE = 60.0  # seconds after which no further step is begun


def seconds_a_step(
    method: Method,
    optimizer: Skippable,
    parts: int,
    batches: Iterable[Batch],
    views_of: Callable[[Batch], list[torch.Tensor]],
    device: torch.device,
) -> float:
    """Mean time of ``TIMED`` steps, loading included; of the first alone where it takes longer than ``PATIENCE``.

    The weights of ``method`` change. Nothing is written: what a bad step leaves goes to a temporary folder.
    """
    if device.type == "cpu":
        keep_freed_memory()
    method.train()
    times = []
    with TemporaryDirectory() as scratch:
        step = Stepper(method, optimizer, StepGuard(Path(scratch), tolerated=1 + TIMED), parts)
        began = time.perf_counter()
        for batch in islice(batches, 1 + TIMED):
            step(batch, views_of(batch))
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - began)
            began = time.perf_counter()
            if sum(times) > PATIENCE:
                break
    later = times[1:] or times
    return sum(later) / len(later)


def time_line(folder: Path, batch: int, steps: int, trial: Callable[[], float], obstacle: str = "") -> str:
    """What is known of the time of a run of ``steps`` of ``batch`` images in ``folder``.

    The last run there says it, or else ``trial``, seconds a step, unless there is an ``obstacle`` to one.
    """
    metrics = folder / "metrics.json"
    records = read_metrics(metrics) if metrics.exists() else []
    speeds = [record["images_per_second"] for record in records if "images_per_second" in record]
    if speeds:
        return f"time: {batch / speeds[-1]:.2f} s a step in the last run of this folder"
    if obstacle:
        return f"time: not measured: {obstacle}"
    seconds = trial()
    whole = seconds * steps
    shown = f"{whole / 3600:.1f} h" if whole >= 3600 else f"{max(1.0, whole / 60):.0f} min"
    return f"time: about {seconds:.2g} s a step here, {shown} in all, without probes and checkpoints"
