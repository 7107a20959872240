"""Convolution with norm and activation under Detectron2's parameter names, and its weight initialisations."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from transfer.engines.torchvision.model.norms import build_norm


class Conv(nn.Conv2d):
    """A convolution, then ``norm`` (a name of NORMS or ""), then ReLU if ``relu``; bias only without a norm."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        norm: str = "",
        relu: bool = False,
        bias: bool | None = None,
        **geometry: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, bias=not norm if bias is None else bias, **geometry)
        self.norm = build_norm(norm, out_channels)
        self.relu = relu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N x C_in x H x W to N x C_out x H' x W'."""
        x = super().forward(x)
        if self.norm is not None:
            x = self.norm(x)
        return F.relu_(x) if self.relu else x


def init_msra(*layers: nn.Module) -> None:
    """Kaiming normal by fan-out and zero biases (He et al. 2015), layer by layer."""
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")  # type: ignore[arg-type]
        _zero_bias(layer)


def init_xavier(*layers: nn.Module) -> None:
    """Caffe2's XavierFill, which is Kaiming uniform with a = 1, and zero biases."""
    for layer in layers:
        nn.init.kaiming_uniform_(layer.weight, a=1)  # type: ignore[arg-type]
        _zero_bias(layer)


def init_normal(layer: nn.Module, std: float) -> None:
    """Normal with standard deviation ``std`` and zero bias."""
    nn.init.normal_(layer.weight, std=std)  # type: ignore[arg-type]
    _zero_bias(layer)


def _zero_bias(layer: nn.Module) -> None:
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
