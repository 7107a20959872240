"""Random detection problems with everything that makes evaluators disagree."""

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask


def random_problem(seed: int, images: int = 4, classes: int = 4, crowded: bool = True) -> tuple[dict, list[dict]]:
    """(COCO file, results with bbox): tied scores, crowds, empty classes and images, over 100 detections in one.

    Images are not listed in the order of their ids, half of the crowds are uncompressed run lengths, in every third
    set ids of annotations begin with 0, and a few detections are of a class that the file does not have.
    """
    rng = np.random.default_rng(seed)
    content: dict[str, list[dict[str, Any]]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 2 * c + 1, "name": f"c{c}"} for c in range(classes)],
    }
    results = []
    first_id = int(seed % 3 != 0)
    for image in rng.permutation(images).tolist():
        content["images"].append({"id": image + 1, "width": 200, "height": 150, "file_name": f"{image}.jpg"})
        objects = rng.integers(0, 7) if image else 0
        for _ in range(objects):
            box = random_box(rng)
            crowd = bool(crowded and rng.uniform() < 0.15)
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + first_id,
                    "image_id": image + 1,
                    "category_id": int(2 * rng.integers(0, classes - 1) + 1),  # the last class has no object
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": int(crowd),
                    "segmentation": run_lengths(box) if crowd and rng.uniform() < 0.5 else [outline(box, rng)],
                }
            )
        count = 130 if image == 1 and seed % 4 == 0 else int(rng.integers(0, 12))
        truth = [a for a in content["annotations"] if a["image_id"] == image + 1]
        for _ in range(count):
            near = truth[rng.integers(0, len(truth))] if truth and rng.uniform() < 0.7 else None
            box = random_box(rng) if near is None else jitter(near["bbox"], rng)
            category = (
                int(2 * rng.integers(0, classes + (rng.uniform() < 0.05)) + 1) if near is None else near["category_id"]
            )
            score = float(np.float32(round(rng.uniform(), 1)))
            results.append({"image_id": image + 1, "category_id": category, "bbox": box, "score": score})
    return content, results


def random_box(rng) -> list[float]:
    w, h = rng.uniform(2, 120), rng.uniform(2, 100)
    return [float(np.float32(v)) for v in (rng.uniform(0, 200 - w), rng.uniform(0, 150 - h), w, h)]


def jitter(box: list[float], rng) -> list[float]:
    return [float(np.float32(v)) for v in np.abs(np.array(box) + rng.normal(0, 4, 4)) + 0.5]


def rectangle(box: list[float]) -> list[float]:
    x, y, w, h = box
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def outline(box: list[float], rng) -> list[float]:
    """A polygon inside a box: the box, or a triangle or a five-cornered star of it."""
    x, y, w, h = box
    corners = int(rng.choice([3, 4, 5]))
    if corners == 4:
        return rectangle(box)
    angles = np.arange(corners) * 2 * np.pi * (2 if corners == 5 else 1) / corners
    points = np.stack([x + w / 2 * (1 + np.cos(angles)), y + h / 2 * (1 + np.sin(angles))], axis=1)
    return [float(v) for v in points.ravel()]


def run_lengths(box: list[float]) -> dict:
    """A box as uncompressed run lengths, as COCO stores crowds."""
    mask = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([rectangle(box)], 150, 200)))
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat, prepend=0))
    return {"size": [150, 200], "counts": np.diff(changes, prepend=0, append=len(flat)).tolist()}


def as_masks(results: list[dict], seed: int = 0) -> list[dict]:
    """The same results with masks of different shapes instead of boxes."""
    rng = np.random.default_rng(seed)
    masks = []
    for r in results:
        rle = coco_mask.merge(coco_mask.frPyObjects([outline(r["bbox"], rng)], 150, 200))
        masks.append({**{k: v for k, v in r.items() if k != "bbox"}, "segmentation": rle})
    return masks
