"""Pascal VOC AP by Detectron2's rule: scores rounded to 3 decimals, boxes to 1, overlap strictly above a threshold.

2007 test sets use the 11-point interpolation at every threshold, later years the area under the envelope. AP is the
mean over IoU 0.50, 0.55 ... 0.95 of the mean over classes, which differs from COCO's AP.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from transfer.data.labels import Record
from transfer.evaluate.detections import Detections

THRESHOLDS = np.arange(50, 100, 5) / 100.0


@dataclass
class Matches:
    """Detections of one class, best first, each with its best-overlapping ground truth in the same image.

    ``overlap`` D (-inf where the image has none of the class), ``target`` D (index of that object over all images),
    ``difficult`` D (of that object), ``positives``: objects that count, i.e. are not difficult.
    """

    overlap: np.ndarray
    target: np.ndarray
    difficult: np.ndarray
    positives: int


def voc_ap(
    records: Sequence[Record], detections: Detections, class_names: Sequence[str], *, eleven_point: bool
) -> dict[str, float]:
    """AP, AP50, AP75 and AP-<class> in percent, of ``records`` in the order of ``detections.image_ids``.

    A class without detections counts 0. A class without objects counts 0 with ``eleven_point``; otherwise it makes
    the mean NaN if it has detections.
    """
    boxes = written_boxes(detections.boxes)
    scores = np.rint(detections.scores.astype(np.float64) * 1000) / 1000
    table = np.zeros((len(THRESHOLDS), len(class_names)))
    truth = truth_by_class(records, len(class_names))
    for c in range(len(class_names)):
        rows = np.flatnonzero(detections.category == c)
        matches = match(boxes[rows], scores[rows], detections.image_index[rows], *truth[c])
        table[:, c] = [average_precision(matches, t, eleven_point=eleven_point) * 100 for t in THRESHOLDS]
    per_threshold = table.mean(axis=1)
    values = {"AP": float(np.mean(per_threshold)), "AP50": float(per_threshold[0]), "AP75": float(per_threshold[5])}
    values.update({f"AP-{name}": float(v) for name, v in zip(class_names, table.mean(axis=0))})
    return values


def written_boxes(boxes: np.ndarray) -> np.ndarray:
    """Boxes N x 4 float32 as the VOC text files hold them: 1-based top-left corner, one decimal, float64."""
    shifted = boxes.copy()
    shifted[:, :2] += 1  # still float32, as Detectron2 does it
    return np.rint(shifted.astype(np.float64) * 10) / 10


def truth_by_class(records: Sequence[Record], classes: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Per class: boxes G x 4 with 1-based inclusive pixels, image index G, difficult G."""
    rows: list[list[tuple[list[float], int, bool]]] = [[] for _ in range(classes)]
    for index, record in enumerate(records):
        for a in record["annotations"]:
            x0, y0, x1, y1 = a["bbox"]
            rows[a["category_id"]].append(([x0 + 1, y0 + 1, x1, y1], index, bool(a.get("difficult", 0))))
    return [
        (
            np.array([r[0] for r in of_class], dtype=np.float64).reshape(-1, 4),
            np.array([r[1] for r in of_class], dtype=np.int64),
            np.array([r[2] for r in of_class], dtype=bool),
        )
        for of_class in rows
    ]


def match(
    boxes: np.ndarray,
    scores: np.ndarray,
    images: np.ndarray,
    truth_boxes: np.ndarray,
    truth_images: np.ndarray,
    difficult: np.ndarray,
) -> Matches:
    """Sort detections of one class by score and find for each the ground truth it overlaps most.

    Boxes are x0 y0 x1 y1 with inclusive pixels (a width is x1 - x0 + 1). Equal scores keep their order; Detectron2
    leaves it to numpy's default sort, which differs between processors.
    """
    order = np.argsort(-scores, kind="stable")
    boxes, images = boxes[order], images[order]
    overlap = np.full(len(boxes), -np.inf)
    target = np.zeros(len(boxes), dtype=np.int64)
    of_image = _groups(truth_images)
    for image, rows in _groups(images).items():
        objects = of_image.get(image)
        if objects is not None:
            iou = inclusive_iou(boxes[rows], truth_boxes[objects])
            overlap[rows] = iou.max(axis=1)
            target[rows] = objects[iou.argmax(axis=1)]
    hit_difficult = difficult[target] if len(difficult) else np.zeros(len(boxes), dtype=bool)
    return Matches(overlap, target, hit_difficult, int((~difficult).sum()))


def _groups(values: np.ndarray) -> dict[int, np.ndarray]:
    """Value -> ascending positions where it occurs."""
    order = np.argsort(values, kind="stable")
    unique, starts = np.unique(values[order], return_index=True)
    return dict(zip(unique.tolist(), np.split(order, starts[1:])))


def inclusive_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU D x G of boxes D x 4 and G x 4 whose right and bottom pixels belong to them."""
    left_top = np.maximum(a[:, None, :2], b[None, :, :2])
    right_bottom = np.minimum(a[:, None, 2:], b[None, :, 2:])
    sides = np.maximum(right_bottom - left_top + 1.0, 0.0)
    inter = sides[..., 0] * sides[..., 1]
    area_a = (a[:, 2] - a[:, 0] + 1.0) * (a[:, 3] - a[:, 1] + 1.0)
    area_b = (b[:, 2] - b[:, 0] + 1.0) * (b[:, 3] - b[:, 1] + 1.0)
    return inter / (area_a[:, None] + area_b[None, :] - inter)


def average_precision(matches: Matches, threshold: float, *, eleven_point: bool) -> float:
    """AP (0..1) of one class at one IoU: an object's first detection is right, difficult objects do not count."""
    hit = matches.overlap > threshold
    counted = np.flatnonzero(hit & ~matches.difficult)
    right = np.zeros(len(hit))
    _, first = np.unique(matches.target[counted], return_index=True)
    right[counted[first]] = 1.0
    wrong = (1.0 - right) * ~(hit & matches.difficult)
    right, wrong = np.cumsum(right), np.cumsum(wrong)
    with np.errstate(divide="ignore", invalid="ignore"):
        recall = right / np.float64(matches.positives)
    precision = right / np.maximum(right + wrong, np.finfo(np.float64).eps)
    return eleven_point_area(recall, precision) if eleven_point else envelope_area(recall, precision)


def eleven_point_area(recall: np.ndarray, precision: np.ndarray) -> float:
    """Mean over recall 0, 0.1 ... 1 of the best precision at that recall or beyond (VOC 2007)."""
    total = 0.0
    for level in np.arange(0.0, 1.1, 0.1):
        reached = recall >= level
        total += (np.max(precision[reached]) if reached.any() else 0.0) / 11.0
    return float(total)


def envelope_area(recall: np.ndarray, precision: np.ndarray) -> float:
    """Area under the precision made monotonically decreasing (VOC from 2010 on)."""
    recall = np.concatenate(([0.0], recall, [1.0]))
    precision = np.concatenate(([0.0], precision, [0.0]))
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.flatnonzero(recall[1:] != recall[:-1])
    return float(np.sum((recall[steps + 1] - recall[steps]) * precision[steps + 1]))
