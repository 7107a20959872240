"""Evaluation against pycocotools and hotcoco: the same detections, seconds of each, the ratio, the largest difference.

    python benchmarks/evaluate.py [--images 500] [--repeat 5]

COCO-like: 80 classes, 7 objects and 100 detections per image, boxes and masks. LVIS-like: the same by this project's
federated evaluator. Times are CPU seconds of all threads of one evaluation: from the parsed annotation file and the
list of result entries, through index, areas, polygons to run lengths, overlaps, matching and accumulation, to the
numbers. Both sides do all of it and count 100 detections per image and class, not also 1 and 10.
"""

from __future__ import annotations

import os
import sys

if not __package__:  # run as a script: import from the repository, not from this folder
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import argparse
import copy
import functools
import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any

from runtime.errors import run_entry


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--detections", type=int, default=100, help="per image")
    parser.add_argument("--repeat", type=int, default=5)
    return parser.parse_args()


def problem(images: int, classes: int, detections: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A COCO file of random boxes and detections, half of them near an object."""
    import numpy as np

    rng = np.random.default_rng(0)
    content: dict[str, Any] = {
        "images": [{"id": i + 1, "width": 640, "height": 480} for i in range(images)],
        "annotations": [],
        "categories": [{"id": c + 1, "name": f"c{c}", "frequency": "rcf"[c % 3]} for c in range(classes)],
    }
    results = []
    for image in range(1, images + 1):
        boxes = random_boxes(rng, 7)
        labels = rng.integers(1, classes + 1, 7)
        for box, label in zip(boxes, labels):
            x, y, w, h = box
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": image,
                    "category_id": int(label),
                    "bbox": box,
                    "area": w * h,
                    "iscrowd": 0,
                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                }
            )
        for k, box in enumerate(random_boxes(rng, detections)):
            near = int(rng.integers(0, 7))
            box = [abs(v + d) + 0.5 for v, d in zip(boxes[near], rng.normal(0, 6, 4))] if k % 2 else box
            label = int(labels[near]) if k % 2 else int(rng.integers(1, classes + 1))
            results.append({"image_id": image, "category_id": label, "bbox": box, "score": float(rng.uniform())})
    return content, results


def random_boxes(rng: Any, count: int) -> list[list[float]]:
    """``count`` boxes x y w h inside 640 x 480."""
    sides = rng.uniform(8, 240, (count, 2))
    corners = rng.uniform(0, 1, (count, 2)) * ([640, 480] - sides)
    return [[float(v) for v in row] for row in zip(*corners.T, *sides.T)]


def as_masks(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The detections as rectangular run-length masks."""
    from pycocotools import mask as coco_mask

    shapes = [[x, y, x + w, y, x + w, y + h, x, y + h] for x, y, w, h in (r["bbox"] for r in results)]
    rles = [coco_mask.merge(coco_mask.frPyObjects([shape], 480, 640)) for shape in shapes]
    return [{**{k: v for k, v in r.items() if k != "bbox"}, "segmentation": m} for r, m in zip(results, rles)]


Run = Callable[[], Any]


def compare(name: str, ours: Callable[[], Run], theirs: Callable[[], Run], repeat: int) -> None:
    """Time both in turn and print medians, the ratio with its spread, and the largest difference of the numbers.

    ``ours()`` prepares a run (the libraries change their input) and returns what is timed.
    """
    pairs, gap = [], 0.0
    for _ in range(repeat):
        seconds, values = [], []
        for prepare in (ours, theirs):
            run = prepare()
            begin = time.process_time()
            values.append(run())
            seconds.append(time.process_time() - begin)
        pairs.append(seconds)
        gap = max(gap, *(abs(a - b) for a, b in zip(*(v.values() for v in values)) if a == a or b == b), 0.0)
    mine, other = (statistics.median(column) for column in zip(*pairs))
    ratios = sorted(b / a for a, b in pairs)
    spread = f"{statistics.median(ratios):5.1f}x ({ratios[0]:.1f} to {ratios[-1]:.1f})"
    print(f"{name:32s} {mine:8.2f} s {other:11.2f} s {spread:>24s}   largest difference {gap:.1e}")


def main() -> int:
    """Print the table."""
    args = parse()
    from runtime.provenance import hardware, package_versions
    from transfer.evaluate.coco_ap import coco_ap, coco_truth
    from transfer.evaluate.lvis_ap import lvis_ap

    print(hardware(), package_versions())
    content, results = problem(args.images, args.classes, args.detections)
    print(
        f"{args.images} images, {args.classes} classes, {args.detections} detections each; median of {args.repeat} runs"
    )
    print(f"{'':32s} {'this':>10s} {'other':>13s} {'ratio':>24s}")
    tasks = {"bbox": results, "segm": as_masks(results)}
    for task, rows in tasks.items():

        def prepared(backend: str, task: str = task, rows: list[dict[str, Any]] = rows) -> Run:
            truth, listed = copy.deepcopy(content), copy.deepcopy(rows)
            return lambda: coco_ap(coco_truth(truth, backend), listed, task, backend=backend)

        for other in ("official", *(("hotcoco",) if importlib.util.find_spec("hotcoco") else ())):
            name = {"official": "pycocotools"}.get(other, other)
            ours, theirs = functools.partial(prepared, "fast"), functools.partial(prepared, other)
            compare(f"COCO {task}, {name}", ours, theirs, args.repeat)
    for task, rows in tasks.items():
        begin = time.process_time()
        lvis_ap(content, rows, task)
        print(f"{f'LVIS {task}':32s} {time.process_time() - begin:8.2f} s   (lvis-api needs numpy < 1.24)")
    return 0


if __name__ == "__main__":
    run_entry(main)
