"""Small loaders for tests, and the signals that their workers must survive."""

from __future__ import annotations

import itertools
import multiprocessing
import subprocess
import time
from collections.abc import Iterable, Sequence
from typing import Any

from transfer.data.labels import Record
from transfer.data.loader import TrainLoader, build_train_loader
from transfer.data.mapper import DetectionMapper
from transfer.data.random_geometry import RandomGeometry


def make_mapper(train: bool = True, **changes: Any) -> DetectionMapper:
    """A mapper to small sizes, with changed options."""
    options: dict[str, Any] = {"min_sizes": (32, 40, 48), "max_size": 90, "flip": "horizontal"}
    return DetectionMapper(train=train, image_format="BGR", geometry=RandomGeometry(**{**options, **changes}))


def loader(records: Sequence[Record], **changes: Any) -> TrainLoader:
    """A training loader of batches of two, with changed options."""
    options: dict[str, Any] = {"mapper": make_mapper(), "batch_size": 2, "seed": 3, "draw_seed": 99, "num_workers": 0}
    return build_train_loader(records=records, **{**options, **changes})


def take(iterable: Iterable[Any], count: int) -> list[Any]:
    """The first ``count`` items of a new iteration."""
    return list(itertools.islice(iter(iterable), count))


def signal_the_workers() -> None:
    """Send the loader workers of this process the signals that Slurm and Ctrl-C send; they must survive."""
    workers = multiprocessing.active_children()
    for name in ("INT", "USR1", "TERM"):
        subprocess.run(["kill", f"-{name}", *(str(worker.pid) for worker in workers)], check=True)
        time.sleep(0.2)
    assert workers
    assert all(worker.is_alive() for worker in workers)
