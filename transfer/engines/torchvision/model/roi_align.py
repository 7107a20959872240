"""RoIAlign (arXiv:1703.06870, section 3), bit-identical to torchvision's and faster on a CPU.

torchvision's CPU operator runs in one thread, channel by channel; its backward pass takes a fifth of a Mask R-CNN
training step. With numba installed (the extra ``fast``) the same sums are computed for all channels at once, in as many
threads as torch uses.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import torchvision.ops
from torch.autograd.function import once_differentiable

from runtime.logs import get_logger

log = get_logger("run")
Kernels = Any  # the module transfer.engines.torchvision.model.roi_align_kernels


def roi_align(
    features: torch.Tensor, rois: torch.Tensor, side: int, scale: float, sampling_ratio: int, *, aligned: bool
) -> torch.Tensor:
    """Features N x C x H x W and regions R x 5 (image, x1, y1, x2, y2) to R x C x side x side, as torchvision's.

    A cell is the mean of ``sampling_ratio`` squared bilinear samples (0: one per pixel); ``aligned`` shifts by half a
    pixel.
    """
    if features.device.type == "cpu" and features.dtype == rois.dtype == torch.float32 and (compiled := kernels()):
        return _RoIAlign.apply(features, rois, compiled, side, scale, sampling_ratio, aligned)  # type: ignore[no-any-return]
    return torchvision.ops.roi_align(features, rois, (side, side), scale, sampling_ratio, aligned)


@functools.cache
def kernels() -> Kernels | None:
    """The compiled loops; None without numba, or if they do not reproduce torchvision's bits.

    They do if torchvision was built without fused multiply-add, as its x86-64 packages are: fused operations round once
    where separate ones round twice.
    """
    try:
        from transfer.engines.torchvision.model import roi_align_kernels
    except ImportError as error:
        log.info("RoIAlign runs in one thread: no numba (%s); pip install numba makes detection faster on a CPU", error)
        return None
    if not _same_bits(roi_align_kernels):
        log.info("RoIAlign runs in one thread: this build of torchvision rounds differently from the compiled loops")
        return None
    return roi_align_kernels


def _same_bits(compiled: Kernels) -> bool:
    """Whether values and gradients equal torchvision's for 40 regions on two maps of 16 x 12, some partly outside."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(40, 2, 2, generator=generator).sort(1).values * 80 - 10
    rois = torch.cat([torch.arange(40.0)[:, None] % 2, corners.flatten(1)], 1)
    weights = torch.randn(40, 24, 3, 3, generator=generator)
    features = torch.randn(2, 24, 16, 12, generator=generator)
    with torch.inference_mode(False), torch.enable_grad():
        leaf = features.clone().requires_grad_()
        theirs = torchvision.ops.roi_align(leaf, rois.clone(), (3, 3), 0.25, 0, True)
        (gradient,) = torch.autograd.grad(theirs, leaf, weights.clone())
    options = (rois, 0.25, 3, 0, True)
    return torch.equal(_pool(compiled, features, *options), theirs.detach()) and torch.equal(
        _spread(compiled, weights, features.shape, *options), gradient
    )


class _RoIAlign(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: torch.Tensor,
        rois: torch.Tensor,
        compiled: Kernels,
        side: int,
        scale: float,
        ratio: int,
        aligned: bool,
    ) -> torch.Tensor:
        ctx.save_for_backward(rois)
        ctx.compiled, ctx.shape, ctx.options = compiled, features.shape, (scale, side, ratio, aligned)
        return _pool(compiled, features, rois, scale, side, ratio, aligned)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        (rois,) = ctx.saved_tensors
        return _spread(ctx.compiled, gradient, ctx.shape, rois, *ctx.options), None, None, None, None, None, None


def _pool(
    compiled: Kernels, features: torch.Tensor, rois: torch.Tensor, scale: float, side: int, ratio: int, aligned: bool
) -> torch.Tensor:
    images, channels, height, width = features.shape
    rows = features.detach().permute(0, 2, 3, 1).contiguous().view(images, height * width, channels)
    pooled = features.new_empty(len(rois), channels, side * side)
    options = (height, width, rois.detach().contiguous().numpy(), compiled.f32(scale), side, ratio, aligned)
    source, target = rows.numpy(), pooled.numpy()
    _in_threads(len(rois), 8, lambda first, last: compiled.pool(source, *options, first, last, target))
    return pooled.view(len(rois), channels, side, side)


def _spread(
    compiled: Kernels,
    gradient: torch.Tensor,
    shape: torch.Size,
    rois: torch.Tensor,
    scale: float,
    side: int,
    ratio: int,
    aligned: bool,
) -> torch.Tensor:
    images, channels, height, width = shape
    into = gradient.new_zeros(images, height * width, channels)
    options = (height, width, rois.detach().contiguous().numpy(), compiled.f32(scale), side, ratio, aligned)
    source, target = gradient.detach().reshape(len(rois), channels, side * side).contiguous().numpy(), into.numpy()
    # threads share out channels, not regions: regions overlap, and each pixel's terms must be added in one fixed order
    _in_threads(channels, 16, lambda first, last: compiled.spread(source, *options, first, last, target))
    return into.view(images, height, width, channels).permute(0, 3, 1, 2).contiguous()


def _in_threads(count: int, least: int, work: Callable[[int, int], None]) -> None:
    """Call ``work(first, last)`` for shares of ``count``, at least ``least`` each, in torch's number of threads."""
    threads = max(min(torch.get_num_threads(), count // least), 1)
    edges = [count * i // threads for i in range(threads + 1)]
    shares = list(itertools.pairwise(edges))
    if threads == 1:
        work(*shares[0])
        return
    with ThreadPoolExecutor(threads - 1) as others:
        running = [others.submit(work, *share) for share in shares[1:]]
        work(*shares[0])
        for one in running:
            one.result()
