"""3x3 convolutions on maps of a few pixels, as one matrix product, for bfloat16 on a CPU.

oneDNN's bfloat16 convolutions take blocks of a row of the map: on maps of 1x1 to 3x3 pixels (res4 and res5 of images of
32 to 96 pixels) most of a block is empty, and forward and backward take 4 to 14 times as long as the product of patches
and weights (512 channels, batch 128, one core with AMX). From 4x4 pixels on the convolution is the faster one, and so
it is in float32, where nothing is changed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

LARGEST = 3  # height and width of the output up to which the matrix product is faster
FEWEST_CHANNELS = 256  # of the input; with fewer, the convolution is faster at any size


class SmallMapConv2d(nn.Conv2d):
    """A convolution, computed as a matrix product where that is faster: same parameters, sums in another order."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve x (B x C x H x W)."""
        if not self._product_is_faster(x):
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            product: torch.Tensor = _PatchProduct.apply(x.bfloat16(), self.weight.bfloat16(), self.stride[0])
        return product

    def _product_is_faster(self, x: torch.Tensor) -> bool:
        if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return False
        height, width = ((size - 1) // self.stride[0] + 1 for size in x.shape[-2:])
        small = max(height, width) <= LARGEST and x.shape[1] >= FEWEST_CHANNELS
        return small and torch.get_autocast_dtype("cpu") == torch.bfloat16


def multiply_on_small_maps(network: nn.Module) -> None:
    """Replace every 3x3 convolution of ``network`` (padding 1, one group, no bias) by a SmallMapConv2d."""
    for parent in list(network.modules()):
        for name, conv in list(parent.named_children()):
            if isinstance(conv, nn.Conv2d) and _is_plain_3x3(conv):
                # on "meta", without memory and random numbers: its weight is that of the convolution it replaces
                small = SmallMapConv2d(
                    conv.in_channels, conv.out_channels, 3, conv.stride[0], padding=1, bias=False, device="meta"
                )
                small.weight = conv.weight
                setattr(parent, name, small)


def _is_plain_3x3(conv: nn.Conv2d) -> bool:
    shape = (conv.kernel_size, conv.padding, conv.dilation, conv.groups, conv.padding_mode)
    return shape == ((3, 3), (1, 1), (1, 1), 1, "zeros") and conv.bias is None and conv.stride in ((1, 1), (2, 2))


class _PatchProduct(torch.autograd.Function):
    """y = patches(x) w: B x C x H x W and O x C x 3 x 3 -> B x O x H' x W', channels_last; each sum is rounded once."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, stride: int) -> torch.Tensor:
        patches = _patches(x, stride)  # B H' W' x 9C
        height, width = ((size - 1) // stride + 1 for size in x.shape[-2:])
        ctx.save_for_backward(patches, weight)
        ctx.stride, ctx.size = stride, x.shape[-2:]
        return _as_map(patches @ _as_rows(weight).T, len(x), height, width)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        patches, weight = ctx.saved_tensors
        (g,) = gradients  # B x O x H' x W'
        rows = g.permute(0, 2, 3, 1).reshape(-1, g.shape[1])  # B H' W' x O
        of_weight = (rows.T @ patches).view(len(weight), 3, 3, -1).permute(0, 3, 1, 2)
        # of x: the gradient, spread to the positions it came from, correlated with the weight turned by 180 degrees.
        # Its patches are turned in place of the weight, in the order of the weight's memory: they are far smaller.
        height, width = ctx.size
        spread = g.new_zeros(len(g), g.shape[1], height, width)
        spread[:, :, :: ctx.stride, :: ctx.stride] = g
        turned = _windows(spread, 1).flip(4, 5).reshape(-1, 9 * g.shape[1])  # B H W x 9O
        of_x = _as_map(turned @ _as_rows(weight).view(-1, weight.shape[1]), len(g), height, width)
        return of_x, of_weight, None


def _patches(x: torch.Tensor, stride: int) -> torch.Tensor:
    """The 3x3 surroundings of every ``stride``-th pixel, zeros outside: B x C x H x W -> B H' W' x 9C."""
    return _windows(x, stride).permute(0, 1, 2, 4, 5, 3).reshape(-1, 9 * x.shape[1])


def _windows(x: torch.Tensor, stride: int) -> torch.Tensor:
    """The same as a view: B x H' x W' x C x 3 x 3."""
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).contiguous()  # B x H+2 x W+2 x C
    return padded.unfold(1, 3, stride).unfold(2, 3, stride)


def _as_rows(weight: torch.Tensor) -> torch.Tensor:
    """O x C x 3 x 3 -> O x 9C, in the order of patches."""
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1)


def _as_map(rows: torch.Tensor, count: int, height: int, width: int) -> torch.Tensor:
    """B H W x C -> B x C x H x W, channels_last."""
    return rows.view(count, height, width, -1).permute(0, 3, 1, 2)
