"""How long a run will take on this machine, by a few iterations and test images of which nothing is kept."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from runtime.trial import mean_after_first, shown_time
from transfer.config.protocol import CACHED
from transfer.data.catalog import get_dataset
from transfer.engines.torchvision.detection import detect_images
from transfer.engines.torchvision.run import Run, detector_of
from transfer.engines.training.batches import build_test_feed


def time_line(cfg: Any) -> str:
    """Seconds an iteration and a test image, and the time of the run with its evaluations, from random weights."""
    if cfg.ENGINE.FEATURES == CACHED:
        return "time: not measured: the first run fills the cache of features, later ones read it"
    with TemporaryDirectory() as scratch:
        run = Run(cfg, Path(scratch))
        step = mean_after_first(run.trial_steps())
        images = [len(get_dataset(name).summary.image_ids) for name in cfg.DATASETS.TEST]
        image = mean_after_first(_test_images(cfg, run)) if images else 0.0
    period, length = cfg.TEST.EVAL_PERIOD, cfg.SOLVER.MAX_ITER
    evaluations = (1 + (length - 1) // period if period > 0 else 1) if images else 0
    whole = step * length + image * sum(images) * evaluations
    return (
        f"time: about {step:.2g} s an iteration and {image:.2g} s a test image here, {shown_time(whole)} in all with "
        f"{evaluations} evaluation{'' if evaluations == 1 else 's'}"
    )


def _test_images(cfg: Any, run: Run) -> Iterable[float]:
    model, detector = detector_of(cfg, run.model)
    feed = build_test_feed(cfg, cfg.DATASETS.TEST[0], 0, 1)
    began = time.perf_counter()
    for _ in detect_images(model, feed, detector):
        yield time.perf_counter() - began
        began = time.perf_counter()
