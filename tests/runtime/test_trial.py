"""The time of a run from its first steps."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from runtime.trial import mean_after_first, shown_time


@pytest.mark.parametrize(
    ("seconds", "mean", "asked"),
    [
        ([5.0, 2.0, 3.0, 100.0], 2.5, 3),  # the first is left out, and no fourth is begun
        ([5.0, 2.0], 2.0, 2),
        ([61.0, 2.0], 61.0, 1),  # a minute is enough
        ([30.0, 31.0, 2.0], 31.0, 2),
        ([], 0.0, 0),
    ],
)
def test_the_mean_leaves_out_the_first_and_does_not_wait_long(seconds: list[float], mean: float, asked: int) -> None:
    given = 0

    def steps() -> Iterator[float]:
        nonlocal given
        for one in seconds:
            given += 1
            yield one

    assert mean_after_first(steps()) == mean
    assert given == asked


def test_times_are_minutes_or_hours() -> None:
    assert [shown_time(seconds) for seconds in (3.0, 150.0, 3600.0, 9000.0)] == ["1 min", "2 min", "1.0 h", "2.5 h"]
