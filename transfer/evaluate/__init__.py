"""Metrics of detections on a data set, the same for every engine."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from runtime.errors import UserError
from transfer.evaluate.detections import Detections
from transfer.evaluate.headline import PROPOSALS

if TYPE_CHECKING:
    from transfer.data.catalog import DatasetSpec

Metrics = dict[str, dict[str, float]]  # {"bbox": {"AP": 27.1, ...}, "segm": {...}}, percent
OF_PROPOSALS = "proposals/recall-1000"


def evaluate(
    spec: DatasetSpec, detections: Detections, *, evaluator: str = "auto", sigmas: Sequence[float] = ()
) -> tuple[Metrics, str]:
    """Metrics of the detections of one data set, and the id of the evaluator that computed them.

    ``evaluator``: ``official`` (pycocotools), ``fast`` (this project's), ``hotcoco``, or ``auto`` (the faster of the
    last two that takes the data), all equal; ``auto-300`` for another limit than 100 detections. It affects only boxes
    and masks of COCO data. ``sigmas`` are those of ``keypoint_ap``. Proposals have a recall, whatever the evaluator.
    Raises UserError for detections of other images and a data set without annotations.
    """
    expected = set(spec.summary.image_ids)
    detected = set(detections.image_ids)
    if detected != expected or len(detections.image_ids) != len(detected):
        raise UserError(
            f"data set {spec.name} has {len(expected)} images, the detections cover {len(detections.image_ids)} "
            f"({len(detected - expected)} unknown, {len(expected - detected)} missing); run the detector on it again"
        )
    if not spec.summary.annotated(masks=detections.masks is not None):
        raise UserError(f"data set {spec.name} has no annotations to evaluate against")
    if detections.are_proposals:
        from transfer.evaluate.proposal_recall import objects_of, proposal_recall

        return {PROPOSALS: proposal_recall(objects_of(spec), detections)}, OF_PROPOSALS
    metrics, used = EVALUATORS[spec.evaluator](spec, detections, evaluator)
    if detections.keypoints is not None:
        metrics["keypoints"] = _keypoints(spec, detections, sigmas)
    return metrics, used


def evaluator_id(spec: DatasetSpec, evaluator: str = "auto", *, proposals: bool = False) -> str:
    """The id that ``evaluate`` would return for this data set; ``proposals``: of a region proposal network alone."""
    if proposals:
        return OF_PROPOSALS
    return EVALUATOR_IDS[spec.evaluator](spec, evaluator)


def _tasks(detections: Detections) -> list[str]:
    return ["bbox"] if detections.masks is None else ["bbox", "segm"]


def _coco_id(spec: DatasetSpec, evaluator: str) -> str:
    from transfer.evaluate.coco_ap import choose_rule

    return choose_rule(evaluator).id


def _coco(spec: DatasetSpec, detections: Detections, evaluator: str) -> tuple[Metrics, str]:
    from transfer.evaluate.coco_ap import backends_of, choose_rule

    rule = choose_rule(evaluator)
    content = spec.content(masks=detections.masks is not None)
    *faster, last = backends_of(rule, content)
    for backend in faster:
        with contextlib.suppress(UserError):  # it does not take these data; the last one does, or says why not
            return _coco_by(backend, content, spec, detections, rule.limit), rule.id
    return _coco_by(last, content, spec, detections, rule.limit), rule.id


def _coco_by(backend: str, content: dict[str, Any], spec: DatasetSpec, detections: Detections, limit: int) -> Metrics:
    from transfer.evaluate.coco_ap import coco_ap, coco_results, coco_truth

    truth = coco_truth(content, backend)
    return {
        task: coco_ap(
            truth,
            coco_results(detections, spec.category_ids, task),
            task,
            class_names=spec.class_names,
            max_detections=limit,
            backend=backend,
        )
        for task in _tasks(detections)
    }


def _keypoints(spec: DatasetSpec, detections: Detections, sigmas: Sequence[float]) -> dict[str, float]:
    from transfer.evaluate.keypoint_ap import keypoint_ap

    if spec.kind != "coco":
        raise UserError(f"data set {spec.name}: keypoints are evaluated on COCO files only")
    return keypoint_ap(spec.content(), detections, spec.category_ids, sigmas)


def _voc_id(spec: DatasetSpec, evaluator: str) -> str:
    return "voc/2007-11pt" if spec.year == 2007 else "voc/area"


def _voc(spec: DatasetSpec, detections: Detections, evaluator: str) -> tuple[Metrics, str]:
    from transfer.evaluate.voc_ap import voc_ap

    by_id = {record["image_id"]: record for record in spec.records()}
    records = [by_id[image_id] for image_id in detections.image_ids]
    metrics = voc_ap(records, detections, spec.class_names, eleven_point=spec.year == 2007)
    return {"bbox": metrics}, _voc_id(spec, evaluator)


def _lvis_id(spec: DatasetSpec, evaluator: str) -> str:
    return "lvis/federated-300"


def _lvis(spec: DatasetSpec, detections: Detections, evaluator: str) -> tuple[Metrics, str]:
    from transfer.evaluate.coco_ap import coco_results
    from transfer.evaluate.lvis_ap import lvis_ap

    truth = spec.content(masks=detections.masks is not None)
    metrics = {
        task: lvis_ap(truth, coco_results(detections, spec.category_ids, task), task, class_names=spec.class_names)
        for task in _tasks(detections)
    }
    return metrics, _lvis_id(spec, evaluator)


def _cityscapes_id(spec: DatasetSpec, evaluator: str) -> str:
    return "cityscapes/instances"


def _cityscapes(spec: DatasetSpec, detections: Detections, evaluator: str) -> tuple[Metrics, str]:
    from transfer.evaluate.cityscapes_ap import cityscapes_ap

    return {"segm": cityscapes_ap(spec, detections)}, _cityscapes_id(spec, evaluator)


EVALUATORS: dict[str, Callable[[DatasetSpec, Detections, str], tuple[Metrics, str]]] = {
    "coco": _coco,
    "voc": _voc,
    "lvis": _lvis,
    "cityscapes": _cityscapes,
}
EVALUATOR_IDS: dict[str, Callable[[DatasetSpec, str], str]] = {
    "coco": _coco_id,
    "voc": _voc_id,
    "lvis": _lvis_id,
    "cityscapes": _cityscapes_id,
}
