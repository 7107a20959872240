"""The detector's network with converted weights, and how far its features are from those of the maker's network."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from convert.backbone import Backbone
from convert.vit import VisionTransformer
from tests.convert.makers import Maker
from transfer.config import default_config
from transfer.engines.torchvision.backbones import build_convnext, build_swin, build_vit


def detector_network(backbone: Backbone) -> Any:
    """The detector's network for these weights, as its config makes it, with every tensor of the file."""
    cfg = default_config()
    network = backbone.architecture
    for key, value in network.config().items():
        cfg.merge_from_list([key, value])
    if isinstance(network, VisionTransformer):
        vit = cfg.MODEL.VIT
        vit.WINDOW_BLOCKS, vit.USE_REL_POS, vit.DROP_PATH_RATE = [], False, 0.0
        vit.CLS_TOKEN, vit.REGISTERS, vit.FINAL_NORM = network.cls_token, network.registers, network.final_norm
        built = build_vit(cfg)
    else:
        built = build_convnext(cfg) if "convnext" in network.name else build_swin(cfg)
    tensors = {name.removeprefix(network.prefix): torch.tensor(a) for name, a in backbone.tensors.items()}
    missing, unexpected = built.load_state_dict(tensors, strict=False)
    assert unexpected == []
    assert all(name.startswith("norm") or name.endswith("relative_position_index") for name in missing)
    if not isinstance(network, VisionTransformer):
        for index in range(4):  # the detector's own norms of the outputs, which the maker's network has not
            setattr(built, f"norm{index}", nn.Identity())
    return built.eval()


def difference(maker: Maker, net: Any, backbone: Backbone, size: tuple[int, int] | None = None) -> float:
    """The largest difference of the features; in float64 where the maker's operations are not the detector's.

    ``size``: of the images in pixels, height and width; without it they are squares of the maker's side.
    """
    size = size or (maker.side, maker.side)
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    ours = detector_network(backbone)
    if maker.rounding:
        net, ours, images = net.double(), ours.double(), images.double()
    with torch.no_grad():
        theirs = maker.features(net, images)
        maps = list(ours(images).values())[-len(theirs) :]
    assert [one.shape for one in maps] == [one.shape for one in theirs]
    return max(float((a - b).abs().max()) for a, b in zip(maps, theirs))
