"""Error types of every initialisation, computed from stored detections, with differences to the reference.

Types and definitions are TIDE's (Bolya et al., ECCV 2020, arXiv 2008.08115; see ``transfer.evaluate.error_types``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runtime.atomic import read_json, sha256_file, write_json
from transfer.comparison.differences import Difference, compare_pair
from transfer.comparison.gap import Table
from transfer.comparison.image_bootstrap import load_detections
from transfer.comparison.intervals import mean
from transfer.comparison.shape import UNBOUNDED
from transfer.evaluate.error_types import TYPES, error_types
from transfer.records.run import Run

CACHE = "error_types.json"
Stored = Mapping[str, Any]  # an error_types.json: AP50, weight and count of each type
OfRuns = Mapping[str, Mapping[int, Stored]]  # pretraining run -> seed -> its error types


@dataclass(frozen=True)
class ErrorTypes:
    """AP50 that correcting each type of error would gain, mean over seeds, per initialisation and type."""

    reference: str | None
    weights: Mapping[str, Mapping[str, float]]  # init -> type -> AP50 gained
    # init -> type -> difference of the weight to ``reference``. A weight says what correcting a type would gain, from
    # where this detector stands: a better detector may have the larger weight, so there is no verdict
    differences: Mapping[str, Mapping[str, Difference]]


@dataclass(frozen=True)
class DetectionErrors:
    """Error types of a table's runs, and why some of its runs have none."""

    types: ErrorTypes | None
    problems: Mapping[str, int] = field(default_factory=dict)  # reason -> number of runs


def detection_errors(table: Table) -> DetectionErrors:
    """Error types of the runs whose detections are still there; a run without detections is no problem."""
    stored: dict[str, dict[str, dict[int, Stored]]] = {}
    problems: dict[str, int] = {}
    for run in table.runs:
        if run.detections is None:
            continue
        result = run_error_types(run)
        if isinstance(result, str):
            problems[result] = problems.get(result, 0) + 1
        else:
            stored.setdefault(run.init, {}).setdefault(run.pretraining, {})[run.seed] = result
    return DetectionErrors(_compared(table, stored) if stored else None, problems)


def run_error_types(run: Run) -> Stored | str:
    """Error types of one run, or why it has none.

    They are stored next to the detections, since matching thousands of images takes minutes; the sha256 of the
    detections and of the data they were made from are stored with them, so that a change of either is noticed.
    """
    path = run.detections
    if path is None:
        return "no stored detections"
    made_from = {"detections": sha256_file(path), "data": run.record["datasets"]["test"][0]["sha256"]}
    stored = read_json(run.folder / CACHE)
    if stored.get("made_from") == made_from:
        return stored
    loaded = load_detections(run)
    if isinstance(loaded, str):
        return loaded
    spec, detections = loaded
    by_id = {record["image_id"]: record for record in spec.records(masks=detections.masks is not None)}
    errors = error_types([by_id[i] for i in detections.image_ids], detections)
    result = {"made_from": made_from, "AP50": errors.ap50, "weight": errors.weight, "count": errors.count}
    write_json(run.folder / CACHE, result)
    return result


def _compared(table: Table, stored: Mapping[str, OfRuns]) -> ErrorTypes:
    references = (table.references.get(role) for role in ("supervised", "random"))
    reference = next((init for init in references if init in stored), None)
    weights = {
        init: {
            name: mean([one["weight"][name] for by_seed in runs.values() for one in by_seed.values()]) for name in TYPES
        }
        for init, runs in stored.items()
    }
    differences: dict[str, dict[str, Difference]] = {}
    for init in stored:
        if reference is not None and init != reference:
            by_type = {name: _difference(table, stored, init, reference, name) for name in TYPES}
            differences[init] = {name: difference for name, difference in by_type.items() if difference is not None}
    return ErrorTypes(reference, weights, differences)


def _difference(table: Table, stored: Mapping[str, OfRuns], init: str, reference: str, name: str) -> Difference | None:
    """For the same question as the gap; None when the two share no seed."""
    own, other = (
        (
            one,
            {run: {seed: float(v["weight"][name]) for seed, v in seeds.items()} for run, seeds in stored[one].items()},
        )
        for one in (init, reference)
    )
    weights, method = compare_pair(own, other, without_pretraining=table.without_pretraining, scale=UNBOUNDED)
    return method or weights
