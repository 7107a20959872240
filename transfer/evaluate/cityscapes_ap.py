"""Cityscapes' AP of masks by the rule of cityscapesscripts (evalInstanceLevelSemanticLabeling.py), as in Detectron2.

A mask finds the object of its class whose region it overlaps by more than a threshold; regions of the ground truth are
disjoint, so from 0.5 on there is one at most. The best of several masks on one object is right, the others are wrong. A
mask without an object is wrong unless more than the threshold of its pixels lie in void, in a group of its class, or in
objects of its class that are too small to count. AP is the area under the precision-recall curve by its own step rule,
AP the mean over IoU 0.50, 0.55 ... 0.95 and over the classes that have objects.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pycocotools import mask as coco_mask

from runtime.errors import UserError
from runtime.image_formats import UNREADABLE, open_image
from transfer.data.cityscapes import LABEL_IDS, VOID_IDS, instance_file
from transfer.evaluate.detections import Detections, Rle

if TYPE_CHECKING:
    from transfer.data.catalog import DatasetSpec

THRESHOLDS = np.arange(0.5, 1.0, 0.05)  # as cityscapesscripts computes them, to the bit
SMALLEST = 100  # pixels; smaller objects do not count
PER_LABEL = 1000  # value of the n-th object of a label: 1000 x id + n; below 1000 it is the region of a group
NOBODY = -1


@dataclass(frozen=True)
class ClassOverlaps:
    """The masks of one class over all images.

    Each of D masks has its ``image``, ``score``, ``overlap`` (IoU with the object it overlaps most), ``target`` (that
    object's number, ``NOBODY`` where it does not count) and ``ignored`` (share of its pixels that excuses it).
    ``positives`` int[I]: objects of each image that count.
    """

    image: np.ndarray
    score: np.ndarray
    overlap: np.ndarray
    target: np.ndarray
    ignored: np.ndarray
    positives: np.ndarray

    def average_precision(self, threshold: float, weights: np.ndarray) -> float:
        """AP at one threshold when image i counts ``weights[i]`` times; NaN without an object."""
        positives = float(self.positives @ weights)
        if positives == 0:
            return float("nan")
        found = self.overlap > threshold
        right = np.zeros(len(found), dtype=bool)
        candidates = np.flatnonzero(found & (self.target != NOBODY))
        best_first = candidates[np.argsort(-self.score[candidates], kind="stable")]
        right[best_first[np.unique(self.target[best_first], return_index=True)[1]]] = True
        repeated = np.zeros_like(right)
        repeated[candidates] = ~right[candidates]
        wrong = repeated | (~found & (self.ignored <= threshold))
        counts = weights[self.image]
        chosen = np.flatnonzero((right | wrong) & (counts > 0))
        order = chosen[np.argsort(-self.score[chosen], kind="stable")]
        # equal scores are one point of the curve
        ends = np.flatnonzero(np.diff(self.score[order], append=-np.inf))
        true = np.cumsum(right[order] * counts[order])[ends]
        return step_area(true / positives, true / np.cumsum(counts[order])[ends])


def step_area(recall: np.ndarray, precision: np.ndarray) -> float:
    """Area under a curve of falling scores: each precision counts for half the way to both of its neighbours.

    The curve begins at recall 0 with precision 1, and its last point counts for half the way back alone.
    """
    recall, precision = np.append(0.0, recall), np.append(1.0, precision)
    padded = np.concatenate([[0.0], recall, recall[-1:]])
    return float(precision @ ((padded[2:] - padded[:-2]) / 2))


@dataclass(frozen=True)
class OverlapTable:
    """All classes of one data set, for AP under any weighting of the images."""

    classes: list[ClassOverlaps]
    images: int

    def by_class(self, weights: np.ndarray) -> np.ndarray:
        """AP of K classes at T thresholds, 0 to 1, NaN for classes without objects."""
        return np.array([[one.average_precision(t, weights) for t in THRESHOLDS] for one in self.classes])

    def ap(self, weights: np.ndarray) -> dict[str, float]:
        """AP, AP50, AP75 in percent when image i counts ``weights[i]`` times; NaN without any object."""
        table = self.by_class(weights)
        defined = table[~np.isnan(table).all(axis=1)]
        if not len(defined):
            return dict.fromkeys(("AP", "AP50", "AP75"), float("nan"))
        values = (defined.mean(), defined[:, 0].mean(), defined[:, 5].mean())
        return {name: float(value) * 100 for name, value in zip(("AP", "AP50", "AP75"), values)}


def cityscapes_ap(spec: DatasetSpec, detections: Detections) -> dict[str, float]:
    """AP, AP50 and AP-<class> in percent, of masks."""
    table = overlap_table(spec, detections)
    everything = np.ones(table.images, dtype=np.int64)
    whole = table.ap(everything)
    metrics = {name: whole[name] for name in ("AP", "AP50")}
    averages = table.by_class(everything).mean(axis=1) * 100
    return metrics | {f"AP-{name}": float(value) for name, value in zip(spec.class_names, averages)}


def overlap_table(spec: DatasetSpec, detections: Detections) -> OverlapTable:
    """What the masks of ``detections`` overlap, image by image. Raises UserError for detections without masks."""
    if detections.masks is None:
        raise UserError(f"data set {spec.name}: Cityscapes is evaluated on masks; set MODEL.MASK_ON True")
    files = {record["image_id"]: record["file_name"] for record in spec.records()}
    labels = [LABEL_IDS[name] for name in spec.class_names]
    parts: list[list[tuple[Any, ...]]] = [[] for _ in labels]
    positives = np.zeros((len(labels), len(detections.image_ids)), dtype=np.int64)
    of_image = np.argsort(detections.image_index, kind="stable")
    bounds = np.searchsorted(detections.image_index[of_image], np.arange(len(detections.image_ids) + 1))
    objects = 0
    for i, image_id in enumerate(detections.image_ids):
        path = instance_file(spec.annotations, files[image_id])
        truth = _Truth.of(_instances(path), objects)
        objects += len(truth.ids)
        for k, label in enumerate(labels):
            positives[k, i] = truth.counted[truth.label == label].sum()
        for row in of_image[bounds[i] : bounds[i + 1]]:
            if tuple(detections.masks[row]["size"]) != truth.index.shape:
                raise UserError(f"{path}: the map has another size than the masks of {image_id}; correct the map")
            histogram = truth.histogram(detections.masks[row])
            if histogram.any():  # an empty mask does not take part
                k = int(detections.category[row])
                parts[k].append((i, float(detections.scores[row]), *truth.overlap(histogram, labels[k])))
    classes = [_joined(rows_of_class, positives[k]) for k, rows_of_class in enumerate(parts)]
    return OverlapTable(classes, len(detections.image_ids))


def _joined(rows: list[tuple], positives: np.ndarray) -> ClassOverlaps:
    image, score, overlap, target, ignored = zip(*rows) if rows else ((),) * 5
    return ClassOverlaps(
        np.array(image, dtype=np.int64),
        np.array(score, dtype=np.float64),
        np.array(overlap, dtype=np.float64),
        np.array(target, dtype=np.int64),
        np.array(ignored, dtype=np.float64),
        positives,
    )


def _instances(path: Path) -> np.ndarray:
    """The map of the objects of one image, height x width int32."""
    try:
        with open_image(path) as file:
            values = np.asarray(file)
    except UNREADABLE as error:
        raise UserError(f"{path}: cannot read the map of the objects ({error})") from error
    if values.ndim != 2 or not np.issubdtype(values.dtype, np.integer):
        raise UserError(f"{path}: not a map of objects; a PNG with one 16-bit channel is expected")
    if values.min() < 0 or values.max() >= PER_LABEL * (max(LABEL_IDS.values()) + 1):
        raise UserError(f"{path}: value {values.max()} is of no label of Cityscapes; write 1000 x label + number")
    return values.astype(np.int32)


@dataclass(frozen=True)
class _Truth:
    """The R regions of one image's map: value, pixels, label, whether the region is an object that counts, and its
    number over all images. ``index`` int[height x width]: the region of each pixel."""

    ids: np.ndarray
    pixels: np.ndarray
    label: np.ndarray
    counted: np.ndarray
    number: np.ndarray
    index: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, first: int) -> _Truth:
        counts = np.bincount(values.ravel())
        ids = np.flatnonzero(counts)
        place = np.zeros(len(counts), dtype=np.int64)
        place[ids] = np.arange(len(ids))
        label = np.where(ids < PER_LABEL, ids, ids // PER_LABEL)
        counted = (ids >= PER_LABEL) & (counts[ids] >= SMALLEST)
        return cls(ids, counts[ids], label, counted, np.arange(first, first + len(ids)), place[values])

    def histogram(self, mask: Rle) -> np.ndarray:
        """Pixels of a mask in each region, int[R]."""
        left, top, width, height = (int(side) for side in coco_mask.toBbox(mask))
        box = (slice(top, top + height), slice(left, left + width))
        inside = coco_mask.decode(mask)[box].astype(bool)
        return np.bincount(self.index[box][inside], minlength=len(self.ids))

    def overlap(self, histogram: np.ndarray, label: int) -> tuple[float, int, float]:
        """(IoU, number or ``NOBODY``, share of excused pixels) of a mask of class ``label``."""
        pixels = int(histogram.sum())
        own = self.label == label
        shared = np.where(own, histogram, 0)
        union = self.pixels + pixels - shared
        best = int(np.argmax(shared / union))
        excused = histogram[np.isin(self.ids, VOID_IDS)].sum()
        excused += shared[self.ids < PER_LABEL].sum() + shared[self.pixels < SMALLEST].sum()
        number = int(self.number[best]) if own[best] and self.counted[best] else NOBODY
        return float(shared[best] / union[best]), number, float(excused / pixels)
