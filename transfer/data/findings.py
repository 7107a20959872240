"""What the annotations of a data set do to the numbers measured on it, found while its records are read.

All annotations are looked at together, as arrays: a Python loop over the 860,000 of COCO would take seconds.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runtime.findings import Finding
from runtime.listing import listed
from transfer.data.box_modes import XYWH, corners
from transfer.data.labels import Labels, Record, Summary, file_keys

OUTSIDE_TOLERANCE = 1.0  # pixels; a box that exceeds its image by more is counted
LISTED_CLASSES = 5  # names of classes in an example
# a convention is named only where a few boxes agree on it: one box can have any coordinates by chance
MIN_BOXES = 3
COCO_LIMIT, LVIS_LIMIT = 100, 300  # detections that count: of one class in an image; of all classes in an image
HASH_FACTORS = np.random.default_rng(0).integers(1, 2**63, 6, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
EMPTY_BOX = "training drops them, evaluation counts them as objects that no detection can match; correct or remove them"


@dataclass(frozen=True)
class Annotations:
    """N annotations as arrays.

    ``boxes`` float N x 4 (x0 y0 x1 y1), ``image`` (position of the record), ``category``, ``size`` N x 2 (width, height
    of the image), ``counted``: neither a crowd (COCO) nor difficult (VOC).
    """

    records: Sequence[Record]
    boxes: np.ndarray
    image: np.ndarray
    category: np.ndarray
    size: np.ndarray
    counted: np.ndarray
    sized: bool  # whether the file gives x y width height

    @classmethod
    def of(cls, records: Sequence[Record]) -> Annotations:
        """The annotations of the records, in order."""
        flat = [a for record in records for a in record["annotations"]]
        image = np.repeat(np.arange(len(records)), [len(record["annotations"]) for record in records])
        sizes = np.array([(record["width"], record["height"]) for record in records], dtype=np.float64).reshape(-1, 2)
        return cls(
            records,
            corners(flat),
            image,
            np.array([a["category_id"] for a in flat], dtype=np.int64),
            sizes[image],
            np.array([not (a.get("iscrowd") or a.get("difficult")) for a in flat], dtype=bool),
            bool(flat) and flat[0]["bbox_mode"] == XYWH,
        )

    def example(self, rows: np.ndarray) -> str:
        """The image of the first of these rows (bool N), for a finding."""
        return f"image {self.records[self.image[int(np.argmax(rows))]]['image_id']}"

    def finding(self, kind: str, rows: np.ndarray, message: str) -> list[Finding]:
        """A finding on the rows (bool N) that are set; none where none is."""
        return [Finding(kind, int(rows.sum()), self.example(rows), message)] if rows.any() else []


def record_findings(labels: Labels, kind: str) -> list[Finding]:
    """Findings that every kind of data set (coco, lvis, voc, cityscapes) can have."""
    annotations = Annotations.of(labels.records)
    return [
        *repeated_images(labels.records),
        *_repeated_annotations(annotations),
        *_crowded_images(annotations, labels.class_names, kind),
        *_box_conventions(annotations),
        *_box_extents(annotations),
        *_empty_classes(annotations, labels, kind),
        *similar_names(labels.class_names),
    ]


def repeated_images(records: list[Record]) -> list[Finding]:
    """Files that several images name."""
    counts = Counter(file_keys(records))
    if len(counts) == len(records):
        return []
    repeated = [os.path.join(*key) for key, count in counts.items() if count > 1]
    message = (
        "its annotations are divided between its ids, so that correct detections count as false; merge the entries"
    )
    return [Finding("image file listed under several ids", len(repeated), repeated[0], message)]


def _repeated_annotations(annotations: Annotations) -> list[Finding]:
    """Annotations that repeat image, class and box of an earlier one."""
    if not len(annotations.boxes):
        return []
    rows = np.column_stack([annotations.image, annotations.category, annotations.boxes]) + 0.0  # no -0.0
    # equal rows get equal hashes, so that sorting one column brings them together; six columns take ten times as long
    hashes = (rows.view(np.uint64) * HASH_FACTORS).sum(axis=1)
    order = np.argsort(hashes, kind="stable")
    ordered = rows[order]
    copies = np.zeros(len(rows), dtype=bool)
    copies[order[1:]] = (ordered[1:] == ordered[:-1]).all(axis=1)
    message = "every copy is an object of its own, which no detection is left to match: AP falls; remove the copies"
    return annotations.finding("annotation listed more than once", copies, message)


def _crowded_images(annotations: Annotations, class_names: Sequence[str], kind: str) -> list[Finding]:
    """Images with more objects than an evaluator takes detections of."""
    if kind not in ("coco", "lvis") or not annotations.counted.any():
        return []  # VOC and Cityscapes count all detections
    classes = len(class_names) if kind == "coco" else 1
    group = annotations.image * classes + (annotations.category if kind == "coco" else 0)
    # not np.bincount: images x classes would be billions for a large set with many classes
    groups, counts = np.unique(group[annotations.counted], return_counts=True)
    limit = COCO_LIMIT if kind == "coco" else LVIS_LIMIT
    crowded = groups[counts > limit]
    if not len(crowded):
        return []
    most, number = int(groups[counts.argmax()]), int(counts.max())
    record, name = annotations.records[most // classes], class_names[most % classes] if kind == "coco" else "objects"
    example = f"image {record['image_id']} with {number} {name}"
    if kind == "lvis":
        message = f"LVIS evaluates {limit} detections an image, so that even perfect ones miss the rest"
    else:
        message = (
            f"only {limit} detections of a class are evaluated in an image, so that even perfect ones miss the rest; "
            f"raise the limit with --evaluator auto-{number} and TEST.DETECTIONS_PER_IMAGE"
        )
    return [Finding(f"image with more than {limit} objects", len(np.unique(crowded // classes)), example, message)]


def _box_conventions(annotations: Annotations) -> list[Finding]:
    """Boxes that are probably not x y width height in pixels."""
    boxes, size = annotations.boxes, annotations.size
    if len(boxes) < MIN_BOXES:
        return []
    written = boxes.copy()
    if annotations.sized:
        written[:, 2:] -= written[:, :2]
    if (np.abs(written) <= 1 + 1e-6).all() and (written % 1 != 0).any() and (size > 2).all():
        message = "boxes are expected in pixels; multiply them by the width and height of their image"
        return annotations.finding("box that looks normalised to 0..1", np.ones(len(boxes), dtype=bool), message)
    if not annotations.sized:
        return []
    low, high = written[:, :2], written[:, 2:]
    ordered = (high > low).all() and (high <= size + OUTSIDE_TOLERANCE).all()
    beyond = np.asarray((boxes[:, 2:] > size + OUTSIDE_TOLERANCE).any(axis=1))
    if not (ordered and beyond.any()):
        return []
    message = "every box would fit its image as x0 y0 x1 y1, but the format is x y width height; convert them"
    return annotations.finding("box that looks like x0 y0 x1 y1", beyond, message)


def _box_extents(annotations: Annotations) -> list[Finding]:
    """Boxes that training drops or clips."""
    boxes, size = annotations.boxes, annotations.size
    sides = boxes[:, 2:] - boxes[:, :2]
    negative = (sides < 0).any(axis=1)
    flat = ~negative & (sides == 0).any(axis=1)
    outside = ~negative & ~flat & ((boxes[:, 2:] <= 0) | (boxes[:, :2] >= size)).any(axis=1)
    excess: np.ndarray = np.maximum(-boxes[:, :2], boxes[:, 2:] - size).max(axis=1, initial=-np.inf)
    beyond = ~(negative | flat | outside) & (excess > OUTSIDE_TOLERANCE)
    clipped = "training clips them, evaluation takes them as they are; correct them"
    return [
        *annotations.finding("box of negative width or height", negative, EMPTY_BOX),
        *annotations.finding("box without area", flat, EMPTY_BOX),
        *annotations.finding("box outside its image", outside, EMPTY_BOX),
        *annotations.finding("box that extends beyond its image", beyond, clipped),
    ]


def _empty_classes(annotations: Annotations, labels: Labels, kind: str) -> list[Finding]:
    """Classes without an object that counts."""
    names = labels.class_names
    counts = np.bincount(annotations.category[annotations.counted], minlength=len(names))
    empty = [name for name, count in zip(names, counts) if not count]
    if not empty or not annotations.counted.any():
        return []
    if kind == "voc":
        effect = (
            "as a test set, the 11-point rule (VOC 2007) counts each as 0, which limits AP to "
            f"{100 * (len(names) - len(empty)) / len(names):.4g}, and the area rule makes AP undefined once one of "
            "them is detected"
        )
    else:
        effect = "a detector cannot learn them, and as a test set their AP is undefined and left out of the mean"
    dead = [name for name in empty if name in labels.parents]
    found = [Finding(f"class without objects, of {len(names)}", len(empty), listed(empty, LISTED_CLASSES), effect)]
    if dead:
        message = "other categories name it as their supercategory; it takes up a class of the detector: remove it"
        found.append(Finding("parent category without objects", len(dead), listed(dead, LISTED_CLASSES), message))
    return found


def similar_names(names: Sequence[str]) -> list[Finding]:
    """Classes whose names differ in nothing but case, spaces, hyphens and underscores."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[re.sub(r"[\s_-]+", "", name.casefold())].append(name)
    alike = [group for key, group in groups.items() if key and len(group) > 1]
    if not alike:
        return []
    message = "each spelling is a class of its own with part of the objects; use one spelling"
    return [Finding("class name in several spellings", len(alike), " / ".join(alike[0]), message)]


def shared_images(test_name: str, test: Summary, train_name: str, train: Summary) -> list[Finding]:
    """Images of a test set whose files a training set names too."""
    both = np.isin(test.paths, train.paths)
    if not both.any():
        return []
    example = f"image {test.image_ids[int(np.argmax(both))]}"
    message = f"{test_name} and {train_name} share their files: the detector is tested on what it was trained on"
    return [Finding("test image that is also trained on", int(both.sum()), example, message)]
