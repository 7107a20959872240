"""Verification of ConvNeXt and Swin: the source's pieces and the converted tensors get the same image.

Both go through one forward pass, which follows the authors' code. The pieces are joined here anew, so that a part in
another place, or of another stage, changes the activations; that the names are understood rightly is proven by tests
against the makers' networks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from convert.convnext import ConvNeXt
from convert.swin import Swin

SIDE = 64  # pixels: the last stage has four tokens
PARTS = ("q", "k", "v")
Get = Callable[[str], "Tensor | None"]


def compare_stages(
    pieces: Mapping[str, Mapping[str, np.ndarray]], tensors: Mapping[str, np.ndarray], network: ConvNeXt | Swin
) -> dict[str, float]:
    """Stage -> max |difference| of the activations of source (tensor -> part -> array) and converted network."""
    forward = _convnext if isinstance(network, ConvNeXt) else _swin
    shapes = dict(network.parts())

    def joined(name: str) -> Tensor | None:
        parts = pieces.get(name)
        if parts is None:
            return None
        if "" in parts:
            return _tensor(parts[""]).reshape(shapes[name])
        return torch.cat([_tensor(parts[part]) for part in PARTS]).reshape(shapes[name])

    def converted(name: str) -> Tensor | None:
        array = tensors.get(network.prefix + name)
        return None if array is None else _tensor(array)

    image = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        first, second = forward(network, joined, image), forward(network, converted, image)  # type: ignore[arg-type]
    torch.set_num_threads(threads)
    return {stage: float((first[stage] - second[stage]).abs().max()) for stage in first}


def _of(get: Get, name: str) -> Tensor:
    tensor = get(name)
    assert tensor is not None, name
    return tensor


def _norm(get: Get, x: Tensor, name: str, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], _of(get, f"{name}.weight"), _of(get, f"{name}.bias"), eps)


def _linear(get: Get, x: Tensor, name: str) -> Tensor:
    return F.linear(x, _of(get, f"{name}.weight"), get(f"{name}.bias"))


def _convnext(network: ConvNeXt, get: Get, image: Tensor) -> dict[str, Tensor]:
    def conv(x: Tensor, name: str, **options: int) -> Tensor:
        return F.conv2d(x, _of(get, f"{name}.weight"), get(f"{name}.bias"), **options)

    def norm(x: Tensor, name: str) -> Tensor:
        return _norm(get, x.permute(0, 2, 3, 1), name, 1e-6).permute(0, 3, 1, 2)

    x, outputs = image, {}
    for stage, depth in enumerate(network.depths):
        name = f"downsample_layers.{stage}"
        x = (
            conv(norm(x, f"{name}.0"), f"{name}.1", stride=2)
            if stage
            else norm(conv(x, f"{name}.0", stride=4), f"{name}.1")
        )
        for index in range(depth):
            block = f"stages.{stage}.{index}"
            y = conv(x, f"{block}.dwconv", padding=3, groups=network.widths[stage]).permute(0, 2, 3, 1)
            y = F.gelu(_linear(get, _norm(get, y, f"{block}.norm", 1e-6), f"{block}.pwconv1"))
            if network.grn:
                size = torch.linalg.vector_norm(y, dim=(1, 2), keepdim=True)
                scaled = y * (size / (size.mean(dim=-1, keepdim=True) + 1e-6))
                y = _of(get, f"{block}.grn.gamma") * scaled + _of(get, f"{block}.grn.beta") + y
            y = _linear(get, y, f"{block}.pwconv2")
            y = y * _of(get, f"{block}.gamma") if network.layer_scale else y
            x = x + y.permute(0, 3, 1, 2)
        outputs[f"stage {stage}"] = x
    return outputs


def _swin(network: Swin, get: Get, image: Tensor) -> dict[str, Tensor]:
    """With one window for each map, which is not shifted: the image is too small for more."""
    x = F.conv2d(image, _of(get, "patch_embed.proj.weight"), get("patch_embed.proj.bias"), 4).permute(0, 2, 3, 1)
    if network.patch_norm:
        x = _norm(get, x, "patch_embed.norm", 1e-5)
    outputs = {"input": x}
    for stage, depth in enumerate(network.depths):
        side, width, heads = x.shape[1], x.shape[-1], network.heads[stage]
        place = torch.arange(side) % network.window
        apart = place[:, None] - place[None, :] + network.window - 1
        index = (apart[:, None, :, None] * (2 * network.window - 1) + apart[None, :, None, :]).reshape(-1)
        for number in range(depth):
            block = f"layers.{stage}.blocks.{number}"
            y = _linear(get, _norm(get, x, f"{block}.norm1", 1e-5).reshape(1, side * side, width), f"{block}.attn.qkv")
            q, k, v = y.reshape(side * side, 3, heads, -1).permute(1, 2, 0, 3).unbind(0)
            bias = _of(get, f"{block}.attn.relative_position_bias_table")[index].reshape(side**2, side**2, heads)
            weights = ((q * (width // heads) ** -0.5) @ k.transpose(1, 2) + bias.permute(2, 0, 1)).softmax(-1)
            y = (weights @ v).permute(1, 0, 2).reshape(1, side, side, width)
            x = x + _linear(get, y, f"{block}.attn.proj")
            y = F.gelu(_linear(get, _norm(get, x, f"{block}.norm2", 1e-5), f"{block}.mlp.fc1"))
            x = x + _linear(get, y, f"{block}.mlp.fc2")
        outputs[f"stage {stage}"] = x
        if stage < len(network.depths) - 1:
            name = f"layers.{stage}.downsample"
            corners = torch.cat([x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)], dim=-1)
            x = F.linear(_norm(get, corners, f"{name}.norm", 1e-5), _of(get, f"{name}.reduction.weight"))
    return outputs


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array if array.flags.writeable else array.copy())
