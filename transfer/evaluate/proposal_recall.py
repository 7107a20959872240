"""Average recall of object proposals, with Detectron2's keys and arithmetic (``_evaluate_box_proposals``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from transfer.data.box_modes import XYWH, corners
from transfer.evaluate.detections import Detections

if TYPE_CHECKING:
    import torch

    from transfer.data.catalog import DatasetSpec

LIMITS = (100, 1000)  # proposals an image
AREAS = {  # suffix of the metric -> smallest and largest area in pixels, both included
    "": (0.0, 1e10),
    "s": (0.0, 32.0**2),
    "m": (32.0**2, 96.0**2),
    "l": (96.0**2, 1e10),
}
Objects = tuple[np.ndarray, np.ndarray]  # boxes M x 4 (x0 y0 x1 y1) and areas M, float32


def proposal_recall(objects: Mapping[Any, Objects], detections: Detections) -> dict[str, float]:
    """AR@100, ARs@100, ARm@100, ARl@100 and the same at 1000, in percent: recall, averaged over IoU 0.5 .. 0.95.

    ``objects``: those of each image, by its id. An object is found by one proposal, a proposal finds one object. NaN
    for a size without objects. An image without a proposal counts with all of its objects missed; Detectron2 leaves
    it out, which makes the recall of a network that finds nothing the higher.
    """
    return {
        f"AR{suffix}@{limit}": _average_recall(_overlaps(objects, detections, limit, area))
        for limit in LIMITS
        for suffix, area in AREAS.items()
    }


def _average_recall(overlaps: torch.Tensor) -> float:
    """Mean over thresholds of the share of ``overlaps`` (one an object) that reach them, in Detectron2's float32."""
    import torch

    if not len(overlaps):
        return float("nan")
    thresholds = torch.arange(0.5, 0.95 + 1e-5, 0.05, dtype=torch.float32)
    recalls = torch.stack([(overlaps >= threshold).float().sum() / float(len(overlaps)) for threshold in thresholds])
    return float(recalls.mean().item() * 100)


def _overlaps(
    objects: Mapping[Any, Objects], detections: Detections, limit: int, area: tuple[float, float]
) -> torch.Tensor:
    """The overlap of every object with the proposal that it is given, 0 without one."""
    import torch

    found = []
    for index, image_id in enumerate(detections.image_ids):
        boxes, areas = objects[image_id]
        boxes = boxes[(areas >= area[0]) & (areas <= area[1])]
        if len(boxes):
            rows = np.flatnonzero(detections.image_index == index)
            order = torch.from_numpy(detections.scores[rows]).sort(descending=True)[1].numpy()
            found.append(_assign(torch.from_numpy(detections.boxes[rows][order][:limit]), torch.from_numpy(boxes)))
    return torch.cat(found) if found else torch.zeros(0)


def _assign(proposals: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Overlaps M of the objects' ``boxes`` with their proposals: pairs are taken by falling overlap."""
    import torch
    from torchvision.ops import box_iou

    left = box_iou(proposals, boxes)
    found = torch.zeros(len(boxes))
    for step in range(min(len(proposals), len(boxes))):
        best, row = left.max(dim=0)
        found[step], column = best.max(dim=0)
        left[row[column], :] = -1
        left[:, column] = -1
    return found


def objects_of(spec: DatasetSpec) -> dict[Any, Objects]:
    """The objects of every image of a data set; crowds and VOC's difficult objects are left out.

    Areas are those of a COCO or LVIS file (of the masks, where it has them), and those of the boxes of other data.
    """
    if spec.kind not in ("coco", "lvis"):
        return {record["image_id"]: _with_areas(_countable(record["annotations"])) for record in spec.records()}
    by_image: dict[Any, list[dict[str, Any]]] = {image_id: [] for image_id in spec.summary.image_ids}
    for annotation in spec.content()["annotations"]:
        if annotation["image_id"] in by_image:
            by_image[annotation["image_id"]].append({**annotation, "bbox_mode": XYWH})
    return {image_id: _with_areas(_countable(annotations)) for image_id, annotations in by_image.items()}


def _countable(annotations: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [a for a in annotations if not a.get("iscrowd") and not a.get("difficult")]


def _with_areas(annotations: Sequence[dict[str, Any]]) -> Objects:
    boxes = corners(annotations, np.float32).astype(np.float32)
    sides = boxes[:, 2:] - boxes[:, :2]
    own = sides[:, 0] * sides[:, 1]
    areas = np.array([a.get("area", own[i]) for i, a in enumerate(annotations)], dtype=np.float32)
    return boxes, areas
