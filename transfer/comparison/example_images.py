"""Example images: those on which the initialisations differ most, with what each of them detects there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from transfer.comparison.gap import Table
from transfer.comparison.image_bootstrap import load_detections
from transfer.data.box_modes import corners
from transfer.evaluate.detections import Detections
from transfer.evaluate.error_types import FOREGROUND, overlaps
from transfer.records.run import Run

IMAGES = 6
MIN_SCORE, MOST = 0.3, 10  # detections of an image that are shown: at least this score, at most so many


@dataclass(frozen=True)
class LabelledBoxes:
    """``boxes`` float[N x 4], x0 y0 x1 y1 in pixels of the image, and N labels."""

    boxes: np.ndarray
    labels: Sequence[str]


@dataclass(frozen=True)
class ExampleImage:
    """One image, its objects, and the detections of each initialisation."""

    image_id: Any
    file: str
    ground_truth: LabelledBoxes
    detections: Mapping[str, LabelledBoxes]


@dataclass(frozen=True)
class Examples:
    """Example images of one seed."""

    seed: int
    images: Sequence[ExampleImage]


def example_images(table: Table) -> Examples | None:
    """Images on which the initialisations differ most at one seed; None when fewer than two have detections."""
    runs = _runs_of_one_seed(table)
    loaded = {run.init: result for run in runs if not isinstance(result := load_detections(run), str)}
    if len(loaded) < 2:
        return None
    spec, first = next(iter(loaded.values()))
    records = {record["image_id"]: record for record in spec.records(masks=first.masks is not None)}
    by_init = {init: detections for init, (_, detections) in loaded.items()}
    ids = most_different(records, by_init)[:IMAGES]
    return Examples(runs[0].seed, [_example(records[i], by_init, spec.class_names) for i in ids])


def _runs_of_one_seed(table: Table) -> list[Run]:
    """The runs with detections of the seed that most initialisations share; of each its first pretraining run."""
    by_seed: dict[int, dict[str, Run]] = {}
    for run in table.runs:
        if run.detections is not None:
            by_seed.setdefault(run.seed, {}).setdefault(run.init, run)
    return list(max(by_seed.values(), key=len).values()) if by_seed else []


def most_different(records: Mapping[Any, Mapping[str, Any]], by_init: Mapping[str, Detections]) -> list[Any]:
    """Image ids by how far apart the initialisations' shares of detected objects are, largest difference first.

    Images without a difference are left out.
    """
    shares = np.stack([_detected_share(records, detections) for detections in by_init.values()])
    spread = shares.max(axis=0) - shares.min(axis=0)
    ids = list(records)
    return [ids[i] for i in np.argsort(-spread, kind="stable") if spread[i] > 0]


def _detected_share(records: Mapping[Any, Mapping[str, Any]], detections: Detections) -> np.ndarray:
    """float[images]: share of each image's objects that a shown detection of their class overlaps by half."""
    position = {image_id: i for i, image_id in enumerate(detections.image_ids)}
    shares = []
    for image_id, record in records.items():
        boxes, classes = truth_boxes(record)
        rows = shown_rows(detections, position.get(image_id, -1))
        iou = overlaps(detections.boxes[rows].astype(float), boxes, np.zeros(len(boxes), dtype=bool))
        hit = (iou >= FOREGROUND) & (detections.category[rows][:, None] == classes[None, :])
        shares.append(hit.any(axis=0).mean() if len(boxes) and len(rows) else 0.0)
    return np.array(shares)


def truth_boxes(record: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes float[G x 4] (x0 y0 x1 y1) and classes int[G] of one image."""
    return corners(record["annotations"]), np.array([a["category_id"] for a in record["annotations"]], dtype=np.int64)


def shown_rows(detections: Detections, index: int) -> np.ndarray:
    """Rows of the detections that are shown on image ``index``, best first."""
    rows = np.flatnonzero((detections.image_index == index) & (detections.scores >= MIN_SCORE))
    return rows[np.argsort(-detections.scores[rows], kind="stable")][:MOST]


def _example(record: Mapping[str, Any], by_init: Mapping[str, Detections], names: Sequence[str]) -> ExampleImage:
    boxes, classes = truth_boxes(record)
    shown = {}
    for init, detections in by_init.items():
        rows = shown_rows(detections, detections.image_ids.index(record["image_id"]))
        labels = [f"{names[c]} {s:.2f}" for c, s in zip(detections.category[rows], detections.scores[rows])]
        shown[init] = LabelledBoxes(detections.boxes[rows], labels)
    truth = LabelledBoxes(boxes, [names[c] for c in classes])
    return ExampleImage(record["image_id"], str(record["file_name"]), truth, shown)
