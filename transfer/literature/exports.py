"""Published rows as CSV, with a Croissant description (https://docs.mlcommons.org/croissant), and new rows added."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from runtime.atomic import write_text
from runtime.errors import UserError
from transfer.literature.collection import collection_errors
from transfer.literature.rows import FILE, PublishedRow
from transfer.literature.schema import OPTIONAL, PRETRAIN, REQUIRED, SCALES, check, shown
from transfer.literature.setups import FIELDS, protocol_family, setup_of

LICENCE = (
    "Numbers are facts and belong to nobody; they are the work of the authors that every row names: cite them. The "
    "collection (selection, description of protocols, notes) has the licence of the project, Apache-2.0."
)
DESCRIPTION = (
    "Published results of pretrained backbones on detection and segmentation, one row per result, with its protocol, "
    "table and source."
)
LARGEST = 64 * 2**20  # bytes of a file of rows
_NESTED = {"pretrain": tuple(PRETRAIN), "setup": tuple(FIELDS), "metrics": tuple(SCALES)}
_SKIPPED = ("runs", "printed_gaps", "spread")  # by metric: their columns follow those of the metrics


def columns() -> list[str]:
    """The columns of the CSV: a row's keys, nested ones as ``key.name``, then the family of its protocol."""
    names: list[str] = []
    for key in (*REQUIRED, *OPTIONAL):
        names += [f"{key}.{name}" for name in _NESTED[key]] if key in _NESTED else []
        names += [key] if key not in _NESTED and key not in _SKIPPED else []
    return [*names, *(f"{key}.{name}" for key in ("spread", "printed_gaps") for name in SCALES), "protocol_family"]


def _flat(row: PublishedRow) -> dict[str, Any]:
    flat: dict[str, Any] = {"protocol_family": protocol_family(row)}
    for key, value in {**row, "setup": setup_of(row)}.items():  # every stated field, not only the row's own
        if isinstance(value, dict):
            flat |= {f"{key}.{name}": entry for name, entry in value.items()}
        else:
            flat[key] = value
    return flat


def csv_text(rows: Iterable[PublishedRow]) -> str:
    """The rows as CSV; a missing value is an empty cell, text that a spreadsheet would run as a formula is quoted."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns(), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        flat = _flat(row)
        writer.writerow({name: _cell(value) for name, value in flat.items()})
    return text.getvalue()


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value


def croissant(text: str, name: str) -> dict[str, Any]:
    """The Croissant 1.0 description of a CSV file with this text and file name."""
    numbers = {"year": "sc:Integer", "pretrain_epochs": "sc:Integer", "n_trials": "sc:Integer"}
    return {
        "@context": {
            "@vocab": "https://schema.org/",
            "sc": "https://schema.org/",
            "cr": "http://mlcommons.org/croissant/",
            "conformsTo": "http://purl.org/dc/terms/conformsTo",
            "recordSet": "cr:recordSet",
            "field": "cr:field",
            "source": "cr:source",
            "extract": "cr:extract",
            "column": "cr:column",
            "fileObject": {"@id": "cr:fileObject", "@type": "@id"},
            "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
        },
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": "published-transfer-results",
        "description": DESCRIPTION,
        "license": "https://www.apache.org/licenses/LICENSE-2.0",
        "usageInfo": LICENCE,
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": name,
                "name": name,
                "contentUrl": name,
                "encodingFormat": "text/csv",
                "sha256": hashlib.sha256(text.encode()).hexdigest(),
            }
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "results",
                "name": "results",
                "field": [
                    {
                        "@type": "cr:Field",
                        "@id": f"results/{column}",
                        "name": column,
                        "dataType": numbers.get(column, "sc:Float" if _is_number(column) else "sc:Text"),
                        "source": {"fileObject": {"@id": name}, "extract": {"column": column}},
                    }
                    for column in columns()
                ],
            }
        ],
    }


def _is_number(column: str) -> bool:
    return column.startswith(("metrics.", "spread.", "printed_gaps.", "pretrain."))


def write_csv(rows: Sequence[PublishedRow], path: Path) -> Path:
    """Write the CSV and, next to it, its Croissant description; returns the path of the description."""
    text = csv_text(rows)
    write_text(path, text)
    description = path.with_suffix(".croissant.json")
    write_text(description, json.dumps(croissant(text, path.name), indent=1) + "\n")
    return description


def add_rows(source: Path, target: Path = FILE) -> int:
    """Append the rows of a JSON file (a row or a list of rows) to the collection; returns how many.

    Nothing is written unless every row is valid and the collection with them is. Raises UserError that names the first
    errors.
    """
    new, rows = _read(source), _read(target)
    new = check([new] if isinstance(new, dict) else new, str(source))
    if not new:
        raise UserError(f"{source} has no rows")
    errors = [_of_file(error, len(rows), source) for error in collection_errors([*rows, *new])]
    if errors:
        more = f" (and {len(errors) - 3} more)" if len(errors) > 3 else ""
        raise UserError(f"{source}: {'; '.join(errors[:3])}{more}")
    write_text(target, json.dumps([*rows, *new], indent=1, ensure_ascii=False) + "\n")
    return len(new)


def _of_file(error: str, before: int, source: Path) -> str:
    """``error`` with the numbers of new rows counted from the start of their file."""

    def numbered(match: re.Match[str]) -> str:
        number = int(match[1])
        return f"row {number - before} of {source.name}" if number >= before else f"row {number} of the collection"

    return re.sub(r"\brow (\d+)", numbered, error)


def _read(path: Path) -> Any:
    """The JSON value of a file; NaN and a key that is given twice are refused, which Python's parser lets pass."""
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(f"{path} is larger than {LARGEST // 2**20} MiB; a row takes about half a kilobyte")
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_refused, object_pairs_hook=_unique)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error


def _refused(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {shown(next(name for name in names if names.count(name) > 1))} is given twice")
    return entries
