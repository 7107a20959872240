"""From detections in the network input to detections in the original image: rescaled boxes, pasted masks."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from transfer.engines.torchvision.model.boxes import clip_to_image
from transfer.engines.torchvision.model.instances import ImageDetections

MASK_THRESHOLD = 0.5


def rescale(detections: ImageDetections, input_size: tuple[int, int], height: int, width: int) -> ImageDetections:
    """Detections of an input of ``input_size`` in a height x width image; boxes that become empty are dropped.

    Masks stay probabilities on their boxes; ``paste_masks`` draws them.
    """
    scale = detections.boxes.new_tensor([width / input_size[1], height / input_size[0]]).repeat(2)
    boxes = clip_to_image(detections.boxes * scale, (height, width))
    keep = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    masks = detections.masks[keep] if detections.masks is not None else None
    points = detections.keypoints[keep] if detections.keypoints is not None else None
    if points is not None:
        points = points * points.new_tensor([width / input_size[1], height / input_size[0], 1])
    return ImageDetections(boxes[keep], detections.scores[keep], detections.classes[keep], masks, points)


def paste_masks(probabilities: torch.Tensor, boxes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Mask probabilities (D x M x M) sampled at the pixel centres inside their boxes (D x 4): D x height x width.

    True where the probability is at least one half. Each mask is sampled on its own window only.
    """
    pasted = torch.zeros(len(boxes), height, width, dtype=torch.bool, device=boxes.device)
    for index, (mask, box) in enumerate(zip(probabilities, boxes)):
        left, top, right, bottom = _window(box, height, width)
        pasted[index, top:bottom, left:right] = _sample(mask, box, left, top, right, bottom) >= MASK_THRESHOLD
    return pasted


def _window(box: torch.Tensor, height: int, width: int) -> tuple[int, int, int, int]:
    x1, y1, x2, y2 = box.tolist()
    left, top = max(int(x1 // 1) - 1, 0), max(int(y1 // 1) - 1, 0)
    return left, top, min(int(-(-x2 // 1)) + 1, width), min(int(-(-y2 // 1)) + 1, height)


def _sample(mask: torch.Tensor, box: torch.Tensor, left: int, top: int, right: int, bottom: int) -> torch.Tensor:
    x1, y1, x2, y2 = box
    ys = torch.arange(top, bottom, device=box.device, dtype=torch.float32) + 0.5
    xs = torch.arange(left, right, device=box.device, dtype=torch.float32) + 0.5
    ys = (ys - y1) / (y2 - y1) * 2 - 1
    xs = (xs - x1) / (x2 - x1) * 2 - 1
    grid = torch.stack([xs.expand(len(ys), -1), ys[:, None].expand(-1, len(xs))], dim=-1)
    return F.grid_sample(mask[None, None].float(), grid[None].float(), align_corners=False)[0, 0]
