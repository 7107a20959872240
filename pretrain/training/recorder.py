"""The console line, metrics.json, TensorBoard and Weights & Biases of a pretraining run."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pretrain.training.warnings_of_failure import HealthWatch
from runtime.logs import get_logger
from runtime.metrics import MetricsWriter
from runtime.weights_and_biases import start_session

Item = TypeVar("Item")
log = get_logger("pretrain")
SHOWN = ("acc1", "acc5", "dropped_same_class")  # the readings of a line; metrics.json has all


@dataclass(frozen=True)
class Pace:
    """Steps between log lines, images per step over all ranks, steps of the run and of an epoch."""

    steps_per_line: int
    images_per_step: int
    total_steps: int
    steps_per_epoch: int


class Recorder:
    """Times the steps and writes their readings, every ``steps_per_line`` steps and at the last one."""

    def __init__(
        self,
        folder: Path,
        pace: Pace,
        watch: HealthWatch,
        *,
        start: int = 0,
        main: bool = True,
        wandb: dict[str, Any] | None = None,
    ) -> None:
        """Only the ``main`` process writes. ``start``: steps done before; what a run logged after them is dropped.

        ``wandb`` holds settings for wandb.init, None for no logging there.
        """
        self.pace, self.watch = pace, watch
        self.writer = MetricsWriter(folder, first=start + 1) if main else None
        self.wandb = start_session(folder, **wandb) if main and wandb is not None else None
        self.waited = 0.0  # seconds the loop waited for data since the last line
        self.since, self.steps = time.perf_counter(), 0
        self.step_seconds = 0.0  # smoothed over lines

    def timed(self, batches: Iterable[Item]) -> Iterator[Item]:
        """The same batches; the steps and the time spent waiting for each batch are counted."""
        source = iter(batches)
        while True:
            start = time.perf_counter()
            try:
                batch = next(source)
            except StopIteration:
                return
            self.waited += time.perf_counter() - start
            self.steps += 1
            yield batch

    def logs_step(self, step: int) -> bool:
        """Whether the step (counted from 0) writes a line."""
        return (step + 1) % self.pace.steps_per_line == 0 or step + 1 == self.pace.total_steps

    def line(self, step: int, rate: float, readings: dict[str, float]) -> None:
        """Write a step's readings (loss, accuracies, ...) with speed and time to go."""
        now = time.perf_counter()
        elapsed = max(now - self.since, 1e-9)
        seconds = elapsed / self.steps
        self.step_seconds = seconds if not self.step_seconds else 0.7 * self.step_seconds + 0.3 * seconds
        speed, wait = self.pace.images_per_step / seconds, 100 * self.waited / elapsed
        self.since, self.steps, self.waited = now, 0, 0.0
        for warning in self.watch.new_warnings(step, readings):
            log.warning("warning: %s", warning)
        self.scalars(step + 1, lr=rate, images_per_second=speed, data_wait=wait, **readings)
        left = int(self.step_seconds * (self.pace.total_steps - step - 1))
        per_epoch = self.pace.steps_per_epoch
        epoch, within = divmod(step, per_epoch)
        epochs = -(-self.pace.total_steps // per_epoch)
        shown = "".join(f"  {name} {readings[name]:.1f}" for name in SHOWN if name in readings)
        log.info(
            f"epoch {epoch + 1}/{epochs} step {within + 1}/{per_epoch}  loss {readings['loss']:.4f}{shown}"
            f"  lr {rate:.4g}  {speed:.0f} img/s  data-wait {wait:.0f}%"
            f"  ETA {left // 3600}:{left // 60 % 60:02}:{left % 60:02}"
        )

    def scalars(self, step: int, **values: float) -> None:
        """Record numbers of a step, also those that are not part of its line (a probe, say)."""
        if self.writer:
            self.writer.write(step, **values)
        if self.wandb:
            self.wandb.log(values, step=step)

    def pause(self) -> None:
        """Restart the clock after a probe or a save, so that its time does not count in the next line's speed."""
        self.since, self.steps, self.waited = time.perf_counter(), 0, 0.0

    def close(self) -> None:
        """Close the metrics file and the Weights & Biases session."""
        if self.writer:
            self.writer.close()
        if self.wandb:
            self.wandb.finish()
