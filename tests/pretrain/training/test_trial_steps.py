"""The time that a dry run of pretraining names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pretrain.training.trial_steps import time_line


def test_the_last_run_of_a_folder_says_its_time_before_a_trial(tmp_path: Path) -> None:
    taken: list[float] = []

    def trial() -> Iterator[float]:
        for seconds in (9.0, 0.4, 0.6, 7.0):
            taken.append(seconds)
            yield seconds

    assert time_line(tmp_path, 8, 7200, trial) == (
        "time: about 0.5 s a step here, 1.0 h in all, without probes and checkpoints"
    )
    assert time_line(tmp_path, 8, 7200, trial, "several processes") == "time: not measured: several processes"
    assert taken == [9.0, 0.4, 0.6]  # no step more than is timed
    (tmp_path / "metrics.json").write_text('{"iteration": 4, "images_per_second": 16.0}\n')
    assert time_line(tmp_path, 8, 7200, trial) == "time: 0.50 s a step in the last run of this folder"
    assert len(taken) == 3
