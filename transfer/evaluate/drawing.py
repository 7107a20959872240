"""Boxes, masks and names drawn on images with Pillow."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from transfer.evaluate.detections import Detections

MASK_OPACITY = 0.4
SMALLEST_SIDE = 360  # smaller images are enlarged, so that names stay readable
HEADER = 22  # pixels for the caption above an image
GOLDEN_RATIO = 0.618033988749895
LETTERS = 15  # pixels high; a phone shows a small picture at half its size


@dataclass
class Marked:
    """What to draw on one image: boxes N x 4 (x0 y0 x1 y1), N labels, N classes, N masks (bool H x W) or none.

    ``masks`` may be an iterator that makes one at a time: a hundred of a photograph would be a gigabyte.
    """

    boxes: np.ndarray
    labels: list[str]
    classes: list[int]
    masks: Iterable[np.ndarray] = field(default_factory=list)


def class_color(index: int) -> tuple[int, int, int]:
    """A colour per class; neighbouring indices get distant hues."""
    red, green, blue = colorsys.hsv_to_rgb((index * GOLDEN_RATIO) % 1.0, 0.85, 1.0)
    return int(red * 255), int(green * 255), int(blue * 255)


def draw(image: Image.Image, marked: Marked, caption: str) -> Image.Image:
    """The image with masks, boxes, labels and a caption above; small images are enlarged by a whole factor."""
    factor = max(1, -(-SMALLEST_SIDE // min(image.size)))
    pixels = np.array(image.convert("RGB"), dtype=np.float32)
    for mask, index in zip(marked.masks, marked.classes):
        tint(pixels, mask, class_color(index))
    canvas = Image.new("RGB", (image.width * factor, image.height * factor + HEADER), "white")
    body = Image.fromarray(pixels.astype(np.uint8)).resize((image.width * factor, image.height * factor))
    canvas.paste(body, (0, HEADER))
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default()
    pen.text((4, 5), caption, fill="black", font=font)
    for box, label, index in zip(marked.boxes, marked.labels, marked.classes):
        x0, y0, x1, y1 = (float(v) * factor for v in box)
        corners = [x0, y0 + HEADER, max(x1, x0 + 1), max(y1, y0 + 1) + HEADER]
        pen.rectangle(corners, outline=class_color(index), width=2)
        place = (x0 + 2, max(HEADER, y0 + HEADER - 12))
        pen.rectangle(pen.textbbox(place, label, font=font), fill=class_color(index))
        pen.text(place, label, fill="black", font=font)
    return canvas


def tint(pixels: np.ndarray, mask: np.ndarray, color: tuple[int, int, int]) -> None:
    """Blend a colour into float32 pixels H x W x 3, in place, where the mask (bool H x W) is set.

    Only the rectangle around the mask is read: objects are small, and a blend of the whole image for each would take
    longer than detecting them.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return
    place = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    inside, covered = pixels[place], mask[place]
    inside[covered] = inside[covered] * (1 - MASK_OPACITY) + np.array(color, dtype=np.float32) * MASK_OPACITY


def marked_detections(detections: Detections, index: int, score: float, class_names: Sequence[str]) -> Marked:
    """The detections of image number ``index`` above a score, lowest first so that the best are drawn on top."""
    rows = np.flatnonzero((detections.image_index == index) & (detections.scores > score))
    rows = rows[np.argsort(detections.scores[rows], kind="stable")]
    classes = detections.category[rows].tolist()
    labels = [f"{class_names[c]} {s:.2f}" for c, s in zip(classes, detections.scores[rows].tolist())]
    masks = [] if detections.masks is None else [polygons_to_mask(detections.masks[r], 0, 0) for r in rows.tolist()]
    return Marked(detections.boxes[rows], labels, classes, masks)


def draw_small(image: Image.Image, boxes: np.ndarray, labels: Sequence[str], colour: str, side: int) -> Image.Image:
    """The image scaled to a longer side of ``side`` pixels, with labelled boxes in one colour.

    ``boxes``: float[N x 4], x0 y0 x1 y1 in pixels of ``image``.
    """
    scale = side / max(image.size)
    small = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    pen, font = ImageDraw.Draw(small), ImageFont.load_default(LETTERS)
    scaled = [[float(v) for v in box] for box in boxes * scale]
    for corners in scaled:
        pen.rectangle(corners, outline="#ffffff", width=4)  # a white rim keeps the line visible on any background
        pen.rectangle(corners, outline=colour, width=2)
    sizes = [(pen.textlength(label, font=font) + 4, LETTERS + 4.0) for label in labels]
    for (x, y), label, (width, height) in zip(label_places(scaled, sizes, small.size), labels, sizes):
        pen.rectangle((x, y, x + width, y + height), fill="#ffffff")
        pen.text((x + 2, y + 1), label, fill=colour, font=font)
    return small


def label_places(
    boxes: Sequence[Sequence[float]], sizes: Sequence[tuple[float, float]], picture: tuple[int, int]
) -> list[tuple[float, float]]:
    """Upper left corners of the labels: at the top of their boxes, inside the picture, and not over each other.

    A label that would cover another one moves down; where the picture is full it stays over the others.
    """
    places: list[tuple[float, float]] = []
    for box, (width, height) in zip(boxes, sizes):
        x = max(0.0, min(box[0] + 2, picture[0] - width))
        top = max(0.0, min(box[1] + 2, picture[1] - height))
        y = top
        while any(
            x < left + other[0] and left < x + width and y < above + other[1] and above < y + height
            for (left, above), other in zip(places, sizes)
        ):
            y += 1
            if y > picture[1] - height:
                y = top
                break
        places.append((x, y))
    return places


def side_by_side(left: Image.Image, right: Image.Image, gap: int = 8) -> Image.Image:
    """Two pictures in one row."""
    joined = Image.new("RGB", (left.width + gap + right.width, max(left.height, right.height)), "white")
    joined.paste(left, (0, 0))
    joined.paste(right, (left.width + gap, 0))
    return joined


def polygons_to_mask(polygons: Sequence[Any], height: int, width: int) -> np.ndarray:
    """A bool H x W mask of polygons (flat x y lists) or of a COCO run-length mask."""
    from pycocotools import mask as coco_mask

    if isinstance(polygons, dict):
        return coco_mask.decode(polygons).astype(bool)
    runs = coco_mask.frPyObjects([np.asarray(p).tolist() for p in polygons], height, width)
    return coco_mask.decode(coco_mask.merge(runs)).astype(bool)
