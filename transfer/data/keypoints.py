"""Keypoints of a data set: which are exchanged in a mirrored image, and an annotation's numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from runtime.errors import UserError


def mirrored_pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Keypoints that are exchanged in a mirrored image, such as left_eye and right_eye."""
    pairs = [(name, name.replace("left", "right")) for name in names if "left" in name]
    return [pair for pair in pairs if pair[1] in names]


def mirrored_order(names: Sequence[str]) -> list[int]:
    """For each keypoint of a mirrored image, the index of the one that was annotated there."""
    partner = {a: b for pair in mirrored_pairs(names) for a, b in (pair, pair[::-1])}
    return [list(names).index(partner.get(name, name)) for name in names]


def keypoint_array(annotation: dict[str, Any], count: int, file_name: str) -> np.ndarray:
    """x, y and visibility of an annotation's keypoints: float64 count x 3, all 0 for an object without any.

    Raises UserError for another number of keypoints.
    """
    numbers = annotation.get("keypoints") or [0.0] * (3 * count)
    if len(numbers) != 3 * count:
        raise UserError(
            f"image {file_name}: an annotation has {len(numbers)} numbers in keypoints, {count} keypoints need "
            f"{3 * count}"
        )
    return np.array(numbers, dtype=np.float64).reshape(-1, 3)
