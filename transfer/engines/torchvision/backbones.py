"""From a config to a ViT, Swin or ConvNeXt with its pyramid."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from transfer.config.backbones import CONVNEXT, SWIN, VIT
from transfer.engines.torchvision.model.convnext import ConvNeXt
from transfer.engines.torchvision.model.fpn import FPN, LastLevelP6P7
from transfer.engines.torchvision.model.simple_feature_pyramid import SimpleFeaturePyramid
from transfer.engines.torchvision.model.swin import SwinTransformer
from transfer.engines.torchvision.model.vit import ViT


def build_vit(cfg: Any) -> ViT:
    """The network of MODEL.VIT.*."""
    vit = cfg.MODEL.VIT
    return ViT(
        image_size=vit.IMG_SIZE,
        patch=vit.PATCH_SIZE,
        channels=vit.EMBED_DIM,
        depth=vit.DEPTH,
        heads=vit.NUM_HEADS,
        mlp_ratio=vit.MLP_RATIO,
        qkv_bias=vit.QKV_BIAS,
        drop_path_rate=vit.DROP_PATH_RATE,
        norm_eps=vit.NORM_EPS,
        absolute=vit.USE_ABS_POS,
        relative=vit.USE_REL_POS,
        zero_positions=vit.REL_POS_ZERO_INIT,
        window=vit.WINDOW_SIZE,
        window_blocks=list(vit.WINDOW_BLOCKS),
        residual_blocks=list(vit.RESIDUAL_BLOCKS),
        pretrained_size=vit.PRETRAIN_IMG_SIZE,
        pretrained_cls_token=vit.PRETRAIN_CLS_TOKEN,
        cls_token=vit.CLS_TOKEN,
        registers=vit.REGISTERS,
        rope=vit.ROPE,
        layer_scale=vit.LAYER_SCALE,
        feed_forward=vit.FEED_FORWARD,
        final_norm=vit.FINAL_NORM,
        checkpointing=vit.ACT_CHECKPOINT,
        fused=cfg.ENGINE.ATTENTION == "fused",
    )


def build_swin(cfg: Any) -> SwinTransformer:
    """The network of MODEL.SWIN.*."""
    swin = cfg.MODEL.SWIN
    return SwinTransformer(
        channels=swin.EMBED_DIM,
        depths=list(swin.DEPTHS),
        heads=list(swin.NUM_HEADS),
        window=swin.WINDOW_SIZE,
        mlp_ratio=swin.MLP_RATIO,
        qkv_bias=swin.QKV_BIAS,
        drop_path_rate=swin.DROP_PATH_RATE,
        absolute=swin.USE_ABS_POS,
        patch_norm=swin.PATCH_NORM,
        pretrained_size=swin.PRETRAIN_IMG_SIZE,
        checkpointing=swin.ACT_CHECKPOINT,
        fused=cfg.ENGINE.ATTENTION == "fused",
    )


def build_convnext(cfg: Any) -> ConvNeXt:
    """The network of MODEL.CONVNEXT.*."""
    convnext = cfg.MODEL.CONVNEXT
    return ConvNeXt(
        depths=list(convnext.DEPTHS),
        widths=list(convnext.DIMS),
        drop_path_rate=convnext.DROP_PATH_RATE,
        layer_scale=convnext.LAYER_SCALE,
        grn=convnext.GRN,
        checkpointing=convnext.ACT_CHECKPOINT,
    )


def build_pyramid(cfg: Any, bottom_up: nn.Module, top_block: LastLevelP6P7 | None = None) -> FPN:
    """The feature pyramid of MODEL.FPN.* on the outputs of ``bottom_up``."""
    fpn = cfg.MODEL.FPN
    return FPN(
        bottom_up,
        in_features=list(fpn.IN_FEATURES),
        out_channels=fpn.OUT_CHANNELS,
        norm=fpn.NORM,
        average=fpn.FUSE_TYPE == "avg",
        top_block=top_block,
    )


def build_simple_pyramid(cfg: Any) -> SimpleFeaturePyramid:
    """The ViT with the simple feature pyramid of MODEL.SFP.* and MODEL.FPN.OUT_CHANNELS and NORM."""
    model = cfg.MODEL
    return SimpleFeaturePyramid(
        build_vit(cfg),
        out_channels=model.FPN.OUT_CHANNELS,
        scales=list(model.SFP.SCALE_FACTORS),
        norm=model.FPN.NORM,
    )


# MODEL.BACKBONE.NAME -> what builds it
BUILDERS: dict[str, Callable[[Any], FPN | SimpleFeaturePyramid]] = {
    VIT: build_simple_pyramid,
    SWIN: lambda cfg: build_pyramid(cfg, build_swin(cfg)),
    CONVNEXT: lambda cfg: build_pyramid(cfg, build_convnext(cfg)),
}
