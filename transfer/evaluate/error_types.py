"""How much AP50 each type of error costs: the six types of TIDE, from stored detections.

Definitions of Bolya, Foley, Hays, Hoffman: TIDE, A General Toolbox for Identifying Object Detection Errors (ECCV 2020,
arXiv 2008.08115, section 2.2), with foreground threshold t_f = 0.5 and background threshold t_b = 0.1. The type of a
detection that is not a true positive at t_f follows from its largest overlap:

* localisation: t_b <= IoU <= t_f with an object of its own class;
* classification: IoU >= t_f with an object of another class;
* duplicate: IoU >= t_f with an object of its class that is matched to a better detection;
* background: IoU <= t_b with every object;
* both: none of these, i.e. wrong class and poor localisation.

Missed objects are those without a true positive, localisation or classification error. The weight of a type is the
rise of AP50 (101 recall points) when an oracle corrects its errors and nothing else (section 2.3): the class or the box
is corrected unless the object is already found, other false positives are removed, missed objects are not counted. The
weights of different types do not add up, since AP is not additive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from transfer.data.box_modes import corners
from transfer.data.labels import Record
from transfer.evaluate.detections import Detections
from transfer.evaluate.match_tables import envelope_101

FOREGROUND, BACKGROUND = 0.5, 0.1
MAX_DETECTIONS = 100  # per image, best first
TYPES = ("classification", "localisation", "both", "duplicate", "background", "missed")
RIGHT, IGNORED = "right", "ignored"


@dataclass(frozen=True)
class ErrorTypes:
    """``ap50`` in percent, ``weight``: AP50 points gained by correcting a type, ``count``: its number of errors."""

    ap50: float
    weight: dict[str, float]
    count: dict[str, int]


@dataclass
class _Judged:
    """The detections of all images, each with a verdict, and the objects of all images."""

    score: np.ndarray  # float[D]
    category: np.ndarray  # int[D], the detection's class
    verdict: np.ndarray  # str[D]
    target: np.ndarray  # int[D], the object that a localisation or classification error belongs to, or -1
    object_category: np.ndarray  # int[G], counted objects only
    taken: np.ndarray  # bool[G]


def error_types(records: Sequence[Record], detections: Detections) -> ErrorTypes:
    """TIDE's types for box detections of ``records``, which are in the order of ``detections.image_ids``."""
    judged = _judge(records, detections)
    corrected = _correctable(judged)
    base = _ap50(judged.score, judged.category, judged.verdict == RIGHT, judged.verdict != IGNORED, judged)
    weight = {name: _corrected_ap50(judged, name, corrected) - base for name in TYPES}
    count = {name: int((judged.verdict == name).sum()) for name in TYPES[:-1]}
    count["missed"] = int(_missed(judged).sum())
    return ErrorTypes(base, weight, count)


def _judge(records: Sequence[Record], detections: Detections) -> _Judged:
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
    object_category: list[np.ndarray] = []
    taken: list[np.ndarray] = []
    first = 0
    by_image = np.argsort(detections.image_index, kind="stable")
    ends = np.cumsum(np.bincount(detections.image_index, minlength=len(records)))
    for i, record in enumerate(records):
        rows = by_image[(ends[i - 1] if i else 0) : ends[i]]
        rows = rows[np.argsort(-detections.scores[rows], kind="stable")][:MAX_DETECTIONS]
        boxes, classes, skipped = _objects(record)
        crowd = np.array([bool(a.get("iscrowd")) for a in record["annotations"]], dtype=bool)
        iou = overlaps(detections.boxes[rows].astype(np.float64), boxes, crowd)
        verdict, target, used = _judge_image(iou, detections.category[rows], classes, skipped)
        counted = np.cumsum(~skipped) - 1  # position among counted objects
        target = np.where(target >= 0, counted[target] + first, -1) if len(boxes) else target
        parts.append((detections.scores[rows].astype(np.float64), detections.category[rows], verdict, target))
        object_category.append(classes[~skipped])
        taken.append(used[~skipped])
        first += len(classes[~skipped])
    score, category, verdict, target = (np.concatenate(column) for column in zip(*parts))
    return _Judged(score, category, verdict, target, np.concatenate(object_category), np.concatenate(taken))


def _objects(record: Record) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes G x 4, classes G, and which objects do not count (COCO's crowds, VOC's difficult ones)."""
    annotations = record["annotations"]
    classes = np.array([a["category_id"] for a in annotations], dtype=np.int64)
    skipped = np.array([bool(a.get("iscrowd") or a.get("difficult")) for a in annotations], dtype=bool)
    return corners(annotations), classes, skipped


def overlaps(a: np.ndarray, b: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """IoU D x G of boxes x0 y0 x1 y1; with a crowd the covered share of the detection, as in COCO."""
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    inter = np.prod(np.clip(sides, 0, None), axis=2)
    area_a, area_b = (np.prod(x[:, 2:] - x[:, :2], axis=1) for x in (a, b))
    union = area_a[:, None] + np.where(crowd, 0.0, area_b[None, :] - inter)
    return np.where(union > 0, inter / np.where(union > 0, union, 1), 0.0)


def _judge_image(
    iou: np.ndarray, category: np.ndarray, classes: np.ndarray, skipped: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(verdict D, target D, taken G) of one image; ``iou`` D x G with detections best first."""
    verdict = np.full(len(iou), "background", dtype="U14")
    target = np.full(len(iou), -1, dtype=np.int64)
    taken = np.zeros(len(classes), dtype=bool)
    same = category[:, None] == classes[None, :]
    for d, row in enumerate(iou):
        free = np.where(same[d] & ~taken & ~skipped, row, -1.0)
        if free.size and free.max() >= FOREGROUND:
            taken[free.argmax()] = True
            verdict[d] = RIGHT
        elif (same[d] & skipped & (row >= FOREGROUND)).any():
            verdict[d] = IGNORED
    for d in np.flatnonzero((verdict != RIGHT) & (verdict != IGNORED)).tolist():
        own = np.where(same[d] & ~skipped, iou[d], -1.0)
        other = np.where(~same[d] & ~skipped, iou[d], -1.0)
        verdict[d], target[d] = _kind(own, other)
    return verdict, target, taken


def _kind(own: np.ndarray, other: np.ndarray) -> tuple[str, int]:
    """Type of a false positive from its overlaps with objects of its own and of other classes (-1: not one of them)."""
    best_own, best_other = (float(x.max()) if x.size else -1.0 for x in (own, other))
    if BACKGROUND <= best_own < FOREGROUND:
        return "localisation", int(own.argmax())
    if best_other >= FOREGROUND:
        return "classification", int(other.argmax())
    if best_own >= FOREGROUND:
        return "duplicate", -1
    return ("background" if max(best_own, best_other) <= BACKGROUND else "both"), -1


def _correctable(judged: _Judged) -> np.ndarray:
    """bool[D]: the best localisation or classification error of each object that no detection has taken.

    One per object over both types, as in the authors' release, so that correcting both types finds an object once.
    """
    rows = np.flatnonzero(judged.target >= 0)
    rows = rows[~judged.taken[judged.target[rows]]]
    rows = rows[np.argsort(-judged.score[rows], kind="stable")]
    best = np.zeros(len(judged.score), dtype=bool)
    best[rows[np.unique(judged.target[rows], return_index=True)[1]]] = True
    return best


def _missed(judged: _Judged) -> np.ndarray:
    """bool[G]: objects that no detection finds, not even with its class or box corrected."""
    covered = judged.taken.copy()
    covered[judged.target[judged.target >= 0]] = True
    return ~covered


def _corrected_ap50(judged: _Judged, name: str, correctable: np.ndarray) -> float:
    """AP50 with one type of error corrected."""
    errors = judged.verdict == name
    right = (judged.verdict == RIGHT) | (errors & correctable)
    counted = (judged.verdict != IGNORED) & (~errors | correctable)
    category = judged.category
    if name == "classification":
        category = np.where(errors & correctable, judged.object_category[judged.target], category)
    without = _missed(judged) if name == "missed" else None
    return _ap50(judged.score, category, right, counted, judged, without)


def _ap50(
    score: np.ndarray,
    category: np.ndarray,
    right: np.ndarray,
    counted: np.ndarray,
    judged: _Judged,
    without: np.ndarray | None = None,
) -> float:
    """Mean over classes with objects of the 101-point AP, in percent."""
    objects = judged.object_category if without is None else judged.object_category[~without]
    values = []
    for c in np.unique(judged.object_category):
        positives = int((objects == c).sum())
        rows = np.flatnonzero((category == c) & counted)
        rows = rows[np.argsort(-score[rows], kind="mergesort")]
        hits = np.cumsum(right[rows])
        precision = hits / np.arange(1, len(rows) + 1)
        if positives:
            values.append(envelope_101(hits / positives, precision))
        elif len(rows):  # all its objects are missed and not counted: only false positives are left
            values.append(0.0)
    return 100 * float(np.mean(values)) if values else 0.0
