"""The loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from pretrain.exchange import any_rank, average_gradients
from pretrain.guards import FiniteGuard
from pretrain.methods.base import Method
from pretrain.recorder import Recorder
from pretrain.schedules import Schedule
from runtime.seeds import derive_seed
from runtime.stop import StopSignal


@dataclass(frozen=True)
class Course:
    """Where a run is and what it does on the way: the first and the last step, steps between saves and probes."""

    start: int
    total: int
    save_at: Callable[[int], bool]
    probe_at: Callable[[int], bool]
    seed: int = 0
    accumulate: int = 1


def train(
    method: Method,
    optimizer: torch.optim.Optimizer,
    batches: Any,
    views: Any,
    *,
    device: torch.device,
    course: Course,
    schedule: Schedule,
    guard: FiniteGuard,
    recorder: Recorder,
    save: Callable[[int], None],
    probe: Callable[[], dict[str, float]],
    stop: StopSignal,
) -> int:
    """Train from ``course.start`` to ``course.total`` or until ``stop``; returns the number of steps done.

    Everything random in a step comes from generators seeded by (seed, step): a resumed run needs no generator state.
    """
    method.train()
    parameters: list[torch.Tensor] = list(method.trained_parameters())
    for batch in recorder.timed(batches):
        step = method.step = batch.step
        torch.manual_seed(derive_seed(course.seed, "step", step))
        rate = optimizer.param_groups[0]["lr"] = schedule.rate(step)

        statistics = _batch_statistics(method) if guard.tolerated else []
        method.begin_step()
        loss = _forward_backward(method, batch, views.on_device(batch, device), course.accumulate)
        average_gradients(parameters)
        due = recorder.due(step)
        readings = method.readings() if due else {}
        if guard.allows(loss, parameters, step, batch.indices):
            optimizer.step()
            method.end_step()
        else:  # the forward pass has already moved the running statistics, to NaN most likely
            for buffer, before in statistics:
                buffer.copy_(before)
        optimizer.zero_grad(set_to_none=True)

        done = step + 1
        if due:
            recorder.line(step, rate, {"loss": float(loss), **readings})
        stopping = any_rank(stop.requested, device)
        if stopping or course.save_at(done):
            save(done)
            recorder.pause()
        if stopping:
            return done
        if course.probe_at(done):
            recorder.scalars(done, **probe())
            recorder.pause()
    return course.total


def _batch_statistics(method: Method) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(buffer, copy) of all BatchNorm statistics."""
    layers = [m for m in method.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    return [(buffer, buffer.clone()) for layer in layers for buffer in layer.buffers()]


def _forward_backward(method: Method, batch: Any, views: list[torch.Tensor], parts: int) -> torch.Tensor:
    """Mean loss of the batch, gradients accumulated over ``parts`` equal parts, each with BN statistics of its own."""
    device = views[0].device
    indices, labels = batch.indices.to(device, non_blocking=True), batch.labels.to(device, non_blocking=True)
    total = torch.zeros((), device=device)
    for chunk in zip(*(view.chunk(parts) for view in views), indices.chunk(parts), labels.chunk(parts)):
        loss = method.loss(list(chunk[:-2]), chunk[-2], chunk[-1]) / parts
        loss.backward()
        total += loss.detach()
    return total
