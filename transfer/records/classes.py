"""classes.json: what a detector's classes are called, so that it can be used where its training data is not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.atomic import write_json
from runtime.errors import UserError

if TYPE_CHECKING:
    from transfer.data.catalog import DatasetSpec

CLASSES = "classes.json"


@dataclass(frozen=True)
class Classes:
    """The classes of a detector, in the order of its outputs: names, and ids for result files (int or text)."""

    names: tuple[str, ...]
    ids: tuple[Any, ...]

    def categories(self) -> list[dict[str, Any]]:
        """The form of COCO's ``categories``."""
        return [{"id": id_, "name": name} for id_, name in zip(self.ids, self.names)]


def write_classes(folder: Path, spec: DatasetSpec) -> None:
    """Write the classes of the data set that a detector is trained on into its run folder."""
    write_json(
        folder / CLASSES, {"categories": Classes(tuple(spec.class_names), tuple(spec.category_ids)).categories()}
    )


def read_classes(path: Path) -> Classes:
    """The classes of a classes.json or a COCO annotation file, in the order of their ids, or of a text file of names.

    Raises UserError for a file that cannot be read, and for ids that repeat.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".txt":
            names = [line.strip() for line in text.splitlines() if line.strip()]
            return Classes(tuple(names), tuple(range(1, len(names) + 1)))
        return _of_categories(json.loads(text)["categories"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no list of categories with id and name"
        raise UserError(
            f"classes {path}: {reason}; give {CLASSES} of a run, a COCO annotation file, or a .txt with a name a line"
        ) from error


def _of_categories(categories: Sequence[dict[str, Any]]) -> Classes:
    pairs = [(category["id"], str(category["name"])) for category in categories]
    if len({id_ for id_, _ in pairs}) != len(pairs) or not pairs:
        raise ValueError
    pairs.sort(key=lambda pair: pair[0])  # the order in which a data set's classes are numbered
    return Classes(tuple(name for _, name in pairs), tuple(id_ for id_, _ in pairs))
