"""Plain vision transformer for detection (ViTDet, arXiv:2203.16527) with Detectron2's names and order of creation.

Beyond Detectron2's, a network can have what newer checkpoints have: layer scale, class and register tokens, SwiGLU,
rotary positions.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from torchvision.ops import StochasticDepth

from transfer.engines.torchvision.model.feed_forward import FEED_FORWARD, LayerScale, ResidualBottleneck
from transfer.engines.torchvision.model.rope import AxialRope, rotate
from transfer.engines.torchvision.model.windows import (
    join_windows,
    position_grid,
    relative_logits,
    split_windows,
)

OUT_FEATURE = "last_feat"
NO_ROPES: Mapping[int, torch.Tensor] = {}
POSITION_STD = 0.02  # of all normal initialisations of a transformer, cut at two units as torch does


def init_transformer(module: nn.Module) -> None:
    """Initial values of the linear layers and layer norms of a transformer, for ``Module.apply``."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=POSITION_STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.zeros_(module.bias)
        nn.init.ones_(module.weight)


def drop_path(rate: float) -> nn.Module:
    """Stochastic depth (arXiv:1603.09382) of a residual branch, sample by sample."""
    return StochasticDepth(rate, "row") if rate > 0.0 else nn.Identity()


def drop_rates(rate: float, depth: int) -> list[float]:
    """Rates of ``depth`` blocks, rising linearly from 0 to ``rate`` in float32."""
    return torch.linspace(0, rate, depth).tolist()


class Attention(nn.Module):
    """Multi-head self-attention over a grid, with decomposed relative positions if ``side`` is the grid's side.

    ``fused`` uses torch's scaled_dot_product_attention: less time and memory, the same result up to rounding.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        *,
        qkv_bias: bool = True,
        side: int = 0,
        zero_positions: bool = True,
        fused: bool = False,
    ) -> None:
        super().__init__()
        self.heads, self.fused = heads, fused
        self.scale = (channels // heads) ** -0.5
        self.qkv = nn.Linear(channels, channels * 3, bias=qkv_bias)
        self.proj = nn.Linear(channels, channels)
        self.has_positions = side > 0
        if side:
            self.rel_pos_h = nn.Parameter(torch.zeros(2 * side - 1, channels // heads))
            self.rel_pos_w = nn.Parameter(torch.zeros(2 * side - 1, channels // heads))
            if not zero_positions:
                nn.init.trunc_normal_(self.rel_pos_h, std=POSITION_STD)
                nn.init.trunc_normal_(self.rel_pos_w, std=POSITION_STD)

    def forward(self, x: torch.Tensor, rope: torch.Tensor | None = None) -> torch.Tensor:
        """B x H x W x C to the same shape. ``rope``: the table by which queries and keys are turned, if they are."""
        batch, height, width, channels = x.shape
        qkv = self.qkv(x).reshape(batch, height * width, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if rope is not None:
            qkv = torch.stack((rotate(qkv[0], rope), rotate(qkv[1], rope), qkv[2]))
        attend = self._fused if self.fused else self._exact
        x = attend(qkv, (height, width)).view(batch, self.heads, height, width, -1)
        return self.proj(x.permute(0, 2, 3, 1, 4).reshape(batch, height, width, channels))  # type: ignore[no-any-return]

    def _exact(self, qkv: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Detectron2's sequence of operations: 3 x B x heads x L x C' to (B * heads) x L x C'."""
        q, k, v = qkv.reshape(3, -1, *qkv.shape[3:]).unbind(0)
        logits = (q * self.scale) @ k.transpose(-2, -1)
        if self.has_positions:
            rows, columns = relative_logits(q, self.rel_pos_h, self.rel_pos_w, size)
            by_key = logits.view(-1, *size, *size) + rows[..., None] + columns[..., None, :]
            logits = by_key.view(logits.shape)
        return logits.softmax(dim=-1) @ v

    def _fused(self, qkv: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        q, k, v = qkv.unbind(0)
        bias = None
        if self.has_positions:
            rows, columns = relative_logits(q.flatten(0, 1), self.rel_pos_h, self.rel_pos_w, size)
            bias = (rows[..., None] + columns[..., None, :]).reshape(*q.shape[:3], -1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=self.scale)


class Block(nn.Module):
    """Pre-norm transformer block over a grid; attention within windows of ``window`` tokens, or global if it is 0."""

    def __init__(
        self,
        channels: int,
        heads: int,
        *,
        mlp_ratio: float,
        qkv_bias: bool,
        drop_rate: float,
        norm_eps: float,
        side: int,
        relative: bool,
        zero_positions: bool,
        window: int,
        residual: bool,
        feed_forward: str,
        layer_scale: bool,
        fused: bool,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=norm_eps)
        self.attn = Attention(
            channels,
            heads,
            qkv_bias=qkv_bias,
            side=(window or side) if relative else 0,
            zero_positions=zero_positions,
            fused=fused,
        )
        self.ls1 = LayerScale(channels) if layer_scale else nn.Identity()
        self.drop_path = drop_path(drop_rate)
        self.norm2 = nn.LayerNorm(channels, eps=norm_eps)
        self.mlp = FEED_FORWARD[feed_forward](channels, int(channels * mlp_ratio))
        self.ls2 = LayerScale(channels) if layer_scale else nn.Identity()
        self.window = window
        self.residual = ResidualBottleneck(channels) if residual else None

    def forward(self, x: torch.Tensor, ropes: Mapping[int, torch.Tensor] = NO_ROPES) -> torch.Tensor:
        """B x H x W x C to the same shape. ``ropes``: side of a window (0: the whole grid) -> table of rotations."""
        y, rope = self.norm1(x), ropes.get(self.window)
        if self.window:
            windows, padded = split_windows(y, self.window)
            y = join_windows(self.attn(windows, rope), padded, (x.shape[1], x.shape[2]))
        else:
            y = self.attn(y, rope)
        x = x + self.drop_path(self.ls1(y))
        x = x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))
        if self.residual is not None:
            x = self.residual(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x


class PatchEmbed(nn.Module):
    """Linear projection of square patches: N x 3 x H x W to N x H/patch x W/patch x C."""

    def __init__(self, patch: int, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, kernel_size=patch, stride=patch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N x 3 x H x W to N x H/patch x W/patch x C."""
        return self.proj(x).permute(0, 2, 3, 1)  # type: ignore[no-any-return]


class ViT(nn.Module):
    """Patches, position embedding and blocks; one output map ``last_feat`` at the stride of a patch.

    ``image_size``: side of the images for which global blocks hold relative positions. ``window_blocks``: numbers of
    the blocks that attend within windows of ``window`` tokens a side; ``residual_blocks``: those followed by a
    convolutional branch. ``pretrained_size`` and ``pretrained_cls_token`` give the shape of the position embedding.
    ``cls_token`` and ``registers`` (their number) let these tokens take part in attention; that needs global attention
    without relative positions. ``rope``: rotary positions (DINOv3), in place of absolute and relative ones.
    ``final_norm`` normalises the output.
    """

    def __init__(
        self,
        *,
        image_size: int = 1024,
        patch: int = 16,
        channels: int = 768,
        depth: int = 12,
        heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path_rate: float = 0.0,
        norm_eps: float = 1e-6,
        absolute: bool = True,
        relative: bool = False,
        zero_positions: bool = True,
        window: int = 0,
        window_blocks: Collection[int] = (),
        residual_blocks: Collection[int] = (),
        pretrained_size: int = 224,
        pretrained_cls_token: bool = True,
        cls_token: bool = False,
        registers: int = 0,
        rope: bool = False,
        layer_scale: bool = False,
        feed_forward: str = "mlp",
        final_norm: bool = False,
        checkpointing: bool = False,
        fused: bool = False,
    ) -> None:
        super().__init__()
        self.pretrained_cls_token, self.checkpointing = pretrained_cls_token, checkpointing
        self.patch_embed = PatchEmbed(patch, channels)
        positions = (pretrained_size // patch) ** 2 + pretrained_cls_token
        self.pos_embed = nn.Parameter(torch.zeros(1, positions, channels)) if absolute else None
        self.rope_embed = AxialRope(channels // heads) if rope else None
        self.cls_token = nn.Parameter(torch.zeros(1, 1, channels)) if cls_token else None
        self.register_tokens = nn.Parameter(torch.zeros(1, registers, channels)) if registers else None
        self.blocks = nn.ModuleList(
            Block(
                channels,
                heads,
                mlp_ratio=mlp_ratio,
                qkv_bias=qkv_bias,
                drop_rate=rate,
                norm_eps=norm_eps,
                side=image_size // patch,
                relative=relative,
                zero_positions=zero_positions,
                window=window if index in window_blocks else 0,
                residual=index in residual_blocks,
                feed_forward=feed_forward,
                layer_scale=layer_scale,
                fused=fused,
            )
            for index, rate in enumerate(drop_rates(drop_path_rate, depth))
        )
        self.norm = nn.LayerNorm(channels, eps=norm_eps) if final_norm else nn.Identity()
        self.channels, self.strides = {OUT_FEATURE: channels}, {OUT_FEATURE: patch}
        self._draw_weights()

    def _draw_weights(self) -> None:
        for token in (self.pos_embed, self.cls_token, self.register_tokens):
            if token is not None:
                nn.init.trunc_normal_(token, std=POSITION_STD)
        self.apply(init_transformer)

    def _prefix(self) -> list[torch.Tensor]:
        """Tokens that attend with the patches, each 1 x n x C; the class token has a position of its own."""
        tokens = []
        if self.cls_token is not None:
            positioned = self.pos_embed is not None and self.pretrained_cls_token
            tokens.append(self.cls_token + self.pos_embed[:, :1] if positioned else self.cls_token)  # type: ignore[index]
        if self.register_tokens is not None:
            tokens.append(self.register_tokens)
        return tokens

    def _ropes(self, size: tuple[int, int], prefix: int) -> Mapping[int, torch.Tensor]:
        """Tables of rotations for a grid of ``size`` after ``prefix`` tokens, by the sides of the blocks' windows."""
        if self.rope_embed is None:
            return NO_ROPES
        sides = {block.window for block in self.blocks if isinstance(block, Block)}
        return {side: self.rope_embed(size, window=side, prefix=0 if side else prefix) for side in sides}

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """N x 3 x H x W to {"last_feat": N x C x H/patch x W/patch}."""
        x = self.patch_embed(x)
        batch, height, width, channels = x.shape
        if self.pos_embed is not None:
            x = x + position_grid(self.pos_embed, self.pretrained_cls_token, (height, width))
        prefix = self._prefix()
        if prefix:  # one row of tokens: without windows and relative positions the blocks do not ask for their places
            x = torch.cat([*(token.expand(batch, -1, -1) for token in prefix), x.flatten(1, 2)], dim=1)[:, None]
        ropes = self._ropes((height, width), sum(token.shape[1] for token in prefix))
        for block in self.blocks:
            if self.checkpointing and self.training:
                x = checkpoint(block, x, ropes, use_reentrant=False)
            else:
                x = block(x, ropes)
        x = self.norm(x)
        if prefix:
            x = x[:, 0, -height * width :].reshape(batch, height, width, channels)
        return {OUT_FEATURE: x.permute(0, 3, 1, 2)}
