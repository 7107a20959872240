"""Training metrics: collected every iteration, written to metrics.json under Detectron2's names every 20."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from runtime.logs import get_logger
from runtime.metrics import MetricsWriter

PERIOD = 20  # iterations between records, and the window of their medians, as in Detectron2


class Progress:
    """Smoothed losses and times from iteration ``start`` on; ``folder`` None (other ranks) writes nothing."""

    def __init__(self, folder: Path | None, max_iter: int, start: int = 0) -> None:
        self.writer = MetricsWriter(folder, first=start) if folder is not None else None
        self.max_iter = max_iter
        self.history: dict[str, deque[float]] = {}
        self.logger = get_logger(__name__)

    def record(
        self, iteration: int, losses: Mapping[str, float], lr: float, seconds: float, data_seconds: float
    ) -> None:
        """Add the scalars of one 0-based iteration; every PERIOD iterations and at the end a record is written."""
        if self.writer is None:
            return
        values = {"total_loss": sum(losses.values()), **losses, "time": seconds, "data_time": data_seconds}
        for name, value in values.items():
            self.history.setdefault(name, deque(maxlen=PERIOD)).append(value)
        if (iteration + 1) % PERIOD and iteration + 1 != self.max_iter:
            return
        smooth = {name: statistics.median(window) for name, window in self.history.items()}
        self.writer.write(iteration, **smooth, lr=lr)
        left = (self.max_iter - iteration - 1) * smooth["time"]
        shown = "  ".join(f"{name} {smooth[name]:.4g}" for name in ("total_loss", *losses))
        eta = time.strftime("%H:%M:%S", time.gmtime(left)) if left < 86400 else f"{left / 3600:.0f} h"
        self.logger.info(
            "iteration %d/%d  %s  lr %.4g  %.3f s/it  eta %s",
            iteration + 1,
            self.max_iter,
            shown,
            lr,
            smooth["time"],
            eta,
        )

    def evaluation(self, iteration: int, scalars: Mapping[str, float]) -> None:
        """Write evaluation results of a 0-based iteration."""
        if self.writer is not None and scalars:
            self.writer.write(iteration, **scalars)

    def close(self) -> None:
        """Close the files."""
        if self.writer is not None:
            self.writer.close()
