"""COCO box and mask AP with Detectron2's keys, by pycocotools or by faster-coco-eval where it gives equal numbers."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from runtime.errors import UserError
from transfer.data.coco import collector_paused
from transfer.evaluate.detections import Detections

SUMMARY = ("AP", "AP50", "AP75", "APs", "APm", "APl")
AREAS = {"AP": 0, "AP50": 0, "AP75": 0, "APs": 1, "APm": 2, "APl": 3}
MAX_DETECTIONS = 100  # per image and class
BACKENDS = {"official": ("pycocotools", "pycocotools"), "fast": ("faster_coco_eval", "faster-coco-eval")}


def choose_backend(evaluator: str) -> str:
    """``official`` or ``fast`` for the command line's auto, official or fast; UserError if it is not installed."""
    if evaluator == "auto":
        return "fast" if importlib.util.find_spec("faster_coco_eval") else "official"
    if evaluator not in BACKENDS:
        raise UserError(f"evaluator {evaluator!r}: choose auto, official or fast")
    module, package = BACKENDS[evaluator]
    if importlib.util.find_spec(module) is None:
        raise UserError(f"evaluator {evaluator} needs the package {package}: pip install {package}")
    return evaluator


def backend_id(backend: str) -> str:
    """What result.json records: ``coco/pycocotools-2.0.11``."""
    package = BACKENDS[backend][1]
    return f"coco/{package}-{importlib.metadata.version(package)}"


def coco_truth(content: dict[str, Any], backend: str) -> Any:
    """The backend's COCO object for a parsed annotation file, nothing printed."""
    if backend == "fast":
        from faster_coco_eval import COCO
    else:
        from pycocotools.coco import COCO
    truth = COCO()
    truth.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    return truth


def coco_results(detections: Detections, category_ids: Sequence[int], task: str) -> list[dict[str, Any]]:
    """Detections as COCO result entries; for masks without boxes, so that areas are those of the masks."""
    boxes = detections.boxes.copy()
    boxes[:, 2:] -= boxes[:, :2]  # in float32, as Detectron2 does
    columns = (detections.image_index.tolist(), detections.category.tolist(), detections.scores.tolist())
    rows = [
        {"image_id": detections.image_ids[i], "category_id": category_ids[c], "score": s} for i, c, s in zip(*columns)
    ]
    if task == "bbox":
        for row, box in zip(rows, boxes.tolist()):
            row["bbox"] = box
    else:
        for row, mask in zip(rows, detections.masks or []):
            row["segmentation"] = mask
    return rows


def coco_ap(
    truth: Any,
    results: list[dict[str, Any]],
    task: str,
    *,
    class_names: Sequence[str] = (),
    image_ids: Sequence[Any] | None = None,
    max_detections: int = MAX_DETECTIONS,
    backend: str = "official",
) -> dict[str, float]:
    """AP, AP50, AP75, APs, APm, APl in percent and AP-<class> when there is more than one class.

    ``truth`` from ``coco_truth``; ``results`` are COCO entries, ``task`` bbox or segm. Undefined values are NaN (a
    class or size without ground truth). No detection at all is 0, not Detectron2's NaN: a mean over seeds that left out
    the runs which found nothing would flatter them.
    """
    precision, thresholds = coco_precision(
        truth, results, task, image_ids=image_ids, max_detections=max_detections, backend=backend
    )
    values = {}
    for key in SUMMARY:
        part = precision[..., AREAS[key], -1]
        if key[2:].isdigit():
            part = part[np.isclose(thresholds, int(key[2:]) / 100)]
        values[key] = _mean(part)
    if len(class_names) > 1:
        for index, name in enumerate(class_names):
            values[f"AP-{name}"] = _mean(precision[:, :, index, 0, -1])
    return values


def coco_precision(
    truth: Any,
    results: list[dict[str, Any]],
    task: str,
    *,
    image_ids: Sequence[Any] | None = None,
    max_detections: int = MAX_DETECTIONS,
    backend: str = "official",
) -> tuple[np.ndarray, np.ndarray]:
    """(precision T x R x K x A x M with -1 where undefined, IoU thresholds T) after evaluate and accumulate.

    The libraries add fields to ``results`` in place: do not use them again.
    """
    if backend == "fast":
        from faster_coco_eval import COCOeval_faster as Evaluation
    else:
        from pycocotools.cocoeval import COCOeval as Evaluation
    with contextlib.redirect_stdout(io.StringIO()), collector_paused():
        # loadRes cannot read an empty list
        found = truth.loadRes(results) if results else coco_truth({**truth.dataset, "annotations": []}, backend)
        evaluation = Evaluation(truth, found, task)
        if image_ids is not None:
            evaluation.params.imgIds = sorted(image_ids)
        evaluation.params.maxDets = [1, 10, max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"], evaluation.params.iouThrs


def _mean(part: np.ndarray) -> float:
    defined = part[part > -1]
    return float(np.mean(defined) * 100) if defined.size else float("nan")
