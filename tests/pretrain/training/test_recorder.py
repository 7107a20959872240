"""Which steps are logged, saved and probed, and the speed that a line shows."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import pytest

from pretrain.settings.schedule import Schedule
from pretrain.training.loop import Timetable
from pretrain.training.recorder import Pace, Recorder
from pretrain.training.warnings_of_failure import HealthWatch


def test_asking_whether_a_step_is_logged_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """5 steps of 2 seconds and 8 images each are 4 images per second, however often a caller asks."""
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    recorder = Recorder(tmp_path, Pace(5, 8, 7, 7), HealthWatch(math.inf, 7))
    logged = []
    for step in recorder.timed(range(7)):
        now += 2.0
        if all(recorder.logs_step(step) for _ in range(3)):
            recorder.line(step, 0.1, {"loss": 1.0})
            logged.append(step)
    recorder.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert logged == [4, 6]
    assert [line["images_per_second"] for line in lines] == [4.0, 4.0]


@pytest.mark.parametrize(("intervals", "saves", "probes"), [
    ({}, [10], []),
    ({"save_every": 4}, [4, 8, 10], []),
    ({"save_every": 4, "save_also_every": 3}, [3, 4, 6, 8, 9, 10], []),
    ({"probe_every": 6}, [10], [6, 10]),
])  # fmt: skip
def test_a_run_saves_and_probes_at_its_intervals_and_its_end(
    intervals: dict[str, int], saves: list[int], probes: list[int]
) -> None:
    timetable = Timetable(Schedule(0.1, 10, 5), **intervals)
    assert [done for done in range(1, 11) if timetable.saves_after(done)] == saves
    assert [done for done in range(1, 11) if timetable.probes_after(done)] == probes
