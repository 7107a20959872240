"""COCO box and mask AP with Detectron2's keys, by pycocotools, hotcoco or this project's own evaluator."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import io
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from runtime.errors import UserError
from transfer.data.coco import collector_paused
from transfer.evaluate.detections import Detections
from transfer.evaluate.entries import Numbering, box_areas, boxes, result_shapes, scores, truth_shapes
from transfer.evaluate.matching import IOUS, Objects, Scored, mean_percent, precision_table

SUMMARY = ("AP", "AP50", "AP75", "APs", "APm", "APl")
AREA_INDEX = {"AP": 0, "AP50": 0, "AP75": 0, "APs": 1, "APm": 2, "APl": 3}
MAX_DETECTIONS = 100  # per image and class
HOTCOCO = "hotcoco"  # backend and package: an evaluator in Rust
HOTCOCO_VERSIONS = r"1\.3\.\d+"  # of which every number is known to be the one of ``fast``, to the bit
AUTO = "auto"  # hotcoco where its numbers are known to be equal, else ``fast``
LARGEST_ID = 2**53  # below it every whole number is a float of its own


class Rule(NamedTuple):
    """A backend (``official``: pycocotools, ``fast``, hotcoco, ``AUTO``) and how many detections of a class and image
    count."""

    backend: str
    limit: int = MAX_DETECTIONS

    @property
    def id(self) -> str:
        """What result.json records: ``coco/101pt-100``; of pycocotools the version, and a limit other than 100."""
        if self.backend in ("fast", AUTO):  # one rule and the same bits, whichever of the two computes them
            return f"coco/101pt-{self.limit}"
        package = "pycocotools" if self.backend == "official" else self.backend
        version = f"coco/{package}-{importlib.metadata.version(package)}"
        return version if self.limit == MAX_DETECTIONS else f"{version}-{self.limit}"


def choose_rule(evaluator: str) -> Rule:
    """The rule of the command line's auto, official, fast or hotcoco, each with an optional limit: ``auto-300``."""
    match = re.fullmatch(r"(auto|official|fast|hotcoco)(?:-([1-9]\d{0,5}))?", evaluator)
    if match is None:
        raise UserError(
            f"evaluator {evaluator!r}: choose auto, official, fast or hotcoco, with more than {MAX_DETECTIONS} "
            "detections of a class in an image as auto-300"
        )
    if match[1] == HOTCOCO and importlib.util.find_spec(HOTCOCO) is None:
        raise UserError("evaluator hotcoco: it is not installed; pip install hotcoco, or use auto")
    return Rule(match[1], int(match[2] or MAX_DETECTIONS))


def backends_of(rule: Rule, content: dict[str, Any]) -> tuple[str, ...]:
    """What computes ``rule`` on a parsed annotation file: the first, and the next where one refuses the data."""
    if rule.backend != AUTO:
        return (rule.backend,)
    return (HOTCOCO, "fast") if _hotcoco_is_equal(content) else ("fast",)


def _hotcoco_is_equal(content: dict[str, Any]) -> bool:
    """Whether hotcoco is there in a version that was compared, and the ids are what it was compared on."""
    if importlib.util.find_spec(HOTCOCO) is None:
        return False
    images, categories = ([entry["id"] for entry in content[kind]] for kind in ("images", "categories"))
    whole = all(type(number) is int and 0 <= number < LARGEST_ID for number in (*images, *categories))
    return (
        whole
        and len(set(categories)) == len(categories)
        and re.fullmatch(HOTCOCO_VERSIONS, importlib.metadata.version(HOTCOCO)) is not None
    )


def recorded_limit(evaluator_id: str) -> int:
    """The limit in an id that ``Rule.id`` wrote; ids of several test sets are joined by +, the first one counts."""
    match = re.fullmatch(r"coco/(?:101pt|pycocotools-[^-]+|hotcoco-[^-]+)-(\d+)", evaluator_id.split("+")[0])
    return int(match[1]) if match else MAX_DETECTIONS


def coco_truth(content: dict[str, Any], backend: str) -> Any:
    """A parsed annotation file in the form that the backend takes: a COCO object of its own, or the file unchanged.

    For the others the annotations are numbered from 1: it takes a match with an object whose id is 0 for no match,
    and stores ids as floats, so that text fails.
    """
    if backend == "fast":
        return content
    content = {**content, "annotations": renumbered(content["annotations"])}
    if backend == HOTCOCO:
        return _by_hotcoco(lambda hotcoco: hotcoco.COCO(content))
    from pycocotools.coco import COCO

    truth = COCO()
    truth.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    return truth


def renumbered(annotations: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Copies of annotations with the ids 1, 2, 3 ..."""
    return [{**annotation, "id": number} for number, annotation in enumerate(annotations, 1)]


def coco_results(detections: Detections, category_ids: Sequence[int], task: str) -> list[dict[str, Any]]:
    """Detections as COCO result entries. Those of masks have no boxes, so that areas are those of the masks."""
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
    max_detections: int = MAX_DETECTIONS,
    backend: str = "official",
) -> dict[str, float]:
    """AP, AP50, AP75, APs, APm, APl in percent and AP-<class> when there is more than one class.

    ``truth`` from ``coco_truth``; ``results`` are COCO entries, ``task`` bbox or segm. Undefined values are NaN (a
    class or size without ground truth). Without any detection the values are 0, where Detectron2 gives NaN: leaving
    such runs out of a mean over seeds would make it too high.
    """
    precision = coco_precision(truth, results, task, max_detections=max_detections, backend=backend)
    values = {}
    for key in SUMMARY:
        part = precision[..., AREA_INDEX[key]]
        if key[2:].isdigit():
            part = part[np.isclose(IOUS, int(key[2:]) / 100)]
        values[key] = mean_percent(part)
    if len(class_names) > 1:
        for index, name in enumerate(class_names):
            values[f"AP-{name}"] = mean_percent(precision[:, :, index, 0])
    return values


def coco_precision(
    truth: Any,
    results: list[dict[str, Any]],
    task: str,
    *,
    max_detections: int = MAX_DETECTIONS,
    backend: str = "official",
) -> np.ndarray:
    """Precision T x R x K x A at the IoU thresholds, recalls, classes and area ranges; -1 where undefined.

    All backends use ``max_detections`` per image and class. pycocotools adds fields to ``results`` in place.
    """
    backends = {"official": _official_precision, HOTCOCO: _hotcoco_precision, "fast": _fast_precision}
    return backends[backend](truth, results, task, max_detections)


def _by_hotcoco(compute: Callable[[Any], Any]) -> Any:
    """``compute(hotcoco)``; what it does not take ends in one line."""
    import hotcoco

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return compute(hotcoco)
    except (TypeError, ValueError, KeyError, RuntimeError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"evaluator hotcoco cannot evaluate this data ({reason}); use auto") from error


def _hotcoco_precision(truth: Any, results: list[dict[str, Any]], task: str, max_detections: int) -> np.ndarray:
    def compute(hotcoco: Any) -> np.ndarray:
        evaluation = hotcoco.COCOeval(truth, truth.load_res(results), task)
        evaluation.params.max_dets = [max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
        return np.asarray(evaluation.eval["precision"])[..., 0]

    precision: np.ndarray = _by_hotcoco(compute)
    return precision


def _official_precision(truth: Any, results: list[dict[str, Any]], task: str, max_detections: int) -> np.ndarray:
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()), collector_paused():
        # loadRes cannot read an empty list
        loaded = truth.loadRes(results) if results else coco_truth({**truth.dataset, "annotations": []}, "official")
        evaluation = COCOeval(truth, loaded, task)
        evaluation.params.maxDets = [max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
    precision: np.ndarray = evaluation.eval["precision"][..., 0]
    return precision


def _fast_precision(truth: dict[str, Any], results: list[dict[str, Any]], task: str, max_detections: int) -> np.ndarray:
    numbering = Numbering(truth)
    return precision_table(*coco_entries(truth, results, task, numbering), len(numbering.classes), max_detections)


def coco_entries(
    truth: dict[str, Any], results: list[dict[str, Any]], task: str, numbering: Numbering
) -> tuple[Objects, Scored]:
    """All objects and all results, in the form that ``match_all`` takes."""
    annotations = truth["annotations"]
    crowd = np.array([bool(a.get("iscrowd", 0)) for a in annotations], dtype=bool)
    objects = Objects(
        pair=numbering.pairs(annotations),
        area=np.array([a["area"] for a in annotations], dtype=np.float64),
        shapes=truth_shapes(truth, annotations, task),
        ignored=crowd,
        crowd=crowd,
    )
    shapes, area = result_shapes(results, task)
    if results and results[0].get("bbox"):  # pycocotools then uses the boxes' areas for masks, too
        area = box_areas(boxes(results))
    return objects, Scored(numbering.pairs(results), area, shapes, scores(results), np.zeros(len(results), dtype=bool))
