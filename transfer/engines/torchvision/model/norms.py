"""Normalisation layers by Detectron2's names, and freezing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from runtime.distributed import rank_count
from runtime.errors import UserError
from transfer.engines.training.ranks import SummedOverRanks


class FrozenBatchNorm(nn.Module):
    """A per-channel affine map from fixed batch-norm statistics: all four tensors are buffers."""

    # a state dict without a version is a converted backbone, in which missing statistics mean the identity
    _version = 3

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_features, self.eps = num_features, eps
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features) - eps)
        self.register_buffer("num_batches_tracked", None)
        self.weight: torch.Tensor
        self.bias: torch.Tensor
        self.running_mean: torch.Tensor
        self.running_var: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise ``x`` (N x C x H x W)."""
        # The two forms differ in their last bits, and Detectron2 chooses by this same condition. The explicit
        # form needs no memory for gradients of weight and bias.
        if not x.requires_grad:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.view(1, -1, 1, 1).to(x.dtype) + shift.view(1, -1, 1, 1).to(x.dtype)

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, metadata: dict[str, Any], *rest: Any) -> None:
        version = metadata.get("version")
        if version is None or version < 2:
            state.setdefault(prefix + "running_mean", torch.zeros_like(self.running_mean))
            state.setdefault(prefix + "running_var", torch.ones_like(self.running_var))
        super()._load_from_state_dict(state, prefix, metadata, *rest)  # type: ignore[no-untyped-call]

    @classmethod
    def from_batch_norm(cls, norm: nn.BatchNorm2d | nn.SyncBatchNorm) -> FrozenBatchNorm:
        """A frozen layer with the parameters and statistics of ``norm``."""
        frozen = cls(norm.num_features, norm.eps)
        for name in ("weight", "bias", "running_mean", "running_var"):
            setattr(frozen, name, getattr(norm, name).detach().clone())
        frozen.num_batches_tracked = norm.num_batches_tracked  # type: ignore[assignment]
        return frozen


class ChannelLayerNorm(nn.Module):
    """Layer norm over the channels of every pixel, with Detectron2's sequence of operations.

    Not an ``nn.LayerNorm``: in Detectron2 SOLVER.WEIGHT_DECAY_NORM is not for these layers either.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise ``x`` (N x C x H x W)."""
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + self.eps)  # subtracted anew: gradients are then summed in the same order
        return self.weight[:, None, None] * x + self.bias[:, None, None]


def freeze(module: nn.Module) -> nn.Module:
    """Stop gradients of ``module`` and replace its batch norms by frozen ones; returns the module to use instead."""
    for parameter in module.parameters():
        parameter.requires_grad = False
    return _freeze_norms(module)


def _freeze_norms(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm):
        return FrozenBatchNorm.from_batch_norm(module)
    for name, child in list(module.named_children()):
        module._modules[name] = _freeze_norms(child)
    return module


def _scale_and_shift(
    norm: nn.BatchNorm2d | nn.SyncBatchNorm, x: torch.Tensor, mean: torch.Tensor, var: torch.Tensor
) -> torch.Tensor:
    scale = torch.rsqrt(var + norm.eps)
    scale = scale if norm.weight is None else norm.weight * scale
    shift = -mean * scale if norm.bias is None else norm.bias - mean * scale
    return x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)


class GlobalBatchNorm(nn.BatchNorm2d):
    """torch's SyncBatchNorm for processes without GPUs, where torch's own class does not work."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise ``x`` (N x C x H x W) by the mean and variance over the elements of all ranks."""
        if not self.training or rank_count() == 1:
            return super().forward(x)
        wide = x.float()
        count = wide.new_full((1,), float(x.numel() // x.shape[1]))
        # deviations from the global mean: E[x^2] - E[x]^2 would lose digits by cancellation
        total = SummedOverRanks.apply(torch.cat([wide.sum([0, 2, 3]), count]))
        elements = total[-1].detach()
        mean = total[:-1] / elements
        var = SummedOverRanks.apply(((wide - mean.view(1, -1, 1, 1)) ** 2).sum([0, 2, 3])) / elements
        with torch.no_grad():
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
            self.running_mean += self.momentum * (mean - self.running_mean)  # type: ignore[operator]
            unbiased = var * elements / (elements - 1).clamp(min=1)
            self.running_var += self.momentum * (unbiased - self.running_var)  # type: ignore[operator]
        return _scale_and_shift(self, wide, mean, var).to(x.dtype)


class NaiveSyncBatchNorm(nn.BatchNorm2d):
    """Detectron2's batch norm whose statistics are the plain mean over ranks of each rank's mean and mean square.

    Ranks count equally whatever the size of their images, and the running variance is the biased one.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise ``x`` (N x C x H x W)."""
        if not self.training or rank_count() == 1:
            return super().forward(x)
        wide = x.float() if x.dtype == torch.float16 else x
        moments = torch.cat([wide.mean([0, 2, 3]), (wide * wide).mean([0, 2, 3])])
        mean, square = (SummedOverRanks.apply(moments) * (1.0 / rank_count())).split(x.shape[1])
        var = square - mean * mean
        with torch.no_grad():
            self.running_mean += self.momentum * (mean - self.running_mean)  # type: ignore[operator]
            self.running_var += self.momentum * (var - self.running_var)  # type: ignore[operator]
        return _scale_and_shift(self, wide, mean, var).to(x.dtype)


def _sync_batch_norm(channels: int, affine: bool = True) -> nn.Module:
    kind = nn.SyncBatchNorm if torch.cuda.is_available() else GlobalBatchNorm
    return kind(channels, affine=affine)


def plain_norm(name: str, channels: int) -> nn.Module:
    """A batch norm "BN" or "SyncBN" without scale and shift."""
    return nn.BatchNorm2d(channels, affine=False) if name == "BN" else _sync_batch_norm(channels, affine=False)


def _group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(32, channels)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "FrozenBN": FrozenBatchNorm,
    "BN": nn.BatchNorm2d,
    "SyncBN": _sync_batch_norm,
    "nnSyncBN": _sync_batch_norm,
    "naiveSyncBN": NaiveSyncBatchNorm,
    "GN": _group_norm,
    "LN": ChannelLayerNorm,
}


def build_norm(name: str, channels: int) -> nn.Module | None:
    """The layer that Detectron2 calls ``name`` ("" for none). Raises UserError for a name not in NORMS."""
    if not name:
        return None
    if name not in NORMS:
        raise UserError(f"unknown norm {name!r}; choose one of '', {', '.join(NORMS)}")
    return NORMS[name](channels)
