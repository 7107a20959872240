"""A converted backbone and what is known about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from convert.architecture import Architecture
from convert.preprocessing import Preprocessing


@dataclass(frozen=True)
class Coverage:
    """How many of the backbone's tensors are set (not counting BN's batch counters), and what was left out."""

    backbone_tensors: int
    set: int
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Backbone:
    """A ResNet in Detectron2's names, ready to be written (:func:`convert.backbone_file.write_backbone`).

    ``tensors``: Detectron2 name -> float32 array (``num_batches_tracked``: int64), possibly views of the mapped source
    file. ``max_abs_diff``: stem, res2..res5 -> largest difference between the source network's and the converted
    backbone's activations on one image; None where it was not computed.
    """

    tensors: Mapping[str, np.ndarray]
    architecture: Architecture
    preprocessing: Preprocessing
    coverage: Coverage
    family: str
    encoder: str
    source: Path
    source_sha256: str | None
    max_abs_diff: Mapping[str, float] | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def config(self) -> dict[str, Any]:
        """Detectron2 config keys that must be set for these weights: preprocessing, stride place, architecture."""
        return {**self.preprocessing.config(), **self.architecture.config()}
