"""Vision transformers for pretraining: timm's names and arithmetic, MoCo v3's initialisation and fixed positions."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F


class Size(NamedTuple):
    """Width, blocks, heads, and whether patches come from a stack of convolutions."""

    width: int
    depth: int
    heads: int
    conv_stem: bool = False


# vit_small has twelve heads, as in MoCo v3; one block less with the conv stem, which costs as much (section 6)
VITS = {
    "vit_tiny": Size(192, 12, 3),
    "vit_small": Size(384, 12, 12),
    "vit_base": Size(768, 12, 12),
    "vit_conv_small": Size(384, 11, 12, True),
    "vit_conv_base": Size(768, 11, 12, True),
}
PATCH = 16
EPS = 1e-6


class PatchEmbed(nn.Module):
    """Patches of 16 x 16 pixels: N x 3 x H x W to N x (H/16 * W/16) x C."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH, PATCH)
        bound = math.sqrt(6.0 / (3 * PATCH * PATCH + width))
        nn.init.uniform_(self.proj.weight, -bound, bound)
        nn.init.zeros_(self.proj.bias)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N x 3 x H x W to N x (H/16 * W/16) x C."""
        return self.proj(x).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]


class ConvStem(nn.Module):
    """Four 3x3 convolutions of stride 2 with batch norm and a 1x1 convolution, in the place of the patches."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs, outputs = 3, width // 8
        for _ in range(4):
            layers += [nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
            inputs, outputs = outputs, outputs * 2
        layers.append(nn.Conv2d(inputs, width, 1))
        self.proj = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N x 3 x H x W to N x (H/16 * W/16) x C."""
        return self.proj(x).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Multi-head self-attention: N x L x C to the same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N x L x C to the same."""
        count, length, width = x.shape
        q, k, v = self.qkv(x).reshape(count, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return self.proj(y.transpose(1, 2).reshape(count, length, width))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """... x C to ... x C."""
        return self.fc2(F.gelu(self.fc1(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, eps=EPS), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width, eps=EPS), FeedForward(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N x L x C to the same."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class VisionTransformer(nn.Module):
    """B x 3 x S x S -> B x outputs, from the class token after the final norm. S is a multiple of 16."""

    def __init__(self, size: Size, *, image_size: int, outputs: int, mlp: bool = False) -> None:
        super().__init__()
        grid, width = image_size // PATCH, size.width
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(sine_positions(grid, width), requires_grad=False)
        self.patch_embed = ConvStem(width) if size.conv_stem else PatchEmbed(width)
        self.blocks = nn.ModuleList(Block(width, size.heads) for _ in range(size.depth))
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.head: nn.Module = nn.Linear(width, outputs)
        if mlp:
            self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), self.head)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                _init_linear(name, module)
        nn.init.normal_(self.cls_token, std=1e-6)

    def pooled(self, images: torch.Tensor) -> torch.Tensor:
        """The class token after the final norm: B x 3 x S x S -> B x C."""
        x = self.patch_embed(images)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 0]  # type: ignore[no-any-return]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """B x 3 x S x S -> B x outputs."""
        return self.head(self.pooled(images))  # type: ignore[no-any-return]


def _init_linear(name: str, module: nn.Linear) -> None:
    if name.endswith(".qkv"):  # queries, keys and values as three matrices
        bound = math.sqrt(6.0 / (module.weight.shape[0] // 3 + module.weight.shape[1]))
        nn.init.uniform_(module.weight, -bound, bound)
    else:
        nn.init.xavier_uniform_(module.weight)
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def sine_positions(grid: int, width: int, temperature: float = 10000.0) -> torch.Tensor:
    """Fixed sine and cosine positions of a grid, after a zero for the class token: 1 x (1 + grid^2) x width."""
    place = torch.arange(grid, dtype=torch.float32)
    rows, columns = torch.meshgrid(place, place, indexing="ij")
    omega = 1.0 / temperature ** (torch.arange(width // 4, dtype=torch.float32) / (width // 4))
    # the official code calls the first axis of its meshgrid the width
    first, second = (axis.flatten()[:, None] * omega for axis in (rows, columns))
    table = torch.cat([first.sin(), first.cos(), second.sin(), second.cos()], dim=1)
    return torch.cat([torch.zeros(1, 1, width), table[None]], dim=1)
