"""What a published row must contain, and what the collection must hold: no two rows with equal keys."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any

from runtime.errors import UserError
from transfer.literature.rows import PublishedRow, group_key
from transfer.literature.setups import FIELDS, protocols

REQUIRED: Mapping[str, type | tuple[type, ...]] = {
    "task": str,  # e.g. detection+instance segmentation
    "dataset": str,
    "detector": str,
    "schedule": str,
    "init": str,  # random, supervised, or the method's name
    "method": str,
    "protocol": str,  # a name in protocols.json
    "metrics": dict,
    "paper": str,  # short name; rows of one paper are one source
    "year": int,  # of the first version
    "source": str,  # paper or repository, with the table or file
    "verification": str,
}
OPTIONAL: Mapping[str, type | tuple[type, ...]] = {
    "pretrain_data": str,
    "pretrain_epochs": int,
    "weights": str,  # which of several weights of one name, e.g. MSRA or torchvision
    "pretrain": dict,  # keys of PRETRAIN
    "setup": dict,  # keys of setups.FIELDS: where the row departs from its protocol
    "printed_gaps": dict,  # metric -> the gap that the source prints
    "n_trials": int,
    "spread": dict,  # metric -> standard deviation over trials, in the metric's unit
    "runs": dict,  # metric -> the single trials
    "notes": str,
}
KEYS = (*REQUIRED, *OPTIONAL)
PRETRAIN: Mapping[str, type | tuple[type, ...]] = {
    "negatives": int,
    "temperature": (int, float),
    "momentum": (int, float),
    "batch": int,
}
VERIFICATIONS = ("paper-screenshot", "paper-text", "official-repo", "third-party-repo", "third-party")
NO_KEY = ("metrics", "verification", "notes", "printed_gaps", "spread", "runs")  # what may not tell two rows apart
PERCENT = {
    *("AP", "AP50", "AP75", "mIoU", "top1", "imagenet_linear_top1", "APbb_TTA", "APbb_rare", "APmk_rare"),
    *(f"AP{kind}{iou}" for kind in ("bb", "mk", "kp", "dp") for iou in ("", "50", "75")),
}
SCALES: Mapping[str, tuple[float, float]] = {  # metric -> (lowest, highest) value
    **dict.fromkeys(PERCENT, (0.0, 100.0)),
    "train_s_per_iter": (0.0, 60.0),  # seconds
    "train_s_per_im": (0.0, 60.0),
    "inference_s_per_im": (0.0, 60.0),
    "train_mem_GB": (0.0, 200.0),
    "pretrain_mem_GB": (0.0, 200.0),
    "pretrain_hours": (0.0, 1e5),
}
FIRST_YEAR = 2012


def row_key(row: Mapping[str, Any]) -> str:
    """What no other row may share: everything but the numbers and what is said about them."""
    return json.dumps({key: value for key, value in row.items() if key not in NO_KEY}, sort_keys=True)


def row_errors(row: Any) -> list[str]:
    """What is wrong with one row; [] when it is valid."""
    if not isinstance(row, dict):
        return ["is not a JSON object"]
    errors = [f"needs {key!r}" for key in REQUIRED if key not in row]
    errors += [f"{key!r} is not a key of a row" for key in row if key not in KEYS]
    for key, kind in (*REQUIRED.items(), *OPTIONAL.items()):
        if key in row and (not isinstance(row[key], kind) or isinstance(row[key], bool) or row[key] in ("", {})):
            errors.append(f"{key!r} must be a non-empty {getattr(kind, '__name__', kind)}, not {row[key]!r}")
    return errors or [*_word_errors(row), *_number_errors(row)]


def _word_errors(row: PublishedRow) -> list[str]:
    errors = []
    if row["protocol"] not in protocols():
        errors.append(f"protocol {row['protocol']!r} is not described in protocols.json")
    if row["verification"] not in VERIFICATIONS:
        errors.append(f"verification must be one of {', '.join(VERIFICATIONS)}, not {row['verification']!r}")
    if not FIRST_YEAR <= row["year"] <= date.today().year:
        errors.append(f"year {row['year']} is not from {FIRST_YEAR} to {date.today().year}")
    for name, value in row.get("pretrain", {}).items():
        if name not in PRETRAIN or not isinstance(value, PRETRAIN[name]):
            errors.append(f"pretrain {name!r}: {value!r} is not one of {', '.join(PRETRAIN)} with a number")
    errors += [
        f"setup {name!r} is not one of {', '.join(FIELDS)}" for name in row.get("setup", {}) if name not in FIELDS
    ]
    return errors


def _number_errors(row: PublishedRow) -> list[str]:
    errors = []
    for name, value in row["metrics"].items():
        if name not in SCALES:
            errors.append(f"metric {name!r} has no known scale")
        elif not _is_number(value) or not SCALES[name][0] <= value <= SCALES[name][1]:
            errors.append(f"metric {name!r} is {value!r}, not a number from {SCALES[name][0]:g} to {SCALES[name][1]:g}")
    for key in ("printed_gaps", "spread"):
        for name, value in row.get(key, {}).items():
            if name not in row["metrics"] or not _is_number(value) or (key == "spread" and value <= 0):
                errors.append(f"{key} {name!r}: {value!r} is not a number for a metric of this row")
    for name, values in row.get("runs", {}).items():
        if name not in row["metrics"] or abs(sum(values) / len(values) - row["metrics"][name]) > 0.051:
            errors.append(f"runs of {name!r} do not average to {row['metrics'].get(name)}")
    return errors


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def collection_errors(rows: Sequence[PublishedRow]) -> list[str]:
    """What is wrong with valid rows together: equal keys, years of one paper, gaps that no baseline explains."""
    errors: list[str] = []
    seen: dict[str, int] = {}
    years: dict[str, int] = {}
    for number, row in enumerate(rows):
        first = seen.setdefault(row_key(row), number)
        if first != number:
            errors.append(f"row {number} has the keys of row {first}: add what tells them apart ({_short(row)})")
        if years.setdefault(row["paper"], row["year"]) != row["year"]:
            errors.append(f"row {number}: paper {row['paper']!r} has year {years[row['paper']]} elsewhere")
        errors += [f"row {number}: {error} ({_short(row)})" for error in _gap_errors(row, rows)]
    return errors


def _gap_errors(row: PublishedRow, rows: Iterable[PublishedRow]) -> list[str]:
    """A printed gap must be the difference to a supervised row of the same paper and table, whatever its setup."""
    baselines = [
        r for r in rows if r["init"] == "supervised" and r["paper"] == row["paper"] and group_key(r) == group_key(row)
    ]
    return [
        f"printed gap {gap:+g} of {name} is to no supervised row of {row['paper']}"
        for name, gap in row.get("printed_gaps", {}).items()
        if not any(abs(row["metrics"][name] - r["metrics"].get(name, 1e9) - gap) < 0.051 for r in baselines)
    ]


def _short(row: PublishedRow) -> str:
    return f"{row['init']}, {row['dataset']}, {row['detector']}, {row['source']}"


def check(rows: Any, where: str) -> list[PublishedRow]:
    """The rows of a JSON file, checked one by one; raises UserError that names the first wrong ones."""
    if not isinstance(rows, list):
        raise UserError(f"{where} must be a JSON list of rows")
    errors = [f"row {number}: {error}" for number, row in enumerate(rows) for error in row_errors(row)]
    if errors:
        more = f" (and {len(errors) - 3} more)" if len(errors) > 3 else ""
        raise UserError(f"{where}: {'; '.join(errors[:3])}{more}")
    return rows
