"""TEST.EXPECTED_RESULTS: metrics that a config expects, checked after the last evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from runtime.errors import UserError
from transfer.config.values import is_number


def check_expectations(expected: Sequence[Any]) -> None:
    """Raise UserError for an entry that is not [task, metric, value, tolerance], with an optional number of sigmas."""
    for entry in expected:
        fits = isinstance(entry, list | tuple) and len(entry) in (4, 5)
        if not fits or not all(isinstance(v, str) for v in entry[:2]) or not all(map(is_number, entry[2:])):
            raise UserError(f"TEST.EXPECTED_RESULTS {entry}: write [task, metric, value, tolerance]")


def failed_expectations(expected: Sequence[Sequence[Any]], metrics: Mapping[str, Mapping[str, float]]) -> list[str]:
    """One sentence per expectation that does not hold.

    An expectation is [task, metric, value, tolerance]: |metric - value| must stay within the tolerance; with a fifth
    entry, [task, metric, mean, std, sigmas], within ``sigmas`` standard deviations, as in Detectron2.
    """
    check_expectations(expected)
    failures = []
    for entry in expected:
        task, metric, value, spread = entry[:4]
        tolerance = spread * (entry[4] if len(entry) == 5 else 1.0)
        measured = metrics.get(task, {}).get(metric)
        if measured is None or not math.isfinite(measured) or abs(measured - value) > tolerance:
            failures.append(f"expected {task}/{metric} {value} within {tolerance:g}, found {measured}")
    return failures
