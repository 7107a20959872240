"""Matches of one data set's detections, computed once, for AP under any weighting of the images.

Matches are made within an image, so drawing an image k times means counting its detections and objects k times: AP of
a bootstrap sample needs no new matching, and equals AP of the sample as a data set of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from transfer.evaluate.cityscapes_ap import OverlapTable, overlap_table
from transfer.evaluate.coco_ap import coco_entries, coco_results, recorded_limit
from transfer.evaluate.detections import Detections
from transfer.evaluate.entries import Numbering
from transfer.evaluate.lvis_ap import lvis_entries
from transfer.evaluate.matching import Matches, match_all
from transfer.evaluate.voc_ap import THRESHOLDS, eleven_point_area, envelope_area, match, truth_by_class, written_boxes

if TYPE_CHECKING:
    from transfer.data.catalog import DatasetSpec

RECALLS = np.linspace(0.0, 1.0, 101)
METRICS = ("AP", "AP50", "AP75")


@dataclass(frozen=True)
class ClassMatches:
    """Detections of one class over all images, best first.

    ``image`` int[D]; ``right`` and ``wrong`` bool[T x D] at T IoU thresholds (neither: ignored); ``positives`` int[I].
    """

    image: np.ndarray
    right: np.ndarray
    wrong: np.ndarray
    positives: np.ndarray


@dataclass(frozen=True)
class MatchTable:
    """All classes, and the rule that turns a precision-recall curve into AP."""

    classes: Sequence[ClassMatches]
    images: int
    interpolate: Callable[[np.ndarray, np.ndarray], float]  # recall D, precision D -> AP
    voc: bool = False  # whether every class counts in the mean, as in VOC; COCO and LVIS leave undefined ones out

    def ap(self, weights: np.ndarray) -> dict[str, float]:
        """AP, AP50, AP75 in percent when image i counts ``weights[i]`` times."""
        table = np.array([self._class_ap(matches, weights) for matches in self.classes])  # K x T
        average = np.mean if self.voc else _mean
        with np.errstate(invalid="ignore"):
            per_threshold = np.array([average(column) for column in table.T])
        values = (average(table.ravel()), per_threshold[0], per_threshold[5])
        return {name: float(value) * 100 for name, value in zip(METRICS, values)}

    def _class_ap(self, matches: ClassMatches, weights: np.ndarray) -> np.ndarray:
        positives = float(matches.positives @ weights)
        if positives == 0:
            return np.full(len(THRESHOLDS), self._empty_class_ap(matches))
        counts = weights[matches.image]
        drawn = counts > 0
        counts = counts[drawn].astype(np.float64)
        right = np.cumsum(matches.right[:, drawn] * counts, axis=1)
        wrong = np.cumsum(matches.wrong[:, drawn] * counts, axis=1)
        precision = right / np.maximum(right + wrong, np.finfo(np.float64).eps)
        return np.array([self.interpolate(r / positives, p) for r, p in zip(right, precision)])

    def _empty_class_ap(self, matches: ClassMatches) -> float:
        """AP of a class without an object among the weighted images.

        NaN for COCO and LVIS. VOC: 0, except that by the area rule a class that has no object in the whole set has an
        undefined recall, and so AP, once it is detected (``voc_ap``).
        """
        if not self.voc:
            return float("nan")
        by_area = self.interpolate is envelope_area
        return float("nan") if by_area and len(matches.image) and not matches.positives.any() else 0.0


def _mean(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")


def envelope_101(recall: np.ndarray, precision: np.ndarray) -> float:
    """COCO's AP: best precision at recall 0, 0.01 ... 1 or beyond."""
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, RECALLS, side="left")
    return float(np.append(envelope, 0.0)[places].mean())


def match_table(
    spec: DatasetSpec, detections: Detections, task: str, evaluator_id: str = ""
) -> MatchTable | OverlapTable | None:
    """The matches of boxes or masks by the data set's rule; None for another task, or one that it does not evaluate.

    ``evaluator_id``: of the run's record, whose limit of detections is used.
    """
    if task not in ("bbox", "segm"):
        return None
    if spec.evaluator == "cityscapes":
        return overlap_table(spec, detections) if task == "segm" else None
    if spec.evaluator == "coco":
        return _coco(spec, detections, task, recorded_limit(evaluator_id))
    return _lvis(spec, detections, task) if spec.evaluator == "lvis" else _voc(spec, detections)


def _coco(spec: DatasetSpec, detections: Detections, task: str, limit: int) -> MatchTable:
    truth = spec.content(masks=detections.masks is not None)
    numbering = Numbering(truth)
    results = coco_results(detections, spec.category_ids, task)
    matches = match_all(*coco_entries(truth, results, task, numbering), limit)
    return _table(matches, numbering, detections)


def _lvis(spec: DatasetSpec, detections: Detections, task: str) -> MatchTable:
    truth = spec.content(masks=detections.masks is not None)
    numbering = Numbering(truth)
    results = coco_results(detections, spec.category_ids, task)
    return _table(match_all(*lvis_entries(truth, results, task, numbering)), numbering, detections)


def _table(matches: Matches, numbering: Numbering, detections: Detections) -> MatchTable:
    """Matches of objects of all sizes, class by class, with images in the detections' order."""
    position = {image_id: i for i, image_id in enumerate(detections.image_ids)}
    places = np.array([position[image_id] for image_id in numbering.images], dtype=np.int64)
    count = len(numbering.classes)
    object_image, object_class = np.divmod(matches.objects.pair, count)
    found_image, found_class = np.divmod(matches.scored.pair, count)
    matched, ignored = matches.matched[:, 0].T, matches.ignored[:, 0].T  # T x D
    counts = ~matches.skipped[:, 0]
    order = np.lexsort((-matches.scored.score, found_class))
    bounds = np.searchsorted(found_class[order], np.arange(count + 1))
    classes = []
    for k in range(count):
        rows = order[bounds[k] : bounds[k + 1]]
        right, wrong = (side[:, rows] & ~ignored[:, rows] for side in (matched, ~matched))
        of_class = places[object_image[counts & (object_class == k)]]
        classes.append(
            ClassMatches(places[found_image[rows]], right, wrong, np.bincount(of_class, minlength=len(places)))
        )
    return MatchTable(classes, len(places), envelope_101)


def _voc(spec: DatasetSpec, detections: Detections) -> MatchTable:
    by_id = {record["image_id"]: record for record in spec.records()}
    truth = truth_by_class([by_id[i] for i in detections.image_ids], len(spec.class_names))
    boxes = written_boxes(detections.boxes)
    scores = np.rint(detections.scores.astype(np.float64) * 1000) / 1000
    classes = []
    for c, (truth_boxes, truth_images, difficult) in enumerate(truth):
        rows = np.flatnonzero(detections.category == c)
        best = match(boxes[rows], scores[rows], detections.image_index[rows], truth_boxes, truth_images, difficult)
        image = detections.image_index[rows][np.argsort(-scores[rows], kind="stable")]
        hit = best.overlap[None, :] > THRESHOLDS[:, None]  # T x D
        right = np.zeros_like(hit)
        for t, row in enumerate(hit & ~best.difficult):
            counted = np.flatnonzero(row)
            right[t, counted[np.unique(best.target[counted], return_index=True)[1]]] = True
        positives = np.bincount(truth_images[~difficult], minlength=len(by_id))
        classes.append(ClassMatches(image, right, ~right & ~(hit & best.difficult), positives))
    eleven = spec.year == 2007
    return MatchTable(classes, len(by_id), eleven_point_area if eleven else envelope_area, voc=True)
