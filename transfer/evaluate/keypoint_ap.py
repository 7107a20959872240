"""COCO keypoint AP by pycocotools, with Detectron2's keys."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from runtime.errors import UserError
from transfer.evaluate.coco_ap import renumbered
from transfer.evaluate.detections import Detections

SUMMARY = ("AP", "AP50", "AP75", "APm", "APl")  # no small objects: COCO annotates no keypoints on them
HALF_PIXEL = 0.5  # files hold pixel indices, detectors give continuous coordinates
COCO_KEYPOINTS = 17  # of a person, to which COCO's standard deviations belong


def keypoint_ap(
    content: dict[str, Any], detections: Detections, category_ids: Sequence[int], sigmas: Sequence[float] = ()
) -> dict[str, float]:
    """AP, AP50, AP75, APm, APl in percent by object keypoint similarity, at most 20 detections per image.

    ``content`` is a parsed person_keypoints file, which is completed in place; ``sigmas`` are TEST.KEYPOINT_OKS_SIGMAS,
    one per keypoint, or empty for COCO's 17. Undefined values (a size without objects) are NaN; without any
    detection the values are 0. Raises UserError for detections without keypoints, and for another number of sigmas.
    """
    if detections.keypoints is None:
        raise UserError("the detections have no keypoints; run the detector again")
    count = detections.keypoints.shape[1] or len(sigmas) or COCO_KEYPOINTS
    if (len(sigmas) or COCO_KEYPOINTS) != count:
        raise UserError(
            f"TEST.KEYPOINT_OKS_SIGMAS has {len(sigmas)} entries (empty: COCO's {COCO_KEYPOINTS}), the detector has "
            f"{count} keypoints; give one per keypoint"
        )
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO()
    truth.dataset = _completed(content, count)
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        results = keypoint_results(detections, category_ids)
        if not results:
            return dict.fromkeys(SUMMARY, 0.0)
        evaluation = COCOeval(truth, truth.loadRes(results), "keypoints")
        if sigmas:
            evaluation.params.kpt_oks_sigmas = np.array(sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {key: _percent(value) for key, value in zip(SUMMARY, evaluation.stats)}


def keypoint_results(detections: Detections, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """Detections as COCO result entries. They keep the box, so that areas are those of boxes, as in Detectron2."""
    boxes = detections.boxes.copy()
    boxes[:, 2:] -= boxes[:, :2]
    assert detections.keypoints is not None
    points = detections.keypoints.copy()
    points[:, :, :2] -= HALF_PIXEL
    flat = points.reshape(len(points), 3 * points.shape[1])
    arrays = (detections.image_index, detections.category, detections.scores, boxes, flat)
    return [
        {
            "image_id": detections.image_ids[image],
            "category_id": category_ids[category],
            "score": score,
            "bbox": box,
            "keypoints": numbers,
        }
        for image, category, score, box, numbers in zip(*(array.tolist() for array in arrays))
    ]


def _completed(content: dict[str, Any], count: int) -> dict[str, Any]:
    """``content`` with the missing fields added; an annotation without keypoints is an object with none visible.

    Annotations are numbered from 1, see ``coco_truth``.
    """
    for annotation in content["annotations"]:
        points = annotation.setdefault("keypoints", [0] * (3 * count))
        if len(points) != 3 * count:
            raise UserError(f"annotation {annotation['id']} has {len(points)} numbers in keypoints, not {3 * count}")
        annotation.setdefault("num_keypoints", sum(flag > 0 for flag in points[2::3]))
        annotation.setdefault("iscrowd", 0)
        annotation.setdefault("area", annotation["bbox"][2] * annotation["bbox"][3])
    return {**content, "annotations": renumbered(content["annotations"])}


def _percent(value: float) -> float:
    return float(value) * 100 if value >= 0 else float("nan")
