"""What published rows must hold together: no two with equal keys, one spelling of a name, gaps with a baseline."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from transfer.literature.rows import PublishedRow, group_key
from transfer.literature.schema import shown
from transfer.literature.setups import protocols

NO_KEY = ("metrics", "verification", "notes", "printed_gaps", "spread", "runs")  # what may not tell two rows apart
NAMES = ("task", "dataset", "detector", "schedule", "init", "method", "pretrain_data", "weights", "paper")
TOLERANCE = 0.051  # points: papers round a value and a gap to one decimal


def row_key(row: Mapping[str, Any]) -> str:
    """What no other row may share: everything but the numbers and what is said about them."""
    return json.dumps({key: value for key, value in row.items() if key not in NO_KEY}, sort_keys=True)


def collection_errors(rows: Sequence[PublishedRow]) -> list[str]:
    """What is wrong with valid rows together; [] when nothing is."""
    return [*_twins(rows), *_spellings(rows), *_years(rows), *_gap_errors(rows)]


def _twins(rows: Sequence[PublishedRow]) -> Iterator[str]:
    """Rows with equal keys; and rows of one paper that only the place tells apart, but whose values differ."""
    seen: dict[str, int] = {}
    elsewhere: dict[str, int] = {}
    for number, row in enumerate(rows):
        first = seen.setdefault(row_key(row), number)
        if first != number:
            yield f"row {number} has the keys of row {first}: add what tells them apart ({_short(row)})"
            continue
        other = elsewhere.setdefault(row_key({**row, "source": ""}), number)
        metrics = rows[other]["metrics"]
        changed = [name for name, value in row["metrics"].items() if metrics.get(name, value) != value]
        if changed:
            yield (
                f"row {number}: {changed[0]} differs from row {other}, which is the same but for its source: add what "
                f"tells them apart ({_short(row)})"
            )


def _spellings(rows: Sequence[PublishedRow]) -> Iterator[str]:
    """A name that is another one but for case, spaces and hyphens would be a group of its own."""
    spelled: dict[tuple[str, str], str] = {}
    for protocol in protocols().values():
        for setup in (protocol["setup"], *protocol["by_dataset"].values(), *protocol["by_neck"].values()):
            for field, value in setup.items():
                spelled.setdefault((field, _plain(value)), value)
    for number, row in enumerate(rows):
        names = {key: row[key] for key in NAMES if key in row} | row.get("setup", {})
        for field, text in names.items():
            known = spelled.setdefault((field, _plain(text)), text)
            if isinstance(text, str) and known != text:
                yield f"row {number}: {field} {shown(text)} is spelled {shown(known)} elsewhere"


def _plain(value: Any) -> str:
    return re.sub(r"[\s_-]+", "", str(value)).casefold()


def _years(rows: Sequence[PublishedRow]) -> Iterator[str]:
    years: dict[str, int] = {}
    for number, row in enumerate(rows):
        if years.setdefault(row["paper"], row["year"]) != row["year"]:
            yield f"row {number}: paper {shown(row['paper'])} has year {years[row['paper']]} elsewhere"


def _gap_errors(rows: Sequence[PublishedRow]) -> Iterator[str]:
    """A printed gap must be the difference to a supervised row of the same paper and table, whatever its setup."""
    baselines: dict[tuple[Any, ...], list[PublishedRow]] = {}
    for row in rows:
        if row["init"] == "supervised":
            baselines.setdefault((row["paper"], group_key(row)), []).append(row)
    for number, row in enumerate(rows):
        known = baselines.get((row["paper"], group_key(row)), [])
        for name, gap in row.get("printed_gaps", {}).items():
            gaps = [row["metrics"][name] - r["metrics"][name] for r in known if name in r["metrics"]]
            if not any(abs(own - gap) < TOLERANCE for own in gaps):
                yield (
                    f"row {number}: printed gap {gap:+g} of {name} is to no supervised row of {row['paper']} "
                    f"({_short(row)})"
                )


def _short(row: PublishedRow) -> str:
    return f"{row['init']}, {row['dataset']}, {row['detector']}, {row['source']}"
