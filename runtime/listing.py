"""Names in a message: all of them, or some and how many more there are."""

from __future__ import annotations

from collections.abc import Sequence


def listed(names: Sequence[object], limit: int = 12) -> str:
    """``a, b, c and 5 more``: at most ``limit`` names, and never a cut list that looks complete."""
    shown = ", ".join(str(name) for name in names[:limit])
    left = len(names) - limit
    return f"{shown} and {left} more" if left > 0 else shown
