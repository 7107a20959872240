"""Names and numbers in a message: all names, or some and how many more there are; 1 class, 2 classes."""

from __future__ import annotations

from collections.abc import Sequence


def listed(names: Sequence[object], limit: int = 12) -> str:
    """``a, b, c and 5 more``: at most ``limit`` names, and never a cut list that looks complete."""
    shown = ", ".join(str(name) for name in names[:limit])
    left = len(names) - limit
    return f"{shown} and {left} more" if left > 0 else shown


def counted(count: int, one: str, many: str) -> str:
    """``1 class``, ``2 classes``."""
    return f"{count} {one if count == 1 else many}"
