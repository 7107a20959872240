"""The training loop, and one step of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from pretrain.methods.base import Method
from pretrain.methods.exchange import average_gradients
from pretrain.settings.schedule import Schedule
from pretrain.training.optimiser import Skippable
from pretrain.training.recorder import Recorder
from pretrain.training.step_guard import BatchStatistics, StepGuard
from pretrain.views.batch import Batch
from runtime.distributed import rank_count
from runtime.host_copies import send
from runtime.seeds import derive_seed
from runtime.stop import StopSignal


@dataclass(frozen=True)
class Timetable:
    """What happens at which step of a run. Intervals are in steps, 0 for never; the run also saves and, where it
    probes at all, probes at its end. seed: of everything random inside a step."""

    schedule: Schedule
    seed: int = 0
    save_every: int = 0
    save_also_every: int = 0
    probe_every: int = 0

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.schedule.total_steps

    def saves_after(self, done: int) -> bool:
        """Whether a checkpoint is written after ``done`` steps."""
        return done == self.total_steps or _due(done, self.save_every) or _due(done, self.save_also_every)

    def probes_after(self, done: int) -> bool:
        """Whether the encoder is probed after ``done`` steps."""
        return self.probe_every > 0 and (done == self.total_steps or _due(done, self.probe_every))


def _due(done: int, interval: int) -> bool:
    return interval > 0 and done % interval == 0


class Loop:
    """Steps, and between them log lines, checkpoints and probes."""

    def __init__(
        self,
        stepper: Stepper,
        timetable: Timetable,
        recorder: Recorder,
        *,
        save: Callable[[int], None],
        probe: Callable[[], dict[str, float]],
        prepare: Callable[[int], None] = lambda step: None,
    ) -> None:
        """``save(done)`` writes a checkpoint after ``done`` steps; ``probe()`` returns numbers for the metrics;
        ``prepare(step)`` comes before each step, and may take long before some."""
        self.stepper, self.timetable, self.recorder = stepper, timetable, recorder
        self.save, self.probe, self.prepare = save, probe, prepare

    def run(self, batches: Iterable[Batch], views_of: Callable[[Batch], list[torch.Tensor]], stop: StopSignal) -> int:
        """Train until ``batches`` end or ``stop`` is requested; returns the number of steps done.

        Everything random in a step comes from generators seeded by (seed, step): a resumed run needs no generator
        state, and a step is the same whatever came before it.
        """
        stepper, timetable, recorder = self.stepper, self.timetable, self.recorder
        guard, optimizer = stepper.guard, stepper.optimizer
        stepper.method.train()
        alone = rank_count() == 1
        for batch in recorder.timed(batches):
            self.prepare(batch.step)
            torch.manual_seed(derive_seed(timetable.seed, "step", batch.step))
            rate = optimizer.param_groups[0]["lr"] = timetable.schedule.rate(batch.step)
            done = batch.step + 1
            logging, saving = recorder.logs_step(batch.step), timetable.saves_after(done)
            probing = timetable.probes_after(done)
            loss, readings = stepper(batch, views_of(batch), stopping=stop.requested, read=logging)

            # Where the host waits for the device anyway, it reads this step's verdict; else the one before, which has
            # arrived by now.
            guard.read(late=0 if logging or saving or probing else 1)
            if logging:
                recorder.line(batch.step, rate, {"loss": float(loss), **readings})
            stopping = guard.stop_agreed or (alone and stop.requested)
            if stopping or saving:
                guard.read()  # a refused step must be reported before a checkpoint counts it as done
                self.save(done)
                recorder.pause()
            if stopping:
                return done
            if probing:
                recorder.scalars(done, **self.probe())
                recorder.pause()
        return timetable.total_steps


class Stepper:
    """One training step. The host queues work on the device and waits for none of it, except for readings."""

    def __init__(
        self, method: Method, optimizer: Skippable, guard: StepGuard, parts: int = 1,
        note: Callable[[Method, Batch, torch.Tensor], None] | None = None,
    ) -> None:  # fmt: skip
        """``parts`` is the number of parts over which gradients are accumulated; ``note`` is told of each step's batch,
        and whether the step was refused."""
        self.method, self.optimizer, self.guard, self.parts, self.note = method, optimizer, guard, parts, note
        self.parameters: list[torch.Tensor] = list(method.trained_parameters())
        # Without tolerated steps a refused one ends the run before a save, so its statistics need no restoring.
        self.statistics = BatchStatistics(method) if guard.tolerated else None

    def __call__(
        self, batch: Batch, views: list[torch.Tensor], *, stopping: bool = False, read: bool = False
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Loss (0-dim, on the device) and, where the caller asks for them by ``read``, the readings of the step.

        ``stopping`` says that this rank has been told to stop.
        """
        method = self.method
        method.step = batch.step
        if self.statistics:
            self.statistics.remember()
        method.begin_step()
        loss = _forward_backward(method, batch, views, self.parts)
        average_gradients(self.parameters)
        readings = method.readings() if read else {}  # before end_step changes the dictionary that the loss saw
        refused = self.guard.judge(loss, self.parameters, batch.step, batch.indices, stopping=stopping)
        self.optimizer.update(refused)
        method.end_step(refused)
        if self.note is not None:
            self.note(method, batch, refused)
        if self.statistics:
            self.statistics.restore(refused)
        self.optimizer.zero_grad(set_to_none=True)
        return loss, readings


def _forward_backward(method: Method, batch: Batch, views: list[torch.Tensor], parts: int) -> torch.Tensor:
    """Mean loss of the batch, gradients accumulated over ``parts`` equal parts, each with its own BN statistics."""
    device = views[0].device
    indices, labels = send(batch.indices, device), send(batch.labels, device)
    total = torch.zeros((), device=device)
    for part in zip(*(view.chunk(parts) for view in views), indices.chunk(parts), labels.chunk(parts)):
        loss = method.loss(list(part[:-2]), part[-2], part[-1]) / parts
        loss.backward()
        total += loss.detach()
    return total
