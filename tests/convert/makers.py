"""Networks of timm, torchvision and transformers, small and with random weights, and the features that they compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

SIDE = 64  # pixels, unless a maker says another
FLOAT64 = 1e-12
FLOAT32_SOFTMAX = 5e-6  # transformers takes the softmax of its attention in float32, whatever the network's type


@dataclass(frozen=True)
class Maker:
    """``build()``: the network in evaluation mode; ``features``: for images, the detector's last maps.

    ``family`` and ``name`` are what the converter has to find, ``dropped`` what it has to leave behind (beginnings of
    names). ``rounding``: 0 where its operations are the detector's in the same
    order, else the largest difference in float64.
    """

    family: str
    name: str
    build: Callable[[], nn.Module]
    features: Callable[[Any, Tensor], list[Tensor]]
    dropped: tuple[str, ...] = ()
    side: int = SIDE
    heads: int | None = None
    rounding: float = 0.0
    any_size: bool = False  # the network takes images of any size and shape


def randomise(net: nn.Module) -> nn.Module:
    """Give every tensor random values, so that none is at a default that a lost one would have too."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if value.is_floating_point():
                value.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.1)
    return net.eval()


def _timm(name: str, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        timm = pytest.importorskip("timm")
        timm.layers.set_fused_attn(False)  # the fused operator rounds otherwise
        return randomise(timm.create_model(name, **options))

    return build


def _as_map(tokens: Tensor, images: Tensor) -> list[Tensor]:
    """Patch tokens in the shape of the images: N x L x C to N x C x H x W."""
    rows = round((tokens.shape[1] * images.shape[2] / images.shape[3]) ** 0.5)
    return [tokens.unflatten(1, (rows, -1)).permute(0, 3, 1, 2)]


def _tokens_of_timm(net: Any, images: Tensor) -> list[Tensor]:
    return _as_map(net.forward_features(images)[:, net.num_prefix_tokens :], images)


def _stages_of_timm(net: Any, images: Tensor) -> list[Tensor]:
    maps = net.forward_intermediates(images, intermediates_only=True, output_fmt="NCHW")
    return list(maps[-4:])


def _torchvision(name: str, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import torchvision

        return randomise(getattr(torchvision.models, name)(**options))

    return build


def _tokens_of_torchvision(net: Any, images: Tensor) -> list[Tensor]:
    x = net._process_input(images)
    return _as_map(net.encoder(torch.cat([net.class_token.expand(len(x), -1, -1), x], dim=1))[:, 1:], images)


def _stages_of_torchvision(net: Any, images: Tensor) -> list[Tensor]:
    outputs, x = [], images
    for index, layer in enumerate(net.features):
        x = layer(x)
        if index % 2:
            outputs.append(x if x.shape[1] != x.shape[2] or x.shape[-1] == x.shape[-2] else x.permute(0, 3, 1, 2))
    return outputs


def _transformers(model: str, config: str, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        transformers = pytest.importorskip("transformers")
        settings = getattr(transformers, config)(**options)
        settings._attn_implementation = "eager"
        return randomise(getattr(transformers, model)(settings))

    return build


def _tokens_of_transformers(net: Any, images: Tensor) -> list[Tensor]:
    tokens = net(images).last_hidden_state
    prefix = 1 + getattr(net.config, "num_register_tokens", 0)
    return _as_map(tokens[:, prefix:], images)


def _stages_of_transformers(net: Any, images: Tensor) -> list[Tensor]:
    result = net(images, output_hidden_states=True)
    if hasattr(result, "reshaped_hidden_states"):
        return [result.reshaped_hidden_states[-1]]  # Swin's others are already merged
    return list(result.hidden_states[-4:])


SMALL_VIT = {"img_size": SIDE, "embed_dim": 64, "depth": 3, "num_heads": 2, "num_classes": 3}
SMALL_HF = {"image_size": SIDE, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
CONVNEXT = {"depths": (1, 2, 1, 1), "dims": (8, 16, 24, 32), "num_classes": 3}
HF_CONVNEXT = {"depths": [1, 2, 1, 1], "hidden_sizes": [8, 16, 24, 32]}
HF_SWIN = {"image_size": 128, "embed_dim": 16, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 2, 4], "window_size": 2}

MAKERS: dict[str, Maker] = {
    "timm ViT": Maker(
        "vit", "vit_64x3_16", _timm("vit_tiny_patch16_224", **SMALL_VIT), _tokens_of_timm, ("head.",), heads=2
    ),
    "timm ViT of AugReg's patch 8": Maker(
        "vit", "vit_64x3_8", _timm("vit_base_patch8_224", **SMALL_VIT), _tokens_of_timm, ("head.",), heads=2
    ),
    "timm ViT without qkv bias": Maker(
        "vit",
        "vit_64x3_16",
        _timm("vit_tiny_patch16_224", **SMALL_VIT, qkv_bias=False),
        _tokens_of_timm,
        ("head.",),
        heads=2,
    ),
    "timm DeiT": Maker(
        "vit", "vit_64x3_16", _timm("deit_tiny_patch16_224", **SMALL_VIT), _tokens_of_timm, ("head.",), heads=2
    ),
    "timm DeiT III, with layer scale": Maker(
        "vit", "vit_64x3_16", _timm("deit3_small_patch16_224", **SMALL_VIT), _tokens_of_timm, ("head.",), heads=2
    ),
    "timm DINOv2": Maker(
        "vit",
        "vit_64x3_14",
        _timm("vit_small_patch14_dinov2", **{**SMALL_VIT, "img_size": 70}),
        _tokens_of_timm,
        ("head.",),
        70,
        2,
    ),
    "timm DINOv2 with registers": Maker(
        "vit",
        "vit_64x3_14_reg4",
        _timm("vit_small_patch14_reg4_dinov2", **{**SMALL_VIT, "img_size": 70}),
        _tokens_of_timm,
        ("head.",),
        70,
        2,
    ),
    "timm DINOv2 with SwiGLU": Maker(
        "vit",
        "vit_96x3_14",
        _timm("vit_giant_patch14_dinov2", **{**SMALL_VIT, "img_size": 70, "embed_dim": 96}),
        _tokens_of_timm,
        ("head.",),
        70,
        2,
    ),
    **{
        f"timm {name}": Maker(
            "dinov3-timm",
            "vit_64x3_16_rope_reg4",
            _timm(model, embed_dim=64, depth=3, num_heads=2, num_classes=3),
            _tokens_of_timm,
            ("head.",),
            heads=2,
            any_size=True,
        )
        for name, model in {
            "DINOv3": "vit_base_patch16_dinov3",
            "DINOv3 with bias": "vit_base_patch16_dinov3_qkvb",
            "DINOv3 with SwiGLU": "vit_huge_plus_patch16_dinov3",
            "EUPE": "vit_tiny_patch16_dinov3_qkvb",
            "LingBot-Vision": "vit_small_patch16_lingbot",
        }.items()
    },
    "torchvision ViT": Maker(
        "vit-torchvision",
        "vit_64x3_16",
        _torchvision(
            "VisionTransformer", image_size=SIDE, patch_size=16, num_layers=3, num_heads=2, hidden_dim=64, mlp_dim=256
        ),
        _tokens_of_torchvision,
        ("heads.",),
        heads=2,
    ),
    "transformers ViT": Maker(
        "vit-huggingface",
        "vit_64x3_16",
        _transformers("ViTModel", "ViTConfig", **SMALL_HF, intermediate_size=256),
        _tokens_of_transformers,
        ("pooler.",),
        heads=2,
        rounding=FLOAT32_SOFTMAX,
    ),
    "transformers Dinov2": Maker(
        "vit-huggingface",
        "vit_64x3_16",
        _transformers("Dinov2Model", "Dinov2Config", **SMALL_HF, patch_size=16),
        _tokens_of_transformers,
        ("embeddings.mask_token",),
        heads=2,
        rounding=FLOAT32_SOFTMAX,
    ),
    "transformers Dinov2 with SwiGLU": Maker(
        "vit-huggingface",
        "vit_64x3_16",
        _transformers("Dinov2Model", "Dinov2Config", **SMALL_HF, patch_size=16, use_swiglu_ffn=True),
        _tokens_of_transformers,
        ("embeddings.mask_token",),
        heads=2,
        rounding=FLOAT32_SOFTMAX,
    ),
    "transformers Dinov2 with registers": Maker(
        "vit-huggingface",
        "vit_64x3_16_reg4",
        _transformers("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", **SMALL_HF, patch_size=16),
        _tokens_of_transformers,
        ("embeddings.mask_token",),
        heads=2,
        rounding=FLOAT32_SOFTMAX,
    ),
    **{
        f"transformers DINOv3{name}": Maker(
            "dinov3-huggingface",
            "vit_64x3_16_rope_reg4",
            _transformers(
                "DINOv3ViTModel", "DINOv3ViTConfig", **SMALL_HF, intermediate_size=256, num_register_tokens=4, **options
            ),
            _tokens_of_transformers,
            ("embeddings.mask_token",),
            heads=2,
            rounding=FLOAT32_SOFTMAX,
            any_size=True,
        )
        for name, options in {
            "": {},
            " with SwiGLU": {"use_gated_mlp": True, "hidden_act": "silu"},
            " with a bias of keys": {"key_bias": True},
        }.items()
    },
    "timm ConvNeXt": Maker(
        "convnext-timm",
        "convnext_8x1-2-1-1",
        _timm("convnext_tiny", **CONVNEXT),
        _stages_of_timm,
        ("head.",),
        rounding=FLOAT64,
    ),
    "timm ConvNeXt V2": Maker(
        "convnext-timm",
        "convnextv2_8x1-2-1-1",
        _timm("convnextv2_atto", **CONVNEXT),
        _stages_of_timm,
        ("head.",),
        rounding=FLOAT64,
    ),
    "torchvision ConvNeXt": Maker(
        "convnext-torchvision",
        "convnext_tiny",
        _torchvision("convnext_tiny"),
        _stages_of_torchvision,
        ("classifier.",),
        rounding=FLOAT64,
    ),
    "transformers ConvNeXt": Maker(
        "convnext-huggingface",
        "convnext_8x1-2-1-1",
        _transformers("ConvNextModel", "ConvNextConfig", **HF_CONVNEXT),
        _stages_of_transformers,
        ("layernorm.",),
        rounding=FLOAT64,
    ),
    "transformers ConvNeXt V2": Maker(
        "convnext-huggingface",
        "convnextv2_8x1-2-1-1",
        _transformers("ConvNextV2Model", "ConvNextV2Config", **HF_CONVNEXT),
        _stages_of_transformers,
        ("layernorm.",),
        rounding=FLOAT64,
    ),
    "transformers DINOv3 ConvNeXt": Maker(
        "dinov3-convnext-huggingface",
        "convnext_8x1-2-1-1",
        _transformers("DINOv3ConvNextModel", "DINOv3ConvNextConfig", **HF_CONVNEXT),
        _stages_of_transformers,
        ("layer_norm.",),
        rounding=FLOAT64,
    ),
    "timm Swin": Maker(
        "swin-timm",
        "swin_16x2-2-2-2_window2",
        _timm(
            "swin_tiny_patch4_window7_224",
            img_size=128,
            embed_dim=16,
            depths=(2, 2, 2, 2),
            num_heads=(1, 2, 2, 4),
            window_size=2,
            num_classes=3,
        ),
        _stages_of_timm,
        ("norm.", "head."),
        128,
    ),
    "torchvision Swin": Maker(
        "swin-torchvision",
        "swin_16x2-2-2-2_window2",
        _torchvision(
            "SwinTransformer",
            patch_size=[4, 4],
            embed_dim=16,
            depths=[2, 2, 2, 2],
            num_heads=[1, 2, 2, 4],
            window_size=[2, 2],
        ),
        _stages_of_torchvision,
        ("norm.", "head.", "features."),
        128,
    ),
    "transformers Swin": Maker(
        "swin-huggingface",
        "swin_16x2-2-2-2_window2",
        _transformers("SwinModel", "SwinConfig", **HF_SWIN),
        _stages_of_transformers,
        ("layernorm.",),
        128,
        rounding=FLOAT32_SOFTMAX,
    ),
}
