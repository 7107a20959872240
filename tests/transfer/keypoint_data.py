"""A tiny person_keypoints data set: a person is 17 bright dots on a grid in a box."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from transfer.data.catalog import DatasetSpec
from transfer.evaluate.detections import Detections

PARTS = ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
NAMES = ["nose", *(f"{side}_{part}" for part in PARTS for side in ("left", "right"))]  # COCO's 17, in its order


def person(rng: np.random.RandomState, width: int, height: int) -> tuple[list[float], list[int]]:
    """A box x y w h and 51 numbers: 17 keypoints x y v, some hidden (1) or not labelled (0 0 0)."""
    w, h = int(rng.randint(28, 44)), int(rng.randint(36, 56))
    x, y = int(rng.randint(0, width - w)), int(rng.randint(0, height - h))
    points: list[int] = []
    for k in range(len(NAMES)):
        visible = int(rng.choice([0, 1, 2], p=[0.15, 0.15, 0.7]))
        place = (x + 2 + (k % 3) * (w - 5) // 2, y + 2 + (k // 3) * (h - 5) // 5)
        points += [*place, visible] if visible else [0, 0, 0]
    return [float(v) for v in (x, y, w, h)], points


def write_keypoints(folder: Path, images: int = 8, **categories: Any) -> str:
    """Images, annotations (one person without a visible keypoint, one image of nobody); returns its coco: name."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.RandomState(0)
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for k in range(images):
        width, height = ((96, 80), (72, 96))[k % 2]
        pixels = rng.randint(0, 80, (height, width, 3)).astype(np.uint8)
        for _ in range(0 if k == images - 1 else 1 + k % 2):
            box, points = person(rng, width, height)
            for px, py, visible in zip(points[::3], points[1::3], points[2::3]):
                if visible == 2:
                    pixels[py, px] = 255
            if k == 2:
                points = [0] * len(points)
            annotation = {"id": len(annotations) + 1, "image_id": k + 1, "category_id": 1, "iscrowd": 0, "bbox": box}
            annotation |= {"area": box[2] * box[3] * 0.6, "keypoints": points}
            annotation["num_keypoints"] = sum(v > 0 for v in points[2::3])
            annotations.append(annotation)
        Image.fromarray(pixels).save(folder / f"{k + 1}.png")
        entries.append({"id": k + 1, "file_name": f"{k + 1}.png", "width": width, "height": height})
    category = {"id": 1, "name": "person", "keypoints": NAMES, "skeleton": [], **categories}
    content = {"images": entries, "annotations": annotations, "categories": [category]}
    (folder / "person_keypoints.json").write_text(json.dumps(content))
    return f"coco:{folder / 'person_keypoints.json'}:{folder}"


def near_truth(spec: DatasetSpec, seed: int) -> Detections:
    """Two detections per person, keypoints some pixels off, and one of nothing in every image."""
    rng = np.random.RandomState(seed)
    images = []
    for record in spec.records():
        boxes, points = [[5.0, 5, 40, 40]], [np.concatenate([rng.uniform(5, 40, (17, 2)), np.ones((17, 1))], 1)]
        for annotation in record["annotations"] * 2:
            x, y, w, h = annotation["bbox"]
            truth = np.array(annotation["keypoints"], dtype=float).reshape(17, 3)
            boxes.append([x, y, x + w, y + h])
            points.append(np.concatenate([truth[:, :2] + rng.normal(0, 1.5, (17, 2)), rng.rand(17, 1)], 1))
        scores = rng.rand(len(boxes)).round(1)  # with ties
        images.append((record["image_id"], boxes, scores, np.zeros(len(boxes)), None, np.array(points)))
    return Detections.from_images(images)
