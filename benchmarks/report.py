"""Time and size of the report on a store of 2,000 runs: python benchmarks/report.py [--runs N] [--repeat N]

The store is written first (not timed): configs x initialisations x seeds with 80 classes and learning curves, results
as a COCO run leaves them. Prints median and spread of the seconds, the bytes of gap.html, and the hardware.
"""

import os
import sys

if not __package__:  # run as a script: import from the repository, not from this folder
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import argparse
import json
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runtime.errors import run_entry
from runtime.repository import REPOSITORY

INITS = ("random", "supervised", "moco_v1", "moco_v2", "memory_bank")
STRENGTH = {"random": 0.0, "supervised": 6.0, "moco_v1": 6.5, "moco_v2": 7.5, "memory_bank": 5.5}


def write_store(root: Path, configs: int, inits: Sequence[str], seeds: int, classes: int = 80) -> int:
    """Write result.json of ``configs`` x ``inits`` x ``seeds`` runs below ``root``; returns their number."""
    import numpy as np

    rng = np.random.default_rng(0)
    for c in range(configs):
        for init in inits:
            for seed in range(seeds):
                ap = 30 + STRENGTH.get(init, 5.0) + 0.2 * seed + float(rng.normal(0, 0.3))
                per_class = {f"AP-class{k}": float(max(0.0, ap + rng.normal(0, 8))) for k in range(classes)}
                folder = root / f"config{c}" / init / f"seed{seed}"
                folder.mkdir(parents=True)
                (folder / "result.json").write_text(json.dumps(record(f"config{c}", init, seed, ap, per_class)))
    return configs * len(inits) * seeds


def record(config: str, init: str, seed: int, ap: float, per_class: dict[str, float]) -> dict[str, Any]:
    """One result.json of schema 1."""
    from transfer.config import default_config, recipe

    metrics = {
        "bbox": {"AP": ap, "AP50": ap + 20, "AP75": ap + 1.5, "APs": ap / 2, "APm": ap, "APl": ap + 9, **per_class}
    }
    share = {"random": (0.2, 0.6, 0.9), "supervised": (0.6, 0.85, 0.97)}.get(init, (0.5, 0.88, 0.98))
    history = [{"iteration": 22500 * (i + 1), "metrics": {"bbox": {"AP": ap * s}}} for i, s in enumerate(share)]
    data = [{"name": "coco_2017_val", "sha256": "e" * 64, "images": 5000}]
    return {
        "schema": 1,
        "status": "finished",
        "error": None,
        "config": {"name": config, "sha256": "c" * 64, "flat": recipe(default_config())},
        "init": {"name": init, "kind": "backbone", "weights": f"{init}.pkl", "sha256": "b" * 64, "sidecar": None},
        "seed": seed,
        "engine": {"name": "torchvision", "versions": {"torch": "2.14.1", "torchvision": "0.29.1"}},
        "datasets": {"train": data, "test": data},
        "evaluator": "coco/pycocotools-2.0.11",
        "iterations": 90000,
        "metrics": metrics,
        "history": history,
        "seconds": {"train": 36000.0, "evaluate": 300.0},
        "seconds_per_iteration": 0.4,
        "detections": [],
        "peak_memory_mb": 9000.0,
        "hardware": {"cpu": "a processor", "cores": 2, "gpus": []},
        "provenance": {
            "argv": [
                "transfer/train_net.py",
                "--config-file",
                f"{config}.yaml",
                "--init",
                f"{init}.pkl",
                "SEED",
                str(seed),
            ],
            "git": {"commit": "a" * 40, "dirty": False},
        },
    }


def main() -> int:
    """Write a store and time the report on it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    from runtime.provenance import hardware

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "runs"
        count = write_store(root, max(1, args.runs // (len(INITS) * 5)), INITS, 5)
        command = [sys.executable, "transfer/measure_gap.py", str(root), "--output", folder]
        seconds, before = [], resource.getrusage(resource.RUSAGE_CHILDREN)
        for _ in range(args.repeat):
            began = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=REPOSITORY)
            seconds.append(time.perf_counter() - began)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        busy = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / args.repeat
        size = (Path(folder) / "gap.html").stat().st_size
    spread = f"{min(seconds):.1f} to {max(seconds):.1f}"
    print(f"report on {count} runs: median {statistics.median(seconds):.1f} s ({spread} in {args.repeat} repetitions)")
    print(f"processor time per report: {busy:.1f} s (the median above includes waiting for other processes)")
    print(f"gap.html: {size / 1e6:.2f} MB")
    print(f"hardware: {hardware()}")
    return 0


if __name__ == "__main__":
    run_entry(main)
