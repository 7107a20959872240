"""Run folders written from the schema of result.json."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FLAT = {
    "SOLVER.BASE_LR": 0.02,
    "SOLVER.MAX_ITER": 100,
    "SOLVER.IMS_PER_BATCH": 4,
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.RESNETS.DEPTH": 18,
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    "INPUT.FORMAT": "RGB",
    "DATASETS.TRAIN": ["toy_train"],
    "DATASETS.TEST": ["toy_val"],
}
INITS = ("random", "supervised", "moco_v1", "moco_v2", "memory_bank")
STRENGTH = {"random": 0.0, "supervised": 6.0, "moco_v1": 6.5, "moco_v2": 7.5}
PROGRESS = {"random": (0.2, 0.6, 0.9), "supervised": (0.6, 0.85, 0.97)}  # share of the final AP at each evaluation


def make_record(**changes: Any) -> dict[str, Any]:
    """A result.json of schema 1; keyword ``init``, ``seed``, ``config``, ``metrics`` and any top-level field."""
    init, config = changes.pop("init", "moco"), changes.pop("config", "toy")
    flat = {**FLAT, **changes.pop("flat", {})}
    record: dict[str, Any] = {
        "schema": 1,
        "status": "finished",
        "error": None,
        "config": {"name": config, "sha256": "c" * 64, "flat": flat},
        "protocol": "tuned",
        "init": {"name": init, "kind": "backbone", "weights": f"{init}.pkl", "sha256": "b" * 64, "sidecar": None},
        "seed": 0,
        "engine": {"name": "torchvision", "versions": {"torch": "2.14.1"}},
        "world_size": 1,
        "changes": [],
        "datasets": {
            "train": [{"name": "toy_train", "sha256": "d" * 64, "images": 8}],
            "test": [{"name": "toy_val", "sha256": "e" * 64, "images": 4}],
        },
        "findings": [],
        "evaluator": "coco/pycocotools-2.0.11",
        "iterations": 100,
        "backbone_sha256": None,
        "metrics": {"bbox": {"AP": 30.0, "AP50": 50.0, "AP75": 31.0, "APs": -1, "AP-cat": 29.0, "AP-dog": 31.0}},
        "history": [],
        "seconds": {"train": 12.0, "evaluate": 1.0},
        "seconds_per_iteration": 0.12,
        "detections": [],
        "peak_memory_mb": 900.0,
        "hardware": {"cpu": "toy", "cores": 2, "gpus": []},
        "provenance": {"argv": ["transfer/train_net.py"], "git": {"commit": "a" * 40, "dirty": False}},
    }
    return {**record, **changes}


def write_run(root: Path, record: dict[str, Any], pretraining: str = "") -> Path:
    """Write ``record`` into CONFIG/INIT[/PRETRAINING]/seedN below ``root``; returns that folder."""
    folder = root / record["config"]["name"] / record["init"]["name"] / pretraining / f"seed{record['seed']}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(record))
    return folder


def write_store(root: Path, configs: int, inits: Sequence[str], seeds: int, classes: int = 80) -> int:
    """Write ``configs`` x ``inits`` x ``seeds`` runs with classes and evaluations; returns their number."""
    rng = random.Random(0)
    for config in range(configs):
        for init in inits:
            for seed in range(seeds):
                ap = 30 + STRENGTH.get(init, 5.0) + 0.2 * seed + rng.gauss(0, 0.3)
                bbox = {"AP": ap, "AP50": ap + 20, "AP75": ap + 1.5, "APs": ap / 2, "APm": ap, "APl": ap + 9}
                bbox |= {f"AP-class{k}": max(0.0, ap + rng.gauss(0, 8)) for k in range(classes)}
                history = [
                    {"iteration": 25 * (i + 1), "metrics": {"bbox": {"AP": ap * share}}}
                    for i, share in enumerate(PROGRESS.get(init, (0.5, 0.88, 0.98)))
                ]
                name = f"config{config}"
                write_run(root, make_record(init=init, seed=seed, config=name, metrics={"bbox": bbox}, history=history))
    return configs * len(inits) * seeds
