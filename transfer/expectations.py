"""TEST.EXPECTED_RESULTS: the numbers a config promises, checked after the last evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from runtime.errors import UserError


def failed_expectations(expected: Sequence[Sequence[Any]], metrics: Mapping[str, Mapping[str, float]]) -> list[str]:
    """One sentence per expectation that does not hold.

    An expectation is [task, metric, value, tolerance]: |metric - value| must stay within the tolerance; with a fifth
    entry, [task, metric, mean, std, sigmas], within ``sigmas`` standard deviations, as in Detectron2.
    """
    failures = []
    for entry in expected:
        if len(entry) not in (4, 5):
            raise UserError(f"TEST.EXPECTED_RESULTS {list(entry)}: write [task, metric, value, tolerance]")
        task, metric, value, spread = entry[:4]
        tolerance = spread * (entry[4] if len(entry) == 5 else 1.0)
        found = metrics.get(task, {}).get(metric)
        if found is None or not math.isfinite(found) or abs(found - value) > tolerance:
            failures.append(f"expected {task}/{metric} {value} within {tolerance:g}, found {found}")
    return failures
