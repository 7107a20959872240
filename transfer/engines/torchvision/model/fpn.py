"""Feature pyramid (arXiv:1612.03144) with Detectron2's names and order of creation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from transfer.engines.torchvision.model.convolution import Conv, init_xavier


class LastLevelP6P7(nn.Module):
    """RetinaNet's two levels above p5: 3x3/2 convolutions on res5, and on p6 after ReLU (arXiv:1708.02002, note 2)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.p6 = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(out_channels, out_channels, 3, stride=2, padding=1)
        init_xavier(self.p6, self.p7)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """res5 (N x C x H x W) to p6 and p7."""
        p6 = self.p6(x)
        return [p6, self.p7(F.relu(p6))]


class FPN(nn.Module):
    """Levels ``p2 .. p5`` from ``res2 .. res5`` and ``p6`` by subsampling p5; images are padded to the top stride.

    A ``top_block`` makes p6 and p7 from res5 instead.
    ``bottom_up`` has ``channels`` and ``strides`` by the names of its outputs, as a ResNet has.
    """

    def __init__(
        self,
        bottom_up: nn.Module,
        *,
        in_features: Sequence[str],
        out_channels: int = 256,
        norm: str = "",
        average: bool = False,
        top_block: LastLevelP6P7 | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.average = list(in_features), average
        given: dict[str, int] = bottom_up.strides  # type: ignore[assignment]
        widths: dict[str, int] = bottom_up.channels  # type: ignore[assignment]
        strides = [given[name] for name in self.in_features]
        self.levels = [int(math.log2(stride)) for stride in strides]
        for level, name in zip(self.levels, self.in_features):
            lateral = Conv(widths[name], out_channels, 1, norm=norm)
            output = Conv(out_channels, out_channels, 3, padding=1, norm=norm)
            init_xavier(lateral, output)
            self.add_module(f"fpn_lateral{level}", lateral)
            self.add_module(f"fpn_output{level}", output)
        self.top_block = top_block
        self.bottom_up = bottom_up
        self.size_divisibility = strides[-1]
        self.strides = {f"p{level}": 2**level for level in [*self.levels, *self._tops()]}
        self.channels = dict.fromkeys(self.strides, out_channels)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """N x 3 x H x W to {level: N x C x H/stride x W/stride}, finest level first."""
        return self.from_stages(self.bottom_up(x))

    def from_stages(self, stages: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The levels from the outputs of ``bottom_up``."""
        outputs: dict[str, torch.Tensor] = {}
        top: torch.Tensor | None = None
        for level, name in zip(reversed(self.levels), reversed(self.in_features)):
            lateral = getattr(self, f"fpn_lateral{level}")(stages[name])
            if top is not None:
                lateral = lateral + F.interpolate(top, scale_factor=2.0, mode="nearest")
                if self.average:
                    lateral /= 2
            top = lateral
            outputs[f"p{level}"] = getattr(self, f"fpn_output{level}")(top)
        outputs = {f"p{level}": outputs[f"p{level}"] for level in self.levels}
        if self.top_block is not None:
            tops = self.top_block(stages["res5"])
        else:
            tops = [F.max_pool2d(outputs[f"p{self.levels[-1]}"], kernel_size=1, stride=2, padding=0)]
        return outputs | {f"p{level}": top for level, top in zip(self._tops(), tops)}

    def _tops(self) -> list[int]:
        last = self.levels[-1]
        return [last + 1] if self.top_block is None else [last + 1, last + 2]
