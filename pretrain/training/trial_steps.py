"""``main.py --dry-run``: how long a step takes on this machine, by a few steps of which nothing is kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
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
from runtime.trial import TIMED, mean_after_first, shown_time


def seconds_of_steps(
    method: Method,
    optimizer: Skippable,
    parts: int,
    batches: Iterable[Batch],
    views_of: Callable[[Batch], list[torch.Tensor]],
    device: torch.device,
) -> Iterator[float]:
    """Seconds of each step, loading included. The weights of ``method`` change.

    Nothing is written: what a bad step leaves goes to a temporary folder.
    """
    if device.type == "cpu":
        keep_freed_memory()
    method.train()
    with TemporaryDirectory() as scratch:
        step = Stepper(method, optimizer, StepGuard(Path(scratch), tolerated=1 + TIMED), parts)
        began = time.perf_counter()
        for batch in batches:
            step(batch, views_of(batch))
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            yield time.perf_counter() - began
            began = time.perf_counter()


def time_line(folder: Path, batch: int, steps: int, trial: Callable[[], Iterable[float]], obstacle: str = "") -> str:
    """What is known of the time of a run of ``steps`` of ``batch`` images in ``folder``.

    The last run there says it, or else the steps of ``trial``, unless there is an ``obstacle`` to them.
    """
    metrics = folder / "metrics.json"
    records = read_metrics(metrics) if metrics.exists() else []
    speeds = [record["images_per_second"] for record in records if "images_per_second" in record]
    if speeds:
        return f"time: {batch / speeds[-1]:.2f} s a step in the last run of this folder"
    if obstacle:
        return f"time: not measured: {obstacle}"
    seconds = mean_after_first(trial())
    return (
        f"time: about {seconds:.2g} s a step here, {shown_time(seconds * steps)} in all, without probes and checkpoints"
    )
