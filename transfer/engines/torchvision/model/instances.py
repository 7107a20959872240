"""The values that pass between the parts of the detector, one object per image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

Polygons = list[list[np.ndarray]]  # per instance: its parts, each x0 y0 x1 y1 ...


@dataclass
class Targets:
    """Ground truth: boxes M x 4 (XYXY, input pixels), classes M, masks as polygons or M x H x W booleans.

    ``keypoints`` are M x K x 3: x, y in input pixels, and 0 not labelled, 1 hidden or 2 visible.
    """

    boxes: torch.Tensor
    classes: torch.Tensor
    masks: Polygons | torch.Tensor | None = None
    keypoints: torch.Tensor | None = None

    @classmethod
    def from_item(cls, item: Mapping[str, Any], device: torch.device) -> Targets:
        """The targets under ``instances`` in an item of the training loader; polygons stay on the CPU."""
        instances = item["instances"]
        masks = instances.get("masks")
        if isinstance(masks, torch.Tensor):
            masks = masks.to(device)
        keypoints = instances.get("keypoints")
        keypoints = keypoints.to(device) if keypoints is not None else None
        return cls(instances["boxes"].to(device), instances["classes"].to(device), masks, keypoints)


@dataclass
class Proposals:
    """Region proposals: boxes P x 4 and objectness logits P, best first."""

    boxes: torch.Tensor
    logits: torch.Tensor

    @classmethod
    def from_item(cls, item: Mapping[str, Any], device: torch.device) -> Proposals:
        """The precomputed proposals of an item of the loaders."""
        return cls(item["proposals"]["boxes"].to(device), item["proposals"]["logits"].to(device))


@dataclass
class Regions:
    """Sampled training regions R: boxes, classes (K = background, -1 = ignored), and their ground truth."""

    boxes: torch.Tensor  # R x 4
    classes: torch.Tensor  # R
    gt_boxes: torch.Tensor  # R x 4; arbitrary where the class is background
    gt_index: torch.Tensor  # R, rows of the image's Targets

    def foreground(self, num_classes: int) -> torch.Tensor:
        """Booleans (R): regions with an object class."""
        return (self.classes != -1) & (self.classes != num_classes)

    def __getitem__(self, rows: torch.Tensor) -> Regions:
        return Regions(self.boxes[rows], self.classes[rows], self.gt_boxes[rows], self.gt_index[rows])


@dataclass
class ImageDetections:
    """Detections D of one image: boxes D x 4, scores D, classes D, mask probabilities D x M x M or None.

    ``keypoints`` are D x K x 3: x, y in the coordinates of the boxes and a score, or None.
    """

    boxes: torch.Tensor
    scores: torch.Tensor
    classes: torch.Tensor
    masks: torch.Tensor | None = None
    keypoints: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.boxes)
