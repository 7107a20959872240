"""A problem of a data set that affects the numbers measured on it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """One kind of finding in one data set: how often it occurs, one example, and what it does to the numbers."""

    kind: str  # a short name in lower case, e.g. "image listed twice"
    count: int
    example: str  # where one of them is: a file, an id, a class
    message: str  # what it means for the numbers, and what to do

    def line(self) -> str:
        """One line for the log and for a report."""
        where = f", e.g. {self.example}" if self.example else ""
        return f"{self.kind}: {self.count}{where}: {self.message}"

    def as_record(self) -> dict[str, Any]:
        """The JSON form, as stored in result.json."""
        return asdict(self)
