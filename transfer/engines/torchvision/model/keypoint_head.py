"""Keypoint branch (arXiv:1703.06870, section 5): region features to one heat map per keypoint, targets, loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from transfer.engines.torchvision.model.convolution import Conv, init_msra
from transfer.engines.torchvision.model.instances import Regions, Targets

UPSAMPLING = 2.0  # of the maps after the transposed convolution


class KRCNNConvDeconvUpsampleHead(nn.Sequential):
    """3x3 convolutions, a 4x4/2 transposed convolution to K maps, and bilinear upsampling by 2.

    ``normalizer`` divides the summed loss per image of the batch; None divides by the number of visible keypoints.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        conv_dims: Sequence[int],
        num_keypoints: int,
        loss_weight: float = 1.0,
        normalizer: float | None = None,
    ) -> None:
        super().__init__()
        convs: list[nn.Module] = []
        channels = in_channels
        for index, dim in enumerate(conv_dims, 1):
            convs.append(Conv(channels, dim, 3, padding=1, relu=True))
            self.add_module(f"conv_fcn{index}", convs[-1])
            channels = dim
        self.score_lowres = nn.ConvTranspose2d(channels, num_keypoints, kernel_size=4, stride=2, padding=1)
        init_msra(*convs, self.score_lowres)
        self.loss_weight, self.normalizer = loss_weight, normalizer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """R x C x S x S to logits R x K x 4S x 4S."""
        return F.interpolate(super().forward(x), scale_factor=UPSAMPLING, mode="bilinear", align_corners=False)

    def loss(self, x: torch.Tensor, regions: Sequence[Regions], targets: Sequence[Targets]) -> dict[str, torch.Tensor]:
        """Cross-entropy over the positions of a map, summed over the visible keypoints of all ``regions``."""
        logits = self(x)
        side, cells, used = logits.shape[2], [], []
        for region, target in zip(regions, targets):
            if len(region.boxes):
                cell, valid = keypoint_cells(_keypoints(target)[region.gt_index], region.boxes, side)
                cells.append(cell.view(-1))
                used.append(valid.view(-1))
        rows = torch.nonzero(torch.cat(used), as_tuple=True)[0] if used else None
        if rows is None or not rows.numel():
            return {"loss_keypoint": logits.sum() * 0 * self.loss_weight}
        loss = F.cross_entropy(
            logits.reshape(-1, side * logits.shape[3])[rows], torch.cat(cells)[rows], reduction="sum"
        )
        loss = loss / (rows.numel() if self.normalizer is None else len(regions) * self.normalizer)
        return {"loss_keypoint": loss * self.loss_weight}

    def keypoints(self, x: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """Keypoints R x K x 3 (x, y in the image of the boxes R x 4, score) of region features."""
        return read_heat_maps(self(x).float(), boxes)


def _keypoints(target: Targets) -> torch.Tensor:
    assert target.keypoints is not None
    return target.keypoints


def with_visible_keypoints(regions: Regions, target: Targets) -> Regions:
    """The ``regions`` that have at least one visible keypoint of their object inside."""
    if not len(regions.boxes):
        return regions
    points, boxes = _keypoints(target)[regions.gt_index], regions.boxes[:, None]
    inside = (points[:, :, 0] >= boxes[:, :, 0]) & (points[:, :, 0] <= boxes[:, :, 2])
    inside &= (points[:, :, 1] >= boxes[:, :, 1]) & (points[:, :, 1] <= boxes[:, :, 3])
    return regions[torch.nonzero((inside & (points[:, :, 2] >= 1)).any(dim=1), as_tuple=True)[0]]


def keypoint_cells(points: torch.Tensor, boxes: torch.Tensor, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The cell (row-major index) of each keypoint R x K x 3 on a side x side grid over its box R x 4, and whether it
    is visible and inside: both R x K.

    A cell covers a half-open interval, so that c becomes floor(c); the right and lower edges belong to the last cells.
    """
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    cells = []
    for axis, length in ((0, width), (1, height)):
        place = ((points[..., axis] - boxes[:, axis, None]) * (side / length)[:, None]).floor().long()
        place[points[..., axis] == boxes[:, axis + 2, None]] = side - 1
        cells.append(place)
    x, y = cells
    valid = (x >= 0) & (y >= 0) & (x < side) & (y < side) & (points[..., 2] > 0)
    return (y * side + x) * valid, valid


def read_heat_maps(maps: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """The best position of each map (logits R x K x S x S over boxes R x 4) and its score: R x K x 3.

    A map is resized to the whole pixels of its box by bicubic interpolation. Scores are softmax values with the
    normalisation of the map before the resize, so that those of large and small objects can be compared.
    """
    size = torch.stack([boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]], dim=1).clamp(min=1)
    pixels = size.ceil()
    corrections = size / pixels
    count = maps.shape[1]
    found = maps.new_zeros(len(maps), count, 3)
    for row, (width, height) in enumerate(pixels.int().tolist()):
        resized = F.interpolate(maps[[row]], size=(height, width), mode="bicubic", align_corners=False)
        best, index = resized.reshape(count, -1).max(1)
        sums = (maps[row] - best[:, None, None]).exp_().sum((1, 2))
        # at the best position the numerator of the softmax is exp(0)
        found[row, :, 0] = (index % width + 0.5) * corrections[row, 0] + boxes[row, 0]
        found[row, :, 1] = (index // width + 0.5) * corrections[row, 1] + boxes[row, 1]
        found[row, :, 2] = 1 / sums
    return found
