"""The time of a long run from its first few steps."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

TIMED = 2  # steps after the first, which also allocates memory and starts the loader
PATIENCE = 60.0  # seconds after which no further step is begun


def mean_after_first(seconds: Iterable[float]) -> float:
    """Mean of ``TIMED`` values after the first; of fewer, down to the first alone, where they exceed ``PATIENCE``.

    ``seconds`` takes a step for each value that is asked of it. 0 where it gives none.
    """
    times: list[float] = []
    for one in islice(seconds, 1 + TIMED):
        times.append(one)
        if sum(times) > PATIENCE:
            break
    later = times[1:] or times
    return sum(later) / max(1, len(later))


def shown_time(seconds: float) -> str:
    """Minutes, or hours from one on."""
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{max(1.0, seconds / 60):.0f} min"
