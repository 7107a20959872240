"""metrics.json and TensorBoard of a run that was interrupted and resumed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime.metrics import MetricsWriter, cut_metrics


def records(path: Path) -> list[int]:
    return [json.loads(line)["iteration"] for line in path.read_text().splitlines()]


def test_a_resumed_run_logs_no_iteration_twice(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first, written in ((0, range(6)), (3, range(3, 8))):
        writer = MetricsWriter(tmp_path, first=first)
        for iteration in written:
            writer.write(iteration, loss=float(iteration))
        writer.close()
    assert records(tmp_path / "metrics.json") == list(range(8))
    board = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in board.Scalars("loss")] == list(range(8))


@pytest.mark.parametrize(
    ("lines", "first", "expected"),
    [
        ([0, 1, 2], 0, []),
        ([0, 1, 2], 2, [0, 1]),
        ([0, 1, 2], 9, [0, 1, 2]),
        ([0, 1, 1, 2], 2, [0, 1, 1]),  # the losses and the evaluation of an iteration
        ([0, 1, 2, 1, 2, 3], 2, [0, 1]),  # a log of an earlier version, with repeated iterations
    ],
)
def test_the_log_is_cut_before_the_first_iteration_to_come(
    lines: list[int], first: int, expected: list[int], tmp_path: Path
) -> None:
    path = tmp_path / "metrics.json"
    path.write_text("".join(json.dumps({"iteration": i}) + "\n" for i in lines) + '{"iteration": 1, "lo')
    cut_metrics(path, first)
    assert records(path) == expected


def test_a_log_that_does_not_exist_is_not_made(tmp_path: Path) -> None:
    cut_metrics(tmp_path / "metrics.json", 3)
    assert list(tmp_path.iterdir()) == []
