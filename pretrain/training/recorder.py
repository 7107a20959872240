"""The console line, metrics.json, TensorBoard and Weights & Biases of a pretraining run."""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pretrain.training.warnings_of_failure import HealthWatch
from runtime.atomic import write_text
from runtime.errors import UserError
from runtime.logs import get_logger
from runtime.metrics import MetricsWriter

Item = TypeVar("Item")
log = get_logger("pretrain")


class Recorder:
    """Times the steps and writes what they show, every ``every`` steps."""

    def __init__(
        self, folder: Path, *, every: int, images: int, total_steps: int, steps_per_epoch: int, watch: HealthWatch,
        main: bool = True, wandb: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """``images`` per global step; only the ``main`` process writes. ``wandb`` holds settings for wandb.init."""
        self.every, self.images, self.watch = every, images, watch
        self.total_steps, self.steps_per_epoch = total_steps, steps_per_epoch
        self.writer = MetricsWriter(folder) if main else None
        self.wandb = _start_wandb(folder, wandb) if main and wandb is not None else None
        self.waited = 0.0  # seconds the loop waited for data since the last line
        self.since, self.steps = time.perf_counter(), 0
        self.pace = 0.0  # seconds per step, smoothed over lines

    def timed(self, batches: Iterable[Item]) -> Iterator[Item]:
        """The same batches; the time spent waiting for each is counted."""
        source = iter(batches)
        while True:
            start = time.perf_counter()
            try:
                batch = next(source)
            except StopIteration:
                return
            self.waited += time.perf_counter() - start
            yield batch

    def due(self, step: int) -> bool:
        """Whether the step (from 0) writes a line."""
        self.steps += 1
        return (step + 1) % self.every == 0 or step + 1 == self.total_steps

    def line(self, step: int, rate: float, readings: dict[str, float]) -> None:
        """Write a step's readings (loss, accuracies, ...) with speed and time to go."""
        now = time.perf_counter()
        elapsed = max(now - self.since, 1e-9)
        pace = elapsed / self.steps
        self.pace = pace if not self.pace else 0.7 * self.pace + 0.3 * pace
        speed, wait = self.images / pace, 100 * self.waited / elapsed
        self.since, self.steps, self.waited = now, 0, 0.0
        for warning in self.watch.look(step, readings):
            log.warning("warning: %s", warning)
        self.scalars(step + 1, lr=rate, images_per_second=speed, data_wait=wait, **readings)
        left = int(self.pace * (self.total_steps - step - 1))
        epoch, within = divmod(step, self.steps_per_epoch)
        epochs = -(-self.total_steps // self.steps_per_epoch)
        shown = "".join(f"  {name} {readings[name]:.1f}" for name in ("acc1", "acc5") if name in readings)
        log.info(
            f"epoch {epoch + 1}/{epochs} step {within + 1}/{self.steps_per_epoch}  loss {readings['loss']:.4f}{shown}"
            f"  lr {rate:.4g}  {speed:.0f} img/s  data-wait {wait:.0f}%"
            f"  ETA {left // 3600}:{left // 60 % 60:02}:{left % 60:02}"
        )

    def scalars(self, step: int, **values: float) -> None:
        """Record numbers of a step that are not part of its line (a probe, say)."""
        if self.writer:
            self.writer.write(step, **values)
        if self.wandb:
            self.wandb.log(values, step=step)

    def pause(self) -> None:
        """Leave out what happened since the last line (a probe, a save) from the next line's speed."""
        self.since, self.steps, self.waited = time.perf_counter(), 0, 0.0

    def close(self) -> None:
        """Flush and close what is open."""
        if self.writer:
            self.writer.close()
        if self.wandb:
            self.wandb.finish()


def _start_wandb(folder: Path, settings: dict[str, Any]) -> Any:
    """The run folder's session: the one it has had before, if any, so that a resumed run goes on in the same curves."""
    try:
        wandb = importlib.import_module("wandb")
    except ImportError as error:
        raise UserError("--wandb needs the package wandb: pip install wandb") from error
    kept = folder / "wandb_id.txt"
    known = kept.read_text().strip() if kept.exists() else None
    session = wandb.init(**settings, id=known, resume="allow")
    write_text(kept, f"{session.id}\n")
    return session
