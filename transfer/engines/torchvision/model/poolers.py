"""Region features: the pyramid level of a box, and ROIAlign on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torchvision.ops import roi_pool

from transfer.engines.torchvision.model.roi_align import roi_align

# Detectron2's names; "ROIAlign" is Detectron1's, shifted by half a pixel
POOLER_TYPES: dict[str, Callable[..., torch.Tensor]] = {
    "ROIAlignV2": lambda x, rois, side, scale, ratio: roi_align(x, rois, side, scale, ratio, aligned=True),
    "ROIAlign": lambda x, rois, side, scale, ratio: roi_align(x, rois, side, scale, ratio, aligned=False),
    "ROIPool": lambda x, rois, side, scale, ratio: roi_pool(x, rois, (side, side), scale),
}
CANONICAL_SIZE, CANONICAL_LEVEL = 224, 4  # a 224-pixel box belongs to p4 (arXiv:1612.03144, eq. 1)


class ROIPooler(nn.Module):
    """Pools every box from one of the feature maps with the given strides into side x side cells."""

    def __init__(self, side: int, *, strides: Sequence[int], sampling_ratio: int, pooler_type: str) -> None:
        super().__init__()
        self.side, self.sampling_ratio = side, sampling_ratio
        self.pool = POOLER_TYPES[pooler_type]
        self.scales = [1.0 / stride for stride in strides]
        self.lowest, self.highest = int(math.log2(strides[0])), int(math.log2(strides[-1]))

    def levels(self, boxes: torch.Tensor) -> torch.Tensor:
        """Index of the feature map of each box (R x 4)."""
        size = torch.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
        level = torch.floor(CANONICAL_LEVEL + torch.log2(size / CANONICAL_SIZE + 1e-8))
        return torch.clamp(level, min=self.lowest, max=self.highest).to(torch.int64) - self.lowest

    def forward(self, features: Sequence[torch.Tensor], boxes: Sequence[torch.Tensor]) -> torch.Tensor:
        """Features (each N x C x H x W) and boxes per image to R x C x side x side, image by image."""
        flat = torch.cat(list(boxes))
        counts = torch.tensor([len(b) for b in boxes], device=flat.device)
        image = torch.repeat_interleave(torch.arange(len(boxes), dtype=flat.dtype, device=flat.device), counts)
        rois = torch.cat([image[:, None], flat], dim=1)  # R x 5
        if len(features) == 1:
            return self._pool(features[0], rois, self.scales[0])
        levels = self.levels(flat)
        pooled = features[0].new_zeros(len(rois), features[0].shape[1], self.side, self.side)
        for index, (feature, scale) in enumerate(zip(features, self.scales)):
            rows = torch.nonzero(levels == index, as_tuple=True)[0]
            pooled.index_put_((rows,), self._pool(feature, rois[rows], scale))
        return pooled

    def _pool(self, feature: torch.Tensor, rois: torch.Tensor, scale: float) -> torch.Tensor:
        if feature.dtype == torch.bfloat16:  # its 8 bits of precision would move a box at 800 by two pixels
            return self.pool(feature.float(), rois, self.side, scale, self.sampling_ratio).to(feature.dtype)
        # as in Detectron2, boxes are cast to the features' type under autocast: in half precision, coordinates above
        # 1024 are rounded by up to half a pixel
        return self.pool(feature, rois.to(feature.dtype), self.side, scale, self.sampling_ratio)
