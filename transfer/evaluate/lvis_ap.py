"""LVIS AP (arXiv:1908.03195): federated ground truth, 300 detections per image, rare / common / frequent classes.

Each image was annotated for some classes only: those with annotations in it, and those listed as absent. Detections of
other classes are dropped; unmatched detections of a class that is not exhaustively annotated are ignored. COCO's
evaluators do not do this and give other numbers for the same detections.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from transfer.evaluate.entries import Numbering, result_shapes, scores, truth_shapes
from transfer.evaluate.matching import Objects, Scored, mean_percent, precision_table

SUMMARY = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")
MAX_DETECTIONS = 300  # per image over all classes
FREQUENCIES = {"APr": "r", "APc": "c", "APf": "f"}


def lvis_ap(
    truth: Mapping[str, Any],
    results: Iterable[Mapping[str, Any]],
    task: str,
    *,
    class_names: Sequence[str] = (),
    max_detections: int = MAX_DETECTIONS,
) -> dict[str, float]:
    """The nine summary values in percent and AP-<class>; NaN where undefined; 0 without any detection.

    ``truth`` is a parsed LVIS file, ``results`` COCO-style entries with its category ids, ``task`` bbox or segm,
    ``class_names`` those of the categories in order of their ids.
    """
    listed = list(results)
    categories = sorted(truth["categories"], key=lambda c: c["id"])
    precision = lvis_precision(truth, listed, task, max_detections)
    values = {
        "AP": mean_percent(precision[:, :, :, 0]),
        "AP50": mean_percent(precision[0, :, :, 0]),
        "AP75": mean_percent(precision[5, :, :, 0]),
    }
    values.update({key: mean_percent(precision[:, :, :, a]) for key, a in (("APs", 1), ("APm", 2), ("APl", 3))})
    for key, frequency in FREQUENCIES.items():
        rows = [k for k, c in enumerate(categories) if c.get("frequency") == frequency]
        values[key] = mean_percent(precision[:, :, rows, 0])
    for k, name in enumerate(class_names):
        values[f"AP-{name}"] = mean_percent(precision[:, :, k, 0])
    return values


def lvis_precision(
    truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], task: str, max_detections: int = MAX_DETECTIONS
) -> np.ndarray:
    """Precision T x R x K x A at IOUS, RECALLS, categories in order of id and AREAS; -1 where nothing counts."""
    numbering = Numbering(truth)
    return precision_table(*lvis_entries(truth, results, task, numbering, max_detections), len(numbering.classes))


def lvis_entries(
    truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    task: str,
    numbering: Numbering,
    max_detections: int = MAX_DETECTIONS,
) -> tuple[Objects, Scored]:
    """All objects, and the best detections of each image among the classes that it was annotated for."""
    # the LVIS API ignores objects without area
    annotations = [a for a in truth["annotations"] if 0 < a["area"] < np.inf]
    none = np.zeros(len(annotations), dtype=bool)
    objects = Objects(
        pair=numbering.pairs(annotations),
        area=np.array([a["area"] for a in annotations], dtype=np.float64),
        shapes=truth_shapes(truth, annotations, task),
        ignored=np.array([bool(a.get("ignore", 0)) for a in annotations], dtype=bool),
        crowd=none,
    )
    annotated = np.append(objects.pair, _listed_pairs(truth, numbering, "neg_category_ids"))
    best = _best_of_images(results, max_detections)
    pair = numbering.pairs(best)
    evaluated = np.isin(pair, annotated)
    best, pair = [best[i] for i in np.flatnonzero(evaluated).tolist()], pair[evaluated]
    shapes, area = result_shapes(best, task)
    forgiven = np.isin(pair, _listed_pairs(truth, numbering, "not_exhaustive_category_ids"))
    scored = Scored(pair, area, shapes, scores(best), forgiven)
    return objects, scored[np.flatnonzero(area > 0)]


def _listed_pairs(truth: Mapping[str, Any], numbering: Numbering, key: str) -> np.ndarray:
    """The (image, class) pairs that the images list under ``key``."""
    return numbering.pairs_of((image["id"], c) for image in truth["images"] for c in image.get(key, []))


def _best_of_images(results: Sequence[Mapping[str, Any]], limit: int) -> list[Mapping[str, Any]]:
    """The ``limit`` best results of each image over all classes, best first."""
    by_image: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for result in results:
        by_image[result["image_id"]].append(result)
    return [r for listed in by_image.values() for r in sorted(listed, key=lambda r: -r["score"])[:limit]]
