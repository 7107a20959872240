"""Verification of a ViT: the source's pieces and the converted tensors get the same image, and every stage must agree.

Two independent forward passes. One reads the pieces as the file has them and follows timm's ``vision_transformer.py``:
a row of tokens. The other reads the converted names and follows Detectron2's ``vit.py``: a grid. Both include class and
register tokens where there are some. The image covers a corner of the pretraining's grid, so that no position is
resampled; with rotary positions it is wider than high.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from convert.vit import VisionTransformer
from convert.vit_spellings import MASK, PERIODS

SIDE = 3  # patches a side of the image


def compare_vit(
    pieces: Mapping[str, Mapping[str, np.ndarray]], tensors: Mapping[str, np.ndarray], network: VisionTransformer
) -> dict[str, float]:
    """Stage -> max |difference| of the activations of source (tensor -> part -> array) and converted network."""
    size = (SIDE, SIDE + 1) if network.rope else (min(SIDE, network.grid),) * 2
    pixels = [side * network.patch for side in size]
    image = torch.randn(1, 3, *pixels, generator=torch.Generator().manual_seed(0))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        first = _source_forward(
            {k: {p: _tensor(a) for p, a in parts.items()} for k, parts in pieces.items()}, network, image
        )
        second = _converted_forward({k: _tensor(a) for k, a in tensors.items()}, network, image)
    torch.set_num_threads(threads)
    return {stage: float((first[stage] - second[stage]).abs().max()) for stage in first}


def _source_forward(
    pieces: Mapping[str, Mapping[str, Tensor]], network: VisionTransformer, image: Tensor
) -> dict[str, Tensor]:
    def get(name: str, order: tuple[str, ...] = ("",)) -> Tensor | None:
        parts = pieces.get(name)
        if parts is None:
            return None
        if "" in parts:
            return parts[""] * parts[MASK] if MASK in parts else parts[""]
        return torch.cat([parts[part] if part in parts else torch.zeros_like(parts["q"]) for part in order])

    def linear(x: Tensor, name: str, order: tuple[str, ...] = ("",)) -> Tensor:
        weight = get(f"{name}.weight", order)
        assert weight is not None
        return F.linear(x, weight, get(f"{name}.bias", order))

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (network.width,), get(f"{name}.weight"), get(f"{name}.bias"), network.norm_eps)

    weight, positions, periods = get("patch_embed.proj.weight"), get("pos_embed"), get(PERIODS)
    assert weight is not None
    patches = F.conv2d(image, weight, get("patch_embed.proj.bias"), network.patch)
    x = patches.flatten(2).transpose(1, 2)
    cls, registers = get("cls_token"), get("register_tokens")
    if positions is not None:
        side = patches.shape[-1]
        corner = [network.cls_position + row * network.grid + column for row in range(side) for column in range(side)]
        x = x + positions[:, corner]
        cls = cls + positions[:, :1] if cls is not None and network.cls_position else cls
    x = torch.cat([*(tokens for tokens in (cls, registers) if tokens is not None), x], dim=1)
    outputs = {"input": x}
    head = network.width // network.heads
    for index, stage in enumerate(network.stages()):
        name = f"blocks.{index}"
        qkv = linear(norm(x, f"{name}.norm1"), f"{name}.attn.qkv", ("q", "k", "v"))
        q, k, v = qkv.reshape(1, -1, 3, network.heads, head).permute(2, 0, 3, 1, 4).unbind(0)
        if periods is not None:
            q, k = (_turn_patches(part, periods, *patches.shape[2:]) for part in (q, k))
        weights = (q * head**-0.5 @ k.transpose(-2, -1)).softmax(dim=-1)
        y = linear((weights @ v).transpose(1, 2).reshape(1, -1, network.width), f"{name}.attn.proj")
        scale = get(f"{name}.ls1.gamma")
        x = x + (y if scale is None else y * scale)
        z = norm(x, f"{name}.norm2")
        if network.gated:
            gate, up = linear(z, f"{name}.mlp.w12", ("gate", "up")).chunk(2, dim=-1)
            z = linear(F.silu(gate) * up, f"{name}.mlp.w3")
        else:
            z = linear(F.gelu(linear(z, f"{name}.mlp.fc1")), f"{name}.mlp.fc2")
        scale = get(f"{name}.ls2.gamma")
        x = outputs[stage] = x + (z if scale is None else z * scale)
    return outputs | ({"norm": norm(x, "norm")} if network.final_norm else {})


def _turn_patches(x: Tensor, periods: Tensor, height: int, width: int) -> Tensor:
    """DINOv3's rope_position_encoding.py and attention.py: the last height * width tokens of 1 x heads x tokens x C."""
    places = torch.meshgrid(torch.arange(0.5, height) / height, torch.arange(0.5, width) / width, indexing="ij")
    coordinates = 2.0 * torch.stack(places, dim=-1).flatten(0, 1) - 1.0
    angles = (2 * math.pi * coordinates[:, :, None] / periods[None, None, :]).flatten(1, 2).tile(2)
    first, last = x[:, :, : -height * width], x[:, :, -height * width :]
    a, b = last.chunk(2, dim=-1)
    turned = last * torch.cos(angles) + torch.cat([-b, a], dim=-1) * torch.sin(angles)
    return torch.cat([first, turned], dim=2)


def _rotations(periods: Tensor, height: int, width: int, before: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of every token, tokens x C / 2: those ``before`` the patches turn by nothing."""
    by_row, by_column = (
        2 * math.pi * (2.0 * (torch.arange(0.5, length) / length) - 1.0)[:, None] / periods
        for length in (height, width)
    )
    rows = by_row[:, None].expand(-1, width, -1)
    columns = by_column[None].expand(height, -1, -1)
    angles = torch.cat([rows, columns], dim=2).view(height * width, -1)
    return (
        torch.cat([torch.ones(before, angles.shape[1]), angles.cos()]),
        torch.cat([torch.zeros(before, angles.shape[1]), angles.sin()]),
    )


def _converted_forward(weights: Mapping[str, Tensor], network: VisionTransformer, image: Tensor) -> dict[str, Tensor]:
    def layer_norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], network.norm_eps)

    def fully_connected(x: Tensor, name: str) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    weights = {name.removeprefix(network.prefix): tensor for name, tensor in weights.items()}
    stride = (network.patch, network.patch)
    grid = F.conv2d(image, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride).permute(
        0, 2, 3, 1
    )
    height, width = grid.shape[1:3]
    row = [weights[name] for name in ("cls_token", "register_tokens") if name in weights]
    if not network.rope:
        table = weights["pos_embed"]
        places = table[:, 1:] if network.cls_position else table
        grid = grid + places.reshape(1, network.grid, network.grid, -1)[:, :height, :width]
        if "cls_token" in weights and network.cls_position:
            row[0] = row[0] + table[:, :1]
    x = torch.cat([*row, grid.flatten(1, 2)], dim=1)
    tokens = x.shape[1]
    if network.rope:
        cos, sin = _rotations(weights[PERIODS], height, width, tokens - height * width)
    outputs = {"input": x}
    for index in range(network.depth):
        block = f"blocks.{index}."
        qkv = fully_connected(layer_norm(x, f"{block}norm1"), f"{block}attn.qkv")
        q, k, v = qkv.view(tokens, 3, network.heads, -1).permute(1, 2, 0, 3).unbind(0)
        if network.rope:
            halves = (part.chunk(2, dim=2) for part in (q, k))
            q, k = (torch.cat([a * cos + -b * sin, b * cos + a * sin], dim=2) for a, b in halves)
        attention = (q * (network.width // network.heads) ** -0.5) @ k.transpose(1, 2)
        out = (attention.softmax(-1) @ v).permute(1, 0, 2).reshape(1, tokens, network.width)
        out = fully_connected(out, f"{block}attn.proj")
        x = x + out * weights[f"{block}ls1.gamma"] if network.layer_scale else x + out
        out = layer_norm(x, f"{block}norm2")
        if network.gated:
            left, right = fully_connected(out, f"{block}mlp.w12").split(network.hidden, dim=2)
            out = fully_connected(F.silu(left) * right, f"{block}mlp.w3")
        else:
            out = fully_connected(F.gelu(fully_connected(out, f"{block}mlp.fc1")), f"{block}mlp.fc2")
        x = x + out * weights[f"{block}ls2.gamma"] if network.layer_scale else x + out
        outputs[network.stages()[index]] = x
    return outputs | ({"norm": layer_norm(x, "norm")} if network.final_norm else {})


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array if array.flags.writeable else array.copy())
