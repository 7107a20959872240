"""The loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from pretrain.methods.base import Method
from pretrain.methods.exchange import average_gradients, rank_and_size
from pretrain.settings.schedule import Schedule
from pretrain.training.optimiser import RefusableSGD
from pretrain.training.recorder import Recorder
from pretrain.training.step_guard import BatchStatistics, StepGuard
from runtime.host_copies import send
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
    optimizer: RefusableSGD,
    batches: Any,
    views: Any,
    *,
    device: torch.device,
    course: Course,
    schedule: Schedule,
    guard: StepGuard,
    recorder: Recorder,
    save: Callable[[int], None],
    probe: Callable[[], dict[str, float]],
    stop: StopSignal,
) -> int:
    """Train from ``course.start`` to ``course.total`` or until ``stop``; returns the number of steps done.

    Everything random in a step comes from generators seeded by (seed, step): a resumed run needs no generator state.
    """
    method.train()
    step_of = Stepper(method, optimizer, guard, course.accumulate)
    alone = rank_and_size()[1] == 1
    for batch in recorder.timed(batches):
        torch.manual_seed(derive_seed(course.seed, "step", batch.step))
        rate = optimizer.param_groups[0]["lr"] = schedule.rate(batch.step)
        done = batch.step + 1
        due, saving, probing = recorder.due(batch.step), course.save_at(done), course.probe_at(done)
        loss, readings = step_of(batch, views.on_device(batch, device), stopping=stop.requested, look=due)

        guard.read(late=0 if due or saving or probing else 1)
        if due:
            recorder.line(batch.step, rate, {"loss": float(loss), **readings})
        stopping = guard.stop_agreed or (alone and stop.requested)
        if stopping or saving:
            guard.read()  # nothing is saved that was not looked at
            save(done)
            recorder.pause()
        if stopping:
            return done
        if probing:
            recorder.scalars(done, **probe())
            recorder.pause()
    return course.total


class Stepper:
    """One training step. The host hands the device its work and waits for none of it, unless it is asked to look."""

    def __init__(self, method: Method, optimizer: RefusableSGD, guard: StepGuard, parts: int = 1) -> None:
        """``parts`` is the number of parts over which gradients are accumulated."""
        self.method, self.optimizer, self.guard, self.parts = method, optimizer, guard, parts
        self.parameters: list[torch.Tensor] = list(method.trained_parameters())
        self.statistics = BatchStatistics(method) if guard.tolerated else None  # else a refused step is the last one

    def __call__(
        self, batch: Any, views: list[torch.Tensor], *, stopping: bool = False, look: bool = False
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Loss (0-dim, on the device) and, where the caller wants to ``look``, the readings of the step."""
        method = self.method
        method.step = batch.step
        if self.statistics:
            self.statistics.remember()
        method.begin_step()
        loss = _forward_backward(method, batch, views, self.parts)
        average_gradients(self.parameters)
        readings = method.readings() if look else {}  # before the dictionary moves on
        refused = self.guard.judge(loss, self.parameters, batch.step, batch.indices, stopping=stopping)
        self.optimizer.update(refused)
        method.end_step(refused)
        if self.statistics:
            self.statistics.put_back(refused)
        self.optimizer.zero_grad(set_to_none=True)
        return loss, readings


def _forward_backward(method: Method, batch: Any, views: list[torch.Tensor], parts: int) -> torch.Tensor:
    """Mean loss of the batch, gradients accumulated over ``parts`` equal parts, each with BN statistics of its own."""
    device = views[0].device
    indices, labels = send(batch.indices, device), send(batch.labels, device)
    total = torch.zeros((), device=device)
    for chunk in zip(*(view.chunk(parts) for view in views), indices.chunk(parts), labels.chunk(parts)):
        loss = method.loss(list(chunk[:-2]), chunk[-2], chunk[-1]) / parts
        loss.backward()
        total += loss.detach()
    return total
