"""Boxes: coding against references, overlaps, matching to ground truth, sampling, regression losses."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import torch
from torchvision.ops import box_iou, generalized_box_iou_loss

EPSILON = 1e-7  # of the IoU losses, as in Detectron2
MAX_LOG_SCALE = math.log(1000.0 / 16)  # a box grows at most by this factor, so that exp() cannot overflow


def _centre_and_size(boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    return boxes[:, 0] + 0.5 * width, boxes[:, 1] + 0.5 * height, width, height


class BoxCoder:
    """(dx, dy, dw, dh) of a box relative to a reference box (arXiv:1311.2524, appendix C), scaled by ``weights``."""

    def __init__(self, weights: Sequence[float]) -> None:
        self.weights = tuple(weights)

    def encode(self, references: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """Deltas (N x 4) that turn ``references`` (N x 4, XYXY) into ``boxes`` (N x 4)."""
        wx, wy, ww, wh = self.weights
        x, y, w, h = _centre_and_size(references)
        bx, by, bw, bh = _centre_and_size(boxes)
        dx, dy = wx * (bx - x) / w, wy * (by - y) / h
        return torch.stack((dx, dy, ww * torch.log(bw / w), wh * torch.log(bh / h)), dim=1)

    def decode(self, references: torch.Tensor, deltas: torch.Tensor) -> torch.Tensor:
        """Boxes (N x 4K, float32) from ``references`` (N x 4) and K sets of deltas per row (N x 4K)."""
        wx, wy, ww, wh = self.weights
        deltas = deltas.float()
        x, y, w, h = (v[:, None] for v in _centre_and_size(references.to(deltas.dtype)))
        dw = torch.clamp(deltas[:, 2::4] / ww, max=MAX_LOG_SCALE)
        dh = torch.clamp(deltas[:, 3::4] / wh, max=MAX_LOG_SCALE)
        cx, cy = deltas[:, 0::4] / wx * w + x, deltas[:, 1::4] / wy * h + y
        width, height = torch.exp(dw) * w, torch.exp(dh) * h
        corners = (cx - 0.5 * width, cy - 0.5 * height, cx + 0.5 * width, cy + 0.5 * height)
        return torch.stack(corners, dim=-1).reshape(deltas.shape)


def overlaps(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """IoU of every pair (M x 4, N x 4 to M x N); two empty boxes overlap 0, not NaN."""
    return torch.nan_to_num(box_iou(a, b), nan=0.0)


def match(
    iou: torch.Tensor, thresholds: Sequence[float], labels: Sequence[int], *, keep_best: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Match each column of ``iou`` (ground truth M x boxes N) to its best row, and label it by that IoU.

    ``labels[i]`` applies from ``thresholds[i - 1]`` (inclusive) to ``thresholds[i]`` (exclusive). ``keep_best`` gives
    label 1 to the best boxes of every ground truth however low their IoU (arXiv:1506.01497, section 3.1.2 (i)).
    Returns row indices (N) and labels (N, int8).
    """
    count = iou.shape[1]
    if iou.numel() == 0:  # no ground truth: everything is background
        return iou.new_zeros(count, dtype=torch.int64), iou.new_full((count,), labels[0], dtype=torch.int8)
    best, rows = iou.max(dim=0)
    label_of = torch.ones_like(rows, dtype=torch.int8)
    edges = [-math.inf, *thresholds, math.inf]
    for label, low, high in zip(labels, edges[:-1], edges[1:]):
        label_of[(best >= low) & (best < high)] = label
    if keep_best:
        # every tie counts: anchors of one size at neighbouring positions often have exactly the same IoU. As in
        # Detectron2, a box stays matched to its own best row, even if it is the best box of another ground truth
        row_best = iou.max(dim=1).values
        label_of[torch.nonzero(iou == row_best[:, None], as_tuple=True)[1]] = 1
    return rows, label_of


def sample(
    labels: torch.Tensor, count: int, positive_fraction: float, background: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices of up to ``count`` random labels, at most that fraction positive; label -1 is never taken.

    Draws two permutations from the global generator, positives first, as Detectron2 does: the same seed gives the
    same sample.
    """
    positive = torch.nonzero((labels != -1) & (labels != background), as_tuple=True)[0]
    negative = torch.nonzero(labels == background, as_tuple=True)[0]
    positives = min(len(positive), int(count * positive_fraction))
    negatives = min(len(negative), count - positives)
    take_positive = torch.randperm(len(positive), device=positive.device)[:positives]
    take_negative = torch.randperm(len(negative), device=negative.device)[:negatives]
    return positive[take_positive], negative[take_negative]


def clip_to_image(boxes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Boxes (N x 4) clamped to an image of ``size`` (height, width)."""
    height, width = size
    x1, x2 = boxes[:, 0].clamp(min=0, max=width), boxes[:, 2].clamp(min=0, max=width)
    y1, y2 = boxes[:, 1].clamp(min=0, max=height), boxes[:, 3].clamp(min=0, max=height)
    return torch.stack((x1, y1, x2, y2), dim=-1)


def _smooth_l1_sum(predicted: torch.Tensor, target: torch.Tensor, beta: float) -> torch.Tensor:
    # Detectron2's composition: torch's own kernel rounds the gradients of beta > 0 differently
    distance = torch.abs(predicted - target)
    if beta < 1e-5:
        return distance.sum()
    return torch.where(distance < beta, 0.5 * distance**2 / beta, distance - 0.5 * beta).sum()


Corners = tuple[torch.Tensor, ...]  # x1, y1, x2, y2, each of N boxes


def _iou_parts(predicted: Corners, target: Corners) -> tuple[torch.Tensor, torch.Tensor]:
    """IoU and normalised distance of centres of N pairs of boxes (Distance-IoU, arXiv:1911.08287, equation 7).

    The order of operations is Detectron2's (``layers/losses.py``): torchvision's losses have equal values, but
    gradients that differ in the last bits. For the same reason a loss takes its boxes apart only once: the gradients
    of a coordinate are summed in the order of its uses.
    """
    x1, y1, x2, y2 = predicted
    tx1, ty1, tx2, ty2 = target
    left, top, right, bottom = torch.max(x1, tx1), torch.max(y1, ty1), torch.min(x2, tx2), torch.min(y2, ty2)
    intersection = torch.zeros_like(x1)
    overlap = (bottom > top) & (right > left)
    intersection[overlap] = (right[overlap] - left[overlap]) * (bottom[overlap] - top[overlap])
    union = (x2 - x1) * (y2 - y1) + (tx2 - tx1) * (ty2 - ty1) - intersection + EPSILON
    iou = intersection / union
    outer_x1, outer_y1 = torch.min(x1, tx1), torch.min(y1, ty1)
    outer_x2, outer_y2 = torch.max(x2, tx2), torch.max(y2, ty2)
    diagonal = ((outer_x2 - outer_x1) ** 2) + ((outer_y2 - outer_y1) ** 2) + EPSILON
    x, y, tx, ty = (x2 + x1) / 2, (y2 + y1) / 2, (tx1 + tx2) / 2, (ty1 + ty2) / 2
    distance = ((x - tx) ** 2) + ((y - ty) ** 2)
    return iou, distance / diagonal


def _diou_sum(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    iou, distance = _iou_parts(predicted.unbind(dim=-1), target.unbind(dim=-1))
    return (1 - iou + distance).sum()


def _ciou_sum(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Complete-IoU (equation 10): adds the difference of aspect ratios, whose weight takes no gradient."""
    x1, y1, x2, y2 = predicted.unbind(dim=-1)
    tx1, ty1, tx2, ty2 = target.unbind(dim=-1)
    iou, distance = _iou_parts((x1, y1, x2, y2), (tx1, ty1, tx2, ty2))
    width, height, target_width, target_height = x2 - x1, y2 - y1, tx2 - tx1, ty2 - ty1
    v = (4 / (math.pi**2)) * torch.pow((torch.atan(target_width / target_height) - torch.atan(width / height)), 2)
    with torch.no_grad():
        alpha = v / (1 - iou + v + EPSILON)
    return (1 - iou + distance + alpha * v).sum()


IOU_LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "giou": functools.partial(generalized_box_iou_loss, reduction="sum"),
    "diou": _diou_sum,
    "ciou": _ciou_sum,
}


def box_regression_loss(
    kind: str, beta: float, coder: BoxCoder, references: torch.Tensor, deltas: torch.Tensor, boxes: torch.Tensor
) -> torch.Tensor:
    """Summed loss of ``deltas`` (N x 4) at ``references`` (N x 4) against ground-truth ``boxes`` (N x 4).

    ``kind`` is ``smooth_l1``, which compares deltas (plain L1 at beta 0), or a name of ``IOU_LOSSES``, which compare
    decoded boxes.
    """
    if kind == "smooth_l1":
        return _smooth_l1_sum(deltas, coder.encode(references, boxes), beta)
    return IOU_LOSSES[kind](coder.decode(references, deltas), boxes)
