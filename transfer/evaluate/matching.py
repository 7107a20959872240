"""The rule that COCO's and LVIS's evaluators share: greedy matching by IoU, precision interpolated at 101 recalls.

All images, classes, area ranges and IoU thresholds go through it together, as arrays: A = area ranges,
T = IoU thresholds, D = detections, G = ground-truth objects.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask

from transfer.evaluate.entries import Shapes, box_areas

AREAS = np.array([(0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10)])  # all, small, medium, large
IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass
class Objects:
    """Ground truth G: ``pair`` (image x number of classes + class), area, shape, and three booleans each.

    ``ignored``: neither to be found nor punished; ``crowd``: may be matched again and again; ``nameless``: its matches
    do not count as such.
    """

    pair: np.ndarray
    area: np.ndarray
    shapes: Shapes
    ignored: np.ndarray
    crowd: np.ndarray
    nameless: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> Objects:
        taken = _take(self.shapes, rows)
        return Objects(
            self.pair[rows], self.area[rows], taken, self.ignored[rows], self.crowd[rows], self.nameless[rows]
        )


@dataclass
class Scored:
    """Detections D: ``pair``, area and shape as in Objects, score, and whether they are forgiven when unmatched."""

    pair: np.ndarray
    area: np.ndarray
    shapes: Shapes
    score: np.ndarray
    forgiven: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> Scored:
        return Scored(self.pair[rows], self.area[rows], _take(self.shapes, rows), self.score[rows], self.forgiven[rows])


def _take(shapes: Shapes, rows: np.ndarray) -> Shapes:
    return shapes[rows] if isinstance(shapes, np.ndarray) else [shapes[i] for i in rows.tolist()]


@dataclass
class Matches:
    """Who found what: ``found`` best first within each pair, ``objects`` by pair.

    ``matched``, ``ignored`` bool D x A x T. ``skipped`` bool G x A: objects that do not count in an area range.
    """

    objects: Objects
    found: Scored
    matched: np.ndarray
    ignored: np.ndarray
    skipped: np.ndarray


def match_all(objects: Objects, found: Scored, limit: int | None = None) -> Matches:
    """Match every detection in every area range at every threshold.

    Objects and detections with pair -1 (of no class) are left out.
    ``limit``: that many best detections of a pair take part. Where scores or overlaps are equal, the order of the
    given arrays decides, and between images their number.
    """
    by_pair = np.argsort(objects.pair, kind="stable")
    objects = objects[by_pair[objects.pair[by_pair] >= 0]]
    best_first = np.lexsort((-found.score, found.pair))
    best_first = best_first[found.pair[best_first] >= 0]
    if limit is not None:
        best_first = best_first[_position_in_run(found.pair[best_first]) < limit]
    found = found[best_first]
    skipped = objects.ignored[:, None] | _outside(objects.area)
    matched, ignored = match(*overlapping(objects, found), objects, skipped, len(found.score))
    ignored |= ~matched & (_outside(found.area) | found.forgiven[:, None])[:, :, None]
    return Matches(objects, found, matched, ignored, skipped)


def precision_table(objects: Objects, found: Scored, classes: int, limit: int | None = None) -> np.ndarray:
    """Precision T x R x K x A at IOUS, RECALLS, the K classes and AREAS; -1 where no object counts.

    ``limit`` and ties as in ``match_all``.
    """
    made = match_all(objects, found, limit)
    object_class, found_class = made.objects.pair % classes, made.found.pair % classes
    order = np.lexsort((-made.found.score, found_class))
    bounds = np.searchsorted(found_class[order], np.arange(classes + 1))
    table = np.full((len(IOUS), len(RECALLS), classes, len(AREAS)), -1.0)
    positives = np.stack([np.bincount(object_class, ~s, minlength=classes) for s in made.skipped.T], axis=1)
    for k in np.flatnonzero(positives.any(axis=1)):
        rows = order[bounds[k] : bounds[k + 1]]
        table[:, :, k] = interpolated_precision(made.matched[rows], made.ignored[rows], positives[k])
    return table


def _outside(areas: np.ndarray) -> np.ndarray:
    """N x A: whether an area lies outside each range; both ends belong to a range."""
    return (areas[:, None] < AREAS[:, 0]) | (areas[:, None] > AREAS[:, 1])


def overlapping(objects: Objects, found: Scored) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(detection, object, IoU) of everything in the same pair that reaches the lowest threshold, in that order."""
    first, last = (np.searchsorted(objects.pair, found.pair, side=side) for side in ("left", "right"))
    counts = last - first
    detection = np.repeat(np.arange(len(counts)), counts)
    target = np.arange(len(detection)) + np.repeat(first - (np.cumsum(counts) - counts), counts)
    if isinstance(objects.shapes, np.ndarray):
        assert isinstance(found.shapes, np.ndarray)
        iou = box_iou(found.shapes[detection], objects.shapes[target], objects.crowd[target])
    else:
        iou = _mask_iou(objects, found, first, last)
    near = iou >= IOUS[0]
    return detection[near], target[near], iou[near]


def box_iou(found: np.ndarray, objects: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """IoU of N boxes with N others (x y width height), in pycocotools' order of operations; the part of the detection
    that is covered where the object is a crowd."""
    low = np.maximum(found[:, :2], objects[:, :2])
    sides = np.minimum(found[:, 2:] + found[:, :2], objects[:, 2:] + objects[:, :2]) - low
    meet = (sides > 0).all(axis=1)
    common = np.where(meet, sides[:, 0] * sides[:, 1], 0.0)
    own = box_areas(found)
    union = np.where(crowd, own, own + box_areas(objects) - common)
    return np.divide(common, union, out=np.zeros_like(common), where=meet)


def _mask_iou(objects: Objects, found: Scored, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """IoU of every detection with the objects ``first`` to ``last`` of its pair, flat; one call per pair."""
    starts = np.flatnonzero(np.diff(found.pair, prepend=-1))
    ends = np.append(starts[1:], len(found.pair))
    parts = [
        coco_mask.iou(found.shapes[start:end], objects.shapes[a:b], objects.crowd[a:b].tolist()).ravel()
        for start, end, a, b in zip(starts.tolist(), ends.tolist(), first[starts].tolist(), last[starts].tolist())
        if a < b
    ]
    return np.concatenate(parts) if parts else np.zeros(0)


def match(
    detection: np.ndarray, target: np.ndarray, iou: np.ndarray, objects: Objects, skipped: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Give each detection, best first, the free object of its pair that it overlaps most.

    ``detection``, ``target``, ``iou`` from ``overlapping``; ``skipped`` G x A are objects that do not count in an area
    range: they are taken only where no object that counts is left, and of equal overlaps the last one is taken.
    Returns matched and ignored, ``count`` x A x T: whether a detection got an object, and one that does not count.
    The best detections of all pairs choose together, then the second best of all, and so on.
    """
    shape = (len(AREAS), len(IOUS))
    matched, ignored = np.zeros((count, *shape), dtype=bool), np.zeros((count, *shape), dtype=bool)
    if not len(detection):
        return matched, ignored
    rows, begin, counts = np.unique(detection, return_index=True, return_counts=True)
    turn = _position_in_run(objects.pair[target[begin]])
    slot = np.arange(len(detection)) - np.repeat(begin, counts)
    # one row per detection, filled up with an object that is never free
    shelf = np.full((len(rows), counts.max()), len(skipped))
    overlap = np.zeros(shelf.shape)
    row = np.repeat(np.arange(len(rows)), counts)
    shelf[row, slot], overlap[row, slot] = target, iou
    free = np.ones((len(skipped) + 1, *shape), dtype=bool)
    free[-1] = False
    skipped, crowd = np.append(skipped, [[True] * len(AREAS)], axis=0), np.append(objects.crowd, False)
    for turns in np.split(np.argsort(turn, kind="stable"), np.cumsum(np.bincount(turn))[:-1]):
        wide = counts[turns].max()
        wanted, values = shelf[turns, :wide], overlap[turns, :wide, None, None]
        reach = free[wanted] & (values >= np.minimum(IOUS, 1 - 1e-10))  # n x slots x A x T
        counting = reach & ~skipped[wanted][..., None]
        reach = np.where(counting.any(axis=1, keepdims=True), counting, reach)
        best = wide - 1 - np.where(reach, values, -1.0)[:, ::-1].argmax(axis=1)
        n, a, t = np.nonzero(reach.any(axis=1))
        taken, who = wanted[n, best[n, a, t]], rows[turns[n]]
        free[taken, a, t] = crowd[taken]
        matched[who, a, t] = ~objects.nameless[taken]
        ignored[who, a, t] = skipped[taken, a]
    return matched, ignored


def _position_in_run(values: np.ndarray) -> np.ndarray:
    """0, 1, 2 ... within every run of equal values."""
    starts = np.flatnonzero(np.diff(values, prepend=-1))
    lengths = np.diff(np.append(starts, len(values)))
    return np.arange(len(values)) - np.repeat(starts, lengths)


def interpolated_precision(matched: np.ndarray, ignored: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """T x R x A of one class: its detections best first (D x A x T), and the number of objects per area range (A)."""
    right = np.cumsum(matched & ~ignored, axis=0, dtype=np.float64)
    wrong = np.cumsum(~matched & ~ignored, axis=0, dtype=np.float64)
    precision = right / (wrong + right + np.spacing(1))
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    table = np.full((len(IOUS), len(RECALLS), len(AREAS)), -1.0)
    for a in np.flatnonzero(positives):
        table[:, :, a] = 0.0
        recall = (right[:, a] / positives[a]).T.copy()
        for t, levels in enumerate(recall):
            at = np.searchsorted(levels, RECALLS, side="left")
            reached = at < len(levels)
            table[t, reached, a] = envelope[at[reached], a, t]
    return table


def mean_percent(part: np.ndarray) -> float:
    """Mean of the defined entries (not -1) of a precision table in percent; NaN where there is none."""
    defined = part[part > -1]
    return float(np.mean(defined) * 100) if defined.size else float("nan")
