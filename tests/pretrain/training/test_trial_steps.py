"""How long a step takes, by a few steps of which nothing is kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pretrain.training import trial_steps
from pretrain.training.trial_steps import time_line


def test_the_last_run_of_a_folder_says_its_time_before_a_trial(tmp_path: Path) -> None:
    seconds: list[float] = []

    def trial() -> float:
        seconds.append(0.5)
        return 0.5

    assert time_line(tmp_path, 8, 7200, trial) == (
        "time: about 0.5 s a step here, 1.0 h in all, without probes and checkpoints"
    )
    assert time_line(tmp_path, 8, 7200, trial, "several processes") == "time: not measured: several processes"
    assert len(seconds) == 1
    (tmp_path / "metrics.json").write_text('{"iteration": 4, "images_per_second": 16.0}\n')
    assert time_line(tmp_path, 8, 7200, trial) == "time: 0.50 s a step in the last run of this folder"
    assert len(seconds) == 1


def test_trial_steps_leave_nothing_and_stop_when_they_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 5.0, 5.0, 7.0, 7.0, 10.0, 10.0, 99.0])
    monkeypatch.setattr(trial_steps.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(trial_steps, "Stepper", lambda *parts: lambda batch, views: None)
    given: list[int] = []

    def batches() -> Iterator[int]:
        for number in range(10):
            given.append(number)
            yield number

    def measure() -> float:
        cpu = torch.device("cpu")
        return trial_steps.seconds_a_step(torch.nn.Linear(1, 1), None, 1, batches(), lambda batch: [], cpu)  # type: ignore[arg-type]

    assert measure() == 2.5  # of 5, 2 and 3 seconds the last two
    assert given == [0, 1, 2]
    monkeypatch.setattr(trial_steps, "PATIENCE", 50.0)
    clock = iter([0.0, 60.0, 60.0])
    monkeypatch.setattr(trial_steps.time, "perf_counter", lambda: next(clock))
    assert measure() == 60.0
