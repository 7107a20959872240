"""Detections from plain lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from transfer.evaluate.detections import Detections


def make_detections(
    ids: Sequence[Any],
    image_index: Sequence[int] = (),
    category: Any = (),
    boxes: Any = (),
    scores: Any = (),
    masks: list[dict[str, Any]] | None = None,
) -> Detections:
    """``boxes``: N x 4, x0 y0 x1 y1. Without further arguments no image has a detection."""
    corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    return Detections(
        list(ids), np.asarray(image_index, int), np.asarray(category, int), corners, np.asarray(scores), masks
    )
