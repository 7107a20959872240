"""TEST.EXPECTED_RESULTS: the numbers a config promises, checked after the last evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from runtime.errors import UserError


def check_expectations(expected: Sequence[Any]) -> None:
    """Raise UserError for an entry that is neither [task, metric, value, tolerance] nor has sigmas behind these."""
    for entry in expected:
        fits = isinstance(entry, list | tuple) and len(entry) in (4, 5)
        if not fits or not all(isinstance(v, str) for v in entry[:2]) or not all(map(_is_number, entry[2:])):
            raise UserError(f"TEST.EXPECTED_RESULTS {entry}: write [task, metric, value, tolerance]")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


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
        found = metrics.get(task, {}).get(metric)
        if found is None or not math.isfinite(found) or abs(found - value) > tolerance:
            failures.append(f"expected {task}/{metric} {value} within {tolerance:g}, found {found}")
    return failures
