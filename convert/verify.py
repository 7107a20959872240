"""Verification: source network and converted backbone get the same image, and every stage must agree bit for bit.

Two independent forward passes: one reads torchvision's names and follows torchvision's ``models/resnet.py``, one reads
the converted names and follows Detectron2's ``BasicStem``, ``BasicBlock`` and ``BottleneckBlock``. A tensor under
a wrong name, of a wrong layer or of the wrong encoder changes some stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from convert.architecture import Architecture
from convert.rename import TORCHVISION, Part
from runtime.errors import UserError

STAGES = ("stem", "res2", "res3", "res4", "res5")
IMAGE_SIZE = 48  # res5 is then 2 x 2: large enough to reveal wrong strides and padding
Forward = Callable[[Tensor], dict[str, Tensor]]


def compare(
    arrays: Mapping[Part, np.ndarray],
    tensors: Mapping[str, np.ndarray],
    architecture: Architecture,
    *,
    stride_in_1x1: bool = False,
    size: int = IMAGE_SIZE,
) -> dict[str, float]:
    """Stage -> max |difference| of the activations (N x C x H x W) of source and converted network, on CPU in float32.

    Raises UserError if any is not exactly 0.
    """
    source = {TORCHVISION.format(part): _tensor(a) for part, a in arrays.items()}
    target = {name: _tensor(a) for name, a in tensors.items()}
    image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # one small image: more threads would only wait for each other
    first = torchvision_forward(source, architecture, stride_in_1x1)(image)
    second = detectron2_forward(target, architecture, stride_in_1x1)(image)
    torch.set_num_threads(threads)
    difference = {stage: float((first[stage] - second[stage]).abs().max()) for stage in STAGES}
    if worst := [s for s in STAGES if not difference[s] == 0.0]:
        raise UserError(f"the converted backbone differs from its source in {worst[0]}: {difference[worst[0]]}")
    return difference


def torchvision_forward(weights: Mapping[str, Tensor], architecture: Architecture, stride_in_1x1: bool) -> Forward:
    """The forward pass of torchvision's ResNet (eval mode) over a state dict in its names."""

    def norm(x: Tensor, name: str) -> Tensor:
        w = weights
        mean, var = w[f"{name}.running_mean"], w[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, w[f"{name}.weight"], w[f"{name}.bias"], False, 0.1, 1e-5)

    def block(x: Tensor, name: str, stride: int) -> Tensor:
        out = identity = x
        last = 3 if architecture.bottleneck else 2
        strided = 2 if architecture.bottleneck and not stride_in_1x1 else 1
        for k in range(1, last + 1):
            weight = weights[f"{name}.conv{k}.weight"]
            middle = architecture.bottleneck and k == 2
            step = stride if k == strided else 1
            out = F.conv2d(out, weight, None, step, weight.shape[-1] // 2, 1, architecture.groups if middle else 1)
            out = norm(out, f"{name}.bn{k}")
            out = out if k == last else F.relu(out)
        if f"{name}.downsample.0.weight" in weights:
            identity = norm(F.conv2d(x, weights[f"{name}.downsample.0.weight"], None, stride), f"{name}.downsample.1")
        return F.relu(out + identity)

    def forward(image: Tensor) -> dict[str, Tensor]:
        x = F.relu(norm(F.conv2d(image, weights["conv1.weight"], None, 2, 3), "bn1"))
        outputs = {"stem": F.max_pool2d(x, 3, 2, 1)}
        x = outputs["stem"]
        for layer, count in enumerate(architecture.blocks, start=1):
            for index in range(count):
                x = block(x, f"layer{layer}.{index}", 2 if layer > 1 and index == 0 else 1)
            outputs[f"res{layer + 1}"] = x
        return outputs

    return torch.no_grad()(forward)


def detectron2_forward(weights: Mapping[str, Tensor], architecture: Architecture, stride_in_1x1: bool) -> Forward:
    """The forward pass of Detectron2's ResNet (BN in eval mode) over a state dict in its names."""

    def conv_norm(x: Tensor, name: str, stride: int = 1, padding: int = 0, groups: int = 1) -> Tensor:
        x = F.conv2d(x, weights[f"{name}.weight"], None, stride, padding, 1, groups)
        mean, var, scale, shift = (
            weights[f"{name}.norm.{f}"] for f in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, var, scale, shift, training=False, eps=1e-5)

    def bottleneck(x: Tensor, name: str, stride: int) -> Tensor:
        in_1x1, in_3x3 = (stride, 1) if stride_in_1x1 else (1, stride)
        out = F.relu_(conv_norm(x, f"{name}.conv1", in_1x1))
        out = F.relu_(conv_norm(out, f"{name}.conv2", in_3x3, 1, architecture.groups))
        return conv_norm(out, f"{name}.conv3")

    def basic(x: Tensor, name: str, stride: int) -> Tensor:
        return conv_norm(F.relu_(conv_norm(x, f"{name}.conv1", stride, 1)), f"{name}.conv2", 1, 1)

    def forward(image: Tensor) -> dict[str, Tensor]:
        outputs = {"stem": F.max_pool2d(F.relu_(conv_norm(image, "stem.conv1", 2, 3)), 3, 2, 1)}
        x, residual = outputs["stem"], bottleneck if architecture.bottleneck else basic
        for stage, count in zip(STAGES[1:], architecture.blocks):
            for index in range(count):
                name, stride = f"{stage}.{index}", 2 if stage != "res2" and index == 0 else 1
                shortcut = x if f"{name}.shortcut.weight" not in weights else conv_norm(x, f"{name}.shortcut", stride)
                x = F.relu_(residual(x, name, stride) + shortcut)
            outputs[stage] = x
        return outputs

    return torch.no_grad()(forward)


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array if array.flags.writeable else array.copy())
