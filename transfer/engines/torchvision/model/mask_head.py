"""Mask branch (arXiv:1703.06870): region features to one mask per class, targets, loss."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pycocotools.mask as rle
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import roi_align

from transfer.engines.torchvision.model.convolution import Conv, init_msra, init_normal
from transfer.engines.torchvision.model.instances import Regions, Targets


class MaskRCNNConvUpsampleHead(nn.Sequential):
    """3x3 convolutions, a 2x2/2 transposed convolution, and a 1x1 convolution to one map per class.

    ``num_classes`` 1 means class-agnostic masks.
    """

    def __init__(self, in_channels: int, *, num_conv: int, conv_dim: int, num_classes: int, norm: str = "") -> None:
        super().__init__()
        convs: list[nn.Module] = []
        channels = in_channels
        for index in range(num_conv):
            convs.append(Conv(channels, conv_dim, 3, padding=1, norm=norm, relu=True))
            self.add_module(f"mask_fcn{index + 1}", convs[-1])
            channels = conv_dim
        self.deconv = nn.ConvTranspose2d(channels, conv_dim, kernel_size=2, stride=2)
        self.add_module("deconv_relu", nn.ReLU(inplace=True))
        self.predictor = nn.Conv2d(conv_dim, num_classes, kernel_size=1)
        init_msra(*convs, self.deconv)
        init_normal(self.predictor, std=0.001)

    def loss(self, x: torch.Tensor, regions: Sequence[Regions], targets: Sequence[Targets]) -> dict[str, torch.Tensor]:
        """Mean binary cross-entropy of the true classes' masks over the foreground ``regions`` of all images."""
        logits = self(x)  # R x K x M x M
        side = logits.shape[-1]
        truths = [
            mask_targets(target, region, side, logits.device)
            for target, region in zip(targets, regions)
            if len(region.boxes)
        ]
        if not truths:
            return {"loss_mask": logits.sum() * 0}
        classes = torch.cat([r.classes for r in regions])
        if logits.shape[1] == 1:
            chosen = logits[:, 0]
        else:
            chosen = logits[torch.arange(len(logits), device=logits.device), classes]
        truth = torch.cat(truths).to(torch.float32)
        return {"loss_mask": F.binary_cross_entropy_with_logits(chosen, truth, reduction="mean")}

    def probabilities(self, x: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """Mask probabilities R x M x M of each region's class (R)."""
        logits = self(x)
        if logits.shape[1] == 1:
            return logits[:, 0].sigmoid()
        return logits[torch.arange(len(logits), device=logits.device), classes].sigmoid()


def mask_targets(target: Targets, regions: Regions, side: int, device: torch.device) -> torch.Tensor:
    """Ground-truth masks of ``regions`` (R) inside their boxes on a side x side grid: R x side x side booleans."""
    if isinstance(target.masks, torch.Tensor):
        return crop_bitmasks(target.masks[regions.gt_index], regions.boxes, side)
    assert target.masks is not None
    polygons = [target.masks[i] for i in regions.gt_index.tolist()]
    return rasterise_polygons(polygons, regions.boxes, side).to(device)


def rasterise_polygons(polygons: Sequence[Sequence[np.ndarray]], boxes: torch.Tensor, side: int) -> torch.Tensor:
    """Each instance's polygons moved into its box (R x 4) and drawn by COCO's rasteriser: R x side x side."""
    drawn = []
    for parts, (x1, y1, x2, y2) in zip(polygons, boxes.cpu().numpy()):
        # in the boxes' float32, as in Detectron2: a difference in rounding can change a pixel of the mask
        scale_x, scale_y = side / max(x2 - x1, 0.1), side / max(y2 - y1, 0.1)
        moved = []
        for part in parts:
            points = np.array(part, dtype=np.float64)
            points[0::2] = (points[0::2] - x1) * scale_x
            points[1::2] = (points[1::2] - y1) * scale_y
            moved.append(points)
        mask = rle.decode(rle.merge(rle.frPyObjects(moved, side, side)))
        drawn.append(torch.from_numpy(mask.astype(bool)))
    return torch.stack(drawn) if drawn else torch.zeros(0, side, side, dtype=torch.bool)


def crop_bitmasks(masks: torch.Tensor, boxes: torch.Tensor, side: int) -> torch.Tensor:
    """Masks (R x H x W) averaged over the cells of their boxes (R x 4), cut at one half: R x side x side."""
    rows = torch.arange(len(boxes), dtype=boxes.dtype, device=boxes.device)[:, None]
    rois = torch.cat([rows, boxes], dim=1)
    return roi_align(masks[:, None].to(torch.float32), rois, (side, side), 1.0, 0, aligned=True)[:, 0] >= 0.5
