"""Fine-tuning that is killed at random moments and resumed: weights, history and metrics as if it were not."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from runtime.repository import REPOSITORY
from tests import lives
from tests.transfer.toy_data import write_coco
from tests.transfer.train_command import arguments
from transfer.records.fields import result_problem

SCRIPT = REPOSITORY / "transfer" / "train_net.py"
KILLS = 25
TIMES = ("time", "data_time")
KEYS = {
    "MODEL__RESNETS__DEPTH": "50",  # the one depth whose width is free: an eighth of it
    "MODEL__RESNETS__STEM_OUT_CHANNELS": "8",
    "MODEL__RESNETS__RES2_OUT_CHANNELS": "16",
    "MODEL__RESNETS__WIDTH_PER_GROUP": "4",
    "SOLVER__MAX_ITER": "28",
    "SOLVER__CHECKPOINT_PERIOD": "3",
    "TEST__EVAL_PERIOD": "6",
    "DATALOADER__NUM_WORKERS": "1",
}


def words(data: str, folder: Path) -> list[str]:
    return arguments(data, folder, "--resume", **KEYS)[1:]


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.json as they stand there, without the times."""
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def outcome(folder: Path) -> dict[str, Any]:
    """What two equal runs share."""
    result = json.loads((folder / "result.json").read_text())
    assert not result_problem(result)
    shared = ("status", "metrics", "metrics_by_dataset", "history", "iterations", "changes", "datasets", "seed")
    history = json.loads((folder / "history.json").read_text())["history"]
    return {key: result[key] for key in shared} | {"history.json": history, "metrics.json": metrics(folder)}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    content = torch.load(folder / "model_final.pth", weights_only=True)
    momenta = content["trainer"]["_trainer"]["optimizer"]["state"]
    return content["model"] | {f"momentum.{key}": value["momentum_buffer"] for key, value in momenta.items()}


def assert_same(killed: Path, whole: Path) -> None:
    torch.testing.assert_close(weights(killed), weights(whole), rtol=0, atol=0)
    assert outcome(killed) == outcome(whole)
    assert lives.temporary_files(killed) == []
    kept = {path.name for path in whole.glob("*") if "tfevents" not in path.name}
    assert {path.name for path in killed.glob("*") if "tfevents" not in path.name} == kept


@pytest.mark.slow
def test_25_kills_leave_no_trace(tmp_path: Path) -> None:
    """Every second kill is of the main process alone, so that its loader workers are left without it."""
    data, log = write_coco(tmp_path / "data", count=4), tmp_path / "log.txt"
    whole = tmp_path / "whole"
    seconds = lives.whole_life(SCRIPT, words(data, whole), log)
    rng, kills, folder = random.Random(0), 0, tmp_path / "run0"
    while kills < KILLS:
        # a run of several lives needs less than a whole one in each
        started = lives.cut_short(SCRIPT, words(data, folder), log, rng.random() * seconds / 2, group=bool(kills % 2))
        if started is not None:
            kills += 1
            assert lives.alive_after(started) == []
            continue
        assert_same(folder, whole)
        folder = tmp_path / f"run{kills}"
    lives.whole_life(SCRIPT, words(data, folder), log)
    assert_same(folder, whole)
