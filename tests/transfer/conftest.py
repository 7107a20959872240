"""Stores of finished runs, and a stand-in repository whose stages take milliseconds."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.repository import REPOSITORY
from tests.transfer.run_store import make_record, write_run

STAND_INS = Path(__file__).parent / "stand_ins"
SCRIPTS = ("pretrain/main.py", "convert/to_d2.py", "transfer/train_net.py", "transfer/splits.py", "demo/draw.py")


@pytest.fixture
def store(tmp_path: Path) -> Callable[..., Path]:
    """``store(init=..., seed=..., ...)`` writes one run folder and returns the root of the store."""
    root = tmp_path / "runs"

    def write(**changes: Any) -> Path:
        write_run(root, make_record(**changes))
        return root

    return write


@pytest.fixture
def fake_repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with stand-ins for the stage scripts; the current folder, and what the plan's paths are relative to."""
    root = tmp_path / "work"
    for script in SCRIPTS:
        (root / script).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(STAND_INS / Path(script).name, root / script)
    (root / "transfer" / "record.json").write_text(json.dumps(make_record()))
    for room in ("runtime", "transfer/planning/slurm"):  # Slurm's jobs find their repository by their own place
        shutil.copytree(REPOSITORY / room, root / room, ignore=shutil.ignore_patterns("__pycache__"))
    for package in ("transfer", "transfer/planning"):
        shutil.copy(REPOSITORY / package / "__init__.py", root / package)
    (root / "configs").mkdir()
    (root / "configs" / "toy.yaml").write_text("SOLVER:\n  MAX_ITER: 20\n")
    for module in ("plan", "config_files", "launchers", "slurm.scripts", "slurm.stage_commands"):
        monkeypatch.setattr(f"transfer.planning.{module}.REPOSITORY", root)
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


@pytest.fixture
def measure_gap(plan_file: Path) -> list[str]:
    """The command that measures the gap of ``plan_file`` in the stand-in repository."""
    return [sys.executable, str(STAND_INS / "measure_gap.py"), plan_file.name]
