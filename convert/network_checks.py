"""Checks that every kind of network shares: all blocks are there, and every tensor has the shape that it must have."""

from __future__ import annotations

from collections.abc import Mapping

from runtime.errors import UserError
from runtime.listing import listed


def whole_number_of_blocks(names: Mapping[str, object], prefix: str) -> int:
    """How many blocks ``names`` have below ``prefix``, numbered from 0. Raises UserError where one is missing."""
    numbers = {int(name[len(prefix) :].split(".")[0]) for name in names if name.startswith(prefix)}
    if not numbers:
        raise UserError(f"it has no tensors named {prefix}*: this is half a network; convert the whole encoder")
    count = max(numbers) + 1
    if missing := sorted(set(range(count)) - numbers):
        raise UserError(
            f"{prefix}{missing[0]} is missing, though there are {prefix}0 to {prefix}{count - 1}: this is half a "
            "network; convert the whole encoder"
        )
    return count


def compare_shapes(shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], name: str) -> None:
    """Raise UserError naming the first tensors that are missing, unexpected, or of another shape than ``expected``."""
    if missing := [key for key in expected if key not in shapes]:
        raise UserError(
            f"{len(missing)} of {len(expected)} tensors of {name} are missing: {listed(missing, 3)}; this is half a "
            "network"
        )
    if extra := [key for key in shapes if key not in expected]:
        raise UserError(f"it has {len(extra)} tensors that {name} does not have: {listed(extra, 3)}")
    if wrong := [key for key, shape in expected.items() if shapes[key] != shape]:
        first = wrong[0]
        there, wanted = ("x".join(map(str, shape)) or "a scalar" for shape in (shapes[first], expected[first]))
        raise UserError(f"{len(wrong)} tensors do not fit {name}, first {first}: {there} instead of {wanted}")
