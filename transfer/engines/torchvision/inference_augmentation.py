"""Test-time augmentation: boxes found at several sizes and mirrored, merged by NMS; masks averaged (TEST.AUG.*)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from transfer.data.random_geometry import resized_shape
from transfer.engines.torchvision.model.instances import ImageDetections
from transfer.engines.torchvision.model.postprocess import rescale
from transfer.engines.torchvision.model.rcnn import GeneralizedRCNN

BATCH = 3  # Detectron2's value; images of a batch are padded to one size, so results depend on it
LOWEST_SCORE = 1e-8  # so low that every detection of every view takes part in the merge


@dataclass(frozen=True)
class View:
    """One view of an image: ``image`` (3 x h x w), the sizes its boxes are scaled through, whether it is mirrored."""

    image: torch.Tensor
    sizes: tuple[tuple[int, int], ...]  # original, test input, this view: (height, width)
    mirrored: bool

    def to_view(self, boxes: torch.Tensor) -> torch.Tensor:
        """Boxes (N x 4) of the original image in this view."""
        for before, after in zip(self.sizes[:-1], self.sizes[1:]):
            boxes = _scale(boxes, before, after)
        return self._mirror(boxes)

    def to_original(self, boxes: torch.Tensor) -> torch.Tensor:
        """Boxes (N x 4) of this view in the original image."""
        boxes = self._mirror(boxes)
        for before, after in zip(self.sizes[:0:-1], self.sizes[-2::-1]):
            boxes = _scale(boxes, before, after)
        return boxes

    def _mirror(self, boxes: torch.Tensor) -> torch.Tensor:
        if not self.mirrored:
            return boxes
        x1, y1, x2, y2 = boxes.unbind(1)
        width = self.sizes[-1][1]
        return torch.stack((width - x2, y1, width - x1, y2), dim=1)


def _scale(boxes: torch.Tensor, before: tuple[int, int], after: tuple[int, int]) -> torch.Tensor:
    if before == after:
        return boxes
    return boxes * boxes.new_tensor([after[1] / before[1], after[0] / before[0]]).repeat(2)


class AugmentedDetector:
    """Detects on every size of ``min_sizes``, mirrored as well if ``flip``; called like the model."""

    def __init__(self, model: GeneralizedRCNN, *, min_sizes: Sequence[int], max_size: int, flip: bool) -> None:
        self.model, self.min_sizes, self.max_size, self.flip = model, tuple(min_sizes), max_size, flip

    def __call__(self, items: Sequence[dict[str, Any]]) -> list[ImageDetections]:
        """Detections per item in its original height x width."""
        return [self._detect(item) for item in items]

    def views(self, item: dict[str, Any]) -> list[View]:
        """The views of an item's image: each size, plain and mirrored."""
        pixels = item["image"].permute(1, 2, 0).numpy()
        input_size = (int(pixels.shape[0]), int(pixels.shape[1]))
        views = []
        for size in self.min_sizes:
            height, width = resized_shape(*input_size, size, self.max_size)
            resized = np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
            image = torch.from_numpy(resized.transpose(2, 0, 1).copy())
            sizes = ((int(item["height"]), int(item["width"])), input_size, (height, width))
            views.append(View(image, sizes, False))
            if self.flip:
                views.append(View(image.flip(2), sizes, True))
        return views

    def _detect(self, item: dict[str, Any]) -> ImageDetections:
        views = self.views(item)
        detections = [one for _, _, batch in self._batches(views, None) for one in batch]
        boxes = torch.cat([view.to_original(one.boxes) for view, one in zip(views, detections)])
        classes = torch.cat([one.classes for one in detections])
        predictor = self.model.roi_heads.last_predictor
        scores = boxes.new_zeros(len(boxes), predictor.num_classes + 1)
        scores[torch.arange(len(boxes), device=boxes.device), classes] = torch.cat([one.scores for one in detections])
        original = (int(item["height"]), int(item["width"]))
        merged = predictor.select(boxes, scores, original, LOWEST_SCORE)
        if not self.model.roi_heads.has_masks:
            return merged
        return rescale(replace(merged, masks=self._masks(views, merged)), original, *original)

    def _masks(self, views: Sequence[View], merged: ImageDetections) -> torch.Tensor:
        """Mask probabilities of the merged boxes, averaged over the views: D x M x M."""
        masks = []
        for part, features, _ in self._batches(views, merged):
            placed = [replace(merged, boxes=view.to_view(merged.boxes)) for view in part]
            for view, one in zip(part, self.model.roi_heads.add_masks(features, placed)):
                assert one.masks is not None
                masks.append(one.masks.flip(2) if view.mirrored else one.masks)
        return torch.stack(masks).mean(dim=0)

    def _batches(
        self, views: Sequence[View], merged: ImageDetections | None
    ) -> Iterator[tuple[Sequence[View], dict[str, torch.Tensor], list[ImageDetections]]]:
        """Views in batches with their features and, unless the boxes are known already, their detections."""
        for start in range(0, len(views), BATCH):
            part = views[start : start + BATCH]
            images, sizes = self.model.batch_images([{"image": view.image} for view in part])
            features = self.model.backbone(images)
            yield part, features, [] if merged is not None else self.model.detect_boxes(features, sizes)
