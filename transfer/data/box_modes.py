"""The two forms of a box in a record, and the conversion between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

XYXY, XYWH = 0, 1  # values of Detectron2's BoxMode: x0 y0 x1 y1, and x0 y0 width height


def corners(annotations: Sequence[dict[str, Any]], sums_in: DTypeLike = np.float64) -> np.ndarray:
    """Boxes of annotations as N x 4 float64, x0 y0 x1 y1.

    ``sums_in``: the type in which width and height are added to the corner. Detectron2 adds in float32 when it maps a
    training image; evaluation adds in float64.
    """
    boxes = np.array([a["bbox"] for a in annotations], dtype=np.float64).reshape(-1, 4)
    sized = np.array([a["bbox_mode"] == XYWH for a in annotations], dtype=bool)
    added = boxes[sized].astype(sums_in)
    added[:, 2:] += added[:, :2]
    boxes[sized] = added
    return boxes
