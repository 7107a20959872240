"""Result stores written from the schema, and a stand-in repository whose stages take milliseconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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


def make_record(**changes: Any) -> dict[str, Any]:
    """A result.json of schema 1; keyword ``init``, ``seed``, ``config``, ``metrics`` and any top-level field."""
    init, config = changes.pop("init", "moco"), changes.pop("config", "toy")
    flat = {**FLAT, **changes.pop("flat", {})}
    record: dict[str, Any] = {
        "schema": 1,
        "status": "finished",
        "error": None,
        "config": {"name": config, "sha256": "c" * 64, "flat": flat},
        "init": {"name": init, "kind": "backbone", "weights": f"{init}.pkl", "sha256": "b" * 64, "sidecar": None},
        "seed": 0,
        "engine": {"name": "torchvision", "versions": {"torch": "2.14.1"}},
        "datasets": {
            "train": [{"name": "toy_train", "sha256": "d" * 64, "images": 8}],
            "test": [{"name": "toy_val", "sha256": "e" * 64, "images": 4}],
        },
        "evaluator": "coco/pycocotools-2.0.11",
        "iterations": 100,
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


@pytest.fixture
def store(tmp_path: Path) -> Callable[..., Path]:
    """``store(init=..., seed=..., ...)`` writes one run folder and returns the root of the store."""
    root = tmp_path / "runs"

    def write(**changes: Any) -> Path:
        record = make_record(**changes)
        folder = root / record["config"]["name"] / record["init"]["name"] / f"seed{record['seed']}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "result.json").write_text(json.dumps(record))
        return root

    return write


PRETRAIN = """
import sys, pathlib, time
args = sys.argv[1:]
out = pathlib.Path(args[args.index("--output") + 1])
out.mkdir(parents=True, exist_ok=True)
with open(out / "calls.txt", "a") as f: f.write(" ".join(args) + "\\n")
(out / "checkpoint_0001.pth.tar").write_bytes(b"weights of " + str(out).encode())
"""
CONVERT = """
import hashlib, json, pathlib, sys
source, target = map(pathlib.Path, sys.argv[1:3])
if b"broken" in source.read_bytes():
    print("error: checkpoint is an HTML page", file=sys.stderr); sys.exit(2)
target.parent.mkdir(parents=True, exist_ok=True)
target.write_bytes(b"backbone from " + source.read_bytes())
sha = lambda p: hashlib.sha256(p.read_bytes()).hexdigest()
side = {"schema": 1, "source": {"file": str(source), "sha256": sha(source)}, "files": {target.name: sha(target)}}
target.with_suffix(".json").write_text(json.dumps(side))
"""
TRAIN = """
import hashlib, json, os, pathlib, signal, sys, time
sys.path.insert(0, {tests!r})
from conftest import make_record
args = sys.argv[1:]
flag = lambda name: args[args.index(name) + 1]
opt = lambda key, default=None: args[args.index(key) + 1] if key in args else default
if "--resume" in args[args.index("OUTPUT_DIR"):]: sys.exit("error: flags go before KEY VALUE options")
out, seed, init = pathlib.Path(opt("OUTPUT_DIR")), int(opt("SEED")), flag("--init-name")
out.mkdir(parents=True, exist_ok=True)
stopped = []
for signum in (signal.SIGTERM, signal.SIGUSR1): signal.signal(signum, lambda number, frame: stopped.append(number))
with open(out / "calls.txt", "a") as f: f.write(" ".join(args) + "\\n")
(out / "config.yaml").write_text("SOLVER:\\n  MAX_ITER: 20\\n")
(out / "last_checkpoint").write_text("model_0000009.pth")
if (out / "fail_once").exists():
    (out / "fail_once").unlink(); print("error: loss is not finite at step 7", file=sys.stderr); sys.exit(2)
done = int((out / "at").read_text()) if "--resume" in args and (out / "at").exists() else 0
for i in range(done, int(os.environ.get("FAKE_STEPS", "2"))):
    time.sleep(0.02)
    (out / "at").write_text(str(i))
    if stopped: sys.exit(128 + stopped[0])
sha = None
if flag("--init") not in ("random", "supervised"):
    sha = hashlib.sha256(pathlib.Path(flag("--init")).read_bytes()).hexdigest()
lr = float(opt("SOLVER.BASE_LR", "0.02"))
ap = {{"random": 20.0, "supervised": 30.0}}.get(init, 33.0) + 0.1 * seed - 100 * abs(lr - 0.02)
metrics = {{"bbox": {{"AP": ap, "AP50": ap + 20, "AP75": ap + 1}}}}
record = make_record(init=init, seed=seed, config="toy", metrics=metrics, flat={{"SOLVER.BASE_LR": lr}})
record["init"]["sha256"] = sha
(out / "result.json").write_text(json.dumps(record))
"""


@pytest.fixture
def fake_repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with stand-ins for the stage scripts; the current folder, and what the plan's paths are relative to."""
    root = tmp_path / "work"
    scripts = {
        "pretrain/main.py": PRETRAIN,
        "convert/to_d2.py": CONVERT,
        "transfer/train_net.py": TRAIN.format(tests=str(Path(__file__).parent)),
        "demo/draw.py": "import sys, pathlib; p = pathlib.Path(sys.argv[1]); p.mkdir(parents=True, exist_ok=True)\n"
        "(p / 'done.json').write_text(' '.join(sys.argv[1:]))\n",
    }
    for name, code in scripts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(code)
    (root / "configs").mkdir()
    (root / "transfer" / "planning").mkdir()
    (root / "configs" / "toy.yaml").write_text("SOLVER:\n  MAX_ITER: 20\n")
    for module in ("transfer.planning.plan", "transfer.planning.launchers"):
        monkeypatch.setattr(f"{module}.REPOSITORY", root)
    monkeypatch.chdir(root)
    return root


PLAN = """
name: toy
output: runs/toy
prepare:
  - argv: [demo/draw.py, "{output}/data", --seed, "{seed}"]
    done: "{output}/data/done.json"
inits:
  random: {random: true}
  supervised:
    pretrain:
      argv: [--method, supervised, --output, "{output}/{init}"]
      checkpoint: "{output}/{init}/checkpoint_0001.pth.tar"
  moco:
    pretrain:
      argv: [--output, "{output}/{init}", --seed, "{seed}"]
      checkpoint: "{output}/{init}/checkpoint_0001.pth.tar"
configs: [toy.yaml]
seeds: [0, 1]
"""


@pytest.fixture
def plan_file(fake_repo: Path) -> Path:
    """A small plan in the stand-in repository."""
    path = fake_repo / "toy_plan.yaml"
    path.write_text(PLAN)
    return path
