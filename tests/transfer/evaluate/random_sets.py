"""Random detection problems with everything that makes evaluators disagree."""

import numpy as np
from pycocotools import mask as coco_mask


def random_problem(seed: int, images: int = 4, classes: int = 4, crowded: bool = True) -> tuple[dict, list[dict]]:
    """(COCO file, results with bbox): tied scores, crowds, empty classes and images, over 100 detections in one."""
    rng = np.random.default_rng(seed)
    content = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 2 * c + 1, "name": f"c{c}"} for c in range(classes)],
    }
    results = []
    for image in range(images):
        content["images"].append({"id": image + 1, "width": 200, "height": 150, "file_name": f"{image}.jpg"})
        objects = rng.integers(0, 7) if image else 0
        for _ in range(objects):
            box = random_box(rng)
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": image + 1,
                    "category_id": int(2 * rng.integers(0, classes - 1) + 1),  # the last class has no object
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": int(crowded and rng.uniform() < 0.15),
                    "segmentation": [rectangle(box)],
                }
            )
        count = 130 if image == 1 and seed % 4 == 0 else int(rng.integers(0, 12))
        truth = [a for a in content["annotations"] if a["image_id"] == image + 1]
        for _ in range(count):
            near = truth[rng.integers(0, len(truth))] if truth and rng.uniform() < 0.7 else None
            box = random_box(rng) if near is None else jitter(near["bbox"], rng)
            category = int(2 * rng.integers(0, classes) + 1) if near is None else near["category_id"]
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


def as_masks(results: list[dict]) -> list[dict]:
    """The same results with rectangular masks instead of boxes."""
    masks = []
    for r in results:
        rle = coco_mask.merge(coco_mask.frPyObjects([rectangle(r["bbox"])], 150, 200))
        masks.append({**{k: v for k, v in r.items() if k != "bbox"}, "segmentation": rle})
    return masks
