"""Example images: ground truth and the detections of each initialisation side by side, as small embedded JPEGs."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from transfer.comparison.comparison import ConfigComparison
from transfer.comparison.example_images import MIN_SCORE, MOST, ExampleImage, LabelledBoxes
from transfer.evaluate.error_types import FOREGROUND, overlaps
from transfer.report.markup import Markup, element
from transfer.report.page import paragraph

if TYPE_CHECKING:
    from PIL import Image

SIDE, QUALITY = 320, 70  # longer side in pixels, JPEG quality
PALETTE = ("#0072b2", "#d55e00", "#00805a", "#a2468b", "#8a6d00", "#3a6ea5")  # the style sheet's light colours
TRUTH = "#111111"


def example_parts(config: ConfigComparison, styles: Mapping[str, int]) -> list[Markup]:
    """Heading, explanation and images; [] when there are no examples or the images are not on this machine."""
    if config.examples is None:
        return []
    images = []
    for example in config.examples.images:
        if figures := _figures(example, styles):
            images += [
                element("h4", f"{Path(example.file).name} (image {example.image_id})"),
                element("div", *figures, class_="examples"),
            ]
    if not images:
        return []
    note = (
        "Where the initialisations find the most different numbers of objects, not a random choice. "
        f"Detections with a score of at least {MIN_SCORE}, {MOST} at the most. Found: a detection of that class "
        f"overlaps the object by an IoU of {FOREGROUND} or more. False: all other detections."
    )
    return [element("h3", f"Example images (seed {config.examples.seed})"), paragraph(note, "soft"), *images]


def _figures(example: ExampleImage, styles: Mapping[str, int]) -> list[Markup]:
    from runtime.image_formats import UNREADABLE, open_image, to_mode

    try:
        with open_image(example.file) as opened:
            image = to_mode(opened, upright=True)  # as the detector saw it
    except UNREADABLE:
        return []  # the images may be on another machine than the results
    file, truth = Path(example.file).name, example.ground_truth
    objects = "1 object" if len(truth.labels) == 1 else f"{len(truth.labels)} objects"
    figures = [_figure(image, file, "ground truth", objects, truth, TRUTH)]
    for init, boxes in example.detections.items():
        found = found_objects(truth, boxes)
        result = f"found {found} of {len(truth.labels)}, {len(boxes.labels) - found} false"
        figures.append(_figure(image, file, init, result, boxes, PALETTE[styles[init] % len(PALETTE)]))
    return figures


def found_objects(truth: LabelledBoxes, detected: LabelledBoxes) -> int:
    """How many objects are found: each takes one detection, the best first, as in the evaluation at IoU 0.5.

    ``detected`` is sorted by score, and its labels are "CLASS SCORE". Crowd regions count as objects.
    """
    iou = overlaps(detected.boxes.astype(float), truth.boxes, np.zeros(len(truth.labels), dtype=bool))
    taken: set[int] = set()
    for label, row in zip(detected.labels, iou):
        name = label.rpartition(" ")[0]
        hits = [i for i, one in enumerate(truth.labels) if one == name and i not in taken and row[i] >= FOREGROUND]
        if hits:
            taken.add(max(hits, key=lambda i: row[i]))
    return len(taken)


def _figure(image: Image.Image, file: str, name: str, result: str, boxes: LabelledBoxes, colour: str) -> Markup:
    from transfer.evaluate.drawing import draw_small

    picture = draw_small(image, boxes.boxes, boxes.labels, colour, SIDE)
    sink = io.BytesIO()
    picture.save(sink, "JPEG", quality=QUALITY)
    data = base64.b64encode(sink.getvalue()).decode()
    labels = ", ".join(boxes.labels) if boxes.labels else "nothing"
    return element(
        "figure",
        element(
            "img",
            width=picture.width,
            height=picture.height,
            alt=f"{name} on {file}: {labels}",
            src=f"data:image/jpeg;base64,{data}",
        ),
        element("figcaption", f"{name}: {result}"),
    )
