"""LVIS AP (arXiv:1908.03195): federated ground truth, 300 detections per image, rare / common / frequent classes.

An image says which classes were looked for in it: those with annotations, and those listed as absent. Detections of
other classes are dropped; unmatched detections of a class that is not exhaustively annotated are ignored. COCO's
evaluators do not do this: they give other numbers on the same detections.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

SUMMARY = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")
MAX_DETECTIONS = 300  # per image over all classes
AREAS = np.array([(0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10)])  # all, small, medium, large
IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
FREQUENCIES = {"APr": "r", "APc": "c", "APf": "f"}


class Graded(NamedTuple):
    """Detections D of one class in one image against its G objects, for A area ranges and T thresholds."""

    scores: np.ndarray  # D, falling
    matched: np.ndarray  # A x T x D bool
    ignored: np.ndarray  # A x T x D bool: neither right nor wrong
    positives: np.ndarray  # A: objects that count


def lvis_ap(
    truth: Mapping[str, Any], results: Iterable[Mapping[str, Any]], task: str, max_detections: int = MAX_DETECTIONS
) -> dict[str, float]:
    """The nine summary values in percent and AP-<class>; NaN where undefined; no detection at all is 0.

    ``truth`` is a parsed LVIS file, ``results`` COCO-style entries with its category ids, ``task`` bbox or segm.
    """
    listed = list(results)
    categories = sorted(truth["categories"], key=lambda c: c["id"])
    precision = lvis_precision(truth, listed, task, max_detections)
    values = {
        "AP": _mean(precision[:, :, :, 0]),
        "AP50": _mean(precision[0, :, :, 0]),
        "AP75": _mean(precision[5, :, :, 0]),
    }
    values.update({key: _mean(precision[:, :, :, a]) for key, a in (("APs", 1), ("APm", 2), ("APl", 3))})
    for key, frequency in FREQUENCIES.items():
        rows = [k for k, c in enumerate(categories) if c.get("frequency") == frequency]
        values[key] = _mean(precision[:, :, rows, 0])
    for k, category in enumerate(categories):
        name = (category.get("synonyms") or [category["name"]])[0]
        values[f"AP-{name}"] = _mean(precision[:, :, k, 0])
    return values


def lvis_precision(
    truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], task: str, max_detections: int = MAX_DETECTIONS
) -> np.ndarray:
    """Precision T x R x K x A at IOUS, RECALLS, categories in order of id and AREAS; -1 where nothing counts."""
    objects = _objects_by_pair(truth, task)
    loose = {i["id"]: set(i.get("not_exhaustive_category_ids", [])) for i in truth["images"]}
    detections = _detections_by_pair(truth, results, task, objects, max_detections)
    graded: dict[Any, list[Graded]] = defaultdict(list)
    for image, category in sorted(objects.keys() | detections.keys()):
        pair = (image, category)
        graded[category].append(_grade(detections.get(pair, []), objects.get(pair, []), category in loose[image]))
    ids = sorted(c["id"] for c in truth["categories"])
    precision = -np.ones((len(IOUS), len(RECALLS), len(ids), len(AREAS)))
    for k, category in enumerate(ids):
        if category in graded:
            for a in range(len(AREAS)):
                precision[:, :, k, a] = _precision_of_class(graded[category], a)
    return precision


def _objects_by_pair(truth: Mapping[str, Any], task: str) -> dict[tuple[Any, Any], list[tuple[Any, float, bool]]]:
    """(image, category) -> [(box or mask, area, ignored)]; objects without area do not exist, as in the LVIS API."""
    sizes = {i["id"]: (i["height"], i["width"]) for i in truth["images"]}
    found: dict[tuple[Any, Any], list[tuple[Any, float, bool]]] = defaultdict(list)
    for a in truth["annotations"]:
        if 0 < a["area"] < np.inf:
            shape = a["bbox"] if task == "bbox" else _run_length(a["segmentation"], *sizes[a["image_id"]])
            found[a["image_id"], a["category_id"]].append((shape, a["area"], bool(a.get("ignore", 0))))
    return dict(found)


def _run_length(segmentation: Any, height: int, width: int) -> Any:
    if isinstance(segmentation, list):
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return coco_mask.frPyObjects(segmentation, height, width)
    return segmentation


def _detections_by_pair(
    truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    task: str,
    objects: Mapping[tuple[Any, Any], Any],
    max_detections: int,
) -> dict[tuple[Any, Any], list[tuple[float, Any, float]]]:
    """(image, category) -> [(score, box or mask, area)], best first, of the classes that were looked for."""
    looked_for = {i["id"]: set(i.get("neg_category_ids", [])) for i in truth["images"]}
    for image, category in objects:
        looked_for[image].add(category)
    by_image: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for result in results:
        by_image[result["image_id"]].append(result)
    found: dict[tuple[Any, Any], list[tuple[float, Any, float]]] = defaultdict(list)
    for image, listed in by_image.items():
        best = sorted(listed, key=lambda r: -r["score"])[:max_detections] if len(listed) > max_detections else listed
        for r in best:
            if r["category_id"] not in looked_for[image]:
                continue
            shape = r["bbox"] if task == "bbox" else r["segmentation"]
            area = shape[2] * shape[3] if task == "bbox" else float(coco_mask.area(shape))
            if area > 0:
                found[image, r["category_id"]].append((r["score"], shape, area))
    return {pair: sorted(listed, key=lambda d: -d[0]) for pair, listed in found.items()}


def _grade(detections: list[tuple[float, Any, float]], objects: list[tuple[Any, float, bool]], loose: bool) -> Graded:
    """Match best first: each detection takes the free object it overlaps most, objects that count before others."""
    areas = np.array([area for _, area, _ in objects])
    skipped = np.array([ignored for _, _, ignored in objects], dtype=bool)[None] | _outside(areas)  # A x G
    shape = (len(AREAS), len(IOUS), len(detections))
    matched, ignored = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    if objects and detections:
        iou = coco_mask.iou([d[1] for d in detections], [o[0] for o in objects], [0] * len(objects))
        free = np.ones((len(AREAS), len(IOUS), len(objects)), dtype=bool)
        for d in np.flatnonzero((iou >= IOUS[0]).any(axis=1)):
            _take_best(iou[d], free, skipped, matched[:, :, d], ignored[:, :, d])
    unmatched_ignored = _outside(np.array([area for _, _, area in detections])) | loose  # A x D
    ignored |= ~matched & unmatched_ignored[:, None]
    scores = np.array([score for score, _, _ in detections], dtype=np.float64)
    return Graded(scores, matched, ignored, (~skipped).sum(axis=1))


def _outside(areas: np.ndarray) -> np.ndarray:
    """A x N: whether an area lies outside each range; both ends belong to a range."""
    return (areas[None] < AREAS[:, :1]) | (areas[None] > AREAS[:, 1:])


def _take_best(
    iou: np.ndarray, free: np.ndarray, skipped: np.ndarray, matched: np.ndarray, ignored: np.ndarray
) -> None:
    """Match one detection (iou G) for all areas and thresholds, updating ``free`` A x T x G and the rest A x T."""
    reach = free & (iou >= np.minimum(IOUS, 1 - 1e-10)[:, None])
    counted = reach & ~skipped[:, None]
    reach = np.where(counted.any(axis=2, keepdims=True), counted, reach)
    overlap = np.where(reach, iou, -1.0)
    best = overlap.shape[2] - 1 - overlap[:, :, ::-1].argmax(axis=2)  # of equal overlaps the last one
    a, t = np.nonzero(reach.any(axis=2))
    taken = best[a, t]
    free[a, t, taken] = False
    matched[a, t] = True
    ignored[a, t] = skipped[a, taken]


def _precision_of_class(graded: list[Graded], area: int) -> np.ndarray:
    """T x R interpolated precision of one class in one area range; -1 without an object that counts."""
    result = -np.ones((len(IOUS), len(RECALLS)))
    positives = sum(int(g.positives[area]) for g in graded)
    if not positives:
        return result
    scores = np.concatenate([g.scores for g in graded])
    order = np.argsort(-scores, kind="mergesort")
    matched = np.concatenate([g.matched[area] for g in graded], axis=1)[:, order]
    counted = ~np.concatenate([g.ignored[area] for g in graded], axis=1)[:, order]
    right = np.cumsum(matched & counted, axis=1).astype(float)
    wrong = np.cumsum(~matched & counted, axis=1).astype(float)
    recall = right / positives
    precision = right / (wrong + right + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    result[:] = 0.0
    for t in range(len(IOUS)):
        at = np.searchsorted(recall[t], RECALLS, side="left")
        reached = at < recall.shape[1]
        result[t, reached] = precision[t, at[reached]]
    return result


def _mean(part: np.ndarray) -> float:
    defined = part[part > -1]
    return float(np.mean(defined) * 100) if defined.size else float("nan")
