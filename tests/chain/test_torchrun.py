"""The entry scripts under torchrun, started from another folder by their path: two processes on the CPU, one run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime.torch_files import load_torch
from tests.transfer.toy_data import write_coco
from tests.transfer.train_command import arguments

LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
TINY = ["-a", "resnet18", "--image-size", "32", "-b", "4", "--moco-k", "8", "--epochs", "1", "--lr", "0.03", "-j", "0"]
Launch = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def launch(repo: Path, tmp_path: Path) -> Launch:
    """``launch(script, *words)`` in a folder that is not the repository, without its path in the environment."""

    def run(script: str, *words: str) -> subprocess.CompletedProcess[str]:
        variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        return subprocess.run(
            [*LAUNCHER, str(repo / script), *words],
            cwd=tmp_path,
            env={**variables, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
            timeout=900,
        )

    return run


def refusal(done: subprocess.CompletedProcess[str]) -> set[str]:
    """What the processes said, each once; torchrun adds lines of its own."""
    return {line for line in done.stderr.splitlines() if line.startswith("error: ")}


@pytest.mark.slow
def test_pretraining_from_another_folder(launch: Launch, tmp_path: Path) -> None:
    for number in range(8):
        folder = tmp_path / "images" / "train" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.RandomState(number).randint(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    done = launch("pretrain/main.py", "images", *TINY, "--output", "run")
    assert done.returncode == 0, done.stderr[-2000:]
    assert load_torch(tmp_path / "run" / "checkpoint_0000.pth.tar")["epoch"] == 1
    done = launch("pretrain/main.py", "nowhere", *TINY, "--output", "other")
    assert done.returncode != 0
    (line,) = refusal(done)
    assert "nowhere" in line
    assert "[rank" not in done.stderr  # a traceback


@pytest.mark.slow
def test_fine_tuning_from_another_folder(launch: Launch, tmp_path: Path) -> None:
    _, annotations, images = write_coco(tmp_path / "data", count=4).split(":")
    data = f"coco:{Path(annotations).relative_to(tmp_path)}:{Path(images).relative_to(tmp_path)}"
    script, *words = arguments(data, Path("run"), SEED="0", MODEL__DEVICE="cpu", SOLVER__IMS_PER_BATCH="4")
    done = launch(script, *words)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["status"], result["world_size"], result["iterations"]) == ("finished", 2, 2)
    done = launch(script, *words)
    assert done.returncode != 0
    (line,) = refusal(done)
    assert "already holds a run" in line
    single = launch(script, *words, "SOLVER.IMS_PER_BATCH", "2", "OUTPUT_DIR", "single")
    assert "error: a batch norm sees one value per channel" in single.stderr
    assert len(refusal(single)) <= 2, single.stderr  # the other may say that this one has ended
    assert "[rank" not in single.stderr
    launched = launch(script, *words[:2], "--num-gpus", "2", *words[2:])
    assert refusal(launched) == {"error: --num-gpus starts its own processes; leave it out under torchrun"}
