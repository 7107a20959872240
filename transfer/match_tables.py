"""Matches of one data set's detections, computed once, from which AP on any re-weighting of the images follows.

A match is made inside an image, so drawing an image k times is counting its detections and objects k times: AP of a
bootstrap sample needs no new matching, and equals that of evaluating the sample as a data set of its own.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from transfer.evaluate.coco_ap import MAX_DETECTIONS, coco_results, coco_truth
from transfer.evaluate.detections import Detections
from transfer.evaluate.voc_ap import THRESHOLDS, match, truth_by_class, written_boxes

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
    empty_class: float  # AP of a class without objects: NaN is left out of the mean

    def ap(self, weights: np.ndarray) -> dict[str, float]:
        """AP, AP50, AP75 in percent when image i counts ``weights[i]`` times."""
        table = np.array([self._class_ap(matches, weights) for matches in self.classes])  # K x T
        with np.errstate(invalid="ignore"):
            per_threshold = np.array([_mean(column) for column in table.T])
        values = (_mean(table.ravel()), per_threshold[0], per_threshold[5])
        return {name: float(value) * 100 for name, value in zip(METRICS, values)}

    def _class_ap(self, matches: ClassMatches, weights: np.ndarray) -> np.ndarray:
        positives = float(matches.positives @ weights)
        if positives == 0:
            return np.full(len(THRESHOLDS), self.empty_class)
        counts = weights[matches.image]
        kept = counts > 0
        counts = counts[kept].astype(np.float64)
        right = np.cumsum(matches.right[:, kept] * counts, axis=1)
        wrong = np.cumsum(matches.wrong[:, kept] * counts, axis=1)
        precision = right / np.maximum(right + wrong, np.finfo(np.float64).eps)
        return np.array([self.interpolate(r / positives, p) for r, p in zip(right, precision)])


def _mean(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")


def envelope_101(recall: np.ndarray, precision: np.ndarray) -> float:
    """COCO's AP: best precision at recall 0, 0.01 ... 1 or beyond."""
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, RECALLS, side="left")
    return float(np.append(envelope, 0.0)[places].mean())


def match_table(spec: DatasetSpec, detections: Detections, task: str) -> MatchTable | None:
    """The matches of COCO or VOC detections; None for an evaluator that weights images in other ways (LVIS)."""
    maker = {"coco": _coco, "voc": _voc}.get(spec.evaluator)
    return maker(spec, detections, task) if maker else None


def _coco(spec: DatasetSpec, detections: Detections, task: str) -> MatchTable:
    from pycocotools.cocoeval import COCOeval

    truth = coco_truth(spec.content(), "official")
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes(coco_results(detections, spec.category_ids, task)), task)
        evaluation.params.maxDets = [MAX_DETECTIONS]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
    position = {image_id: i for i, image_id in enumerate(detections.image_ids)}
    by_class: dict[int, list[dict]] = {}
    for found in evaluation.evalImgs:
        if found is not None:
            by_class.setdefault(found["category_id"], []).append(found)
    classes = [_coco_class(by_class.get(c, []), position) for c in evaluation.params.catIds]
    return MatchTable(classes, len(position), envelope_101, float("nan"))


def _coco_class(found: Sequence[dict], position: dict) -> ClassMatches:
    positives = np.zeros(len(position), dtype=np.int64)
    for one in found:
        positives[position[one["image_id"]]] = int((np.asarray(one["gtIgnore"]) == 0).sum())
    scores = np.concatenate([np.asarray(one["dtScores"], dtype=np.float64) for one in found] or [np.zeros(0)])
    images = [np.full(len(one["dtScores"]), position[one["image_id"]]) for one in found]
    image = np.concatenate(images or [np.zeros(0)]).astype(np.int64)
    shape = (len(THRESHOLDS), 0)
    matched = np.concatenate([one["dtMatches"].reshape(10, -1) for one in found] or [np.zeros(shape)], axis=1) != 0
    ignored = np.concatenate([one["dtIgnore"].reshape(10, -1) for one in found] or [np.zeros(shape)], axis=1) != 0
    order = np.argsort(-scores, kind="mergesort")
    return ClassMatches(image[order], (matched & ~ignored)[:, order], (~matched & ~ignored)[:, order], positives)


def _voc(spec: DatasetSpec, detections: Detections, task: str) -> MatchTable:
    from transfer.evaluate.voc_ap import eleven_point_area, envelope_area

    by_id = {record["image_id"]: record for record in spec.records()}
    truth = truth_by_class([by_id[i] for i in detections.image_ids], len(spec.class_names))
    boxes = written_boxes(detections.boxes)
    scores = np.rint(detections.scores.astype(np.float64) * 1000) / 1000
    classes = []
    for c, (truth_boxes, truth_images, difficult) in enumerate(truth):
        rows = np.flatnonzero(detections.category == c)
        found = match(boxes[rows], scores[rows], detections.image_index[rows], truth_boxes, truth_images, difficult)
        image = detections.image_index[rows][np.argsort(-scores[rows], kind="stable")]
        hit = found.overlap[None, :] > THRESHOLDS[:, None]  # T x D
        right = np.zeros_like(hit)
        for t, row in enumerate(hit & ~found.difficult):
            counted = np.flatnonzero(row)
            right[t, counted[np.unique(found.target[counted], return_index=True)[1]]] = True
        positives = np.bincount(truth_images[~difficult], minlength=len(by_id))
        classes.append(ClassMatches(image, right, ~right & ~(hit & found.difficult), positives))
    eleven = spec.year == 2007
    return MatchTable(classes, len(by_id), eleven_point_area if eleven else envelope_area, 0.0)
