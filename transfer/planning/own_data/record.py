"""own_data.json beside a plan: what it was made for, and how long its runs were predicted to take."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.atomic import read_json, write_json

RECORD = "own_data.json"


def write_record(output: Path, request: Mapping[str, Any], seconds: Mapping[str, float], problem: str) -> None:
    """``seconds``: config -> predicted seconds of a run. ``problem``: why the plan should not be run, or ""."""
    write_json(output / RECORD, {"request": dict(request), "seconds_of_a_run": dict(seconds), "problem": problem})


def recorded_request(output: Path) -> dict[str, Any]:
    """What the plan in this folder was made for; {} where none was made."""
    request = read_json(output / RECORD).get("request")
    return request if isinstance(request, dict) else {}


def recorded_problem(output: Path) -> str:
    """Why the plan in this folder does not fit into the hours that it was made for; "" where it does."""
    return str(read_json(output / RECORD).get("problem") or "")


def predicted_seconds(output: Path) -> dict[str, float]:
    """Config -> predicted seconds of one run; {} for other plans."""
    seconds = read_json(output / RECORD).get("seconds_of_a_run")
    if not isinstance(seconds, dict):
        return {}
    return {name: float(value) for name, value in seconds.items() if isinstance(value, int | float)}
