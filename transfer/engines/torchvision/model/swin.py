"""Swin Transformer (arXiv:2103.14030) with Detectron2's names and order of creation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from transfer.engines.torchvision.model.feed_forward import Mlp
from transfer.engines.torchvision.model.vit import POSITION_STD, drop_path, drop_rates, init_transformer
from transfer.engines.torchvision.model.windows import join_windows, split_windows

PATCH = 4
BLOCKED = -100.0  # added to the attention logits of tokens that are not neighbours in the image


class WindowAttention(nn.Module):
    """Multi-head attention within windows of ``side`` x ``side`` tokens, with a learned bias per relative position."""

    def __init__(self, channels: int, side: int, heads: int, *, qkv_bias: bool, fused: bool) -> None:
        super().__init__()
        self.heads, self.fused = heads, fused
        self.scale = (channels // heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * side - 1) ** 2, heads))
        place = torch.arange(side)
        difference = place[:, None] - place[None, :] + side - 1  # 0 .. 2 side - 2
        index = difference[:, None, :, None] * (2 * side - 1) + difference[None, :, None, :]
        self.register_buffer("relative_position_index", index.reshape(side * side, side * side))
        self.relative_position_index: torch.Tensor
        self.qkv = nn.Linear(channels, channels * 3, bias=qkv_bias)
        self.proj = nn.Linear(channels, channels)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=POSITION_STD)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """B x L x C to the same shape; ``mask``: W x L x L added to the logits of the W windows of each image."""
        count, length, channels = x.shape
        qkv = self.qkv(x).reshape(count, length, 3, self.heads, channels // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        bias = self.relative_position_bias_table[self.relative_position_index.view(-1)].view(length, length, -1)
        bias = bias.permute(2, 0, 1).contiguous()[None]
        if self.fused:
            if mask is not None:
                bias = (bias + mask[:, None]).repeat(count // len(mask), 1, 1, 1)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=self.scale)
        else:
            logits = (q * self.scale) @ k.transpose(-2, -1) + bias
            if mask is not None:
                by_image = logits.view(-1, len(mask), self.heads, length, length) + mask[None, :, None]
                logits = by_image.view(-1, self.heads, length, length)
            y = logits.softmax(dim=-1) @ v
        return self.proj(y.transpose(1, 2).reshape(count, length, channels))  # type: ignore[no-any-return]


class SwinBlock(nn.Module):
    """Attention within windows that are shifted by ``shift`` tokens, and a feed-forward network."""

    def __init__(
        self,
        channels: int,
        heads: int,
        *,
        window: int,
        shift: int,
        mlp_ratio: float,
        qkv_bias: bool,
        drop_rate: float,
        fused: bool,
    ) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, window, heads, qkv_bias=qkv_bias, fused=fused)
        self.drop_path = drop_path(drop_rate)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, int(channels * mlp_ratio))

    def forward(self, x: torch.Tensor, size: tuple[int, int], mask: torch.Tensor) -> torch.Tensor:
        """Tokens B x (H * W) x C of a map of ``size`` (H, W) to the same shape; ``mask`` is for shifted windows."""
        batch, _, channels = x.shape
        y = self.norm1(x).view(batch, *size, channels)
        padded = (-(-size[0] // self.window) * self.window, -(-size[1] // self.window) * self.window)
        y = F.pad(y, (0, 0, 0, padded[1] - size[1], 0, padded[0] - size[0]))
        if self.shift:
            y = torch.roll(y, shifts=(-self.shift, -self.shift), dims=(1, 2))
        windows, _ = split_windows(y, self.window)
        windows = self.attn(windows.view(-1, self.window**2, channels), mask if self.shift else None)
        y = join_windows(windows.view(-1, self.window, self.window, channels), padded, padded)
        if self.shift:
            y = torch.roll(y, shifts=(self.shift, self.shift), dims=(1, 2))
        y = y[:, : size[0], : size[1]].reshape(batch, -1, channels)
        x = x + self.drop_path(y)
        return x + self.drop_path(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]


class PatchMerging(nn.Module):
    """Halves a map: the four tokens of every 2 x 2 square become one of twice the width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)
        self.norm = nn.LayerNorm(4 * channels)

    def forward(self, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """B x (H * W) x C of a map of ``size`` to B x (H/2 * W/2) x 2C, rounded up."""
        batch, _, channels = x.shape
        grid = x.view(batch, *size, channels)
        if size[0] % 2 or size[1] % 2:
            grid = F.pad(grid, (0, 0, 0, size[1] % 2, 0, size[0] % 2))
        corners = [grid[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(corners, -1).view(batch, -1, 4 * channels)))  # type: ignore[no-any-return]


class Stage(nn.Module):
    """Blocks of one resolution, every second one with shifted windows, and the reduction to the next resolution."""

    def __init__(
        self, channels: int, heads: int, rates: Sequence[float], *, window: int, reduce: bool, checkpointing: bool,
        mlp_ratio: float, qkv_bias: bool, fused: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.window, self.checkpointing = window, checkpointing
        self.blocks = nn.ModuleList(
            SwinBlock(
                channels,
                heads,
                window=window,
                shift=window // 2 if index % 2 else 0,
                mlp_ratio=mlp_ratio,
                qkv_bias=qkv_bias,
                drop_rate=rate,
                fused=fused,
            )
            for index, rate in enumerate(rates)
        )
        self.downsample = PatchMerging(channels) if reduce else None

    def _mask(self, size: tuple[int, int], device: torch.device) -> torch.Tensor:
        """For shifted windows of a map: W x L x L, ``BLOCKED`` between tokens from different sides of the image."""
        height, width = (-(-length // self.window) * self.window for length in size)
        regions = torch.zeros((1, height, width, 1), device=device)
        shift = self.window // 2
        bounds = (slice(0, -self.window), slice(-self.window, -shift), slice(-shift, None))
        for number, (rows, columns) in enumerate((a, b) for a in bounds for b in bounds):
            regions[:, rows, columns] = number
        windows = split_windows(regions, self.window)[0].view(-1, self.window**2)
        apart = windows.unsqueeze(1) != windows.unsqueeze(2)
        return torch.zeros(apart.shape, device=device).masked_fill(apart, BLOCKED)

    def forward(self, x: torch.Tensor, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens B x (H * W) x C to those of this stage and those of the next resolution."""
        mask = self._mask(size, x.device)
        for block in self.blocks:
            if self.checkpointing and self.training:
                x = checkpoint(block, x, size, mask, use_reentrant=False)
            else:
                x = block(x, size, mask)
        return x, x if self.downsample is None else self.downsample(x, size)


class PatchEmbed(nn.Module):
    """4 x 4 patches to tokens, layer-normalised if ``norm``; an image is padded to whole patches."""

    def __init__(self, channels: int, norm: bool) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, kernel_size=PATCH, stride=PATCH)
        self.norm = nn.LayerNorm(channels) if norm else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N x 3 x H x W to N x C x H/4 x W/4, rounded up."""
        if x.shape[3] % PATCH or x.shape[2] % PATCH:
            x = F.pad(x, (0, -x.shape[3] % PATCH, 0, -x.shape[2] % PATCH))
        x = self.proj(x)
        if self.norm is None:
            return x
        y = self.norm(x.flatten(2).transpose(1, 2))
        return y.transpose(1, 2).view(-1, *x.shape[1:])  # type: ignore[no-any-return]


class SwinTransformer(nn.Module):
    """Four stages with outputs ``p0`` .. ``p3`` (strides 4 to 32), each layer-normalised."""

    size_divisibility = 32

    def __init__(
        self,
        *,
        channels: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        heads: Sequence[int] = (3, 6, 12, 24),
        window: int = 7,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path_rate: float = 0.2,
        absolute: bool = False,
        patch_norm: bool = True,
        pretrained_size: int = 224,
        checkpointing: bool = False,
        fused: bool = False,
    ) -> None:
        super().__init__()
        side = pretrained_size // PATCH
        self.patch_embed = PatchEmbed(channels, patch_norm)
        self.absolute_pos_embed = nn.Parameter(torch.zeros(1, channels, side, side)) if absolute else None
        if self.absolute_pos_embed is not None:
            nn.init.trunc_normal_(self.absolute_pos_embed, std=POSITION_STD)
        rates = drop_rates(drop_path_rate, sum(depths))
        self.layers = nn.ModuleList(
            Stage(
                channels << index,
                heads[index],
                rates[sum(depths[:index]) : sum(depths[: index + 1])],
                window=window,
                reduce=index < 3,
                checkpointing=checkpointing,
                mlp_ratio=mlp_ratio,
                qkv_bias=qkv_bias,
                fused=fused,
            )
            for index in range(4)
        )
        for index in range(4):
            self.add_module(f"norm{index}", nn.LayerNorm(channels << index))
        self.channels = {f"p{index}": channels << index for index in range(4)}
        self.strides = {f"p{index}": 4 << index for index in range(4)}
        self.apply(init_transformer)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """N x 3 x H x W to {"p0" .. "p3": N x C x H/stride x W/stride}."""
        x = self.patch_embed(x)
        size = (x.shape[2], x.shape[3])
        if self.absolute_pos_embed is not None:
            x = x + F.interpolate(self.absolute_pos_embed, size=size, mode="bicubic")
        x = x.flatten(2).transpose(1, 2)
        outputs = {}
        for index, stage in enumerate(self.layers):
            out, x = stage(x, size)
            y = getattr(self, f"norm{index}")(out)
            outputs[f"p{index}"] = y.view(len(y), *size, y.shape[2]).permute(0, 3, 1, 2).contiguous()
            size = (-(-size[0] // 2), -(-size[1] // 2))
        return outputs
