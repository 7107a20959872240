"""Encoders: torchvision ResNets and ViTs with a head, and a BatchNorm in groups for shuffling on one device."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from pretrain.encoders.small_maps import multiply_on_small_maps
from pretrain.encoders.vit import VITS, VisionTransformer

if TYPE_CHECKING:  # slow to import, so imported where a network is built
    from torchvision.models import ResNet

RESNETS = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
)
ARCHITECTURES = (*RESNETS, *VITS)


class SplitBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm that normalises ``num_splits`` equal parts of the batch separately, as that many GPUs would.

    Without it, permuting the keys of a batch on one device changes nothing, and the statistics that a query and its key
    share give the positive away (MoCo, section 3.3, "Shuffling BN"). The running statistics are means over the parts;
    in evaluation this is plain BatchNorm. Raises ValueError when the batch is not a multiple of ``num_splits``.
    """

    def __init__(self, num_features: int, num_splits: int = 1, **kwargs: float | bool) -> None:
        super().__init__(num_features, **kwargs)  # type: ignore[arg-type]
        self.num_splits = num_splits

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise x (B x C x H x W)."""
        if not self.training or self.num_splits == 1:
            return super().forward(x)
        if len(x) % self.num_splits:
            raise ValueError(f"a batch of {len(x)} cannot be split into {self.num_splits} BatchNorm groups")
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        means = self.running_mean.repeat(self.num_splits, 1)  # S x C
        variances = self.running_var.repeat(self.num_splits, 1)
        # Chunks of the batch are views. The usual reshape to C*S channels copies channels_last tensors (3.5x slower).
        parts = [
            F.batch_norm(part, mean, var, self.weight, self.bias, True, self.momentum or 0.1, self.eps)
            for part, mean, var in zip(x.chunk(self.num_splits), means, variances)
        ]
        self.num_batches_tracked.add_(1)
        self.running_mean.copy_(means.mean(0))
        self.running_var.copy_(variances.mean(0))
        return torch.cat(parts)


def build_encoder(
    arch: str,
    *,
    outputs: int,
    mlp: bool = False,
    stem: str = "imagenet",
    bn_splits: int = 1,
    image_size: int = 224,
) -> nn.Module:
    """A torchvision ResNet, or a ViT, whose head gives ``outputs`` numbers: B x 3 x H x W -> B x outputs.

    A ViT takes images of ``image_size`` pixels only. ``mlp`` makes the head MoCo v2's: a linear layer as wide as the
    features, ReLU, a linear layer. ``stem`` "cifar" is a 3x3 convolution of stride 1 without max-pooling, for images of
    about 32 pixels.
    """
    if arch in VITS:
        return VisionTransformer(VITS[arch], image_size=image_size, outputs=outputs, mlp=mlp)
    from torchvision.models import get_model

    norm = partial(SplitBatchNorm2d, num_splits=bn_splits) if bn_splits > 1 else None
    encoder: ResNet = get_model(arch, weights=None, num_classes=outputs, norm_layer=norm)
    if mlp:
        width = encoder.fc.in_features
        encoder.fc = nn.Sequential(nn.Linear(width, width), nn.ReLU(), encoder.fc)  # type: ignore[assignment]
    if stem == "cifar":
        encoder.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(encoder.conv1.weight, mode="fan_out", nonlinearity="relu")
        encoder.maxpool = nn.Identity()  # type: ignore[assignment]
    multiply_on_small_maps(encoder)
    return encoder


def head_of(encoder: nn.Module) -> tuple[nn.Linear, bool]:
    """The linear head of an encoder that was built without ``mlp``, and whether the encoder is a ViT."""
    vit = isinstance(encoder, VisionTransformer)
    head = encoder.head if vit else encoder.fc
    assert isinstance(head, nn.Linear)
    return head, vit


def replace_head(encoder: nn.Module, head: nn.Module) -> None:
    """Give an encoder another head."""
    setattr(encoder, "head" if isinstance(encoder, VisionTransformer) else "fc", head)


def pooled_features(encoder: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Features before the head: B x 3 x H x W -> B x C.

    A ResNet's are pooled over the map (C is 512 for ResNet-18 and 34, else 2048), a ViT's are its class token.
    """
    if isinstance(encoder, VisionTransformer):
        return encoder.pooled(images)
    return _pooled(encoder, images)  # type: ignore[arg-type]


def _pooled(encoder: ResNet, images: torch.Tensor) -> torch.Tensor:
    x = encoder.maxpool(encoder.relu(encoder.bn1(encoder.conv1(images))))
    x = encoder.layer4(encoder.layer3(encoder.layer2(encoder.layer1(x))))
    return encoder.avgpool(x).flatten(1)
