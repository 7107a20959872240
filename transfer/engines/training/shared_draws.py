"""The batches of a process without loader workers: training and precise batch norm draw from one generator.

Detectron2 then maps images in the main process, so what precise batch norm draws for its images is missing from the
draws of the training steps after it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from transfer.data.loader import TrainLoader

Batch = list[dict[str, Any]]


class SharedDraws:
    """Two streams of batches of one ``loader`` whose plans share a generator."""

    def __init__(self, loader: TrainLoader) -> None:
        self._loader = loader
        self._training, self._measuring = loader.plan(), loader.plan()

    def skip(self, start: int, measured: int, batches: int, period: int) -> None:
        """Draw what a run drew until step ``start`` in which precise batch norm had taken ``measured`` batches.

        It took ``batches`` at a time, every ``period`` steps.
        """
        done = 0
        for number in range(1, measured // batches + 1):
            step = min(number * period or start, start)
            _draw(self._training, step - done)
            _draw(self._measuring, batches)
            done = step
        _draw(self._training, start - done)

    def training(self) -> Iterator[Batch]:
        """The batches of the training steps."""
        return self._loader.load(self._training)

    def measuring(self) -> Iterator[Batch]:
        """The batches of precise batch norm."""
        return self._loader.load(self._measuring)


def _draw(plan: Iterator[Any], count: int) -> None:
    next(itertools.islice(plan, count, count), None)
