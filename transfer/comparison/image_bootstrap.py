"""An interval for one seed: a paired bootstrap over the test images, from stored detections.

Both initialisations are scored on the same resampled images, so what is hard about an image cancels in the difference.
The interval is the uncertainty that comes from the choice of test images; it does not contain that of the seed.
"""

from __future__ import annotations

import math

import numpy as np

from runtime.errors import UserError
from transfer.comparison.intervals import Interval, percentile_interval, resamples
from transfer.data.catalog import get_dataset
from transfer.evaluate.detections import Detections
from transfer.evaluate.match_tables import METRICS, match_table
from transfer.records.run import Run

TOLERANCE = 0.05  # AP points by which stored detections may miss the recorded AP (VOC files round scores and boxes)


class ImageBootstrap:
    """Callable for ``gap.compare``: (run, reference run, task, metric) -> paired percentile interval over images.

    The replicates of one run are computed once and paired by draw, so comparing many initialisations costs one
    bootstrap per run, not one per pair.
    """

    def __init__(self, replicates: int = 1000, seed: int = 0) -> None:
        self._replicates = replicates
        self._seed = seed
        self._values: dict[tuple[str, str], np.ndarray | str] = {}

    def __call__(self, run: Run, reference: Run, task: str, metric: str) -> Interval:
        """The interval, or one without bounds whose ``method`` is the reason."""
        if metric not in METRICS:
            return Interval(None, None, "none (n=1)")
        own, other = self._replicate(run, task), self._replicate(reference, task)
        if isinstance(own, str) or isinstance(other, str):
            return Interval(None, None, f"none (n=1; {own if isinstance(own, str) else other})")
        column = METRICS.index(metric)
        differences = own[:, column] - other[:, column]
        # AP is undefined on a resample without any object; with too many of those the rest is not a fair sample
        differences = differences[~np.isnan(differences)]
        if len(differences) < self._replicates / 2:
            return Interval(None, None, "none (n=1; undefined on most resamples)")
        low, high = percentile_interval(differences)
        return Interval(low, high, f"paired bootstrap over images, {self._replicates} replicates")

    def _replicate(self, run: Run, task: str) -> np.ndarray | str:
        key = (str(run.folder), task)
        if key not in self._values:
            self._values[key] = self._compute(run, task)
        return self._values[key]

    def _compute(self, run: Run, task: str) -> np.ndarray | str:
        """float[replicates x 3] of AP, AP50, AP75; or why there is none."""
        loaded = load_detections(run)
        if isinstance(loaded, str):
            return loaded
        spec, detections = loaded
        if not len(detections):
            return "no detection stored"
        table = match_table(spec, detections, task, str(run.record.get("evaluator")))
        if table is None:
            return f"not defined for {spec.evaluator}"
        # the run's own AP must come out before its resamples are believed
        whole = table.ap(np.ones(table.images, dtype=np.int64))["AP"]
        if not math.isclose(whole, run.metrics.get((task, "AP"), math.nan), abs_tol=TOLERANCE):
            return "stored detections do not give the recorded AP"
        # Matching detections to objects does not depend on the other images, so it is done once: a resample only
        # changes how often each image's matches count. One seed gives every run the same draws: that pairs them.
        draws = resamples(table.images, self._replicates, self._seed)
        counts = (np.bincount(draw, minlength=table.images) for draw in draws)
        return np.array([[table.ap(count)[m] for m in METRICS] for count in counts])


def load_detections(run: Run) -> tuple | str:
    """(DatasetSpec, Detections) of a run's first test set, or why they cannot be used.

    Image ids are in the order of the data set, whatever order the run stored: runs are compared image by image.
    """
    if run.detections is None:
        return "no stored detections"
    described = run.record["datasets"]["test"][0]
    try:
        spec = get_dataset(described["name"])
        if spec.sha256() != described["sha256"]:
            return f"data set {described['name']} has changed since"
        detections = Detections.load(run.detections).in_order_of(spec.summary.image_ids)
    except UserError as error:
        return str(error).split(";")[0]
    if detections.are_proposals:
        return "proposals have no classes"
    if (detections.category >= len(spec.class_names)).any():
        return f"{run.detections}: a category is not one of the {len(spec.class_names)} classes of {spec.name}"
    return spec, detections
