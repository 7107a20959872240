"""Boxes, masks and names drawn on images with Pillow."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MASK_OPACITY = 0.4
SMALLEST_SIDE = 360  # smaller images are enlarged, so that names stay readable
HEADER = 22  # pixels for the caption above an image
GOLDEN_RATIO = 0.618033988749895
LETTERS = 15  # pixels high; a phone shows a small picture at half its size


@dataclass
class Marked:
    """What to draw on one image: boxes N x 4 (x0 y0 x1 y1), N labels, N classes, N masks (bool H x W) or none."""

    boxes: np.ndarray
    labels: list[str]
    classes: list[int]
    masks: list[np.ndarray] = field(default_factory=list)


def class_color(index: int) -> tuple[int, int, int]:
    """A colour per class; neighbouring indices get distant hues."""
    red, green, blue = colorsys.hsv_to_rgb((index * GOLDEN_RATIO) % 1.0, 0.85, 1.0)
    return int(red * 255), int(green * 255), int(blue * 255)


def draw(image: Image.Image, marked: Marked, caption: str) -> Image.Image:
    """The image with masks, boxes, labels and a caption above; small images are enlarged by a whole factor."""
    factor = max(1, -(-SMALLEST_SIDE // min(image.size)))
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    for mask, index in zip(marked.masks, marked.classes):
        color = np.array(class_color(index), dtype=np.float32)
        pixels = np.where(mask[:, :, None], pixels * (1 - MASK_OPACITY) + color * MASK_OPACITY, pixels)
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


def draw_small(image: Image.Image, boxes: np.ndarray, labels: Sequence[str], colour: str, side: int) -> Image.Image:
    """The image scaled to a longer side of ``side`` pixels, with labelled boxes in one colour.

    ``boxes``: float[N x 4], x0 y0 x1 y1 in pixels of ``image``.
    """
    scale = side / max(image.size)
    small = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    pen, font = ImageDraw.Draw(small), ImageFont.load_default(LETTERS)
    for box, label in zip(boxes * scale, labels):
        corners = [float(v) for v in box]
        pen.rectangle(corners, outline="#ffffff", width=4)  # a white rim keeps the line visible on any background
        pen.rectangle(corners, outline=colour, width=2)
        width = pen.textlength(label, font=font)
        # inside the picture, also for a box at its edge
        place = (max(1.0, min(corners[0] + 3, small.width - width - 2)), max(1.0, corners[1] + 1))
        pen.rectangle(pen.textbbox(place, label, font=font), fill="#ffffff")
        pen.text(place, label, fill=colour, font=font)
    return small


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
