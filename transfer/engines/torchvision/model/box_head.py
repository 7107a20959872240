"""Box branch: region features to class scores and box deltas, their losses, and the final detections."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import batched_nms

from transfer.engines.torchvision.model.boxes import BoxCoder, box_regression_loss, clip_to_image
from transfer.engines.torchvision.model.convolution import Conv, init_msra, init_normal, init_xavier
from transfer.engines.torchvision.model.federated_loss import FederatedClasses
from transfer.engines.torchvision.model.instances import ImageDetections, Regions


class FastRCNNConvFCHead(nn.Sequential):
    """3x3 convolutions (norm, ReLU), then fully connected layers (ReLU): R x C x S x S to R x ``out_channels`` ...

    Without fully connected layers the output stays a map and ``out_channels`` counts its flattened elements.
    """

    def __init__(
        self, in_channels: int, side: int, *, conv_dims: Sequence[int], fc_dims: Sequence[int], conv_norm: str = ""
    ) -> None:
        super().__init__()
        channels = in_channels
        convs: list[nn.Module] = []
        for index, dim in enumerate(conv_dims):
            convs.append(Conv(channels, dim, 3, padding=1, norm=conv_norm, relu=True))
            self.add_module(f"conv{index + 1}", convs[-1])
            channels = dim
        if fc_dims:
            self.add_module("flatten", nn.Flatten())
        width, fcs = channels * side * side, []
        for index, dim in enumerate(fc_dims):
            fcs.append(nn.Linear(width, dim))
            self.add_module(f"fc{index + 1}", fcs[-1])
            self.add_module(f"fc_relu{index + 1}", nn.ReLU(inplace=True))
            width = dim
        init_msra(*convs)
        init_xavier(*fcs)
        self.out_channels = width


class FastRCNNOutputLayers(nn.Module):
    """Class logits (K objects, background last) and box deltas per region; losses and inference on them."""

    fed_loss_cls_weights: torch.Tensor

    def __init__(
        self,
        in_channels: int,
        *,
        num_classes: int,
        box_weights: Sequence[float] = (10.0, 10.0, 5.0, 5.0),
        class_agnostic: bool = False,
        box_loss: str = "smooth_l1",
        smooth_l1_beta: float = 0.0,
        box_loss_weight: float = 1.0,
        sigmoid: bool = False,
        federated: FederatedClasses | None = None,
        score_thresh: float = 0.05,
        nms_thresh: float = 0.5,
        topk_per_image: int = 100,
    ) -> None:
        super().__init__()
        self.cls_score = nn.Linear(in_channels, num_classes + 1)
        self.bbox_pred = nn.Linear(in_channels, 4 * (1 if class_agnostic else num_classes))
        init_normal(self.cls_score, std=0.01)
        init_normal(self.bbox_pred, std=0.001)
        self.num_classes, self.coder = num_classes, BoxCoder(box_weights)
        self.box_loss, self.smooth_l1_beta, self.box_loss_weight = box_loss, smooth_l1_beta, box_loss_weight
        self.sigmoid, self.federated = sigmoid, federated
        if federated is not None:  # Detectron2's name; filled by ``count_images`` before training
            self.register_buffer("fed_loss_cls_weights", torch.zeros(num_classes))
        self.score_thresh, self.nms_thresh, self.topk_per_image = score_thresh, nms_thresh, topk_per_image

    def count_images(self, images: Sequence[int]) -> None:
        """Set how likely the federated loss draws each class, from the number of training images that have it."""
        if self.federated is not None:
            self.fed_loss_cls_weights.copy_(self.federated.weights(images))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features R x ... to logits R x (K + 1) and deltas R x 4K (R x 4 when class-agnostic)."""
        x = torch.flatten(x, start_dim=1) if x.dim() > 2 else x
        return self.cls_score(x), self.bbox_pred(x)

    def losses(self, logits: torch.Tensor, deltas: torch.Tensor, regions: Sequence[Regions]) -> dict[str, torch.Tensor]:
        """Mean classification loss over all sampled regions; summed box loss of the foreground / all regions."""
        classes = torch.cat([r.classes for r in regions])
        boxes = torch.cat([r.boxes for r in regions])
        gt_boxes = torch.cat([r.gt_boxes for r in regions])
        rows = torch.nonzero((classes >= 0) & (classes < self.num_classes), as_tuple=True)[0]
        if deltas.shape[1] != 4:
            chosen = deltas.view(-1, self.num_classes, 4)[rows, classes[rows]]
        else:
            chosen = deltas[rows]
        box = box_regression_loss(self.box_loss, self.smooth_l1_beta, self.coder, boxes[rows], chosen, gt_boxes[rows])
        box = box / max(classes.numel(), 1.0)
        return {"loss_cls": self._class_loss(logits, classes), "loss_box_reg": box * self.box_loss_weight}

    def _class_loss(self, logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        if logits.numel() == 0:
            return logits.sum() * 0.0  # a mean over nothing would be NaN
        if not self.sigmoid:
            return F.cross_entropy(logits, classes, reduction="mean")
        target = torch.zeros_like(logits)
        target[torch.arange(len(classes), device=classes.device), classes] = 1
        loss = F.binary_cross_entropy_with_logits(logits[:, :-1], target[:, :-1], reduction="none")
        if self.federated is not None:
            loss = loss * self.federated.mask(classes, self.fed_loss_cls_weights)
        return torch.sum(loss) / logits.shape[0]

    @torch.no_grad()
    def boxes_of_true_class(self, deltas: torch.Tensor, regions: Sequence[Regions]) -> list[torch.Tensor]:
        """Regressed boxes (R x 4 per image) of each region's own class, for training masks on predicted boxes."""
        boxes = self.coder.decode(torch.cat([r.boxes for r in regions]), deltas)
        if boxes.shape[1] != 4:
            classes = torch.cat([r.classes for r in regions]).clamp(0, self.num_classes - 1)
            boxes = boxes.view(-1, self.num_classes, 4)[torch.arange(len(boxes), device=boxes.device), classes]
        return list(boxes.split([len(r.boxes) for r in regions]))

    def detect(
        self,
        logits: torch.Tensor,
        deltas: torch.Tensor,
        proposals: Sequence[torch.Tensor],
        sizes: Sequence[tuple[int, int]],
    ) -> list[ImageDetections]:
        """Detections per image: every (region, class) above the score threshold, NMS per class, best ones."""
        counts = [len(p) for p in proposals]
        boxes, scores = self.predict_boxes(deltas, proposals), self.probabilities(logits, counts)
        return [self.select(b, s, size, self.score_thresh) for b, s, size in zip(boxes, scores, sizes)]

    def predict_boxes(self, deltas: torch.Tensor, boxes: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Boxes (R x 4K, or R x 4 when class-agnostic) per image from the ``boxes`` (R x 4) of each."""
        return list(self.coder.decode(torch.cat(list(boxes)), deltas).split([len(one) for one in boxes]))

    def probabilities(self, logits: torch.Tensor, counts: Sequence[int]) -> list[torch.Tensor]:
        """Scores R x (K + 1) per image, of which the first has ``counts[0]`` regions."""
        return list((logits.sigmoid() if self.sigmoid else F.softmax(logits, dim=-1)).split(list(counts)))

    def select(
        self, boxes: torch.Tensor, scores: torch.Tensor, size: tuple[int, int], threshold: float
    ) -> ImageDetections:
        """Detections of one image from boxes R x 4K (or R x 4) and scores R x (K + 1)."""
        finite = torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores).all(dim=1)
        if not finite.all():
            boxes, scores = boxes[finite], scores[finite]
        scores, kinds = scores[:, :-1], boxes.shape[1] // 4
        boxes = clip_to_image(boxes.reshape(-1, 4), size).view(-1, kinds, 4)
        hit = scores > threshold
        where = hit.nonzero()  # columns: region, class
        boxes = boxes[where[:, 0], 0] if kinds == 1 else boxes[hit]
        scores, classes = scores[hit], where[:, 1]
        # batched_nms offsets boxes by class index x extent, which rounds: class indices must be Detectron2's, from 0
        keep = batched_nms(boxes.float(), scores, classes, self.nms_thresh)
        if self.topk_per_image >= 0:
            keep = keep[: self.topk_per_image]
        return ImageDetections(boxes[keep], scores[keep], classes[keep])
