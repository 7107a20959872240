"""Training metrics: collected every iteration, written to metrics.json under Detectron2's names every 20."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from runtime.logs import get_logger
from runtime.metrics import MetricsWriter, read_metrics

PERIOD = 20  # iterations between records, and the window of their medians, as in Detectron2


class Progress:
    """Smoothed losses and times from iteration ``start`` on; ``folder`` None (other ranks) writes nothing.

    ``windows``: of the run that is continued, see ``windows``: without them the first record after a resume would be a
    median of fewer iterations than the same record of a run that was not interrupted.
    """

    def __init__(
        self,
        folder: Path | None,
        max_iter: int,
        start: int = 0,
        windows: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        self.writer = MetricsWriter(folder, first=start) if folder is not None else None
        self.max_iter = max_iter
        self.history = {name: deque(values, maxlen=PERIOD) for name, values in (windows or {}).items()}
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

    def windows(self) -> dict[str, list[float]]:
        """The last values of each scalar, of which the records are medians; for a checkpoint."""
        return {name: list(values) for name, values in self.history.items()}

    def close(self) -> None:
        """Close the files."""
        if self.writer is not None:
            self.writer.close()


def logged_evaluations(folder: Path) -> set[int]:
    """Finished iterations at each evaluation that metrics.json holds; a record cut short by a kill does not count.

    The history of a run is written first: a kill in between leaves an evaluation there that metrics.json lacks.
    """
    path = folder / "metrics.json"
    records = read_metrics(path) if path.exists() else []
    return {record["iteration"] + 1 for record in records if any("/" in key for key in record)}
