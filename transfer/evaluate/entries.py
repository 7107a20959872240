"""COCO-style entries (annotations and results) as arrays, for COCO and LVIS files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from transfer.evaluate.detections import Rle

Entries = Sequence[Mapping[str, Any]]
Shapes = np.ndarray | Sequence[Rle]  # boxes N x 4 (x y width height, float64) or N run-length masks
AREA_BATCH = 200  # pycocotools 2.0.11 cannot take 256 masks at once with numpy 2


class Numbering:
    """Numbers images and classes of a parsed annotation file in the order of their ids."""

    def __init__(self, truth: Mapping[str, Any]) -> None:
        self.images = {id_: i for i, id_ in enumerate(sorted(image["id"] for image in truth["images"]))}
        self.class_ids = sorted(category["id"] for category in truth["categories"])
        self.classes = {id_: i for i, id_ in enumerate(self.class_ids)}

    def pairs(self, entries: Entries) -> np.ndarray:
        """Image x number of classes + class of each entry; -1 for a class that the file does not have."""
        return self.pairs_of((e["image_id"], e["category_id"]) for e in entries)

    def pairs_of(self, ids: Iterable[tuple[Any, Any]]) -> np.ndarray:
        """The same for (image id, category id); raises KeyError for an image that the file does not have."""
        images, classes, count = self.images, self.classes, len(self.classes)
        numbers = [images[i] * count + classes[c] if c in classes else -1 for i, c in ids]
        return np.array(numbers, dtype=np.int64)


def boxes(entries: Entries) -> np.ndarray:
    """Boxes N x 4, x y width height."""
    return np.array([e["bbox"] for e in entries], dtype=np.float64).reshape(-1, 4)


def scores(results: Entries) -> np.ndarray:
    """Scores N, float64."""
    return np.array([r["score"] for r in results], dtype=np.float64)


def box_areas(boxes: np.ndarray) -> np.ndarray:
    """Areas N of boxes N x 4, x y width height."""
    return boxes[:, 2] * boxes[:, 3]


def mask_areas(masks: Sequence[Rle]) -> np.ndarray:
    """Pixels of each run-length mask, float64."""
    parts = [coco_mask.area(masks[i : i + AREA_BATCH]) for i in range(0, len(masks), AREA_BATCH)]
    return np.concatenate(parts).astype(np.float64) if parts else np.zeros(0)


def result_shapes(results: Entries, task: str) -> tuple[Shapes, np.ndarray]:
    """Boxes (``task`` bbox) or masks (segm) of results, and their areas."""
    if task == "bbox":
        shapes = boxes(results)
        return shapes, box_areas(shapes)
    masks = [r["segmentation"] for r in results]
    return masks, mask_areas(masks)


def truth_shapes(truth: Mapping[str, Any], annotations: Entries, task: str) -> Shapes:
    """Boxes (``task`` bbox) or run-length masks (segm) of ``annotations`` of the file."""
    if task == "bbox":
        return boxes(annotations)
    sizes = {i["id"]: (i["height"], i["width"]) for i in truth["images"]}
    return [run_length(a["segmentation"], *sizes[a["image_id"]]) for a in annotations]


def run_length(segmentation: Any, height: int, width: int) -> Rle:
    """Polygons or counts of a height x width image as a compressed run-length mask."""
    if isinstance(segmentation, list):
        mask: Rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        mask = coco_mask.frPyObjects(segmentation, height, width)
    else:
        mask = segmentation
    return mask
