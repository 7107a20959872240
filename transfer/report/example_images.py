"""Example images: ground truth and the detections of each initialisation side by side, as small embedded JPEGs."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from transfer.comparison.gap import Table
from transfer.comparison.image_bootstrap import load_detections
from transfer.evaluate.detections import Detections
from transfer.evaluate.error_types import FOREGROUND, overlaps
from transfer.records.run import Run
from transfer.report.page import escape

IMAGES, SIDE, QUALITY = 6, 320, 70
LETTERS = 15  # pixels high; a phone shows the picture at half its size
MIN_SCORE, MOST = 0.3, 10  # what is drawn of an image's detections
PALETTE = ("#0072b2", "#d55e00", "#00805a", "#a2468b", "#8a6d00", "#3a6ea5")
TRUTH = "#111111"


def examples_html(one: Table) -> str:
    """Images on which the initialisations differ most at one seed; "" when detections or images are not there."""
    runs = _runs_of_one_seed(one)
    if len(runs) < 2:
        return ""
    loaded = {run.init: found for run in runs if not isinstance(found := load_detections(run), str)}
    if len(loaded) < 2:
        return ""
    spec = next(iter(loaded.values()))[0]
    records = {record["image_id"]: record for record in spec.records()}
    drawable = {init: detections for init, (_, detections) in loaded.items()}
    chosen = most_different(records, drawable)[:IMAGES]
    parts = []
    for image_id in chosen:
        figures = _figures(records[image_id], drawable, spec.class_names, one.inits)
        if figures:
            parts.append(f'<h4>Image {escape(image_id)}</h4><div class="examples">{"".join(figures)}</div>')
    if not parts:
        return ""
    return (
        f"<h3>Example images (seed {runs[0].seed})</h3>"
        f'<p class="soft">Where the initialisations find the most different numbers of objects, not a random choice. '
        f"Detections with a score of at least {MIN_SCORE}, {MOST} at the most.</p>" + "".join(parts)
    )


def _runs_of_one_seed(one: Table) -> list[Run]:
    """The runs with detections of the seed that most initialisations share."""
    by_seed: dict[int, list[Run]] = {}
    for run in one.runs:
        if run.detections is not None:
            by_seed.setdefault(run.seed, []).append(run)
    return max(by_seed.values(), key=len) if by_seed else []


def most_different(records: Mapping[Any, Mapping[str, Any]], found: Mapping[str, Detections]) -> list[Any]:
    """Image ids by how far apart the shares of found objects are, largest first; those without a difference are out."""
    shares = np.stack([_found_share(records, detections) for detections in found.values()])
    spread = shares.max(axis=0) - shares.min(axis=0)
    ids = list(records)
    return [ids[i] for i in np.argsort(-spread, kind="stable") if spread[i] > 0]


def _found_share(records: Mapping[Any, Mapping[str, Any]], detections: Detections) -> np.ndarray:
    """Share of each image's objects that a drawn detection of their class overlaps by half."""
    position = {image_id: i for i, image_id in enumerate(detections.image_ids)}
    shares = []
    for image_id, record in records.items():
        boxes, classes = truth_boxes(record)
        rows = drawn(detections, position.get(image_id, -1))
        iou = overlaps(detections.boxes[rows].astype(float), boxes, np.zeros(len(boxes), dtype=bool))
        hit = (iou >= FOREGROUND) & (detections.category[rows][:, None] == classes[None, :])
        shares.append(hit.any(axis=0).mean() if len(boxes) and len(rows) else 0.0)
    return np.array(shares)


def truth_boxes(record: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes G x 4 (x0 y0 x1 y1) and classes G of one image."""
    boxes = np.array([a["bbox"] for a in record["annotations"]], dtype=np.float64).reshape(-1, 4)
    if record["annotations"] and record["annotations"][0].get("bbox_mode", 0) == 1:
        boxes[:, 2:] += boxes[:, :2]
    return boxes, np.array([a["category_id"] for a in record["annotations"]], dtype=np.int64)


def drawn(detections: Detections, index: int) -> np.ndarray:
    """Rows of the detections that are drawn on image ``index``, best first."""
    rows = np.flatnonzero((detections.image_index == index) & (detections.scores >= MIN_SCORE))
    return rows[np.argsort(-detections.scores[rows], kind="stable")][:MOST]


def _figures(
    record: Mapping[str, Any], found: Mapping[str, Detections], names: Sequence[str], inits: Sequence[str]
) -> list[str]:
    from PIL import Image

    try:
        with Image.open(record["file_name"]) as opened:
            image = opened.convert("RGB")
    except OSError:
        return []  # the images may be on another machine than the results
    boxes, classes = truth_boxes(record)
    colours = {init: PALETTE[i % len(PALETTE)] for i, init in enumerate(inits)}  # those of the plots
    figures = [_figure(image, "ground truth", boxes, [names[c] for c in classes], TRUTH)]
    for init, detections in found.items():
        rows = drawn(detections, detections.image_ids.index(record["image_id"]))
        labels = [f"{names[c]} {s:.2f}" for c, s in zip(detections.category[rows], detections.scores[rows])]
        figures.append(_figure(image, init, detections.boxes[rows], labels, colours[init]))
    return figures


def _figure(image: Any, who: str, boxes: np.ndarray, labels: Sequence[str], colour: str) -> str:
    from PIL import ImageDraw, ImageFont

    scale = SIDE / max(image.size)
    small = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    pen, font = ImageDraw.Draw(small), ImageFont.load_default(LETTERS)
    for box, label in zip(boxes * scale, labels):
        corners = [float(v) for v in box]
        pen.rectangle(corners, outline="#ffffff", width=4)  # a light rim keeps the line visible on any ground
        pen.rectangle(corners, outline=colour, width=2)
        wide = pen.textlength(label, font=font)
        at = (max(1.0, min(corners[0] + 3, small.width - wide - 2)), max(1.0, corners[1] + 1))  # whole at any edge
        pen.rectangle(pen.textbbox(at, label, font=font), fill="#ffffff")
        pen.text(at, label, fill=colour, font=font)
    sink = io.BytesIO()
    small.save(sink, "JPEG", quality=QUALITY)
    told = f"{who}: {', '.join(labels) if labels else 'nothing'}"
    data = base64.b64encode(sink.getvalue()).decode()
    size = f'width="{small.width}" height="{small.height}"'
    return (
        f'<figure><img {size} alt="{escape(told)}" src="data:image/jpeg;base64,{data}">'
        f"<figcaption>{escape(who)}: {len(labels)}</figcaption></figure>"
    )
