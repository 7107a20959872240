"""The rule of COCO's and LVIS's evaluators: greedy matching by IoU, precision interpolated at 101 recalls.

All images, classes, area ranges and IoU thresholds are processed together, as arrays: A = area ranges,
T = IoU thresholds, D = detections, G = ground-truth objects. A pair is an image and a class: detections and objects of
different pairs never match, so all pairs can be matched side by side.
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
    """Ground truth G: ``pair`` (image x number of classes + class), area, shape, and two booleans each.

    ``ignored``: neither expected nor counted as an error when scored; ``crowd``: can be matched any number of times.
    """

    pair: np.ndarray
    area: np.ndarray
    shapes: Shapes
    ignored: np.ndarray
    crowd: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> Objects:
        taken = _take(self.shapes, rows)
        return Objects(self.pair[rows], self.area[rows], taken, self.ignored[rows], self.crowd[rows])


@dataclass
class Scored:
    """Detections D: ``pair``, area and shape as in ``Objects``, score, and ``forgiven``: ignored when unmatched."""

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
    """The result of matching: ``scored``, best first within each pair, and ``objects``, ordered by pair.

    ``matched``, ``ignored`` bool D x A x T. ``skipped`` bool G x A: objects that do not count in an area range.
    """

    objects: Objects
    scored: Scored
    matched: np.ndarray
    ignored: np.ndarray
    skipped: np.ndarray


def match_all(objects: Objects, scored: Scored, limit: int | None = None) -> Matches:
    """Match every detection in every area range at every threshold.

    Objects and detections with pair -1 (an unknown class) are left out. ``limit``: only that many best detections of
    each pair take part. Ties of scores or overlaps are decided by the order of the given arrays, and between images by
    their numbers.
    """
    by_pair = np.argsort(objects.pair, kind="stable")
    objects = objects[by_pair[objects.pair[by_pair] >= 0]]
    best_first = np.lexsort((-scored.score, scored.pair))
    best_first = best_first[scored.pair[best_first] >= 0]
    if limit is not None:
        best_first = best_first[_position_in_run(scored.pair[best_first]) < limit]
    scored = scored[best_first]
    skipped = objects.ignored[:, None] | _outside(objects.area)
    matched, ignored = match(*overlapping(objects, scored), objects, skipped, len(scored.score))
    ignored |= ~matched & (_outside(scored.area) | scored.forgiven[:, None])[:, :, None]
    return Matches(objects, scored, matched, ignored, skipped)


def precision_table(objects: Objects, scored: Scored, classes: int, limit: int | None = None) -> np.ndarray:
    """Precision T x R x K x A at IOUS, RECALLS, the K classes and AREAS; -1 where no object counts.

    ``limit`` and ties as in ``match_all``.
    """
    matches = match_all(objects, scored, limit)
    object_class, found_class = matches.objects.pair % classes, matches.scored.pair % classes
    order = np.lexsort((-matches.scored.score, found_class))
    bounds = np.searchsorted(found_class[order], np.arange(classes + 1))
    table = np.full((len(IOUS), len(RECALLS), classes, len(AREAS)), -1.0)
    positives = np.stack([np.bincount(object_class, ~s, minlength=classes) for s in matches.skipped.T], axis=1)
    for k in np.flatnonzero(positives.any(axis=1)):
        rows = order[bounds[k] : bounds[k + 1]]
        table[:, :, k] = interpolated_precision(matches.matched[rows], matches.ignored[rows], positives[k])
    return table


def _outside(areas: np.ndarray) -> np.ndarray:
    """N x A: whether an area lies outside each range; both ends belong to a range."""
    return (areas[:, None] < AREAS[:, 0]) | (areas[:, None] > AREAS[:, 1])


def overlapping(objects: Objects, scored: Scored) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(detection, object, IoU) of everything in the same pair that reaches the lowest threshold, in that order."""
    first, last = (np.searchsorted(objects.pair, scored.pair, side=side) for side in ("left", "right"))
    counts = last - first
    detection = np.repeat(np.arange(len(counts)), counts)
    target = np.arange(len(detection)) + np.repeat(first - (np.cumsum(counts) - counts), counts)
    if isinstance(objects.shapes, np.ndarray):
        assert isinstance(scored.shapes, np.ndarray)
        iou = box_iou(scored.shapes[detection], objects.shapes[target], objects.crowd[target])
    else:
        iou = _mask_iou(objects, scored, first, last)
    near = iou >= IOUS[0]
    return detection[near], target[near], iou[near]


def box_iou(boxes: np.ndarray, objects: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """IoU of N boxes with N others (x y width height), in pycocotools' order of operations, so that it rounds alike.

    For a crowd, the covered share of the detection instead.
    """
    low = np.maximum(boxes[:, :2], objects[:, :2])
    sides = np.minimum(boxes[:, 2:] + boxes[:, :2], objects[:, 2:] + objects[:, :2]) - low
    meet = (sides > 0).all(axis=1)
    common = np.where(meet, sides[:, 0] * sides[:, 1], 0.0)
    own = box_areas(boxes)
    union = np.where(crowd, own, own + box_areas(objects) - common)
    return np.divide(common, union, out=np.zeros_like(common), where=meet)


def _mask_iou(objects: Objects, scored: Scored, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """IoU of every detection with the objects ``first`` to ``last`` of its pair, flat; one call per pair."""
    starts = np.flatnonzero(np.diff(scored.pair, prepend=-1))
    ends = np.append(starts[1:], len(scored.pair))
    parts = [
        coco_mask.iou(scored.shapes[start:end], objects.shapes[a:b], objects.crowd[a:b].tolist()).ravel()
        for start, end, a, b in zip(starts.tolist(), ends.tolist(), first[starts].tolist(), last[starts].tolist())
        if a < b
    ]
    return np.concatenate(parts) if parts else np.zeros(0)


def match(
    detection: np.ndarray, target: np.ndarray, iou: np.ndarray, objects: Objects, skipped: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Match each detection, best first, with the free object of its pair that it overlaps most.

    ``detection``, ``target``, ``iou`` are from ``overlapping``. ``skipped`` G x A: objects that do not count in an area
    range; they are matched only when no object that counts is left. Of equal overlaps the last object is matched, as in
    pycocotools. Returns matched and ignored, ``count`` x A x T: whether a detection has an object, and whether that
    object does not count.

    A detection's choice depends only on those of the better detections of its own pair. So the loop runs over places
    within the pair: the best detections of all pairs choose at once, then the second best of all, and so on. The number
    of steps is the largest number of overlapping detections in a pair, not the number of detections.
    """
    shape = (len(AREAS), len(IOUS))
    matched, ignored = np.zeros((count, *shape), dtype=bool), np.zeros((count, *shape), dtype=bool)
    if not len(detection):
        return matched, ignored
    rows, begin, counts = np.unique(detection, return_index=True, return_counts=True)
    turn = _position_in_run(objects.pair[target[begin]])
    slot = np.arange(len(detection)) - np.repeat(begin, counts)
    # one row of candidate objects per detection, padded with an object that is never free
    candidates = np.full((len(rows), counts.max()), len(skipped))
    overlap = np.zeros(candidates.shape)
    row = np.repeat(np.arange(len(rows)), counts)
    candidates[row, slot], overlap[row, slot] = target, iou
    free = np.ones((len(skipped) + 1, *shape), dtype=bool)
    free[-1] = False
    skipped, crowd = np.append(skipped, [[True] * len(AREAS)], axis=0), np.append(objects.crowd, False)
    for turns in np.split(np.argsort(turn, kind="stable"), np.cumsum(np.bincount(turn))[:-1]):
        wide = counts[turns].max()
        objects_of, values = candidates[turns, :wide], overlap[turns, :wide, None, None]
        reach = free[objects_of] & (values >= np.minimum(IOUS, 1 - 1e-10))  # n x slots x A x T, pycocotools' threshold
        counting = reach & ~skipped[objects_of][..., None]
        reach = np.where(counting.any(axis=1, keepdims=True), counting, reach)
        # the reversal makes argmax return the last of equal overlaps
        best = wide - 1 - np.where(reach, values, -1.0)[:, ::-1].argmax(axis=1)
        n, a, t = np.nonzero(reach.any(axis=1))
        taken, who = objects_of[n, best[n, a, t]], rows[turns[n]]
        free[taken, a, t] = crowd[taken]
        matched[who, a, t] = True
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
