"""The training loop: one iteration, and what happens between iterations."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from runtime.allocator import return_freed_memory
from runtime.distributed import all_reduce_mean
from transfer.engines.torchvision.training_metrics import Progress
from transfer.engines.training.batches import Batch, split_batch
from transfer.engines.training.failures import ONE_VALUE, non_finite_loss, one_value_per_channel
from transfer.engines.training.precision import Precision
from transfer.engines.training.ranks import any_rank, gather_objects
from transfer.engines.training.solver import Schedule


@dataclass
class Training:
    """Everything that one iteration needs or changes; ``model`` may be wrapped in DistributedDataParallel."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    precision: Precision
    clip: Callable[[list[nn.Parameter]], None]
    accumulate: int = 1

    def step(self, batch: Batch, iteration: int) -> dict[str, float]:
        """One update on ``batch``: losses by name, the mean over ranks.

        Raises NonFiniteLoss before the update if a loss is not finite, and UserError for a batch in which a batch norm
        sees a single value per channel. Both name iteration and images.
        """
        self.optimizer.zero_grad()
        try:
            losses = self._forward_backward(batch)
        except FloatingPointError as error:  # the proposals were not finite; there is no loss yet
            raise non_finite_loss(iteration, _image_ids(batch), error) from error
        except ValueError as error:
            if ONE_VALUE not in str(error):
                raise
            raise one_value_per_channel(iteration, _image_ids(batch), error) from error
        check_finite(losses, iteration, batch)
        self.precision.unscale(self.optimizer)
        self.clip([p for group in self.optimizer.param_groups for p in group["params"]])
        self.precision.step(self.optimizer)
        return losses

    def _forward_backward(self, batch: Batch) -> dict[str, float]:
        pieces = split_batch(batch, self.accumulate)
        total: dict[str, torch.Tensor] = {}
        for index, piece in enumerate(pieces):
            # gradients are exchanged with the last piece only
            hold = index + 1 < len(pieces) and hasattr(self.model, "no_sync")
            with self.model.no_sync() if hold else contextlib.nullcontext():  # type: ignore[operator]
                with self.precision.autocast():
                    losses: dict[str, torch.Tensor] = self.model(piece)
                share = len(piece) / len(batch)
                loss = sum(losses.values(), torch.zeros((), device=next(iter(losses.values())).device))
                self.precision.backward(loss if len(pieces) == 1 else loss * share)
            for name, value in losses.items():
                total[name] = total.get(name, 0) + value.detach().float() * share  # type: ignore[operator]
        values = all_reduce_mean(torch.stack(list(total.values()))).tolist()  # one transfer for all
        return dict(zip(total, values))


def check_finite(losses: dict[str, float], iteration: int, batch: Batch) -> None:
    """Raise NonFiniteLoss with iteration, images of all ranks and losses if one loss is not finite."""
    if math.isfinite(sum(losses.values())):
        return
    images = [image for part in gather_objects(_image_ids(batch)) for image in part]
    bad = ", ".join(f"{name} {value}" for name, value in losses.items())
    raise non_finite_loss(iteration, images, bad)


def _image_ids(batch: Batch) -> list[str]:
    return [str(item.get("image_id")) for item in batch]


@dataclass
class Events:
    """Callbacks between iterations; their arguments are 0-based iterations."""

    save: Callable[[int, bool], None]
    evaluate: Callable[[int], None]
    precise_bn: Callable[[], None] | None
    checkpoint_period: int
    eval_period: int

    def after(self, iteration: int, last: bool, stopping: bool) -> None:
        """Precise batch norm, checkpoint, evaluation, in Detectron2's order."""
        done = iteration + 1
        evaluation_due = self.eval_period > 0 and done % self.eval_period == 0
        if self.precise_bn is not None and (evaluation_due or last):
            self.precise_bn()
        if done % self.checkpoint_period == 0 or (stopping and not last):
            self.save(iteration, False)
        if last:
            self.save(iteration, True)
        elif evaluation_due and not stopping:
            self.evaluate(iteration)


def run(
    training: Training,
    batches: Iterator[Batch],
    events: Events,
    progress: Progress,
    *,
    start: int,
    max_iter: int,
    stop_requested: Callable[[], bool],
    device: torch.device,
) -> int:
    """Train iterations ``start`` .. ``max_iter`` - 1; returns the number of finished ones, fewer when stopped."""
    training.model.train()
    training.schedule.set(start)
    for iteration in range(start, max_iter):
        began = time.perf_counter()
        batch = next(batches)
        data_seconds = time.perf_counter() - began
        lr = training.schedule.current()
        losses = training.step(batch, iteration)
        training.schedule.set(iteration + 1)
        return_freed_memory()
        progress.record(iteration, losses, lr, time.perf_counter() - began, data_seconds)
        stopping = any_rank(stop_requested(), device)
        events.after(iteration, last=iteration + 1 == max_iter, stopping=stopping)
        if stopping:
            return iteration + 1
    return max_iter
